"""The users: what is asked about them and what is changed, in SQLAlchemy Core.

So a database server can stand behind the same statements later; what is special about SQLite is in `sqlite`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from securexfer.accounts.sqlite import Database
from securexfer.accounts.tables import sources, users
from securexfer.accounts.users import Permission, Standing, User, check_user_name, is_user_name, today
from securexfer.errors import UsageError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KNOWN_SOURCES = 64  # of a user, those seen last: machines, networks at home, and what DHCP gave out meanwhile


class Accounts(Database):
    """The users' database. Safe to use from many threads; `close` it, or use it in a `with` statement."""

    # -- what is asked ---------------------------------------------------------------------------------------------

    def find(self, name: str) -> User | None:
        """Return the user of that name as the database holds it now."""
        if not is_user_name(name):
            return None
        with self._reading() as connection:
            row = connection.execute(sa.select(users).where(users.c.name == name)).one_or_none()
        return _user(row) if row else None

    def all(self) -> list[User]:
        """Return all users in the order of their names."""
        with self._reading() as connection:
            return [_user(row) for row in connection.execute(sa.select(users).order_by(users.c.name))]

    def may_open(self, name: str) -> bool:
        """Whether what that user sent may be opened now: not if they are denied it, disabled, or gone."""
        found = self.find(name)
        return found is not None and not found.disabled and Permission.OPEN in found.permissions

    def standing(self, name: str, source: str) -> Standing:
        """Return how a source stands with the account of that name, whether there is one or not."""
        if not is_user_name(name):
            return Standing()
        this = sa.and_(sources.c.user == users.c.name, sources.c.source == source)
        query = sa.select(users.c.failures, users.c.epoch, sources.c.seen).select_from(users.outerjoin(sources, this))
        with self._reading() as connection:
            row = connection.execute(query.where(users.c.name == name)).one_or_none()
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
            there = set(connection.scalars(sa.select(users.c.name)))
            added = [name for name in hashes if name not in there]
            rows = [{"name": name, "hash": hashes[name], "disabled": False, "created": now, **begun} for name in added]
            if rows:
                connection.execute(users.insert(), rows)
                if before_commit:
                    before_commit(added)
        return added

    def set_password(self, name: str, password_hash: str) -> None:
        """Give a user a new password, and start counting failures and known sources anew; raise UsageError if unknown.

        Whoever guessed the old one may be among those sources.
        """
        with self._writing() as connection:
            self._change(connection, name, users.update().values(hash=password_hash, **_anew()))
            connection.execute(sources.delete().where(sources.c.user == name))

    def disable(self, name: str) -> None:
        """Let a user log in no more; raise UsageError for an unknown one."""
        with self._writing() as connection:
            self._change(connection, name, users.update().values(disabled=True, changed=int(time.time())))

    def enable(self, name: str) -> None:
        """Let a user log in again, and strangers try again; raise UsageError for an unknown one."""
        with self._writing() as connection:
            self._change(connection, name, users.update().values(disabled=False, **_anew()))

    def allow(self, name: str, permission: Permission) -> None:
        """Give a user a permission; raise UsageError for an unknown one."""
        self._permit(name, permission, allowed=True)

    def deny(self, name: str, permission: Permission) -> None:
        """Take a permission from a user; raise UsageError for an unknown one."""
        self._permit(name, permission, allowed=False)

    def remove(self, name: str) -> None:
        """Remove a user, also one whose name would not be allowed now; raise UsageError for an unknown one."""
        with self._writing() as connection:
            self._change(connection, name, users.delete())
            connection.execute(sources.delete().where(sources.c.user == name))

    def remember(self, name: str, source: str, epoch: int) -> None:
        """Note that a user logged in from there today, unless what counts has begun anew since that epoch."""
        of_user = sa.select(sources.c.source).where(sources.c.user == name)
        with self._writing() as connection:
            if connection.scalar(sa.select(users.c.epoch).where(users.c.name == name)) != epoch:
                return  # removed meanwhile, or given a new password because the old one was known to somebody else
            connection.execute(sources.delete().where(sources.c.user == name, sources.c.source == source))
            latest = connection.scalars(of_user.order_by(sources.c.seen.desc()).limit(KNOWN_SOURCES - 1)).all()
            connection.execute(sources.delete().where(sources.c.user == name, sources.c.source.not_in(latest)))
            connection.execute(sources.insert(), {"user": name, "source": source, "seen": today()})

    def keep_failures(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Store strangers' failures in a row: account -> number, and the epoch that it is of."""
        statement = (
            users.update()
            .where(users.c.name == sa.bindparam("of"), users.c.epoch == sa.bindparam("at"))
            .values(failures=sa.bindparam("count"))
        )
        with self._writing() as connection:
            rows = [{"of": name, "count": failures, "at": epoch} for name, (failures, epoch) in counts.items()]
            connection.execute(statement, rows)

    def rehash(self, name: str, old: str, new: str) -> bool:
        """Replace a user's hash of the same password, unless it is no longer `old`; return whether it was."""
        with self._writing() as connection:
            done = connection.execute(users.update().where(users.c.name == name, users.c.hash == old).values(hash=new))
        return done.rowcount == 1

    def _permit(self, name: str, permission: Permission, *, allowed: bool) -> None:
        values = {f"may_{permission}": allowed, "changed": int(time.time())}
        with self._writing() as connection:
            self._change(connection, name, users.update().values(values))

    def _change(self, connection: sa.Connection, name: str, statement: sa.Update | sa.Delete) -> None:
        if connection.execute(statement.where(users.c.name == name)).rowcount == 0:
            raise self.unknown(name)

    # -- what to say -----------------------------------------------------------------------------------------------

    def taken(self, name: str) -> UsageError:
        """Return the error for adding somebody who is there."""
        return UsageError(
            f"there is a user {name} already", hint=f"To set a new password: {self.command(f'passwd {name}')}"
        )

    def unknown(self, name: str) -> UsageError:
        """Return the error for naming somebody who is not there."""
        return UsageError(f"there is no user {show(name)!r}", hint=f"List those who are: {self.command('list')}")


def _anew() -> dict[str, Any]:
    """Return what begins to count anew; an epoch is none that this name ever had, also if its user was removed."""
    now = time.time_ns()
    later = sa.case((users.c.epoch >= now, users.c.epoch + 1), else_=now)  # also if the clock was set back
    return {"changed": int(time.time()), "failures": 0, "epoch": later}


def _user(row: sa.Row[Any]) -> User:
    created, changed = (datetime.fromtimestamp(seconds, UTC) for seconds in (row.created, row.changed))
    # SQLite keeps whatever was put into a column: what is no text is no hash either.
    password = None if row.hash is None else str(row.hash)
    permissions = frozenset({Permission.OPEN} if row.may_open else ())
    return User(row.name, password, row.disabled, created, changed, row.failures, permissions)
