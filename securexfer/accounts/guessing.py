"""How often passwords may be guessed: growing waits, an end to them, and tables that cannot grow without bound.

* A source that a user has logged in from before is *known* to that account. Its failures are counted for this pair
  alone, and cost growing waits, never more: nobody elsewhere can lock the user out.
* All other sources are strangers to the account and share one count: growing waits first, and after `failures` in
  a row no stranger's guess is evaluated any more, until somebody sets a password or enables the user.
* A source also has `source_failures` a minute over all accounts to which it is a stranger, and KNOWN_FACTOR times as
  many over those that know it.
* An account that does not exist is treated like one that does.
* A guess that is refused here is not evaluated: it counts for nothing and prolongs nothing.
* When a table is full of what must not be forgotten yet, whoever is not in it is refused.

Sources are addresses, or networks of them (see `hosts.source_of`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securexfer.errors import LoginRefusedError, ThrottledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from securexfer.accounts.users import Standing

FREE_FAILURES = 5  # in a row, before the first wait: a person who tries their three passwords notices nothing
KNOWN_FACTOR = 3  # a lab's shared machine, or all of a lab behind one address, has more people who mistype
LONGEST_WAIT = 60.0  # seconds; the first is 1, and each is twice the one before
# Of each table, some 5 MiB when full. A server that verifies 16 guesses a second needs hours to fill one.
ENTRIES = 16_384
FORGET_SECONDS = 86_400.0  # since its last failure: then an account that had to wait makes room, if there is none


@dataclass(frozen=True, slots=True)
class GuessLimits:
    """How many failures are evaluated: of strangers at one account in a row; of one source in a minute."""

    failures: int = 100  # NIST SP 800-63B, section 5.2.2: no more than 100 consecutive ones on a single account
    source_failures: int = 20  # several people behind one address may mistype at once


@dataclass(eq=False, slots=True)
class _Count:
    """Failures in a row at one account, when the last one was, and how many guesses are being evaluated."""

    epoch: int
    exists: bool
    failures: int
    last: float = float("-inf")
    running: int = 0

    def wait(self, now: float) -> float:
        """Return for how many seconds no guess is evaluated."""
        if self.failures < FREE_FAILURES:
            return 0.0
        return self.last + wait_after(self.failures) - now


def wait_after(failures: int) -> float:
    """Return the seconds to the next try after so many failures in a row, FREE_FAILURES or more."""
    doublings = min(failures - FREE_FAILURES, 16)  # a known source may fail for ever, and a float has an end
    return min(LONGEST_WAIT, 2.0**doublings)


class Guessing:
    """Counts failures and says whether another guess may be evaluated. Safe to use from many threads."""

    def __init__(
        self, limits: GuessLimits | None = None, *, entries: int = ENTRIES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with nothing counted; `clock` gives seconds."""
        self._limits = limits or GuessLimits()
        self._entries = entries
        self._clock = clock
        self._lock = threading.Lock()
        # By account and known source, or account and "" for its strangers; the one not heard of for longest first.
        # Who has to wait stands in a table of their own, so that nobody is forgotten for others who hardly failed.
        self._counts: OrderedDict[tuple[str, str], _Count] = OrderedDict()
        self._waiting: OrderedDict[tuple[str, str], _Count] = OrderedDict()
        # By source, and whether the account knows it: a level that each failure raises by one, and when that was. It
        # falls at half the allowed rate and may reach half a minute's worth: no minute sees more than the whole.
        self._levels: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()
        self._running: Counter[tuple[str, bool]] = Counter()  # guesses that are being evaluated
        self._unsaved: dict[str, tuple[int, int]] = {}

    def check(self, account: str, source: str, standing: Standing) -> None:
        """Raise ThrottledError if a guess at this account from this source may not be evaluated now."""
        with self._lock:
            self._check(self._count(account, source, standing), account, source, standing)

    @contextlib.contextmanager
    def trial(self, account: str, source: str, standing: Standing) -> Iterator[None]:
        """Evaluate a guess inside: LoginRefusedError is a failure, an orderly end is a success, all else is neither.

        Raises ThrottledError like `check`. Until it ends, it counts as one that may fail.
        """
        with self._lock:
            count = self._count(account, source, standing)
            self._check(count, account, source, standing)
            count.running += 1
            self._keep(count, account, source, standing)
            self._running[source, standing.known] += 1
        failed: bool | None = None
        try:
            yield
            failed = False
        except LoginRefusedError:
            failed = True
            raise
        finally:
            with self._lock:
                count.running -= 1
                self._running[source, standing.known] -= 1
                if not self._running[source, standing.known]:
                    del self._running[source, standing.known]
                if failed is not None:
                    self._record(count, account, source, standing, failed=failed)

    def put_back(self, unsaved: dict[str, tuple[int, int]]) -> None:
        """Take back what could not be kept, but for accounts of which there is news."""
        with self._lock:
            self._unsaved = {**unsaved, **self._unsaved}

    def take_unsaved(self) -> dict[str, tuple[int, int]]:
        """Return what is new since the last call: account -> failures of strangers in a row, and the epoch of that."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _count(self, account: str, source: str, standing: Standing) -> _Count:
        key = _key(account, source, standing)
        found = self._waiting.get(key) or self._counts.get(key)
        if found and found.epoch >= standing.epoch:  # a login that waited may come with the standing of before
            return found
        return _Count(standing.epoch, standing.exists, 0 if standing.known else standing.failures)

    def _check(self, count: _Count, account: str, source: str, standing: Standing) -> None:
        now = self._clock()
        if not standing.known and count.failures + count.running >= self._limits.failures:
            raise _throttled("only addresses with an earlier login may try on", self._limits.failures)
        self._check_source(source, now, known=standing.known)
        wait = count.wait(now)
        if wait > 0:
            raise _throttled(f"the next try is in {wait:.0f} s", count.failures, wait)
        # Where nothing has failed, any number may log in at once.
        if count.running and count.failures and count.failures + count.running >= FREE_FAILURES:
            raise _throttled("another one is being checked", count.failures)
        if standing.known or len(self._waiting) < self._entries or (account, "") in self._waiting:
            return
        if now - next(iter(self._waiting.values())).last > FORGET_SECONDS:
            self._waiting.popitem(last=False)
        elif count.failures + count.running + 1 >= FREE_FAILURES:
            raise ThrottledError("too many accounts are being guessed at")

    def _check_source(self, source: str, now: float, *, known: bool) -> None:
        key, most = (source, known), self._most(known=known)
        level, running = self._level(key, now), self._running[source, known]
        # Where nothing has failed of late, strangers have a whole minute's worth at once, and the known any number.
        over = level + running + 1 - most / 2 if level else 0 if known else running + 1 - most
        if over > 0:
            wait = over / (most / 2 / 60)
            raise ThrottledError(f"too many logins failed from {source}: the next try is in {wait:.0f} s", seconds=wait)
        if not known and key not in self._levels and len(self._levels) >= self._entries:
            oldest = next(iter(self._levels))
            if self._level(oldest, now) > 0:
                raise ThrottledError("too many addresses are guessing")
            del self._levels[oldest]

    def _most(self, *, known: bool) -> int:
        """Return how many failures a minute a source may have."""
        return self._limits.source_failures * (KNOWN_FACTOR if known else 1)

    def _level(self, key: tuple[str, bool], now: float) -> float:
        level, since = self._levels.get(key, (0.0, now))
        return max(0.0, level - (now - since) * self._most(known=key[1]) / 2 / 60)

    def _record(self, count: _Count, account: str, source: str, standing: Standing, *, failed: bool) -> None:
        now = self._clock()
        if failed:
            count.failures += 1
            count.last = now
            key = source, standing.known
            self._levels[key] = (self._level(key, now) + 1, now)
            self._levels.move_to_end(key)
        else:
            count.failures = 0
        self._keep(count, account, source, standing)
        if standing.exists and not standing.known:
            self._unsaved[account] = (count.failures, count.epoch)

    def _keep(self, count: _Count, account: str, source: str, standing: Standing) -> None:
        """Put a count where it now belongs, as the one heard of last."""
        key = _key(account, source, standing)
        self._counts.pop(key, None)
        self._waiting.pop(key, None)
        if count.failures >= FREE_FAILURES:
            self._waiting[key] = count
        # A count of zero stays while another one is stored: it may take a while to be stored, too.
        elif count.failures or count.running or standing.failures:
            self._counts[key] = count
            if len(self._counts) > self._entries:
                (forgotten, known), dropped = self._counts.popitem(last=False)
                # What is stored of it would tell it from an account that does not exist.
                if dropped.exists and not known:
                    self._unsaved[forgotten] = (0, dropped.epoch)


def _key(account: str, source: str, standing: Standing) -> tuple[str, str]:
    return account, source if standing.known else ""


def _throttled(rule: str, failures: int, seconds: float = 0.0) -> ThrottledError:
    return ThrottledError(f"{failures} logins failed in a row: {rule}", seconds=seconds)
