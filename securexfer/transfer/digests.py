"""The sender's digests of its own files, remembered so that a tree that did not change is not read again.

A file is known again by device, inode, size, mtime and ctime. The last cannot be set back: content that was altered and
given its old size and mtime is not taken for what it was. (Windows has no such time: there size and mtime decide.)

* It is a cache. Whatever is wrong with it (no home, read-only, locked by another process for longer than a moment, made
  by another version) means *not known*, and the send goes on; one that is damaged is begun anew.
* What it says is never the last word: the receiver compares it with a digest of its own.
* SQLite with its rollback journal, not a write-ahead log: many a home is on a network file system, and a log is unsafe
  there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from securexfer.errors import ConfigurationError, SecurexferError

if TYPE_CHECKING:
    import sqlite3

MAX_ROWS = 500_000  # 45 MB; five times the largest tree that is promised to be quick. The oldest rows go first.
# A file that changed this shortly before it was read may have changed again since without its times telling. FAT counts
# in two seconds, and nothing else that is in use in longer steps.
SETTLED_NS = 2_000_000_000
_BATCH = 4096  # rows that are written at once: a transaction each would cost more than hashing a small file
_MAX_WAITING = 4 * _BATCH  # rows kept while another process does not let us write
_LOCK_SECONDS = 0.25  # a moment: another process writes a batch in a tenth of that
# Taking the lock takes eight system calls, on a network file system as many round trips: so it is kept for many
# lookups, but not for long, since nobody can write meanwhile.
_HOLD_SECONDS = 0.1
_MOST_AHEAD = 128  # rows that are read at once
_MANY = 32  # are worth taking the lock for
_LONG_BYTES = 1 << 20  # a file that is not known and takes longer to read than a lock should be held

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE digests (
  number INTEGER PRIMARY KEY,  -- grows with every row that is written: what is smallest is oldest
  device INTEGER NOT NULL, inode INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  sha256 BLOB NOT NULL,
  UNIQUE (device, inode)
)"""
_FIND = (
    "SELECT inode, size, mtime_ns, ctime_ns, sha256 FROM digests WHERE device = ? AND inode >= ? ORDER BY inode LIMIT ?"
)
_ADD = "INSERT OR REPLACE INTO digests (device, inode, size, mtime_ns, ctime_ns, sha256) VALUES "
_ROW = "(?, ?, ?, ?, ?, ?)"
_ROWS_AT_ONCE = 64  # in one statement: a row takes three fifths of what it takes by itself
_TRIM = "DELETE FROM digests WHERE number <= (SELECT max(number) FROM digests) - ?"


def clock_ns() -> int:
    """Return the moment, by the clock that stamps files: what `DigestCache.add` is told of when reading began."""
    return time.time_ns()


