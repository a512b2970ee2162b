"""Protocol 2's messages: what is encoded decodes to the same, and nothing decodes that encodes to anything else."""

from __future__ import annotations

import struct
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securexfer.errors import ProtocolError
from securexfer.names import MAX_NAME_BYTES
from securexfer.wire import messages
from securexfer.wire.fields import MAX_TRANSFER, Layout, Number, Octets, Text, Word
from securexfer.wire.messages import (
    DATA,
    HEADER_SIZE,
    KINDS,
    MAX_DATA,
    UNKNOWN,
    decode,
    decode_header,
    encode,
    encode_data,
    kind_of,
)
from securexfer.wire.small import decode_wholes

LAYOUTS = sorted(KINDS.values(), key=lambda layout: layout.kind)
by_name = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.message.__name__)

# The values that a field may just have, and those that it may just not have.
NUMBERS = {"B": (0, 255), "I": (0, 2**32 - 1), "Q": (0, UNKNOWN), "q": (-(2**63), 2**63 - 1)}


def codecs(message: type) -> dict[str, Any]:
    """Return the codec of each field, in order."""
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(message, include_extras=True).items()}


def edges(codec: Any) -> tuple[list[Any], list[Any]]:
    match codec:
        case Number(code, most):
            least, largest = NUMBERS[code]
            largest = largest if most is None else most
            return [least, largest], [least - 1, largest + 1]
        case Octets(size):
            return [bytes(size), b"\xff" * size], [bytes(size - 1), bytes(size + 1), b""]
        case Word(words):
            return list(words), ["", "word", words[0].upper()]
        case Text(most):
            two_bytes = "é" * (most // 2) + "x" * (most % 2)
            return ["", "x" * most, two_bytes, "\0"], ["x" * (most + 1), two_bytes + "x", "\ud800"]
    raise AssertionError(codec)


def plain(message: type) -> dict[str, Any]:
    return {name: edges(codec)[0][0] for name, codec in codecs(message).items()}


def transfer_of(layout: Layout) -> int:
    return 7 if layout.about_transfer else 0


def round_trip(frame: bytes) -> tuple[Any, int]:
    kind, length, transfer = decode_header(frame[:HEADER_SIZE])
    assert len(frame) == HEADER_SIZE + length
    return decode(kind, memoryview(frame)[HEADER_SIZE:]), transfer


def test_every_message_has_its_kind_and_every_kind_its_message() -> None:
    assert len(LAYOUTS) == 18
    assert {layout.message for layout in LAYOUTS} == set(messages.Message.__args__)
    assert all(kind_of(layout.kind) is layout.message for layout in LAYOUTS)
    assert kind_of(DATA) is messages.Data
    assert DATA not in KINDS


@by_name
def test_every_edge_of_every_field_comes_back_as_it_was(layout: Layout) -> None:
    transfer = transfer_of(layout)
    for name, codec in codecs(layout.message).items():
        for value in edges(codec)[0]:
            message = layout.message(**{**plain(layout.message), name: value})
            assert round_trip(encode(message, transfer)) == (message, transfer)
    largest = layout.message(*(edges(codec)[0][1] for codec in codecs(layout.message).values()))
    frame = encode(largest, transfer)
    assert round_trip(frame) == (largest, transfer)
    assert len(frame) == HEADER_SIZE + layout.most <= 1 << 14


@by_name
def test_one_over_every_edge_of_every_field_is_never_said(layout: Layout) -> None:
    for name, codec in codecs(layout.message).items():
        for value in edges(codec)[1]:
            with pytest.raises(ProtocolError):
                encode(layout.message(**{**plain(layout.message), name: value}), transfer_of(layout))


@by_name
def test_F13_a_message_is_as_long_as_it_says(layout: Layout) -> None:
    whole = encode(layout.message(**plain(layout.message)), transfer_of(layout))[HEADER_SIZE:]
    for body in [*(whole[:end] for end in range(len(whole))), whole + b"\0", whole + bytes(70_000)]:
        with pytest.raises(ProtocolError):
            layout.decode(body)


@by_name
def test_F13_a_length_that_the_kind_cannot_have_is_refused_before_its_bytes_are_waited_for(
    layout: Layout,
) -> None:
    transfer = transfer_of(layout)
    for length, right in [
        (layout.least - 1, False),
        (layout.least, True),
        (layout.most, True),
        (layout.most + 1, False),
        (2**24 - 1, False),
    ]:
        header = struct.pack(">II", layout.kind << 24 | max(length, 0), transfer)
        if right:
            assert decode_header(header) == (layout.kind, length, transfer)
        elif length >= 0:
            with pytest.raises(ProtocolError, match="bytes long"):
                decode_header(header)


@by_name
def test_a_message_about_a_transfer_has_its_number_and_no_other_has_one(layout: Layout) -> None:
    message = layout.message(**plain(layout.message))
    for transfer in (0, 1, MAX_TRANSFER):
        header = struct.pack(">II", layout.kind << 24 | layout.least, transfer)
        if layout.about_transfer in {None, transfer != 0}:
            assert decode_header(header)[2] == transfer
            assert round_trip(encode(message, transfer)) == (message, transfer)
        else:
            with pytest.raises(ProtocolError, match="about transfer"):
                decode_header(header)
            with pytest.raises(ProtocolError, match="about transfer"):
                encode(message, transfer)
    for transfer in (-1, MAX_TRANSFER + 1):
        with pytest.raises(ProtocolError):
            encode(message, transfer)


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(KINDS) - {DATA}))
def test_F13_an_unknown_kind_is_refused(kind: int) -> None:
    for length in (0, 1, 2**24 - 1):
        with pytest.raises(ProtocolError, match="unknown kind"):
            decode_header(struct.pack(">II", kind << 24 | length, 1))


