"""Frames on a connection: what is heard does not depend on how it arrived, nor on being taken in one step or three."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.errors import ProtocolError, TruncatedError
from securexfer.net.frames import BUFFER_SIZE, Frames
from securexfer.wire import messages
from securexfer.wire.messages import (
    DIRECTORY,
    EAGER,
    MAX_DATA,
    STORED,
    UNCHANGED,
    Abort,
    Claim,
    Committed,
    Data,
    Offer,
    Totals,
    Trailer,
    encode,
    encode_data,
)
from securexfer.wire.order import CLAIMED, CLIENT, COMPLETE, CONNECTION, COUNTED, ENDED, SENDING, SERVER, Conversation
from securexfer.wire.small import decode_answers, decode_claim, encode_answer, encode_claim, encode_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.net.connection import Connection

Heard = tuple[int, object]


class Arriving:
    """Bytes that arrive in pieces, as a connection hands them over: the one thing of it that frames use."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._pieces: list[bytes] = []
        while data:
            size = sizes[len(self._pieces) % len(sizes)]
            self._pieces.append(data[:size])
            data = data[size:]

    def try_receive_into(self, view: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces[0][: len(view)]
        view[: len(piece)] = piece
        self._pieces[0] = self._pieces[0][len(piece) :]
        if not self._pieces[0]:
            del self._pieces[0]
        return len(piece)


def listen(data: bytes, sizes: list[int], *, whole: bool, window: int = 2) -> tuple[list[Heard], str, object]:
    """Return what was said, content by itself, the error that ended it, and the state it was left in."""
    frames = Frames(cast("Connection", Arriving(data, sizes)), server=True)
    frames.conversation.state, frames.conversation.window = SENDING, window
    heard: list[Heard] = []
    try:
        while True:
            if frames.payload:
                piece = bytes(frames.take())
                if piece:
                    number, before = heard.pop()
                    heard.append((number, cast("bytes", before) + piece))
                    continue
            elif whole and frames.fill_whole():
                continue
            elif whole and (found := frames.hear_wholes()):
                for number, flags, size, mtime_ns, name, content, digest in found:
                    heard.append((number, Offer(flags, size, mtime_ns, name)))
                    if content:
                        heard.append((number, bytes(content)))
                    heard.append((number, Trailer(digest)))
                continue
            elif whole and (claim := frames.hear_claim()):
                heard.append(claim)
                continue
            elif message := frames.hear():
                heard.append((message[0], b"" if isinstance(message[1], Data) else message[1]))
                continue
            frames.fill()
    except (ProtocolError, TruncatedError) as error:
        state = frames.conversation
        return heard, type(error).__name__, (state.open, state.last, state.moving, state.owed)


def eager(number: int, content: bytes, flags: int = EAGER, size: int | None = None) -> list[bytes]:
    data = [encode_data(number, len(content)) + content] if content else []
    offer = Offer(flags, len(content) if size is None else size, 0, "x")
    return [encode(offer, number), *data, encode(Trailer(hashlib.sha256(content).digest()), number)]


def claim_of(content: bytes) -> Claim:
    return Claim(len(content) % 2, len(content), -5, hashlib.sha256(content).digest(), "x/é" * (len(content) % 9))


contents = st.binary(max_size=40)
# Numbers are right more often than not, or nothing would ever come far.
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("eager"), contents, st.sampled_from([0, 0, 0, 0, 1])),
        st.tuples(st.just("plain"), contents, st.just(0)),
        st.tuples(st.just("claim"), contents, st.sampled_from([0, 0, 0, 1])),
        st.tuples(st.just("wrong claim"), contents, st.integers(0, 70)),
        st.tuples(st.just("directory"), contents, st.sampled_from([DIRECTORY, DIRECTORY | EAGER])),
        st.tuples(st.just("size"), contents, st.integers(0, 60)),
        st.tuples(st.just("totals"), contents, st.just(0)),
        st.tuples(st.just("abort"), contents, st.just(0)),
        st.tuples(st.just("unfinished"), contents, st.just(0)),
        st.tuples(st.just("both"), contents, st.just(0)),
        st.tuples(st.just("noise"), st.binary(max_size=12), st.just(0)),
    ),
    max_size=8,
)


