"""Is this user who they say? One answer for every "no", at one price, and never more work at once than fits.

* A check takes its turn first and reads the user's record after that, so that what was changed while it waited
  is in force.
* Unknown, disabled, malformed, wrong: the same error, after one computation of the same size. Only `detail`, for
  the log, tells which it was. (A hash that other parameters made costs what those cost, until its user logs in.)
* At most one computation a core runs, and so many callers wait for theirs (see turns.py).
* Failures make the next try wait (see guessing.py).
"""

from __future__ import annotations

import contextlib
import shlex
import threading
from typing import TYPE_CHECKING

from securexfer.accounts.guessing import Guessing
from securexfer.accounts.passwords import NOBODY, BadHashError, PasswordHash, normalise, usable_cores
from securexfer.accounts.turns import Turns
from securexfer.accounts.users import is_user_name
from securexfer.errors import ConfigurationError, LoginRefusedError, SecurexferError
from securexfer.events import StoreError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from securexfer.accounts.database import Accounts
    from securexfer.accounts.guessing import GuessLimits
    from securexfer.accounts.users import User
    from securexfer.events import Observer

WAITING = 128  # callers in the queue: a class that logs in at once, at a tenth of a second each
SAVE_SECONDS = 2.0  # how often failures are stored: what a server that is killed forgets


class Logins:
    """Checks names and passwords against the users' database. Safe to use from many threads."""

    def __init__(
        self,
        accounts: Accounts,
        *,
        verifications: int | None = None,
        waiting: int = WAITING,
        limits: GuessLimits | None = None,
        observe: Observer = lambda _: None,
    ) -> None:
        """Take the database; run as many verifications at a time as there are cores, unless told how many.

        Raises ConfigurationError for a user whose name or hash could not have been made by this program.
        `observe` hears what the server's administrator should know: hashes that turn bad, a database that fails.
        """
        self._accounts = accounts
        self._observe = observe
        self._turns = Turns(usable_cores() if verifications is None else verifications, waiting)
        self._guessing = Guessing(limits)
        for user in accounts.all():
            _refuse_unusable(user, accounts)
        self._closed = threading.Event()
        # In a thread of its own: a login that failed must not take longer where there is an account to note it for.
        threading.Thread(target=self._keep_failures, daemon=True, name="failures").start()

    def check(self, user: str, password: str | None, source: str, *, give_up: Callable[[], bool] | None = None) -> User:
        """Return the user's record if this is their password; None stands for one that could not be decoded.

        `source` is where the guess comes from (see `hosts.source_of`). Waits for its turn; `give_up` is asked now and
        then meanwhile whether to stop waiting.

        Raises LoginRefusedError, ThrottledError after too many failures, BusyError if too many wait already,
        ShuttingDownError after `close`, TruncatedError if it gave up, ConfigurationError if the database fails.
        """
        with self._reported():
            standing = self._accounts.standing(user, source)
        self._guessing.check(user, source, standing)  # before it takes a place in the queue
        with (
            self._turns.take(source, known=standing.known, give_up=give_up),
            self._guessing.trial(user, source, standing),
        ):
            found, renewed = self._verify(user, password)
        self._note(found, source, renewed)
        return found

    def close(self) -> None:
        """Refuse every check from now on, those that wait included; those that run come to their end."""
        self._turns.close()
        self._closed.set()
        self._save_failures()

    def _verify(self, user: str, password: str | None) -> tuple[User, PasswordHash | None]:
        """Return the user's record, and a hash of today's parameters if the stored one has others."""
        typed = _readable(password) if is_user_name(user) else None
        with self._reported():
            found = self._accounts.find(user)
        stored, problem = self._stored_hash(found)
        if typed is None:
            stored, problem = NOBODY, "malformed"
        right = stored.matches(typed or "")
        if found is None or typed is None or problem or not right:
            raise _refusal(problem or "wrong")
        return found, PasswordHash.make(typed) if stored.outdated else None

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Tell the administrator of a database that fails."""
        try:
            yield
        except ConfigurationError as error:
            self._observe(StoreError(error.message))
            raise

    def _keep_failures(self) -> None:
        while not self._closed.wait(SAVE_SECONDS):
            self._save_failures()

    def _save_failures(self) -> None:
        """Store what failed since the last call."""
        unsaved = self._guessing.take_unsaved()
        try:
            if unsaved:
                self._accounts.keep_failures(unsaved)
        except SecurexferError as error:
            self._observe(StoreError(f"failed logins could not be noted: {error.message}"))

    def _note(self, user: User, source: str, renewed: PasswordHash | None) -> None:
        """Store what follows from a login. The login is good whatever becomes of this."""
        try:
            if renewed:
                self._accounts.rehash(user.name, user.hash or "", str(renewed))
            self._accounts.remember(user.name, source)
        except SecurexferError as error:
            self._observe(StoreError(f"the login of user {user.name} could not be noted: {error.message}"))

    def _stored_hash(self, user: User | None) -> tuple[PasswordHash, str]:
        """Return the hash to check against, and why the answer can only be no, if so: then nobody's hash stands in."""
        if user is None:
            return NOBODY, "unknown"
        if user.disabled:
            return NOBODY, "disabled"
        if user.hash is None:
            return NOBODY, "no-hash"
        try:
            return PasswordHash.parse(user.hash), ""
        except BadHashError as error:
            self._observe(StoreError(f"the stored hash of user {user.name} cannot be used: {error}"))
            return NOBODY, "bad-hash"


def _readable(password: str | None) -> str | None:
    if password is None:
        return None
    try:
        return normalise(password)
    except ValueError:
        return None


def _refusal(detail: str) -> LoginRefusedError:
    error = LoginRefusedError("the user name or the password is wrong, or the user may not log in")
    error.detail = detail
    return error


def _refuse_unusable(user: User, accounts: Accounts) -> None:
    if not is_user_name(user.name):
        raise ConfigurationError(
            f"the users' database {accounts.path} has a user {show(user.name)!r}, which is not an allowed name",
            hint=f"Remove it: {accounts.command(f'remove {shlex.quote(user.name)}')}",
        )
    try:
        if user.hash is not None:
            PasswordHash.parse(user.hash)
    except BadHashError as error:
        raise ConfigurationError(
            f"the stored hash of user {user.name} cannot be used: {error}",
            hint=f"Set a new password: {accounts.command(f'passwd {user.name}')}",
        ) from error
