"""The side that has the bytes, in protocol 1: stream every file, pick the answers up as they come.

Success is only what the receiver acknowledged. A file that cannot be read to its announced end, or is another
by then, has already promised its size: the rest is filled with zeros and the trailer is made wrong on
purpose, so that the receiver stores nothing for it and finds the next file where it begins.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from securexfer.errors import (
    ProtocolError,
    RefusedError,
    SessionEndedError,
    SourceError,
    TruncatedError,
)
from securexfer.names import show
from securexfer.net.payload import BUFFER_SIZE, MINIMUM_RATE, Buffer
from securexfer.transfer.sources import SourceFile
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securexfer.net.connection import Connection
    from securexfer.transfer.items import Item, Watcher

# The receiver may have to hash a file it already has, and to sync what came: for more bytes it may be silent longer.
# 20 MB/s is what a slow disk still does.
ANSWER_RATE = 20_000_000
# One buffer at the slowest rate the receiver puts up with. (A peer that is gone is noticed by TCP long before.)
SEND_SECONDS = BUFFER_SIZE / MINIMUM_RATE
_LISTEN_BYTES = 1 << 20  # how much may be sent before looking whether the receiver has said something

REFUSED_HINT = (
    "Other content under this name, a name it does not allow, a quota, its largest file, or no room: the server's log "
    "says which. Rename the file, or ask whoever runs the server."
)


class Sender:
    """Sends a list of files over one connection, after the login."""

    def __init__(self, connection: Connection, items: Sequence[Item], watcher: Watcher, timeout: float) -> None:
        """Send `items` to a receiver that may be silent for `timeout` seconds when it owes answers."""
        self._connection = connection
        self._timeout = timeout
        self._items = items
        self._watcher = watcher
        self._complete = 0  # files handed over with their trailers, so that there can be a good answer
        self._answered = 0
        self._unheard = 0  # bytes sent since we last listened
        self._ended = False
        self._ended_in_order = False
        self._answers = memoryview(bytearray(4096))
        self._buffer = Buffer(self._send)

    def run(self) -> None:
        """Send all files and wait for all answers; raise TruncatedError or PeerTimeoutError for a session cut short.

        (SessionEndedError, if it was the receiver who ended it, in order.) What the receiver acknowledged until then
        stands in the items, and what went wrong with single files.
        """
        try:
            self._buffer.append(framing.encode_count(len(self._items)))
            for item in self._items:
                self._send_file(item)
                self._complete += 1
            self._buffer.flush()
        except TruncatedError as error:
            self.listen()  # the receiver may have answered before it left
            if self._ended_in_order:
                raise SessionEndedError("the server ended the session before all files were sent") from error
            raise
        while self._answered < len(self._items):
            left = sum(item.size for item in self._items[self._answered :])
            deadline = time.monotonic() + self._timeout + left / ANSWER_RATE
            count = self._connection.receive_into(self._answers, deadline)
            if not count:
                raise SessionEndedError("the server ended the session before it answered for every file")
            self._take(count)

    def listen(self) -> None:
        """Take the answers that have come, without waiting."""
        while not self._ended and self._answered < len(self._items):
            try:
                count = self._connection.try_receive_into(self._answers)
            except TruncatedError:
                self._ended = True
                return
            if count is None:
                return
            self._ended = self._ended_in_order = not count
            self._take(count)

    def _send_file(self, item: Item) -> None:
        try:
            source = SourceFile(item.path, item.identity)
        except SourceError as error:
            # Its place in the count is taken: an empty file with a wrong digest, which is never stored.
            item.error = error
            self._buffer.append(framing.FileHeader.of(item.name, 0).encode())
            self._buffer.append(_wrong(hashlib.sha256()))
            return
        try:
            self._send_content(item, source)
        finally:
            source.close()

    def _send_content(self, item: Item, source: SourceFile) -> None:
        digest = hashlib.sha256()
        item.size = source.size
        self._buffer.append(framing.FileHeader.of(item.name, item.size).encode())
        try:
            self._send_payload(item, source, digest)
            source.check_unchanged()
        except SourceError as error:
            item.error = error
            for left in range(item.size - item.sent, 0, -BUFFER_SIZE):
                self._buffer.append(bytes(min(left, BUFFER_SIZE)))
            self._buffer.append(_wrong(digest))
        else:
            item.sha256 = digest.hexdigest()
            self._buffer.append(digest.digest())

    def _send_payload(self, item: Item, source: SourceFile, digest: hashlib._Hash) -> None:
        if item.size >= BUFFER_SIZE:
            # Pages of the file then come to lie on pages of the buffer, and whole buffers in whole records: a tenth
            # less work on both sides, for one short record more.
            self._buffer.flush()
        while item.sent < item.size:
            filled = self._buffer.fill_from(source.read_into, item.size - item.sent)
            if not filled:
                raise SourceError(f"{show(str(item.path))} became shorter while it was being sent")
            digest.update(filled)
            item.sent += len(filled)
            self._watcher.sent(item, len(filled))

    def _send(self, held: memoryview) -> None:
        self._connection.send(held, time.monotonic() + SEND_SECONDS, self._hear)
        self._unheard += len(held)
        if self._unheard >= _LISTEN_BYTES:
            self._hear()

    def _hear(self) -> None:
        self._unheard = 0
        self.listen()
        if self._ended:
            raise TruncatedError("the connection was cut before all files were sent")

    def _take(self, count: int) -> None:
        """Note `count` answers. What comes after the last one is no answer and is ignored."""
        for answer in bytes(self._answers[:count]):
            if self._answered == len(self._items):
                return
            item = self._items[self._answered]
            if bytes([answer]) not in {framing.ACCEPTED, framing.REFUSED}:
                raise ProtocolError(f"the server answered {answer:#04x} for {show(item.name)!r}, which means nothing")
            if bytes([answer]) == framing.ACCEPTED and self._answered == self._complete:
                raise ProtocolError(f"the server said that it stored {show(item.name)!r} before it had all of it")
            self._answered += 1
            if item.error is None and bytes([answer]) == framing.ACCEPTED:
                item.outcome, item.stored_as = "stored", item.name
            elif item.error is None:
                item.error = RefusedError(f"the server did not store {show(item.name)!r}", hint=REFUSED_HINT)
            self._watcher.ended(item)


def _wrong(digest: hashlib._Hash) -> bytes:
    """Return a trailer that cannot be the digest's, so that the receiver stores nothing."""
    return bytes(byte ^ 0xFF for byte in digest.digest())