def said(deeds: list[tuple[str, bytes, int]]) -> bytes:
    frames: list[bytes] = []
    number = 0
    for deed, content, extra in deeds:
        number += 1
        if deed == "eager":
            number += extra
            frames += eager(number, content)
        elif deed == "plain":
            frames.append(encode(Offer(0, len(content), 0, "x"), number))
        elif deed == "claim":
            number += extra
            frames.append(encode(claim_of(content), number))
        elif deed == "wrong claim":
            frame = encode(claim_of(content), number)
            frames.append(frame[:extra] + content[:1] + frame[extra + 1 :])
        elif deed == "directory":
            frames.append(encode(Offer(extra, 0, 0, "x"), number))
        elif deed == "size":
            frames += eager(number, content, size=extra)
        elif deed == "totals":
            number -= 1
            frames.append(encode(Totals(1, 1)))
        elif deed == "unfinished":
            frames += eager(number, content)[:-1]
        elif deed == "both":
            frames += eager(number, content, flags=EAGER | DIRECTORY)
        elif deed == "abort":
            frames += [*eager(number, content)[:-1], encode(Abort("X"), number)]
        else:
            frames.append(content)
    return b"".join(frames)


@settings(deadline=None, max_examples=400)
@example([("unfinished", b"ab", 0), ("eager", b"cd", 0)], [50], 2)
@example([("eager", b"a", 0), ("eager", b"b", 0), ("eager", b"", 0)], [50], 2)
@example([("both", b"", 0)], [50], 2)
@example([("claim", b"a", 0), ("claim", b"", 0)], [70], 2)
@example([("unfinished", b"ab", 0), ("claim", b"cd", 0)], [50], 4)
@given(deeds, st.lists(st.integers(1, 200), min_size=1, max_size=4), st.sampled_from([2, 4]))
def test_taking_small_files_whole_is_hearing_their_messages_one_by_one(
    deeds: list[tuple[str, bytes, int]], sizes: list[int], window: int
) -> None:
    data = said(deeds)
    assert listen(data, sizes, whole=True, window=window) == listen(data, [1 << 20], whole=False, window=window)


def test_files_that_have_arrived_are_taken_whole() -> None:
    """Else the test above would compare a way with itself."""
    data = b"".join(b"".join(eager(number, b"content")) for number in (1, 2)) + b"".join(eager(3, b""))
    frames = Frames(cast("Connection", Arriving(data, [len(data)])), server=True)
    frames.conversation.state, frames.conversation.window = SENDING, 4
    assert frames.fill()
    assert [(each[0], bytes(each[5])) for each in frames.hear_wholes()] == [(1, b"content"), (2, b"content"), (3, b"")]
    assert frames.hear_wholes() == []


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("frame", ["offer", "data", "trailer"])
def test_a_file_with_another_number_anywhere_is_left_to_who_says_what_is_wrong(frame: str, number: int) -> None:
    parts = dict(zip(("offer", "data", "trailer"), eager(2, b"content"), strict=True))
    parts[frame] = parts[frame][:4] + number.to_bytes(4, "big") + parts[frame][8:]
    data = b"".join(eager(1, b"first")) + b"".join(parts.values())
    frames = Frames(cast("Connection", Arriving(data, [len(data)])), server=True)
    frames.conversation.state, frames.conversation.window = SENDING, 4
    assert frames.fill()
    assert [each[0] for each in frames.hear_wholes()] == [1]
    assert frames.hear_wholes() == []
    assert listen(data, [len(data)], whole=True, window=4)[1] == "ProtocolError"


