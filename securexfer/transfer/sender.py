"""The side that has the bytes, in protocol 1: stream every file, pick the answers up as they come.

Success is only what the receiver acknowledged. A file that cannot be read to its announced end, or is another
by then, has already promised its size: the rest is filled with zeros and the trailer is made wrong on
purpose, so that the receiver stores nothing for it and finds the next file where it begins.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from securexfer.errors import (
    ProtocolError,
    RefusedError,
    SecurexferError,
    SessionEndedError,
    SourceError,
    TruncatedError,
)
from securexfer.names import show
from securexfer.net.payload import BUFFER_SIZE, MINIMUM_RATE, Buffer
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from securexfer.net.connection import Connection

# The receiver may have to hash a file it already has, and to sync what came: so long at least, and longer for
# more bytes. 20 MB/s is what a slow disk still does.
ANSWER_SECONDS = 60.0
ANSWER_RATE = 20_000_000
# One buffer at the slowest rate the receiver puts up with. (A peer that is gone is noticed by TCP long before.)
SEND_SECONDS = BUFFER_SIZE / MINIMUM_RATE
_LISTEN_BYTES = 1 << 20  # how much may be sent before looking whether the receiver has said something

# Never waits on a FIFO or a device, never follows a link.
_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


@dataclass(slots=True)
class Item:
    """One file to send: where it is, under which name, how far it got (bytes), and what became of it."""

    index: int
    path: Path
    name: str
    size: int
    sent: int = 0
    sha256: str | None = None
    stored: bool = False
    error: SecurexferError | None = None

    @property
    def open(self) -> bool:
        """Whether its fate is still unknown."""
        return not self.stored and self.error is None


class Watcher(Protocol):
    """Who is told how a send goes: the progress display and the reports."""

    def connected(self, user: str, server: str) -> None:
        """Hear that the server proved who it is and accepted the login."""

    def retrying(self, why: str, seconds: float) -> None:
        """Hear that the server is busy, and when it is tried again."""

    def sent(self, item: Item) -> None:
        """Hear that more of a file is on its way. Called for every piece, so it must be quick."""

    def ended(self, item: Item) -> None:
        """Hear what became of a file: the server's word, or what went wrong here."""


class SourceFile:
    """An open plain file that notices when it changes while it is read."""

    def __init__(self, path: Path) -> None:
        """Open `path`; raise SourceError if it is missing, unreadable, or not a plain file."""
        try:
            self._descriptor = os.open(path, _OPEN)
        except OSError as error:
            raise _open_problem(path, error) from error
        self._before = os.fstat(self._descriptor)
        if not stat.S_ISREG(self._before.st_mode):
            os.close(self._descriptor)
            raise unsendable(path, self._before.st_mode)
        self.path = path
        self.size = self._before.st_size

    def read_into(self, view: memoryview) -> int:
        """Read the next bytes; 0 at the end of the file. Raises SourceError."""
        try:
            return os.readv(self._descriptor, [view]) if hasattr(os, "readv") else _read_into(self._descriptor, view)
        except OSError as error:
            raise SourceError(f"{show(str(self.path))} cannot be read: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """Raise SourceError if the file is not what it was when it was opened."""
        after = os.fstat(self._descriptor)
        if after.st_nlink == 0 and self._before.st_nlink:
            raise SourceError(f"{show(str(self.path))} was deleted or replaced while it was being sent")
        grown = self.read_into(memoryview(bytearray(1)))
        before = self._before
        if grown or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise SourceError(f"{show(str(self.path))} changed while it was being sent")

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)


class Sender:
    """Sends a list of files over one connection, after the login."""

    def __init__(self, connection: Connection, items: Sequence[Item], watcher: Watcher) -> None:
        self._connection = connection
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
            deadline = time.monotonic() + ANSWER_SECONDS + left / ANSWER_RATE
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
            source = SourceFile(item.path)
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
            self._watcher.sent(item)

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
                item.stored = True
            elif item.error is None:
                item.error = RefusedError(f"the server did not store {show(item.name)!r}", hint=REFUSED_HINT)
            self._watcher.ended(item)


REFUSED_HINT = (
    "Other content under this name, a name it does not allow, a quota, its largest file, or no room: the server's log "
    "says which. Rename the file, or ask whoever runs the server."
)


def kind_of(mode: int) -> str:
    """Return what a directory entry is that is not a plain file, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "not a plain file")


def unsendable(path: Path, mode: int) -> SourceError:
    """Return the error for an entry that is not a plain file, with what to send instead."""
    if stat.S_ISDIR(mode):
        shown = show(str(path))
        hint = f"Send the files in it ({shown}/*), or pack it: tar czf {show(path.name)}.tar.gz {shown}"
    elif stat.S_ISLNK(mode):
        hint = f"Send the file it points to: {show(str(path.resolve()))}"
    else:
        hint = "Save its content to a file and send that."
    return SourceError(f"{show(str(path))} is {kind_of(mode)}, not a file", hint=hint)


def _open_problem(path: Path, error: OSError) -> SourceError:
    if error.errno == errno.ELOOP:
        return unsendable(path, stat.S_IFLNK)
    return SourceError(f"{show(str(path))} cannot be opened: {error.strerror}")


def _wrong(digest: hashlib._Hash) -> bytes:
    """Return a trailer that cannot be the digest's, so that the receiver stores nothing."""
    return bytes(byte ^ 0xFF for byte in digest.digest())


def _read_into(descriptor: int, view: memoryview) -> int:
    """Do what `os.readv` does, where there is none (Windows)."""
    data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)
