"""What a sender says, on its way out: collected into large pieces, at a bounded rate, while what comes in is heard.

One thread does both, so neither side ever waits for the other to read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from securexfer.errors import PeerTimeoutError
from securexfer.net.payload import BUFFER_SIZE, Buffer
from securexfer.transfer.patience import ALIVE_SECONDS, patience
from securexfer.wire import messages
from securexfer.wire.order import CLIENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.net.frames import Frames
    from securexfer.transfer.limiting import Limit

_CLAIMS_AT_ONCE = 160  # of files with names of 30 bytes: a TLS record of 16 KiB
_LISTEN_BYTES = 1 << 20  # how much may be sent before looking whether the receiver has said something


class Outflow:
    """One connection, as its sender uses it."""

    def __init__(
        self,
        frames: Frames,
        timeout: float,
        limit: Limit | None,
        heard: Callable[[int, messages.Message | messages.Data], None],
        committed: Callable[[int, messages.Committed], None],
        taken: Callable[[memoryview], None],
    ) -> None:
        """Tell `heard` of each message, and `taken` of payload, to be used at once.

        Of STORED and UNCHANGED, of which there is one for each of many small files, `committed` is told instead. It
        may be in the middle of saying a message, so they must not say any.
        """
        self._frames = frames
        self._connection = frames.connection
        self._timeout = timeout
        self._limit = limit
        self._heard = heard
        self._committed = committed
        self._taken = taken
        self._unheard = 0  # bytes that were sent since we last listened
        self._messages = 0  # that were heard
        self._claims = 0  # that were said
        self.sent = 0  # bytes
        self.patient = 0.0  # seconds that the receiver may take, beside what it takes to hash and to sync
        self.owed = 0  # bytes that the receiver may have to hash or to sync before it can answer
        self._last_heard = self._last_said = self._last_word = time.monotonic()  # the last but for Alive
        self._buffer = Buffer(self._send)

    def say(self, message: messages.Message, transfer: int = 0) -> None:
        """Say a message, with what comes next or with `flush`."""
        self._buffer.append(self._frames.say(message, transfer))

    def say_whole(self, transfer: int, flags: int, mtime_ns: int, name: str, content: bytes, digest: bytes) -> None:
        """Say an eager offer, in its fields, with all that belongs to it."""
        self._buffer.append(self._frames.say_whole(transfer, flags, mtime_ns, name, content, digest))

    def say_claim(self, claim: messages.Claim, transfer: int) -> None:
        """Say a claim. They go out a record at a time: the receiver answers the first while the next are made."""
        self._buffer.append(self._frames.say_claim(claim, transfer))
        self._claims += 1
        if self._claims % _CLAIMS_AT_ONCE == 0:
            self._buffer.flush()

    def say_data(self, transfer: int, length: int) -> None:
        """Say that so many bytes of payload come next, by `fill_from` and `fill_up`."""
        large = length >= BUFFER_SIZE
        if large:
            self._buffer.flush()
        self._frames.conversation.note(CLIENT, messages.Data, transfer)
        self._buffer.append(messages.encode_data(transfer, length))
        if large:
            # Pages of the file then come to lie on pages of the buffer, and whole buffers in whole records: a tenth
            # less work on both sides, for one short record more for each frame.
            self._buffer.flush()

    def fill_from(self, read_into: Callable[[memoryview], int], limit: int) -> memoryview:
        """Read payload once, at most `limit` bytes, and return what was read; empty at the source's end."""
        return self._buffer.fill_from(read_into, limit)

    def fill_up(self, length: int) -> None:
        """Send zeros in the place of payload that is not there."""
        for left in range(length, 0, -BUFFER_SIZE):
            self._buffer.append(bytes(min(left, BUFFER_SIZE)))

    def flush(self) -> None:
        """Send what was said."""
        self._buffer.flush()

    def live(self) -> None:
        """Give a sign of life, if nothing was sent for long."""
        if time.monotonic() - self._last_said >= ALIVE_SECONDS:
            self.say(messages.Alive())
            self.flush()
            self.hear()

    def listen(self) -> None:
        """Send what was said, and take what has come; if that is nothing, wait. Raises PeerTimeoutError."""
        before = self._messages
        self.flush()  # may hear what would else be waited for
        while not self.hear() and self._messages == before:
            left = self._deadline() - time.monotonic()
            if left <= 0 or not self._connection.has_input(left):
                raise PeerTimeoutError(f"the server said nothing for {self._timeout:.0f} seconds")
        if time.monotonic() >= self._patient_until():
            raise PeerTimeoutError("the server says that it is alive, but does not come to an end")

    def hear(self) -> bool:
        """Take what has come, without waiting, and no more than one look at the line brings; return whether any has."""
        self._unheard = 0
        before = self._messages
        self._take()
        if self._frames.fill():
            self._take()
        if self._messages == before:
            return False
        self._last_heard = time.monotonic()
        return True

    def _take(self) -> None:
        frames, heard, committed, before = self._frames, self._heard, self._committed, self._messages
        while True:
            if frames.payload:
                piece = frames.take()
                if not piece:
                    return
                self._messages += 1
                self._last_word = time.monotonic()
                self._taken(piece)
                continue
            for number, answer in frames.hear_answers():
                self._messages += 1
                committed(number, answer)
            if self._messages != before:
                self._last_word = time.monotonic()
            message = frames.hear()
            if message is None:
                return
            self._messages += 1
            if not isinstance(message[1], messages.Alive):
                self._last_word = time.monotonic()
            heard(*message)
            before = self._messages

    def _patient_until(self) -> float:
        return max(self._last_word, self._last_said) + max(self._timeout, patience(self.owed) + self.patient)

    def _deadline(self) -> float:
        return min(self._last_heard + self._timeout, self._patient_until())

    def _send(self, held: memoryview) -> None:
        step = self._limit.piece if self._limit else len(held)
        for start in range(0, len(held), step):
            piece = held[start : start + step]
            self._connection.send(piece, time.monotonic() + self._timeout, self._hear_in_between)
            self._last_said = time.monotonic()
            self._unheard += len(piece)
            self.sent += len(piece)
            if self._limit:
                self._keep_to(self._limit, len(piece))
        if self._unheard >= _LISTEN_BYTES:
            self.hear()

    def _keep_to(self, limit: Limit, count: int) -> None:
        until = limit.next_after(count)
        while (left := until - time.monotonic()) > 0:
            if self._connection.has_input(left):
                self.hear()

    def _hear_in_between(self) -> float | None:
        """Listen while there is no room to send; a sign of life of the server puts the deadline off, for a while."""
        return self._deadline() if self.hear() else None