@pytest.mark.parametrize("size", [BUFFER_SIZE - 200, BUFFER_SIZE, 3 * BUFFER_SIZE])
def test_content_that_no_buffer_holds_comes_in_pieces(size: int) -> None:
    content = bytes(range(256)) * (size // 256)
    heard, _, _ = listen(b"".join(eager(1, content)), [1 << 14, 7], whole=True)
    assert heard[1] == (1, content)
    assert isinstance(heard[2][1], Trailer)


def test_what_is_sent_whole_is_what_its_messages_are() -> None:
    offer, digest = Offer(EAGER, 3, 5, "a/b"), hashlib.sha256(b"abc").digest()
    parts = encode(offer, 7) + encode_data(7, 3) + b"abc" + encode(Trailer(digest), 7)
    assert encode_whole(7, EAGER, 5, "a/b", b"abc", digest) == parts
    empty = Offer(EAGER, 0, 5, "a/b")
    assert encode_whole(7, EAGER, 5, "a/b", b"", digest) == encode(empty, 7) + encode(Trailer(digest), 7)


# -- claims and their answers -----------------------------------------------------------------------------------


def test_claims_that_have_arrived_are_taken_whole() -> None:
    """Else the comparison above would compare a way with itself."""
    data = encode(claim_of(b"a"), 1) + encode(claim_of(b"bc"), 2) + encode(Totals(1, 1))
    frames = Frames(cast("Connection", Arriving(data, [len(data)])), server=True)
    frames.conversation.state, frames.conversation.window = SENDING, 4
    assert frames.fill()
    assert [frames.hear_claim() for _ in range(3)] == [(1, claim_of(b"a")), (2, claim_of(b"bc")), None]


any_claim = st.builds(
    Claim,
    st.integers(-1, 3) | st.just(0),
    st.integers(-1, 2**64),
    st.integers(-(2**63) - 1, 2**63),
    st.binary(min_size=31, max_size=33) | st.binary(min_size=32, max_size=32),
    st.text(max_size=20) | st.just("x" * 4096) | st.just("é" * 2049) | st.just("\ud800"),
)


def outcome(act: Callable[[], object]) -> object:
    """Return what comes of something, or that it is refused."""
    try:
        return act()
    except ProtocolError:
        return "refused"


@settings(max_examples=300)
@given(any_claim, st.sampled_from([0, 1, 2**32 - 1, 2**32]))
def test_a_claim_is_written_as_any_message_is(claim: Claim, number: int) -> None:
    assert outcome(lambda: encode_claim(claim, number)) == outcome(lambda: encode(claim, number))


right_claim = st.builds(
    Claim,
    st.integers(0, 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.text(st.characters(codec="utf-8"), max_size=20) | st.just("x" * 4096),
)


@settings(max_examples=300)
@given(right_claim, st.binary(max_size=3), st.integers(0, 90), st.integers(0, 120))
def test_a_claim_is_read_as_any_message_is_or_left_to_who_says_what_is_wrong(
    claim: Claim, other: bytes, place: int, end: int
) -> None:
    frame = encode(claim, 7)
    frame = frame[:place] + other + frame[place + len(other) :]
    for stop in {min(end, len(frame)), len(frame)}:
        found = decode_claim(memoryview(b"before" + frame + b"after"), 6, 6 + stop)
        if found:
            number, message, finish = found
            assert encode(message, number) == frame[: finish - 6]
            assert finish - 6 <= stop
        elif stop == len(frame):
            assert outcome(lambda: read_one(frame)) in {"refused", "other"}


def test_a_claim_of_no_transfer_is_left_to_who_says_what_is_wrong() -> None:
    frame = encode(claim_of(b"a"), 1)
    assert decode_claim(memoryview(frame), 0, len(frame)) == (1, claim_of(b"a"), len(frame))
    assert decode_claim(memoryview(frame[:4] + bytes(4) + frame[8:]), 0, len(frame)) is None


def read_one(frame: bytes) -> object:
    kind, length, transfer = messages.decode_header(frame)
    if kind != messages.KINDS[0x2A].kind or length != len(frame) - messages.HEADER_SIZE:
        return "other"
    return transfer, messages.decode(kind, frame[messages.HEADER_SIZE :])


@pytest.mark.parametrize("number", [1, 2**32 - 1])
@pytest.mark.parametrize("answer", [STORED, UNCHANGED])
def test_stored_and_unchanged_are_written_and_read_as_any_answer_is(answer: Committed, number: int) -> None:
    frame = encode_answer(answer, number)
    assert frame == encode(answer, number)
    assert decode_answers(memoryview(b"b" + frame), 1, 13) == [(number, answer)]
    assert decode_answers(memoryview(frame), 0, 11) == []
    assert decode_answers(memoryview(frame[:4] + bytes(4) + frame[8:]), 0, 12) == []
    for place in {*range(12)} - {4, 5, 6, 7}:
        for bit in range(8):
            wrong = bytearray(frame)
            wrong[place] ^= 1 << bit
            for transfer, found in decode_answers(memoryview(wrong), 0, 12):
                assert encode(found, transfer) == wrong
                assert {answer, found} == {STORED, UNCHANGED}
    for other in (Committed("unchanged", 1, ""), Committed("unchanged", 0, "x"), Committed("renamed", 0, "")):
        assert decode_answers(memoryview(encode(other, number)), 0, 12) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"transfer": 0}, {"transfer": 2**32}, {"flags": 16}, {"mtime_ns": 2**63}, {"name": "x" * 4097},
        {"content": bytes(MAX_DATA + 1)}, {"digest": bytes(31)},
    ],
)  # fmt: skip
def test_what_is_sent_whole_is_held_to_the_limits_of_its_messages(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "transfer": 7, "flags": EAGER, "mtime_ns": 5, "name": "a", "content": b"a", "digest": bytes(32)
    }  # fmt: skip
    assert encode_whole(**right)
    with pytest.raises(ProtocolError):
        encode_whole(**right | wrong)


