"""Protocol 2 on a connection: messages in and out, each checked against what may be said; payload passed by.

What arrives is collected in one buffer and taken apart there. Content of small files is used from where it lies; that
of large ones goes past the buffer, straight to where its reader wants it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from securexfer.errors import PeerTimeoutError, ProtocolError, TruncatedError
from securexfer.wire.messages import (
    DATA,
    HEADER_SIZE,
    STORED,
    UNCHANGED,
    Claim,
    Committed,
    Data,
    Offer,
    decode,
    decode_header,
    encode,
)
from securexfer.wire.order import CLIENT, SERVER, Conversation
from securexfer.wire.small import (
    ANSWER_SIZE,
    decode_answers,
    decode_claim,
    decode_wholes,
    encode_answer,
    encode_claim,
    encode_whole,
    size_of_whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from securexfer.net.connection import Connection
    from securexfer.wire.messages import Message
    from securexfer.wire.small import Whole

# Room for the content of dozens of small files, which one call then brings; no message is as long.
BUFFER_SIZE = 256 * 1024


class Frames:
    """The frames of one connection, as one of its ends sees them."""

    def __init__(self, connection: Connection, *, server: bool) -> None:
        self.connection = connection
        self.conversation = Conversation()
        self.payload = 0  # bytes that the last Data announced and that were not taken yet
        self._ourselves, self._peer = (SERVER, CLIENT) if server else (CLIENT, SERVER)
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._start = self._end = 0
        self._wanted = HEADER_SIZE  # bytes of the next message, as far as that is known

    def say(self, message: Message, transfer: int = 0) -> bytes:
        """Return the frame of a message that is sent now; raise ProtocolError if it may not be said."""
        kind = type(message)
        self.conversation.note(self._ourselves, kind, transfer, message.flags if isinstance(message, Offer) else 0)
        return encode(message, transfer)

    def say_stored(self, transfers: Sequence[int]) -> bytes:
        """Return the frames of STORED for each of these, sent now; raise ProtocolError if one may not be said."""
        if self.conversation.note_all_stored(transfers):
            return b"".join([encode_answer(STORED, transfer) for transfer in transfers])
        return b"".join([self.say(STORED, transfer) for transfer in transfers])

    def say_unchanged(self, transfer: int) -> bytes:
        """Return the frame of UNCHANGED, sent now; raise ProtocolError if it may not be said."""
        if self.conversation.note_unchanged(transfer):
            return encode_answer(UNCHANGED, transfer)
        return self.say(UNCHANGED, transfer)

    def say_claim(self, claim: Claim, transfer: int) -> bytes:
        """Return the frame of a claim, sent now; raise ProtocolError if it may not be said."""
        return encode_claim(claim, transfer) if self.conversation.note_claim(transfer) else self.say(claim, transfer)

    def say_whole(self, transfer: int, flags: int, mtime_ns: int, name: str, content: bytes, digest: bytes) -> bytes:
        """Return the frames of a small file that is sent whole: its offer, in its fields, its content, its digest."""
        if not self.conversation.note_whole(transfer):
            raise ProtocolError(f"transfer {transfer} may not be sent now")
        return encode_whole(transfer, flags, mtime_ns, name, content, digest)

    def hear(self) -> tuple[int, Message | Data] | None:
        """Return the next message that has arrived whole, with its transfer; None if none has.

        Of a Data only its length; its payload must be taken before the next call. Raises ProtocolError.
        """
        start = self._start
        self._wanted = HEADER_SIZE
        if self._end - start < HEADER_SIZE:
            return None
        kind, length, transfer = decode_header(self._buffer, start)
        start += HEADER_SIZE
        if kind == DATA:
            self.conversation.note(self._peer, Data, transfer)
            self._start = start
            self.payload = length
            return transfer, Data(length)
        if self._end - start < length:
            self._wanted = HEADER_SIZE + length
            return None
        message = decode(kind, self._buffer[start : start + length])
        self._start = start + length
        self.conversation.note(self._peer, type(message), transfer, message.flags if isinstance(message, Offer) else 0)
        return transfer, message

    def await_message(self, deadline: float) -> tuple[int, Message | Data]:
        """Return the next message; raise PeerTimeoutError at `deadline`, TruncatedError at the end, ProtocolError."""
        while (heard := self.hear()) is None:
            if not self.fill() and not self.connection.has_input(max(0.0, deadline - time.monotonic())):
                raise PeerTimeoutError("the other side said nothing for too long")
        return heard

    def hear_wholes(self) -> list[Whole]:
        """Return the next transfers, as far as they are small files that have arrived whole.

        The content is to be used before `fill`. Anything else is for `hear`, or one of the others.
        """
        conversation = self.conversation
        most = conversation.room_for_wholes
        if not most or self._start == self._end:
            return []
        found, self._start = decode_wholes(self._buffer, self._start, self._end, conversation.last + 1, most)
        conversation.note_wholes(len(found))
        return found

    def fill_whole(self) -> bool:
        """Read the rest of a small file that has begun to arrive, as far as it is there; return whether any was."""
        whole = size_of_whole(self._buffer, self._start, self._end)
        if not self._end - self._start < whole <= BUFFER_SIZE // 2:  # for so much there always is room
            return False
        try:
            return self.fill()
        except TruncatedError:
            return False  # the next one says it again, when what has come was heard

    def hear_claim(self) -> tuple[int, Claim] | None:
        """Return the next transfer and its claim, if that is what has arrived. None for anything else, as above."""
        found = decode_claim(self._buffer, self._start, self._end)
        if found is None or not self.conversation.note_claim(found[0]):
            return None
        transfer, claim, self._start = found
        return transfer, claim

    def hear_answers(self) -> Iterator[tuple[int, Committed]]:
        """Yield the next transfers and their answers, STORED or UNCHANGED, until anything else comes, as above.

        Whoever stops in between has not heard what is left. Not to be used any more after `fill`.
        """
        note_stored, note_unchanged = self.conversation.note_stored, self.conversation.note_unchanged
        for transfer, answer in decode_answers(self._buffer, self._start, self._end):
            # Of a claim, or of a file whose content went with its offer.
            if not (note_stored(transfer) if answer is STORED else note_unchanged(transfer) or note_stored(transfer)):
                return
            self._start += ANSWER_SIZE
            yield transfer, answer

    def fill(self, *, sparing: bool = False) -> bool:
        """Read what has arrived, without waiting; return whether there was anything. Raises TruncatedError at the end.

        While `sparing` no more than the next message, so that payload after it goes past the buffer.
        """
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and BUFFER_SIZE - self._end < BUFFER_SIZE // 2:
            rest = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._buffer[: self._end] = rest
        limit = self._wanted - (self._end - self._start) if sparing else BUFFER_SIZE - self._end
        count = self.connection.try_receive_into(self._buffer[self._end : self._end + limit])
        if count is None:
            return False
        if not count:
            raise TruncatedError("the other side ended the connection")
        self._end += count
        return True

    @property
    def nothing_begun(self) -> bool:
        """Whether the next byte would begin a message."""
        return self._start == self._end and not self.payload

    def take(self) -> memoryview:
        """Return what has arrived of the payload that was announced: to be used before `fill`."""
        start = self._start
        self._start = end = min(start + self.payload, self._end)
        self.payload -= end - start
        return self._buffer[start:end]

    def read_into(self, view: memoryview) -> int:
        """Put what has arrived of the payload into `view`; return the count, 0 for nothing. Raises TruncatedError."""
        if self._start < self._end:
            taken = self._buffer[self._start : min(self._end, self._start + min(len(view), self.payload))]
            view[: len(taken)] = taken
            count = len(taken)
            self._start += count
        else:
            received = self.connection.try_receive_into(view[: self.payload])
            if received == 0:
                raise TruncatedError("the connection ended in the middle of a file")
            count = received or 0
        self.payload -= count
        return count
