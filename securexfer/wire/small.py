"""Protocol 2: what is said of each of many small files, written and read in one step.

Each function here does what `messages.encode` and `messages.decode` do, several times as fast, for one message or a few
that belong together. What is not as usual is left to those, which say what is wrong; tests hold that both agree.
"""

from __future__ import annotations

import struct
from typing import Final

from securexfer.errors import ProtocolError
from securexfer.names import MAX_NAME_BYTES
from securexfer.wire.messages import (
    DATA,
    EAGER,
    EXECUTABLE,
    FLAGS,
    FRESH,
    HEADER,
    HEADER_SIZE,
    LAYOUTS,
    MAX_DATA,
    STORED,
    UNCHANGED,
    Claim,
    Committed,
    Offer,
    Trailer,
    encode,
)

_OFFER, _TRAILER = LAYOUTS[Offer], LAYOUTS[Trailer]
_EAGER: Final = struct.Struct(">IIBQqH")  # the whole frame of an Offer but for the name
_OFFER_WORD: Final = _OFFER.kind << 24 | _OFFER.least
_WHOLE_END: Final = struct.Struct(">II32s")  # the whole frame of a Trailer
_END: Final = _TRAILER.kind << 24 | _TRAILER.least  # its first word
_LEAST_AFTER: Final = _WHOLE_END.size  # bytes that come after the name, and the content, of a whole file
_EAGER_SIZE: Final = _EAGER.size
_NOT_PLAIN: Final = ~(FRESH | EXECUTABLE)  # flags that say what kind of an offer it is

# A small file that has arrived whole: transfer, flags, size, mtime_ns, name, content, digest. A plain tuple: there may
# be very many.
Whole = tuple[int, int, int, int, str, memoryview, bytes]

_ANSWER: Final = struct.Struct(">III")  # the whole frame
_BODIES: Final = {word: int.from_bytes(LAYOUTS[Committed].encode(word), "big") for word in (STORED, UNCHANGED)}
_ANSWERS: Final = {body: word for word, body in _BODIES.items()}
_ANSWER_WORD: Final = LAYOUTS[Committed].kind << 24 | LAYOUTS[Committed].least
ANSWER_SIZE: Final = _ANSWER.size
_CLAIM: Final = struct.Struct(">IIBQq32sH")  # the whole frame but for the name
_CLAIM_WORD: Final = LAYOUTS[Claim].kind << 24 | LAYOUTS[Claim].least


def encode_answer(answer: Committed, transfer: int) -> bytes:
    """Return the frame of STORED or UNCHANGED, of which there is one for each of many small files."""
    return _ANSWER.pack(_ANSWER_WORD, transfer, _BODIES[answer])


def decode_answers(buffer: memoryview, start: int, end: int) -> list[tuple[int, Committed]]:
    """Return transfer and answer of each frame of STORED or UNCHANGED from `start` on, until anything else comes."""
    found = []
    whole = buffer[start : end - (end - start) % ANSWER_SIZE]
    for word, transfer, body in _ANSWER.iter_unpack(whole):
        if word != _ANSWER_WORD or not transfer or body not in _ANSWERS:
            break
        found.append((transfer, _ANSWERS[body]))
    return found


def encode_claim(claim: Claim, transfer: int) -> bytes:
    """Return what `encode` does, in a third of the time: there is one for each file that has not changed."""
    executable, size, mtime_ns, digest, name = claim
    try:
        raw = name.encode()
        if transfer and len(raw) <= MAX_NAME_BYTES and executable in {0, 1} and len(digest) == 32:
            word = _CLAIM_WORD + len(raw)
            return _CLAIM.pack(word, transfer, executable, size, mtime_ns, digest, len(raw)) + raw
    except (struct.error, ValueError):
        pass  # as below
    return encode(claim, transfer)  # which says what is wrong


