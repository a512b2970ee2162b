"""Keeps a flood of strangers out of the log: their lines are counted when there are too many.

* What is bounded is what somebody without an account can cause: the lines of connections that never log in, limits
  that were hit before a login, and errors of the server's own, of which each login may be one. Of one source: 10 lines,
  then one a second; of all sources together: 1000 lines, then 10 a second. (What one source is: see hosts.py.)
* A session is in the log whole, and so is everything else: from the login on nothing is left out. The opening of a
  connection for which there is no room is kept until it logs in, and written then, with its own time.
* A connection that never logs in is in the log whole, or counted whole.
* What was left out is said every few seconds and at the end, the loudest sources each in a line, the rest in one.
  Lines that were written and lines that were counted add up to what happened.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securexfer.events import ConnectionClosed, ConnectionOpened, LimitHit, LoginAccepted, LogSuppressed, StoreError
from securexfer.hosts import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.events import Event

SOURCE_LINES = 10  # of one source at first, and again after as many seconds of quiet
SOURCE_RATE = 1.0  # lines a second of one source after that
ALL_LINES = 1000  # of all sources at first
ALL_RATE = 10.0  # lines a second after that: about 200 MB a day at the very worst
CONNECTION_LINES = 3  # of a connection that does not log in: its opening, what was wrong, its close
SOURCES = 4096  # remembered; the one not heard of for longest is forgotten, and what it is owed told with the rest
TELL_SECONDS = 5.0  # between two reports of what was left out
TOLD_SOURCES = 10  # in a line of their own, each time
REST = "*"  # the address of all the others
_STRANGE = (ConnectionOpened, StoreError, LimitHit)  # what strangers can cause beside the lines of their connections


@dataclass(slots=True)
class _Credit:
    """Lines that may be written now: so many `at_most`, growing again by `rate` a second."""

    at_most: float
    rate: float
    since: float
    lines: float

    def grow(self, now: float) -> None:
        self.lines = min(self.at_most, self.lines + (now - self.since) * self.rate)
        self.since = now


@dataclass(slots=True)
class _Source:
    """One address: the lines it may have, and those that were left out since the last report, by kind."""

    credit: _Credit
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Stranger:
    """A connection that has not logged in; its opening, unless that is in the log already."""

    address: str
    opening: tuple[float, Event] | None


class Floodgate:
    """Stands in front of the log. Every method may be called from any thread."""

    def __init__(self, write: Callable[[float, Event], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Take what writes a line of a moment (seconds since 1970), and must not wait; `clock` counts seconds."""
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}  # the one not heard of for longest first
        self._strangers: dict[int, _Stranger] = {}  # as many as the server lets in
        self._all = _Credit(ALL_LINES, ALL_RATE, clock(), ALL_LINES)
        self._rest: Counter[str] = Counter()  # left out of sources that were forgotten since
        self._forgotten = 0
        self._next_report = clock() + TELL_SECONDS

    def write(self, event: Event) -> None:
        """Write an event, keep it for later, or count it."""
        moment = time.time()
        with self._lock:
            stranger = self._strangers.get(getattr(event, "connection", 0)) if self._strangers else None
            if stranger is None and not isinstance(event, _STRANGE):
                self._write(moment, event)
            elif isinstance(event, ConnectionOpened):
                self._admit(moment, event)
            elif isinstance(event, StoreError) or (isinstance(event, LimitHit) and not event.user):
                # While the database cannot be read, every stranger's login is an error of it.
                address = event.address if isinstance(event, LimitHit) else ""
                if self._take(address, 1):
                    self._write(moment, event)
                else:
                    self._count(address, event)
            elif stranger is None:  # of a session that hit a limit
                self._write(moment, event)
            elif isinstance(event, LoginAccepted):
                self._welcome(event.connection, stranger)
                self._write(moment, event)
            elif stranger.opening is None:
                self._write(moment, event)
            else:
                self._count(stranger.address, event)
            if stranger and isinstance(event, ConnectionClosed):
                self._part(event.connection, stranger)

    def report(self) -> None:
        """Say what was left out, if it is time to."""
        with self._lock:
            now = self._clock()
            if now >= self._next_report:
                self._next_report = now + TELL_SECONDS
                self._say()

    def close(self) -> None:
        """Say what was left out until now, connections that have not ended included."""
        with self._lock:
            for number, stranger in list(self._strangers.items()):
                self._part(number, stranger)
            self._say()

    # -- with the lock ------------------------------------------------------------------------------------------

    def _admit(self, moment: float, event: ConnectionOpened) -> None:
        told = self._take(event.address, CONNECTION_LINES)
        self._strangers[event.connection] = _Stranger(event.address, None if told else (moment, event))
        if told:
            self._write(moment, event)

    def _welcome(self, number: int, stranger: _Stranger) -> None:
        """Write the opening of a connection that has logged in, or give back what it cost."""
        del self._strangers[number]
        if stranger.opening:
            self._write(*stranger.opening)
        else:
            for credit in (self._source(stranger.address).credit, self._all):
                credit.lines += CONNECTION_LINES

    def _part(self, number: int, stranger: _Stranger) -> None:
        del self._strangers[number]
        if stranger.opening:
            self._count(stranger.address, stranger.opening[1])

    def _take(self, address: str, lines: int) -> bool:
        """Whether so many lines may be written about this source; they are taken off its credit then."""
        credits_ = (self._source(address).credit, self._all)
        now = self._clock()
        for credit in credits_:
            credit.grow(now)
        if min(credit.lines for credit in credits_) < lines:
            return False
        for credit in credits_:
            credit.lines -= lines
        return True

    def _count(self, address: str, event: Event) -> None:
        self._source(address).left_out[event.kind] += 1

    def _source(self, address: str) -> _Source:
        """Return what is known of a source; no address is one, too: that of limits which nobody in particular hit."""
        name = source_of(address) if address else ""
        found = self._sources.pop(name, None)
        if found is None:
            found = _Source(_Credit(SOURCE_LINES, SOURCE_RATE, self._clock(), SOURCE_LINES))
        self._sources[name] = found
        if len(self._sources) > SOURCES:
            forgotten = self._sources.pop(next(iter(self._sources)))
            self._rest += forgotten.left_out
            self._forgotten += bool(forgotten.left_out)
        return found

    def _say(self) -> None:
        silenced = [(address, source) for address, source in self._sources.items() if source.left_out]
        silenced.sort(key=lambda each: each[1].left_out.total(), reverse=True)
        for address, source in silenced[:TOLD_SOURCES]:
            source.credit.lines -= 1
            self._say_of(address, 1, source.left_out)
        for _, source in silenced[TOLD_SOURCES:]:
            self._rest += source.left_out
        if self._rest:
            self._say_of(REST, len(silenced[TOLD_SOURCES:]) + self._forgotten, self._rest)
        for _, source in silenced:
            source.left_out = Counter()
        self._rest, self._forgotten = Counter(), 0

    def _say_of(self, address: str, sources: int, left_out: Counter[str]) -> None:
        self._all.lines -= 1
        self._write(time.time(), LogSuppressed(address, sources, left_out.total(), dict(sorted(left_out.items()))))
