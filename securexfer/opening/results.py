"""What came out of the sandbox, read as if the script itself had written it: strictly, and within bounds.

Nothing here raises for what is said, and nothing is half believed: if anything is wrong, there are no files, and a
reason. Names become `Name`s; no name is ever opened here, and contents go where they have no name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from securexfer.errors import UnsafeNameError
from securexfer.names import MAX_NAME_BYTES, Name
from securexfer.opening import supervisor

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_UNUSABLE = {
    supervisor.TOO_MANY: "too many files",
    supervisor.TOO_LARGE: "files that are too large together",
    supervisor.UNREADABLE: "something that cannot be read",
}


@dataclass(frozen=True, slots=True)
class Result:
    """A file that a script left in /out: its safe name relative to that, its SHA-256, and its bytes from the start."""

    name: str
    size: int  # bytes
    digest: bytes
    file: BinaryIO


class UnusableResultsError(Exception):
    """What was said cannot be used; the text says why. Never leaves this module."""


class Reader:
    """Takes what the supervisor says, in whatever pieces it comes."""

    def __init__(self, most: int, most_bytes: int, spool: Path | None) -> None:
        """Take `most` files of `most_bytes` together; unnamed in the directory `spool`, or without one, in memory."""
        self.ended: tuple[int, int] | None = None  # how the script ended, as the head says: its kind and number
        self.problem = ""  # why nothing can be used
        self.left_out = 0  # things in /out that are no plain files
        self.results: list[Result] = []
        self._most = most
        self._left = most_bytes
        self._complete = False
        self._spool = spool
        self._piece = b""
        self._reading = self._read()
        self._wanted = next(self._reading)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes. Once something was wrong, no more of them are looked at."""
        try:
            while piece and not self.problem:
                taken, piece = piece[: self._wanted - len(self._piece)], piece[self._wanted - len(self._piece) :]
                self._piece += taken
                if len(self._piece) == self._wanted:
                    whole, self._piece = self._piece, b""
                    self._wanted = self._reading.send(whole)
        except UnusableResultsError as error:
            self._drop(str(error))
        except UnsafeNameError as error:
            self._drop(error.message)
        except OSError as error:
            self._drop(f"no room for it: {error.strerror}")

    def close(self) -> None:
        """Say that no more comes: what is not complete by now is not used."""
        if not self.problem and not self._complete:
            self._drop("it ends too early")

    def _drop(self, problem: str) -> None:
        self.problem = problem
        self._reading.close()
        for result in self.results:
            result.file.close()
        self.results.clear()

    def _read(self) -> Generator[int, bytes, None]:
        """Read it all, in its order: ask for so many bytes, never more than `PIECE`, and be given exactly those."""
        magic, kind, number = supervisor.HEAD.unpack((yield supervisor.HEAD.size))
        if magic != supervisor.MAGIC or not supervisor.EXIT <= kind <= supervisor.ENTRIES or number > 255:
            raise UnusableResultsError("it does not begin as it should")
        self.ended = kind, number
        names: set[Name] = set()
        while True:
            kind, length, size = supervisor.ENTRY.unpack((yield supervisor.ENTRY.size))
            if kind == supervisor.FILE:
                if not 0 < length <= MAX_NAME_BYTES:
                    raise UnusableResultsError(f"a name of {length} bytes")
                name = Name.decode((yield length))
                if name in names or len(names) == self._most:
                    raise UnusableResultsError("a name twice" if name in names else _UNUSABLE[supervisor.TOO_MANY])
                names.add(name)
                yield from self._take(str(name), size)
            elif kind == supervisor.END and length == 0:
                self.left_out = size
                break
            elif kind == supervisor.UNUSABLE and size in _UNUSABLE:
                raise UnusableResultsError(_UNUSABLE[size])
            else:
                raise UnusableResultsError("something that is no entry")
        if any(Name(name.parts[:depth]) in names for name in names for depth in range(1, len(name.parts))):
            raise UnusableResultsError("a name that is a file and a directory")
        self._complete = True
        yield 1  # which must not come
        raise UnusableResultsError("something after the end")

    def _take(self, name: str, size: int) -> Generator[int, bytes, None]:
        if size > self._left:
            raise UnusableResultsError(_UNUSABLE[supervisor.TOO_LARGE])
        self._left -= size
        with contextlib.ExitStack() as undo:
            file: BinaryIO = io.BytesIO()
            if self._spool:
                file = cast("BinaryIO", undo.enter_context(tempfile.TemporaryFile(dir=self._spool)))
            digest = hashlib.sha256()
            while size:
                piece = yield min(size, supervisor.PIECE)
                digest.update(piece)
                file.write(piece)
                size -= len(piece)
            length = file.tell()
            file.seek(0, os.SEEK_SET)
            undo.pop_all()
        self.results.append(Result(name, length, digest.digest(), file))