def decode_claim(buffer: memoryview, start: int, end: int) -> tuple[int, Claim, int] | None:
    """Return transfer, claim, and where it ends, if a Claim begins at `start` and all of it comes before `end`.

    None for everything else, and for one that is wrong: `decode` says how.
    """
    name = start + _CLAIM.size
    if end < name or buffer[start] != LAYOUTS[Claim].kind:
        return None
    word, transfer, executable, size, mtime_ns, digest, length = _CLAIM.unpack_from(buffer, start)
    stop = name + length
    if word != _CLAIM_WORD + length or stop > end or executable > 1 or not transfer or length > MAX_NAME_BYTES:
        return None
    try:
        return transfer, Claim(executable, size, mtime_ns, digest, str(buffer[name:stop], "utf-8")), stop
    except UnicodeDecodeError:
        return None


def encode_whole(transfer: int, flags: int, mtime_ns: int, name: str, content: bytes, digest: bytes) -> bytes:
    """Return the frames of a file that is sent eagerly: the offer, the content in one Data, and the trailer.

    The offer comes in its fields, for it is made for this alone. Raises ProtocolError.
    """
    size = len(content)
    try:
        raw = name.encode()
        if transfer and len(raw) <= MAX_NAME_BYTES and not flags & ~FLAGS and size <= MAX_DATA and len(digest) == 32:
            head = _EAGER.pack(_OFFER_WORD + len(raw), transfer, flags, size, mtime_ns, len(raw))
            data = HEADER.pack(DATA << 24 | size, transfer) if size else b""
            return b"".join((head, raw, data, content, _WHOLE_END.pack(_END, transfer, digest)))
    except (struct.error, ValueError):
        pass  # as below
    encode(Offer(flags, size, mtime_ns, name), transfer)  # says what is wrong with it
    raise ProtocolError("content and digest are none that can be sent with an offer")


def decode_wholes(buffer: memoryview, start: int, end: int, first: int, most: int) -> tuple[list[Whole], int]:
    """Return the whole eager files that begin at `start`, numbered from `first`, so many at most, and where they end.

    Each is an eager Offer, then its content in one Data, or none if it is empty, then its Trailer, all of it before
    `end`. What comes next is taken message by message, and so is what is wrong: `decode` says how.
    """
    found: list[Whole] = []
    offer_at, data_at, trailer_at = _EAGER.unpack_from, HEADER.unpack_from, _WHOLE_END.unpack_from
    for transfer in range(first, first + most):
        name = start + _EAGER_SIZE
        if end < name:
            break
        word, number, flags, size, mtime_ns, length = offer_at(buffer, start)
        content = name + length
        if (
            word != _OFFER_WORD + length
            or number != transfer
            or flags & _NOT_PLAIN != EAGER
            or length > MAX_NAME_BYTES
            or size > MAX_DATA
            or end - content < size + _LEAST_AFTER
        ):
            break
        try:
            text = str(buffer[name:content], "utf-8")
        except UnicodeDecodeError:
            break
        trailer = content + size
        if size:
            if data_at(buffer, content) != (DATA << 24 | size, transfer) or end - trailer < _LEAST_AFTER + HEADER_SIZE:
                break
            content += HEADER_SIZE
            trailer += HEADER_SIZE
        word, number, digest = trailer_at(buffer, trailer)
        if word != _END or number != transfer:
            break
        found.append((transfer, flags, size, mtime_ns, text, buffer[content:trailer], digest))
        start = trailer + _LEAST_AFTER
    return found, start


def size_of_whole(buffer: memoryview, start: int, end: int) -> int:
    """Return how many bytes a whole eager file has that begins at `start`; 0 if none does, as far as can be seen."""
    if end - start < _EAGER.size or buffer[start] != _OFFER.kind:
        return 0
    _, _, flags, size, _, length = _EAGER.unpack_from(buffer, start)
    return _EAGER.size + length + (HEADER_SIZE + size if size else 0) + _LEAST_AFTER if flags & EAGER else 0