@pytest.mark.parametrize(
    ("length", "transfer", "right"),
    [(1, 1, True), (MAX_DATA, MAX_TRANSFER, True), (0, 1, False), (MAX_DATA + 1, 1, False), (1, 0, False)],
)
def test_F13_data_is_one_byte_to_a_mebibyte_of_some_transfer(length: int, transfer: int, right: bool) -> None:
    header = struct.pack(">II", DATA << 24 | length, transfer)
    if right:
        assert decode_header(header) == (DATA, length, transfer)
        assert encode_data(transfer, length) == header
        return
    with pytest.raises(ProtocolError):
        decode_header(header)
    with pytest.raises(ProtocolError):
        encode_data(transfer, length)


def test_no_payload_is_announced_for_a_transfer_that_no_header_can_name() -> None:
    for transfer in (-1, MAX_TRANSFER + 1):
        with pytest.raises(ProtocolError):
            encode_data(transfer, 1)


@by_name
def test_F13_bits_and_words_without_a_meaning_are_refused(layout: Layout) -> None:
    body = bytearray(encode(layout.message(**plain(layout.message)), transfer_of(layout))[HEADER_SIZE:])
    place = 0
    for codec in codecs(layout.message).values():
        if isinstance(codec, Text):
            break
        size = (
            codec.size if isinstance(codec, Octets) else 1 if isinstance(codec, Word) else struct.calcsize(codec.code)
        )
        known = len(codec.words) if isinstance(codec, Word) else 256
        if isinstance(codec, Number) and codec.most is not None:
            known = codec.most + 1
        for value in range(256 if size == 1 else 0):
            changed = bytes(body[:place]) + bytes([value]) + bytes(body[place + 1 :])
            if value < known:
                assert layout.encode(layout.decode(changed)) == changed
            else:
                with pytest.raises(ProtocolError):
                    layout.decode(changed)
        place += size


