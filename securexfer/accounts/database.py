"""The users and their password hashes, in one database.

SQLAlchemy Core on an embedded SQLite file, so that a database server can stand behind the same statements later;
what is special about SQLite is kept in `_connect`, `_begin` and `Accounts.create`. Rules it keeps:

* Every call is a transaction of its own, and nothing is cached: what another process changed is in force at once.
* The file and its companions (`-wal`, `-shm`) are for this user alone, from the first instant on.
* Whatever is killed at whatever moment, the file opens, with each change wholly there or not at all.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

# Now, not by the engine: by then `serve --run-as` may be a user who cannot read where this is installed.
import sqlalchemy.dialects.sqlite
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError

from securexfer.accounts.users import Standing, User, check_user_name, is_user_name, today
from securexfer.errors import BusyError, ConfigurationError, UsageError
from securexfer.files import check_private, create_private, lock_directory, sync_directory
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SCHEMA_VERSION = 2
CONNECTIONS = 4  # at a time: a call takes well under a millisecond, and waits for its turn
KNOWN_SOURCES = 64  # of a user, those seen last: machines, networks at home, and what DHCP gave out meanwhile
LOCK_SECONDS = 10.0  # how long a call waits for another process that is writing

_metadata = sa.MetaData()
_schema = sa.Table("securexfer_schema", _metadata, sa.Column("version", sa.Integer, nullable=False))
_users = sa.Table(
    "users",
    _metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("hash", sa.String(512)),  # null: may not log in with a password
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),  # both in seconds since 1970
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),  # see guessing.py
    sa.Column("epoch", sa.BigInteger, nullable=False),
)
_sources = sa.Table(
    "known_sources",
    _metadata,
    sa.Column("user", sa.String(32), primary_key=True),
    sa.Column("source", sa.String(64), primary_key=True),
    sa.Column("seen", sa.BigInteger, nullable=False),  # days since 1970
)


class Accounts:
    """The users' database. Safe to use from many threads; `close` it, or use it in a `with` statement."""

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
                _metadata.create_all(connection)
                connection.execute(_schema.insert(), {"version": SCHEMA_VERSION})
            temporary.rename(path)
            sync_directory(path.parent)
        finally:
            _remove(temporary)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database at `path`.

        Raises ConfigurationError, with the command that mends it, if there is none, if it is a link or others can
        get at it, if it is damaged, is no users' database, or was made by a newer version.
        """
        accounts = cls(path)
        try:
            with accounts._reading() as connection:
                accounts._check_content(connection)
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

    # -- what is asked ---------------------------------------------------------------------------------------------

    def find(self, name: str) -> User | None:
        """Return the user of that name as the database holds it now."""
        if not is_user_name(name):
            return None
        with self._reading() as connection:
            row = connection.execute(sa.select(_users).where(_users.c.name == name)).one_or_none()
        return _user(row) if row else None

    def all(self) -> list[User]:
        """Return all users in the order of their names."""
        with self._reading() as connection:
            return [_user(row) for row in connection.execute(sa.select(_users).order_by(_users.c.name))]

    def standing(self, name: str, source: str) -> Standing:
        """Return how a source stands with the account of that name, whether there is one or not."""
        if not is_user_name(name):
            return Standing()
        this = sa.and_(_sources.c.user == _users.c.name, _sources.c.source == source)
        query = sa.select(_users.c.failures, _users.c.epoch, _sources.c.seen).select_from(
            _users.outerjoin(_sources, this)
        )
        with self._reading() as connection:
            row = connection.execute(query.where(_users.c.name == name)).one_or_none()
        if row is None:
            return Standing()
        return Standing(
            exists=True, known=row.seen is not None, failures=row.failures, epoch=row.epoch, seen=row.seen or 0
        )

    # -- what is changed -------------------------------------------------------------------------------------------

    def add(self, name: str, password_hash: str) -> None:
        """Add a user; raise UsageError if the name is not allowed or is taken."""
        if not self.add_all({name: password_hash}):
            raise self.taken(name)

    def add_all(self, hashes: Mapping[str, str], before_commit: Callable[[list[str]], None] | None = None) -> list[str]:
        """Add those users (name -> hash) that are not there yet, all or none; return their names.

        `before_commit` is called with these names, if there are any, when nothing but the commit is left to do; if it
        raises, nothing is added.
        """
        for name in hashes:
            check_user_name(name)
        now = int(time.time())
        begun = {"changed": now, "failures": 0, "epoch": time.time_ns()}
        with self._writing() as connection:
            there = set(connection.scalars(sa.select(_users.c.name)))
            added = [name for name in hashes if name not in there]
            rows = [{"name": name, "hash": hashes[name], "disabled": False, "created": now, **begun} for name in added]
            if rows:
                connection.execute(_users.insert(), rows)
                if before_commit:
                    before_commit(added)
        return added

    def set_password(self, name: str, password_hash: str) -> None:
        """Give a user a new password, and start counting failures and known sources anew; raise UsageError if unknown.

        Whoever guessed the old one may be among those sources.
        """
        with self._writing() as connection:
            self._change(connection, name, _users.update().values(hash=password_hash, **_anew()))
            connection.execute(_sources.delete().where(_sources.c.user == name))

    def disable(self, name: str) -> None:
        """Let a user log in no more; raise UsageError for an unknown one."""
        with self._writing() as connection:
            self._change(connection, name, _users.update().values(disabled=True, changed=int(time.time())))

    def enable(self, name: str) -> None:
        """Let a user log in again, and strangers try again; raise UsageError for an unknown one."""
        with self._writing() as connection:
            self._change(connection, name, _users.update().values(disabled=False, **_anew()))

    def remove(self, name: str) -> None:
        """Remove a user, also one whose name would not be allowed now; raise UsageError for an unknown one."""
        with self._writing() as connection:
            self._change(connection, name, _users.delete())
            connection.execute(_sources.delete().where(_sources.c.user == name))

    def remember(self, name: str, source: str, epoch: int) -> None:
        """Note that a user logged in from there today, unless what counts has begun anew since that epoch."""
        of_user = sa.select(_sources.c.source).where(_sources.c.user == name)
        with self._writing() as connection:
            if connection.scalar(sa.select(_users.c.epoch).where(_users.c.name == name)) != epoch:
                return  # removed meanwhile, or given a new password because the old one was known to somebody else
            connection.execute(_sources.delete().where(_sources.c.user == name, _sources.c.source == source))
            latest = connection.scalars(of_user.order_by(_sources.c.seen.desc()).limit(KNOWN_SOURCES - 1)).all()
            connection.execute(_sources.delete().where(_sources.c.user == name, _sources.c.source.not_in(latest)))
            connection.execute(_sources.insert(), {"user": name, "source": source, "seen": today()})

    def keep_failures(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Store strangers' failures in a row: account -> number, and the epoch that it is of."""
        statement = (
            _users.update()
            .where(_users.c.name == sa.bindparam("of"), _users.c.epoch == sa.bindparam("at"))
            .values(failures=sa.bindparam("count"))
        )
        with self._writing() as connection:
            rows = [{"of": name, "count": failures, "at": epoch} for name, (failures, epoch) in counts.items()]
            connection.execute(statement, rows)

    def rehash(self, name: str, old: str, new: str) -> bool:
        """Replace a user's hash of the same password, unless it is no longer `old`; return whether it was."""
        with self._writing() as connection:
            done = connection.execute(
                _users.update().where(_users.c.name == name, _users.c.hash == old).values(hash=new)
            )
        return done.rowcount == 1

    # -- what to say -----------------------------------------------------------------------------------------------

    def command(self, words: str) -> str:
        """Return the command line `securexfer user ...` for this database, to be shown as the next step."""
        elsewhere = self.path.absolute() != Path("users.db").absolute()
        return f"securexfer user {words}" + (f" --users {shlex.quote(str(self.path.absolute()))}" if elsewhere else "")

    def taken(self, name: str) -> UsageError:
        """Return the error for adding somebody who is there."""
        return UsageError(
            f"there is a user {name} already", hint=f"To set a new password: {self.command(f'passwd {name}')}"
        )

    def unknown(self, name: str) -> UsageError:
        """Return the error for naming somebody who is not there."""
        return UsageError(f"there is no user {show(name)!r}", hint=f"List those who are: {self.command('list')}")

    # -- connections and transactions ------------------------------------------------------------------------------

    def _change(self, connection: sa.Connection, name: str, statement: sa.Update | sa.Delete) -> None:
        if connection.execute(statement.where(_users.c.name == name)).rowcount == 0:
            raise self.unknown(name)

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
        elif not all(sa.inspect(connection).has_table(table.name) for table in (_schema, _users)):
            problem = "is not a users' database"
        if problem:
            raise self._unusable(problem)
        version = connection.execute(sa.select(sa.func.max(_schema.c.version))).scalar()
        if version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"the users' database {self.path} has version {version}; this securexfer knows {SCHEMA_VERSION}",
                hint="Install the securexfer that made it, or a newer one.",
            )

    def _unusable(self, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"the users' database {self.path} {problem}",
            hint="Put a backup in its place, or move it away with its -wal and -shm and add the users anew: "
            + self.command("add NAME"),
        )

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


def _anew() -> dict[str, Any]:
    """Return what begins to count anew; an epoch is none that this name ever had, also if its user was removed."""
    now = time.time_ns()
    later = sa.case((_users.c.epoch >= now, _users.c.epoch + 1), else_=now)  # also if the clock was set back
    return {"changed": int(time.time()), "failures": 0, "epoch": later}


def _begin(connection: sa.Connection) -> None:
    # Python's own handling of transactions begins them late and not for reading. A writer takes the lock at once:
    # one that has read first could no longer wait for another.
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


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


def _user(row: sa.Row[Any]) -> User:
    created, changed = (datetime.fromtimestamp(seconds, UTC) for seconds in (row.created, row.changed))
    # SQLite keeps whatever was put into a column: what is no text is no hash either.
    return User(row.name, None if row.hash is None else str(row.hash), row.disabled, created, changed, row.failures)
