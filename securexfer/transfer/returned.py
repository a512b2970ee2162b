"""What comes back to a sender whose files were opened: output and results, checked as they come."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple, Protocol

from securexfer.errors import DigestMismatchError, ProtocolError, SecurexferError
from securexfer.names import show

if TYPE_CHECKING:
    from securexfer.transfer.items import Item
    from securexfer.wire import messages

MAX_OUTPUT = 1 << 20  # bytes that are kept of what was printed, whatever the server sends

# What may come of one file, as the protocol has it: whoever sends more would never come to an end.
MAX_RESULTS = 10_000
MAX_PRINTED = 16 << 20  # bytes
MAX_RETURNED = 64 << 30  # bytes, of the other results together


class Opened(NamedTuple):
    """What came of a file that the server opened, as far as it came; what was printed is not safe to show."""

    action: str  # show, run
    how: str  # one of the words of messages.HOW
    code: int  # the exit code, if there is one
    seconds: float
    output: bytes
    cut: bool
    detail: str
    results: tuple[str, ...]  # where those are that were stored, relative to the directory for them
    problem: SecurexferError | None = None  # why a result is not there


class Writer(Protocol):
    """Where one result is stored; nothing of it is seen before `commit`."""

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises SecurexferError."""
        ...

    def commit(self, digest: bytes) -> str:
        """Make it visible, if that is its SHA-256, and return where it is. Raises SecurexferError."""
        ...

    def discard(self) -> None:
        """Leave nothing of it."""
        ...


class Store(Protocol):
    """Where results are stored."""

    def store(self, name: str) -> Writer:
        """Begin one; the server chose the name. Raises SecurexferError."""
        ...


class Returning:
    """What has come so far about one file. What cannot be stored is thrown away, and stands in `Opened.problem`."""

    def __init__(self, store: Store | None) -> None:
        """Store results there, if anywhere."""
        self._store = store
        self._output = bytearray()
        self._cut = False
        self._results: list[str] = []
        self._problem: SecurexferError | None = None
        self._expected: messages.Result | None = None
        self._digest = hashlib.sha256()
        self._left = 0
        self._count = self._printed = self._returned = 0  # of results in all; bytes that were announced
        self._writer: Writer | None = None

    def begin(self, result: messages.Result) -> None:
        """Hear of the next result. Raises ProtocolError or DigestMismatchError if the one before was wrong.

        Raises ProtocolError also if this one is more than may come.
        """
        self._end()
        self._count += 1
        if result.name:
            self._returned += result.size
        else:
            self._printed += result.size
        if self._count > MAX_RESULTS + 1 or self._printed > MAX_PRINTED or self._returned > MAX_RETURNED:
            raise ProtocolError("the server sends more of one file than may come of it")
        self._expected, self._left, self._digest = result, result.size, hashlib.sha256()
        if result.name and self._store:
            try:
                self._writer = self._store.store(result.name)
            except SecurexferError as error:
                self._fail(error)

    def take(self, piece: memoryview) -> None:
        """Take content of it."""
        self._left -= len(piece)
        if not self._expected or self._left < 0:
            raise ProtocolError("more came of a result than was announced")
        self._digest.update(piece)
        if not self._expected.name:
            self._output += piece[: MAX_OUTPUT - len(self._output)]
            self._cut = self._cut or self._expected.size > MAX_OUTPUT
        elif self._writer:
            try:
                self._writer.write(piece)
            except SecurexferError as error:
                self._fail(error)

    def finish(self, opened: messages.Opened) -> Opened:
        """Return all that came, at its end. Raises as `begin` does."""
        self._end()
        return Opened(
            opened.action,
            opened.how,
            opened.code,
            opened.milliseconds / 1000,
            bytes(self._output),
            bool(opened.cut) or self._cut,
            show(opened.detail),
            tuple(self._results),
            self._problem,
        )

    def discard(self) -> None:
        """Leave nothing of a result that has not come to its end."""
        if self._writer:
            self._writer.discard()
            self._writer = None

    def _end(self) -> None:
        expected, self._expected = self._expected, None
        if not expected:
            return
        if self._left:
            raise ProtocolError(f"{self._left} bytes of a result did not come")
        if not hmac.compare_digest(self._digest.digest(), expected.digest):
            raise DigestMismatchError("a result has another digest than was announced")
        if self._writer:
            try:
                self._results.append(self._writer.commit(expected.digest))
                self._writer = None
            except SecurexferError as error:
                self._fail(error)

    def _fail(self, error: SecurexferError) -> None:
        self._problem = self._problem or error
        self.discard()


class Awaited:
    """The files that the server is going to open, until it has told what came of each; it tells of one at a time."""

    def __init__(self, store: Store | None) -> None:
        """Store results there, if anywhere."""
        self._store = store
        self._items: dict[int, Item] = {}
        self._returning: Returning | None = None

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._items)

    def expect(self, number: int, item: Item) -> None:
        """Note that a file is going to be opened."""
        self._items[number] = item

    def begin(self, number: int, result: messages.Result) -> None:
        """Hear of a result. Raises ProtocolError if none may come, and what Returning.begin raises."""
        self._item(number)
        if result.name and not self._store:
            raise ProtocolError("the server sent a result that it was not asked for")
        self._returning = self._returning or Returning(self._store)
        self._returning.begin(result)

    def take(self, piece: memoryview) -> None:
        """Take content of it."""
        if self._returning:  # which the order of messages sees to
            self._returning.take(piece)

    def finish(self, number: int, opened: messages.Opened) -> tuple[Item, Opened]:
        """Return a file and what came of it, at its end. Raises as `begin` does."""
        item = self._item(number)
        found = (self._returning or Returning(None)).finish(opened)
        self._returning = None
        del self._items[number]
        return item, found

    def check_none_left(self) -> None:
        """Raise ProtocolError if the server has not told of all."""
        if self._items:
            raise ProtocolError(f"the server did not tell what came of {len(self._items)} files that it opened")

    def discard(self) -> None:
        """Leave nothing of what has not come to its end."""
        if self._returning:
            self._returning.discard()

    def _item(self, number: int) -> Item:
        if number not in self._items:
            raise ProtocolError(f"the server told what came of transfer {number}, which it has not opened")
        return self._items[number]