@pytest.mark.parametrize("wrong", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80", b"a\x80"])
def test_F12_text_that_is_not_utf8_is_refused(wrong: bytes) -> None:
    for body in (
        struct.pack(">BQqH", 0, 0, 0, len(wrong)) + wrong,  # the name in an Offer
        struct.pack(">I", 0) + bytes([0, len(wrong)]) + wrong + bytes(4),  # the user in an Authenticate
    ):
        kind = 0x20 if len(body) > 18 else 0x01
        with pytest.raises(ProtocolError, match="not UTF-8"):
            decode(kind, body)


def test_a_text_cannot_reach_into_the_next_or_beyond_the_body() -> None:
    right = encode(messages.Authenticate(0, "ana", "secret", "agent"))[HEADER_SIZE:]
    for place in (4, 9, 17):  # where the lengths of the texts are
        for length in {0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 65535} - {right[place + 1]}:
            with pytest.raises(ProtocolError):
                decode(0x01, right[:place] + length.to_bytes(2, "big") + right[place + 2 :])


def test_the_limits_of_names_are_those_of_names() -> None:
    assert codecs(messages.Offer)["name"] == Text(MAX_NAME_BYTES)
    assert codecs(messages.Put)["directory"] == Text(MAX_NAME_BYTES)


@pytest.mark.parametrize("size", [MAX_DATA, MAX_DATA + 1, 0x0100_0005, 0x0400_0005])
def test_F06_a_size_that_no_header_can_say_is_never_taken_as_a_whole(size: int) -> None:
    """The last ones look like a header of five bytes, of Data and of Refuse, to who adds them up."""
    length = size if size <= MAX_DATA else 5
    frames = encode(messages.Offer(messages.EAGER, size, 0, "a"), 1)
    frames += struct.pack(">II", (DATA << 24 | size) & ~0xFFFFFF | length, 1) + bytes(size)
    stream = memoryview(frames + encode(messages.Trailer(bytes(32)), 1))
    assert len(decode_wholes(stream, 0, len(stream), 1, 1)[0]) == (size == MAX_DATA)


# -- any bytes, any values ------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(kind=st.sampled_from(sorted(KINDS)), body=st.binary(max_size=80))
def test_F13_any_bytes_are_refused_or_the_one_encoding_of_a_message(kind: int, body: bytes) -> None:
    try:
        message = decode(kind, body)
    except ProtocolError:
        return
    frame = encode(message, transfer_of(KINDS[kind]))
    assert frame[HEADER_SIZE:] == body
    assert decode_header(frame[:HEADER_SIZE])[0] == kind


@settings(max_examples=300)
@given(header=st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_F13_any_header_is_refused_or_spells_itself(header: bytes) -> None:
    try:
        kind, length, transfer = decode_header(header)
    except ProtocolError:
        return
    assert struct.pack(">II", kind << 24 | length, transfer) == header


any_field = {
    Number: st.integers(-2, 2**65) | st.integers(0, 20),
    Octets: st.binary(max_size=40) | st.binary(min_size=16, max_size=16) | st.binary(min_size=32, max_size=32),
    Word: st.text(max_size=3) | st.sampled_from([*messages.CONFLICT.words, *messages.OUTCOME.words]),
    Text: st.text(st.characters(), max_size=60) | st.text(max_size=3).map(lambda text: text * 700),
}
any_message = st.sampled_from(LAYOUTS).flatmap(
    lambda layout: st.tuples(*(any_field[type(codec)] for codec in codecs(layout.message).values())).map(
        lambda values: layout.message(*values)
    )
)


@settings(max_examples=400)
@given(message=any_message, transfer=st.integers(-1, 2**33) | st.integers(0, 1))
def test_F13_any_message_is_never_said_or_heard_as_it_was_said(message: Any, transfer: int) -> None:
    try:
        frame = encode(message, transfer)
    except ProtocolError:
        return
    assert round_trip(frame) == (message, transfer)
