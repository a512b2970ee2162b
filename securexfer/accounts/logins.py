"""Is this user who they say? One answer for every "no", at one price, and never more work at once than fits.

* A check takes its turn first and reads the user's record after that, so that what was changed while it waited
  is in force.
* Unknown, disabled, malformed, wrong: the same error, after one computation of the same size. Only `detail`, for
  the log, tells which it was. (A hash that other parameters made costs what those cost, until its user logs in.)
* At most `verifications` computations run, at most `waiting` callers wait for one, first come, first served.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections import deque
from typing import TYPE_CHECKING

from securexfer.accounts.passwords import NOBODY, BadHashError, PasswordHash, normalise, usable_cores
from securexfer.accounts.users import is_user_name
from securexfer.errors import (
    BusyError,
    ConfigurationError,
    LoginRefusedError,
    SecurexferError,
    ShuttingDownError,
    TruncatedError,
)
from securexfer.events import StoreError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from securexfer.accounts.database import Accounts
    from securexfer.accounts.users import User
    from securexfer.events import Observer

WAITING = 128  # callers in the queue: a class that logs in at once, at a tenth of a second each
GLANCE_SECONDS = 0.25  # how often a waiting caller asks whether anyone still wants its answer


class Logins:
    """Checks names and passwords against the users' database. Safe to use from many threads."""

    def __init__(
        self,
        accounts: Accounts,
        *,
        verifications: int | None = None,
        waiting: int = WAITING,
        observe: Observer = lambda _: None,
    ) -> None:
        """Take the database; run as many verifications at a time as there are cores, unless told how many.

        Raises ConfigurationError for a user whose name or hash could not have been made by this program.
        `observe` hears what the server's administrator should know: hashes that turn bad, a database that fails.
        """
        self._accounts = accounts
        self._observe = observe
        self._lock = threading.Lock()
        self._free = usable_cores() if verifications is None else verifications
        self._waiting = waiting
        self._queue: deque[_Turn] = deque()
        self._closed = False
        for user in accounts.all():
            _refuse_unusable(user, accounts)

    def check(self, user: str, password: str | None, *, give_up: Callable[[], bool] | None = None) -> User:
        """Return the user's record if this is their password; None stands for one that could not be decoded.

        Waits for its turn; `give_up` is asked now and then meanwhile whether to stop waiting.

        Raises LoginRefusedError, BusyError if too many wait already, ShuttingDownError after `close`, TruncatedError
        if it gave up, ConfigurationError if the database fails.
        """
        typed = _readable(password) if is_user_name(user) else None
        with self._turn(give_up):
            found = self._find(user)
            stored, problem = self._stored_hash(found)
            if typed is None:
                stored, problem = NOBODY, "malformed"
            right = stored.matches(typed or "")
            if found is None or typed is None or problem or not right:
                raise _refusal(problem or "wrong")
            if stored.outdated:
                self._rehash(found, typed)
        return found

    def close(self) -> None:
        """Refuse every check from now on, those that wait included; those that run come to their end."""
        with self._lock:
            self._closed = True
            for turn in self._queue:
                turn.over.set()
            self._queue.clear()

    def _find(self, user: str) -> User | None:
        try:
            return self._accounts.find(user)
        except ConfigurationError as error:
            self._observe(StoreError(error.message))
            raise

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

    def _rehash(self, user: User, password: str) -> None:
        """Store a hash of today's parameters. The login is good whatever becomes of this."""
        try:
            self._accounts.rehash(user.name, user.hash or "", str(PasswordHash.make(password)))
        except SecurexferError as error:
            self._observe(StoreError(f"the hash of user {user.name} could not be renewed: {error.message}"))

    @contextlib.contextmanager
    def _turn(self, give_up: Callable[[], bool] | None) -> Iterator[None]:
        turn = _Turn()
        with self._lock:
            if self._closed:
                raise _closing()
            if self._free:
                self._free -= 1
                turn.grant()
            elif len(self._queue) < self._waiting:
                self._queue.append(turn)
            else:
                raise BusyError(f"{self._waiting} logins wait already")
        try:
            while not turn.over.wait(GLANCE_SECONDS if give_up else None):
                if give_up and give_up():
                    raise TruncatedError("the other side left while its login waited")
            if not turn.granted:
                raise _closing()
            yield
        finally:
            self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
        """Give the place to whoever has waited longest."""
        with self._lock:
            if not turn.granted:
                with contextlib.suppress(ValueError):
                    self._queue.remove(turn)
            elif self._queue:
                self._queue.popleft().grant()
            else:
                self._free += 1


class _Turn:
    """One caller's place in the queue, changed under the lock: `over` when its waiting is, `granted` if it may go."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.granted = False

    def grant(self) -> None:
        self.granted = True
        self.over.set()


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


def _closing() -> ShuttingDownError:
    return ShuttingDownError("the server is being shut down")


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