def answering(data: bytes, pieces: list[int]) -> Frames:
    """Return the frames of a client to whom `data` comes: 1 to 4 are whole, 5 to 8 claimed, 9 is offered."""
    frames = Frames(cast("Connection", Arriving(data, pieces)), server=False)
    frames.conversation.state, frames.conversation.window, frames.conversation.last = SENDING, 16, 9
    states = dict.fromkeys(range(1, 5), COMPLETE) | dict.fromkeys(range(5, 9), CLAIMED) | {9: "offered"}
    frames.conversation.open, frames.conversation.owed = states, 5
    return frames


ANSWERS: list[tuple[int, messages.Message]] = [
    (1, STORED), (5, UNCHANGED), (2, UNCHANGED), (6, STORED), (9, messages.Accept(0, bytes(16))), (7, UNCHANGED),
    (3, Committed("renamed", 0, "x")), (4, STORED), (8, UNCHANGED),
]  # fmt: skip


@pytest.mark.parametrize("pieces", [[1], [7, 30], [1000]])
@pytest.mark.parametrize("most", [0, 1, 2, 100])
def test_answers_are_heard_in_their_order_and_none_but_those_that_were_asked_for(most: int, pieces: list[int]) -> None:
    """`most` in a row by the quick way, then one by the usual one, which must find what is left just as it was."""
    data = b"".join(encode(message, number) for number, message in ANSWERS)
    frames, slowly = answering(data, pieces), answering(data, [1000])
    heard: list[Heard] = []
    while len(heard) < len(ANSWERS):
        heard += itertools.islice(frames.hear_answers(), most)
        if found := frames.hear():
            heard.append(found)
        elif len(heard) < len(ANSWERS):
            frames.fill()
    assert heard == ANSWERS
    assert slowly.fill()
    assert [slowly.hear() for _ in ANSWERS] == ANSWERS
    assert known(frames.conversation) == known(slowly.conversation)


def test_an_answer_to_nothing_is_left_to_who_says_what_is_wrong() -> None:
    frames = answering(encode_answer(STORED, 1) + encode_answer(STORED, 1), [1000])
    assert frames.fill()
    assert list(frames.hear_answers()) == [(1, STORED)]
    with pytest.raises(ProtocolError):
        frames.hear()