class DigestCache:
    """Digests of files by what identifies them and their content. For one thread; nothing is opened before it is used.

    No method raises anything because of the cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Use the cache at `path`, or this user's own."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._off = False  # it cannot be used, and is not tried again
        self._held_since: float | None = None  # a read transaction
        self._ahead: dict[tuple[int, int], tuple[Any, ...]] = {}  # rows by device and inode
        self._used = 0  # of them, since the last were read
        self._waiting: list[tuple[int, int, int, int, int, bytes]] = []  # rows to be written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, found: os.stat_result) -> bytes | None:
        """Return the SHA-256 of the file that `found` describes (32 bytes), or None if it is not known."""
        row = self._ahead.pop((found.st_dev, found.st_ino), None)
        if row is None:
            row = self._read(found)
        else:
            self._used += 1
        if row is not None and row[1:4] == (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
            return row[4] if isinstance(row[4], bytes) and len(row[4]) == 32 else None
        if found.st_size >= _LONG_BYTES:
            self.let_go()
        return None

    def _read(self, found: os.stat_result) -> tuple[Any, ...] | None:
        """Return a file's row, if there is one, and keep those of the next inodes: twice as many as were of use before.

        The files of a directory mostly came one after the other, and so have inodes side by side.
        """
        connection = self._connection or self._connect()
        if connection is None:
            return None
        device, inode = found.st_dev, found.st_ino
        count, self._used = min(2 * self._used + 2, _MOST_AHEAD), 0
        try:
            self._hold(connection)
            rows = connection.execute(_FIND, (_signed(device), _signed(inode), count)).fetchall()
            if count >= _MANY:
                self._release(connection)
        except _troubles() as error:
            self._fail(error)
            return None
        if len(self._ahead) > _BATCH:
            self._ahead.clear()
        self._ahead.update(((device, row[0] % (1 << 64)), row) for row in rows if isinstance(row[0], int))
        return self._ahead.pop((device, inode), None)

    def add(self, found: os.stat_result, digest: bytes, read_began_ns: int) -> None:
        """Remember the SHA-256 of a file that was `found` so when its reading began, at that moment of `clock_ns`.

        Not if it had changed within the two seconds before, or in the future.
        """
        mtime_ns, ctime_ns, settled_ns = found.st_mtime_ns, found.st_ctime_ns, read_began_ns - SETTLED_NS
        if self._off or mtime_ns > settled_ns or ctime_ns > settled_ns:
            return
        if self._held_since is not None:
            self.let_go()  # whoever sends content does not look anything up for a while
        device, inode = found.st_dev, found.st_ino
        if (device | inode) >> 63:
            device, inode = _signed(device), _signed(inode)
        self._waiting.append((device, inode, found.st_size, mtime_ns, ctime_ns, digest))
        if len(self._waiting) % _BATCH == 0:
            self._write()

    def let_go(self) -> None:
        """Let other processes write until something is looked up again: for whoever may be about to wait."""
        if self._held_since is not None and self._connection:
            try:
                self._release(self._connection)
            except _troubles() as error:
                self._fail(error)

    def write(self) -> None:
        """Write what is to be remembered, now rather than at the end, and let go."""
        self.let_go()
        if self._waiting and not self._off:
            self._write()

    def close(self) -> None:
        """Write what is to be remembered, and close the cache."""
        self.write()
        self._turn_off()

    # -- the file ------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection | None:
        """Open the cache, made where missing, begun anew where damaged; return None if that cannot be."""
        for _ in range(2):  # the second time without the damaged one
            if self._off:
                break
            try:
                self._connection = _open(self._path or _default_path())
                return self._connection
            except _troubles() as error:
                self._fail(error)
        return None

    def _write(self) -> None:
        """Write the rows that wait. If another process does not let us, they wait on; too many are forgotten."""
        connection = self._connection or self._connect()
        if connection is None:
            return
        try:
            self._release(connection)
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection, self._waiting)
            connection.execute(_TRIM, (MAX_ROWS,))
            connection.execute("COMMIT")
            self._waiting.clear()
        except _troubles() as error:
            with contextlib.suppress(*_troubles()):
                connection.rollback()
            if not _is_locked(error) or len(self._waiting) >= _MAX_WAITING:
                self._waiting.clear()
            if not _is_locked(error):
                self._fail(error)

    def _hold(self, connection: sqlite3.Connection) -> None:
        """Be in a read transaction that is not too old."""
        now = time.monotonic()
        if self._held_since is not None and now - self._held_since > _HOLD_SECONDS:
            self._release(connection)
        if self._held_since is None:
            connection.execute("BEGIN")
            self._held_since = now

    def _release(self, connection: sqlite3.Connection) -> None:
        if self._held_since is not None:
            self._held_since = None
            connection.rollback()

    def _fail(self, error: BaseException) -> None:
        """Close the cache, and do without it unless it was damaged and could be removed."""
        self._turn_off()
        if _is_damaged(error):
            with contextlib.suppress(*_troubles()):
                path = self._path or _default_path()
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # it must not be replayed into the next
                self._off = False

    def _turn_off(self) -> None:
        connection, self._connection, self._held_since, self._off = self._connection, None, None, True
        if connection is not None:
            with contextlib.suppress(*_troubles()):
                connection.close()


def _open(path: Path) -> sqlite3.Connection:
    """Open the cache, made first where there is none. Raises any of the troubles."""
    import sqlite3

    from securexfer.files import check_private, create_private, make_private_directory

    make_private_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        create_private(path, b"")
    check_private(path, "the cache of digests")
    connection = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # what a power cut takes is read again
        if _version(connection) == 0:
            connection.execute("BEGIN IMMEDIATE")
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            connection.execute("COMMIT")
        if _version(connection) != _SCHEMA_VERSION:
            raise ConfigurationError(f"the cache of digests {path} was made by another version")
    except BaseException:
        connection.close()
        raise
    return connection


def _insert(connection: sqlite3.Connection, rows: list[tuple[int, int, int, int, int, bytes]]) -> None:
    """Write rows, in their order, many in one statement. Raises any of the troubles."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        connection.execute(_ADD + ", ".join([_ROW] * len(some)), list(itertools.chain.from_iterable(some)))


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _default_path() -> Path:
    """Return where this user's cache is; raises RuntimeError for a user without a home."""
    if sys.platform == "win32":
        caches = _directory("LOCALAPPDATA", "AppData/Local")
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = _directory("XDG_CACHE_HOME", ".cache")
    return caches / "securexfer" / "digests.db"


def _directory(variable: str, usual: str) -> Path:
    """Return the directory that the environment names (a relative path names none, says XDG), or the usual one."""
    chosen = Path(os.environ.get(variable, ""))
    return chosen if chosen.is_absolute() else Path.home() / usual


def _signed(number: int) -> int:
    """Return a number of 64 bits as SQLite keeps it; some network file systems use the highest bit."""
    return number - (1 << 64) if number >> 63 == 1 else number


def _troubles() -> tuple[type[Exception], ...]:
    """Return what may go wrong with the cache. Asked for only when something did: until then nothing is imported."""
    try:
        from sqlite3 import Error
    except ImportError:  # a Python that was built without
        return ImportError, OSError, RuntimeError, SecurexferError
    return Error, OSError, OverflowError, RuntimeError, SecurexferError


def _is_damaged(error: BaseException) -> bool:
    return _code(error) in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}


def _is_locked(error: BaseException) -> bool:
    return _code(error) == "SQLITE_BUSY"


def _code(error: BaseException) -> str:
    """Return the primary result code of SQLite; "" for another error."""
    name: str = getattr(error, "sqlite_errorname", "")
    return "_".join(name.split("_")[:2])  # SQLITE_BUSY_SNAPSHOT is SQLITE_BUSY
