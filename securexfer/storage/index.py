"""Which content stands under which name, as long as nothing says that the file was changed since.

A row holds for as long as size, mtime, ctime, inode and device of the file are those it was noted with; ctime cannot be
set back by whoever alters a byte. (Within the few milliseconds that one tick of a coarse clock lasts, it can stay.) It
is noted of durable content alone. A row of a file that is gone is replaced when the name is stored anew, or trimmed.
"""

from __future__ import annotations

import struct
import threading
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from securexfer.storage.ledger import Ledger

MAX_FILES = 500_000  # the newest of them are kept: about 90 MiB of disk with names of 40 bytes
_TRIM_EVERY = 10_000  # rows
_WORD = 2**64 - 1  # times may be negative, and devices where they are signed
_IDENTITY = struct.Struct(">5Q")
_FIND = "SELECT known FROM files WHERE user = ? AND name = ?"
_FIND_FROM = "SELECT name, known FROM files WHERE user = ? AND name >= ? ORDER BY name LIMIT ?"
_MOST_AHEAD = 128  # rows: then the statement itself is a hundredth of what they cost
_NOTE = "INSERT OR REPLACE INTO files (user, name, known) VALUES "
_ROW = "(?, ?, ?)"
_ROWS = 32  # in one statement: two thirds of the time of as many statements, and 64 would save no more
_TRIM = "DELETE FROM files WHERE number <= (SELECT max(number) FROM files) - ?"


def identity(found: os.stat_result) -> bytes:
    """Return what is the same as long as nobody has changed a file: size, mtime, ctime, inode, device."""
    mtime, ctime = found.st_mtime_ns & _WORD, found.st_ctime_ns & _WORD
    return _IDENTITY.pack(found.st_size, mtime, ctime, found.st_ino & _WORD, found.st_dev & _WORD)


class Index:
    """The digests of the files in an inbox. Safe to use from many threads."""

    def __init__(self, ledger: Ledger, max_files: int = MAX_FILES) -> None:
        self._ledger = ledger
        self._max_files = max_files
        self._lock = threading.Lock()
        self._untrimmed = 0

    def find(self, user: str, name: str, found: os.stat_result) -> bytes | None:
        """Return the SHA-256 of the file that was found under a user's name; None if it is not known."""
        rows = self._ledger.read(_FIND, (user, name))
        return _digest_of(rows[0][0], found) if rows else None

    def rows_from(self, user: str, name: str, count: int) -> list[tuple[str, bytes]]:
        """Return a user's first rows from a name on, in the order of names: name, and what is known of the file."""
        return self._ledger.read(_FIND_FROM, (user, name, count))

    def note(self, user: str, files: Sequence[tuple[str, os.stat_result, bytes]]) -> None:
        """Note names, what was found under them, and the SHA-256 of that."""
        rows = [(user, name, identity(found) + digest) for name, found, digest in files]
        many = len(rows) - len(rows) % _ROWS
        batches = [list(chain.from_iterable(rows[start : start + _ROWS])) for start in range(0, many, _ROWS)]
        if batches:
            self._ledger.write(_NOTE + ", ".join([_ROW] * _ROWS), batches)
        if rows[many:]:
            self._ledger.write(_NOTE + _ROW, rows[many:])
        with self._lock:
            self._untrimmed += len(files)
            if self._untrimmed < min(_TRIM_EVERY, self._max_files):
                return
            self._untrimmed = 0
        self._ledger.write(_TRIM, [(self._max_files,)])


class ReadAhead:
    """The digests of one user's files, for who asks for many in the order of their names. For one thread.

    Rows are read ahead, twice as many as were of use the last time. A row that is old by now does no harm: it is
    compared with what was found, as ever, and only says less than `Index.find` would.
    """

    def __init__(self, index: Index, user: str) -> None:
        self._index = index
        self._user = user
        self._rows: dict[str, bytes] = {}
        self._used = 0

    def find(self, name: str, found: os.stat_result) -> bytes | None:
        """Return the SHA-256 of the file that was found under a name; None if it is not known."""
        known = self._rows.pop(name, None)
        if known is None:
            known = self._read(name)
        else:
            self._used += 1
        return _digest_of(known, found) if known else None

    def _read(self, name: str) -> bytes | None:
        rows = self._index.rows_from(self._user, name, min(2 * self._used + 2, _MOST_AHEAD))
        self._rows, self._used = dict(rows), 0
        return self._rows.pop(name, None)


def _digest_of(known: bytes, found: os.stat_result) -> bytes | None:
    """Return the SHA-256 of a file that was found, if what is known is still said of the same content."""
    return known[_IDENTITY.size :] if known.startswith(identity(found)) else None
