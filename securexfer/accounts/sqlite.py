"""The file that the users' database is: made, opened, checked, and its transactions. What is special about SQLite.

* Every call is a transaction of its own, and nothing is cached: what another process changed is in force at once.
* The file and its companions (`-wal`, `-shm`) are for this user alone, from the first instant on.
* Whatever is killed at whatever moment, the file opens, with each change wholly there or not at all.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

# Now, not by the engine: by then `serve --run-as` may be a user who cannot read where this is installed.
import sqlalchemy.dialects.sqlite
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError

from securexfer.accounts.tables import SCHEMA_VERSION, UPGRADES, metadata, schema, users
from securexfer.errors import BusyError, ConfigurationError
from securexfer.files import check_private, create_private, lock_directory, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 4  # at a time: a call takes well under a millisecond, and waits for its turn
LOCK_SECONDS = 10.0  # how long a call waits for another process that is writing


class Database:
    """A file of SQLite and connections to it. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        """Use `open` or `create`, which look at the file first."""
        self.path = path
        self._lock = threading.Lock()
        self._engine = sa.create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=sa.QueuePool,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=LOCK_SECONDS,
        )
        sa.event.listen(self._engine, "begin", _begin)
        sa.event.listen(self._engine, "connect", self._remember_file)
        sa.event.listen(self._engine, "checkout", self._check_file)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open the database at `path`, made first if there is none; raise ConfigurationError like `open`."""
        try:
            if not path.parent.is_dir():
                raise ConfigurationError(
                    f"there is no directory {path.parent} to keep the users' database in",
                    hint=f"Make it first: mkdir -m 700 {shlex.quote(str(path.parent))}",
                )
            with lock_directory(path.parent):
                if not path.exists() and not path.is_symlink():
                    cls._make(path)
        except OSError as error:
            raise ConfigurationError(f"the users' database {path} cannot be made: {error.strerror}") from error
        return cls.open(path)

    @classmethod
    def _make(cls, path: Path) -> None:
        """Make an empty database beside `path` and move it there complete. The directory is locked."""
        for companion in _files_of(path)[1:]:
            if companion.exists():  # SQLite would replay it into the new database
                raise ConfigurationError(
                    f"the users' database {path} is gone, and {companion.name} is left of it",
                    hint=f"Put the database back, or give up what is left: rm {shlex.quote(str(companion))}",
                )
        temporary = path.with_name(f".{path.name}.new")
        try:
            _remove(temporary)  # left by a process that was killed here
            create_private(temporary, b"")
            with contextlib.closing(sqlite3.connect(temporary)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            with cls(temporary) as made, made._writing() as connection:
                metadata.create_all(connection)
                connection.execute(schema.insert(), {"version": SCHEMA_VERSION})
            temporary.rename(path)
            sync_directory(path.parent)
        finally:
            _remove(temporary)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database at `path`; one that an older version made becomes one of this version.

        Raises ConfigurationError, with the command that mends it, if there is none, if it is a link or others can
        get at it, if it is damaged, is no users' database, or was made by a newer version.
        """
        accounts = cls(path)
        try:
            with accounts._reading() as connection:
                accounts._check_content(connection)
                outdated = _version(connection) != SCHEMA_VERSION
            if outdated:
                accounts._upgrade()
        except BaseException:
            accounts.close()
            raise
        return accounts

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- connections and transactions ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        # One of us at a time: those that wait for another process would hold all connections, and reading needs one.
        with self._lock, self._translated(), self._engine.execution_options(writing=True).begin() as connection:
            yield connection

    def _connect(self) -> sqlite3.Connection:
        """Open the file and never make one: SQLite's companions get the mode that it has."""
        try:
            check_private(self.path, "the users' database")
            for companion in _files_of(self.path)[1:]:
                with contextlib.suppress(FileNotFoundError):
                    check_private(companion, "the users' database")
        except FileNotFoundError:
            raise ConfigurationError(
                f"there is no users' database {self.path.name} in {self.path.absolute().parent}",
                hint=f"Add the first user: {self.command('add NAME')}",
            ) from None
        except OSError as error:
            raise ConfigurationError(f"the users' database {self.path} cannot be read: {error.strerror}") from error
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=LOCK_SECONDS,
            isolation_level=None,  # `_begin` begins transactions
            check_same_thread=False,  # the pool lends a connection to one thread at a time
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")  # a user who was added stays added after a power cut
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _remember_file(self, _: object, record: Any) -> None:
        record.info["file"] = _identity(self.path)

    def _check_file(self, _: object, record: Any, __: object) -> None:
        """Drop a connection to a file that was since replaced or removed, by a restored backup for example."""
        if record.info["file"] != _identity(self.path):
            raise DisconnectionError

    def _check_content(self, connection: sa.Connection) -> None:
        problem = None
        if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
            problem = "is damaged"
        elif not self.path.stat().st_size:
            problem = "is empty"
        elif not all(sa.inspect(connection).has_table(table.name) for table in (schema, users)):
            problem = "is not a users' database"
        if problem:
            raise self._unusable(problem)
        version = _version(connection)
        if version != SCHEMA_VERSION and version not in UPGRADES:
            raise ConfigurationError(
                f"the users' database {self.path} has version {version}; this securexfer knows {SCHEMA_VERSION}",
                hint=f"Install the securexfer that made it, or a newer one; or {self._begin_anew()}",
            )

    def _upgrade(self) -> None:
        """Make the database one of this version: wholly, or not at all if it is killed meanwhile."""
        with self._writing() as connection:
            # Asked again: another process may have been faster.
            for version in range(_version(connection), SCHEMA_VERSION):
                connection.exec_driver_sql(UPGRADES[version])
            connection.execute(schema.update().values(version=SCHEMA_VERSION))

    def _unusable(self, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"the users' database {self.path} {problem}",
            hint=f"Put a backup in its place, or {self._begin_anew()}",
        )

    def _begin_anew(self) -> str:
        return f"move it away with its -wal and -shm and add the users anew: {self.command('add NAME')}"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the database's errors into ours."""
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise BusyError(f"the users' database {self.path} is in use by too many at once") from error
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None)
            kind = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the rest is SQLite's finer distinction
            if kind == sqlite3.SQLITE_BUSY:
                raise BusyError(f"the users' database {self.path} is locked by another process") from error
            if kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
                raise self._unusable(f"is damaged: {cause}") from error
            raise ConfigurationError(f"the users' database {self.path} failed: {cause or error}") from error

    def command(self, words: str) -> str:
        """Return the command line `securexfer user ...` for this database, to be shown as the next step."""
        elsewhere = self.path.absolute() != Path("users.db").absolute()
        return f"securexfer user {words}" + (f" --users {shlex.quote(str(self.path.absolute()))}" if elsewhere else "")


def _begin(connection: sa.Connection) -> None:
    # Python's own handling of transactions begins them late and not for reading. A writer takes the lock at once:
    # one that has read first could no longer wait for another.
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _version(connection: sa.Connection) -> Any:
    return connection.scalar(sa.select(sa.func.max(schema.c.version)))


def _files_of(path: Path) -> list[Path]:
    """Return the database's file and SQLite's companions of it."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def _remove(path: Path) -> None:
    for file in _files_of(path):
        file.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
