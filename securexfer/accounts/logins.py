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
from dataclasses import replace
from typing import TYPE_CHECKING

from securexfer.accounts.guessing import Guessing
from securexfer.accounts.passwords import NOBODY, BadHashError, PasswordHash, normalise, usable_cores
from securexfer.accounts.turns import Turns
from securexfer.accounts.users import is_user_name, today
from securexfer.errors import BusyError, ConfigurationError, LoginRefusedError, SecurexferError
from securexfer.events import StoreError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from securexfer.accounts.database import Accounts
    from securexfer.accounts.guessing import GuessLimits
    from securexfer.accounts.users import Standing, User
    from securexfer.events import Observer

WAITING = 128  # callers in the queue: a class that logs in at once, at a tenth of a second each
SAVE_SECONDS = 2.0  # how often it is stored what failed and who logged in: what a server that is killed forgets
FINISH_SECONDS = 3.0
MAX_ACCOUNT = 33  # characters of a name that count: one more than a user's name may have


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
        self._lock = threading.Lock()
        self._logged_in: dict[tuple[str, str], int] = {}  # who, from where, in which epoch: to be remembered
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="logins")
        self._keeper.start()

    def check(self, user: str, password: str | None, source: str, *, give_up: Callable[[], bool] | None = None) -> User:
        """Return the user's record if this is their password; None stands for one that could not be decoded.

        `source` is where the guess comes from (see `hosts.source_of`). Waits for its turn; `give_up` is asked now and
        then meanwhile whether to stop waiting.

        Raises LoginRefusedError, ThrottledError after too many failures, BusyError if too many wait already,
        ShuttingDownError after `close`, TruncatedError if it gave up, ConfigurationError if the database fails.
        """
        account = user[:MAX_ACCOUNT]
        standing = self._standing(account, source)
        self._guessing.check(account, source, standing)  # before it takes a place in the queue
        with (
            self._turns.take(source, known=standing.known, give_up=give_up),
            self._guessing.trial(account, source, standing),
        ):
            found, renewed = self._verify(user, password)
        if renewed:
            self._renew(found, renewed)
        if standing.seen != today():
            with self._lock:
                self._logged_in[found.name, source] = standing.epoch
        return found

    def may_open(self, name: str) -> bool:
        """Whether what that user sent may be opened now, as the database says at this moment.

        Not if the database fails: the administrator hears of that.
        """
        try:
            return self._accounts.may_open(name)
        except SecurexferError as error:
            self._observe(StoreError(f"what user {name} sent is not opened: {error.message}"))
            return False

    def close(self) -> None:
        """Refuse every check from now on, those that wait included; those that run come to their end."""
        self._turns.close()
        self._closed.set()

    def finish(self) -> None:
        """Give what was noted last, after `close`, a few seconds to be stored."""
        self._keeper.join(FINISH_SECONDS)

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

    def _standing(self, account: str, source: str) -> Standing:
        with self._reported():
            standing = self._accounts.standing(account, source)
        with self._lock:
            fresh = self._logged_in.get((account, source)) == standing.epoch and standing.exists
        return replace(standing, known=True, seen=today()) if fresh else standing

    def _renew(self, user: User, renewed: PasswordHash) -> None:
        """Store a hash of today's parameters. The login is good whatever becomes of this."""
        try:
            self._accounts.rehash(user.name, user.hash or "", str(renewed))
        except SecurexferError as error:
            self._observe(StoreError(f"the hash of user {user.name} could not be renewed: {error.message}"))

    def _keep(self) -> None:
        """Store what logins leave behind, in a thread of its own.

        A login that failed must not take longer where there is an account to note it for, and one that succeeded must
        not wait for a disk, or for another process that has the database.
        """
        while not self._closed.wait(SAVE_SECONDS):
            self._save()
        self._save()

    def _save(self) -> None:
        failures = self._guessing.take_unsaved()
        with self._lock:
            logged_in = dict(self._logged_in)
        try:
            if failures:
                self._accounts.keep_failures(failures)
                failures = {}
            for (name, source), epoch in logged_in.items():
                self._accounts.remember(name, source, epoch)
        except BusyError as error:  # another process has the database: the next round stores it
            self._guessing.put_back(failures)
            self._observe(StoreError(f"logins wait to be noted: {error.message}"))
            return
        except Exception as error:  # noqa: BLE001 - it must not end with this; what was to be noted is lost at a restart
            said = error.message if isinstance(error, SecurexferError) else repr(error)
            self._observe(StoreError(f"logins could not be noted: {said}"))
        with self._lock:  # only now: until it is stored, it stands here
            for noted, epoch in logged_in.items():
                if self._logged_in.get(noted) == epoch:
                    del self._logged_in[noted]

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