def test_of_many_answers_that_came_at_once_none_is_looked_at_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a server says unchanged of what was sent whole."""
    looks = []
    monkeypatch.setattr(
        "securexfer.net.frames.decode_answers", lambda *where: looks.append(1) or decode_answers(*where)
    )
    frames = answering(b"".join(encode_answer(UNCHANGED, number) for number in range(1, 9)), [1000])
    assert frames.fill()
    assert [number for number, _ in frames.hear_answers()] == list(range(1, 9))
    assert looks == [1]


def situations() -> list[Conversation]:
    """Return conversations in every state, with room for one transfer more or none, and some open."""
    found = []
    for state in {row[0] for row in CONNECTION}:
        for window in (2, 3):
            for about in (CLAIMED, COMPLETE, "offered", "accepted", "payload"):
                made = Conversation()
                made.state, made.window, made.last, made.moving = state, window, 2, 2 if about == "payload" else 0
                made.open, made.owed = {1: CLAIMED, 2: about}, 1 + (about != COMPLETE)
                found.append(made)
    return found


def known(conversation: Conversation) -> object:
    return vars(conversation) | {"open": dict(conversation.open)}


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("quick", ["note_claim", "note_unchanged", "note_stored"])
def test_what_is_noted_at_once_is_what_is_noted_of_messages(quick: str, number: int) -> None:
    speaker, message = (CLIENT, Claim) if quick == "note_claim" else (SERVER, Committed)
    noted = 0
    for at_once, slowly in zip(situations(), situations(), strict=True):
        before = known(at_once)
        if getattr(at_once, quick)(number):
            noted += 1
            slowly.note(speaker, message, number)
            assert known(at_once) == known(slowly)
        else:
            assert known(at_once) == before
            if message is Claim and number and slowly.state != ENDED:  # where a claim may be on its way
                with pytest.raises(ProtocolError):
                    slowly.note(speaker, message, number)
    assert bool(noted) is (number in {"note_claim": {3}, "note_unchanged": {1, 2}, "note_stored": {2}}[quick])
    assert COUNTED in {conversation.state for conversation in situations()}


@pytest.mark.parametrize("numbers", [(1,), (1, 2), (2, 1), (1, 1), (1, 3), (0, 1)])
def test_many_stored_are_noted_as_each_of_them_is_or_none_is(numbers: tuple[int, ...]) -> None:
    noted = 0
    for at_once, slowly in zip(situations(), situations(), strict=True):
        for conversation in (at_once, slowly):
            conversation.open[1] = COMPLETE
        before = known(at_once)
        if at_once.note_all_stored(numbers):
            noted += 1
            for number in numbers:
                slowly.note(SERVER, Committed, number)
            assert known(at_once) == known(slowly)
        else:
            assert known(at_once) == before
    assert bool(noted) is (numbers in {(1,), (1, 2), (2, 1)})


def whole_of(size: int) -> bytes:
    content = bytes(size)
    return encode_whole(1, EAGER, 5, "a/name", content, hashlib.sha256(content).digest())


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_small_file_that_comes_in_two_pieces_is_heard_whole_wherever_the_cut_is(size: int) -> None:
    data = whole_of(size)
    for cut in range(1, len(data)):
        frames = Frames(cast("Connection", Arriving(data, [cut, len(data)])), server=True)
        frames.conversation.state, frames.conversation.window = SENDING, 1
        assert frames.fill()
        assert frames.hear_wholes() == []
        if not frames.fill_whole():  # not even all of its offer but for the name is there
            assert cut < len(encode(Offer(EAGER, size, 5, ""), 1))
            assert frames.fill()
        (found,) = frames.hear_wholes()
        assert bytes(found[5]) == bytes(size)
        assert frames.nothing_begun


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(Offer(0, 9, 5, "a/name"), 1), id="an offer without content"),
        pytest.param(whole_of(BUFFER_SIZE // 2)[:1000], id="more than there is room for"),
        pytest.param(encode(Totals(1, 1)), id="something else"),
        pytest.param(whole_of(9), id="all of it"),
    ],
)
def test_nothing_more_is_read_of_what_cannot_become_whole(data: bytes) -> None:
    frames = Frames(cast("Connection", Arriving(data + b"more", [len(data), 4])), server=True)
    frames.conversation.state = SENDING
    assert frames.fill()
    assert not frames.fill_whole()


def test_small_files_in_pieces_of_any_size_find_room() -> None:
    """Of a buffer that they fill several times."""
    data = b"".join(encode_whole(number, EAGER, 5, f"{number}", bytes(30_000), bytes(32)) for number in range(1, 61))
    for piece in (999, 16_384, 100_000):
        frames = Frames(cast("Connection", Arriving(data, [piece])), server=True)
        frames.conversation.state, frames.conversation.window = SENDING, 100
        heard = 0
        while heard < 60:
            if found := frames.hear_wholes():
                heard += len(found)
            else:
                assert frames.fill_whole() or frames.fill()
        assert frames.nothing_begun
