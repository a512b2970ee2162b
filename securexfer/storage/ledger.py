"""The database in the root of an inbox, of what its server need not find out again. All of it may be lost at any time.

* index.py notes in it which content stands under which name, partials.py which files have come in part.
* Nobody but the server that holds the inbox opens it: one connection, in turns, and no memory shared with others.
* An error of it means "not known". It fails neither a start nor a transfer; what is damaged is begun anew.
* What it says of the disk is never ahead of the disk: rows are written after the syncs that they speak of. Its own
  writes may be lost with the power, but not mixed up (synchronous=NORMAL: a sync at each checkpoint, none at a write).
* A server without durability syncs nothing, this neither. What such a server noted is forgotten with the machine's
  next start: a power cut may have lost what it speaks of.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEDGER_NAME = ".securexfer-index"  # in the root, which no peer can name a file in: users' directories are there
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux: another at each start of the machine
_COMPANIONS = ("", "-wal", "-shm", "-journal")
_APPLICATION = 0x53584653  # PRAGMA application_id, "SXFS": whose file this is
_VERSION = 2
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA = """
BEGIN;
CREATE TABLE volatile (boot TEXT NOT NULL);
CREATE TABLE files (
    number INTEGER PRIMARY KEY, user TEXT NOT NULL, name TEXT NOT NULL, known BLOB NOT NULL, UNIQUE (user, name)
);
CREATE TABLE partials (
    user TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER, synced INTEGER NOT NULL,
    boot TEXT NOT NULL, PRIMARY KEY (user, name)
) WITHOUT ROWID;
"""


class _ForeignError(Exception):
    """The file is not ours, or of another version."""


class _OutdatedError(Exception):
    """The machine was started anew since, and what is noted was not durable."""


def boot_id() -> str:
    """Return what tells this run of the machine from others; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


class Ledger:
    """The database, open. Safe to use from many threads.

    `notice` says what its administrator should know of how it was opened, if anything.
    """

    def __init__(self, root: Path, *, durable: bool) -> None:
        """Open the database in `root`, or make it; where that is impossible, it lasts no longer than this object."""
        self.notice = ""
        self.boot = boot_id()
        self._path = root / LEDGER_NAME
        self._durable = durable
        self._lock = threading.Lock()
        try:
            self._connection = self._open(str(self._path))
        except _OutdatedError:
            self._connection = self._anew()
        except (sqlite3.Error, OSError, _ForeignError) as error:
            self.notice = f"the index {self._path} could not be used and was begun anew: {error}"
            self._connection = self._anew()

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows that a query finds; none if it fails."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                self._mend(error)
        return []

    def write(self, change: str, rows: Iterable[Sequence[Any]]) -> None:
        """Make a change for each of the rows, all of them or, if it fails, none."""
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                self._connection.executemany(change, rows)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
                self._mend(error)

    def close(self) -> None:
        """Let the database go."""
        with self._lock:
            self._connection.close()

    def _open(self, name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(name, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
                if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise _ForeignError("it is somebody else's")
                connection.executescript(
                    f"{_SCHEMA}PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                raise _ForeignError("it is of another version of securexfer")
            connection.execute("PRAGMA journal_mode = WAL")
            self._keep_or_not(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep_or_not(self, connection: sqlite3.Connection) -> None:
        """See to it that nothing outlives the machine's run that was noted of files that are not durable."""
        noted = connection.execute("SELECT boot FROM volatile").fetchone()
        if noted and (noted[0] != self.boot or not self.boot):
            raise _OutdatedError
        if not self._durable:
            if not noted:
                connection.execute("INSERT INTO volatile VALUES (?)", (self.boot,))
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # on disk, before any row that needs it
            connection.execute("PRAGMA synchronous = OFF")
        else:
            connection.execute("PRAGMA synchronous = NORMAL")

    def _anew(self) -> sqlite3.Connection:
        """Remove what is there and begin anew; in memory, if even that fails."""
        try:
            for suffix in _COMPANIONS:
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return self._open(str(self._path))
        except (sqlite3.Error, OSError, _ForeignError, _OutdatedError):
            return self._open(":memory:")

    def _mend(self, error: sqlite3.Error) -> None:
        """Begin anew if an error says that the file is damaged; any other is a full or failing disk's, and may pass."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            self._connection.close()
            self._connection = self._anew()
