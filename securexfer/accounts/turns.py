"""The queue of logins: so many at a time, so many waiting, and nobody's crowd stands in everybody's way.

* Sources take turns with each other; within one, first come, first served.
* Of two free places, one goes to those whose address their account knows, one to strangers, while both wait.
* When the queue is full, a newcomer takes the last place of the source that has most of them waiting, if that is
  more than the newcomer's own. Half of the queue is for either kind, if it wants it: many strangers with a place each
  cannot keep the known out.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from securexfer.errors import BusyError, ShuttingDownError, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from securexfer.errors import SecurexferError

GLANCE_SECONDS = 0.25  # how often a waiting caller asks whether anyone still wants its answer


class Turns:
    """Lets `places` callers work at a time and `waiting` wait for it. Safe to use from many threads."""

    def __init__(self, places: int, waiting: int) -> None:
        """Begin with every place free."""
        self._lock = threading.Lock()
        self._free = places
        self._most = waiting
        self._closed = False
        # By whether the caller is known, then by source: who is next stands first.
        self._lines: dict[bool, OrderedDict[str, deque[_Turn]]] = {True: OrderedDict(), False: OrderedDict()}
        self._known_next = True

    @contextlib.contextmanager
    def take(self, source: str, *, known: bool, give_up: Callable[[], bool] | None = None) -> Iterator[None]:
        """Wait for a turn, and hold it for the block; `give_up` is asked now and then whether to stop waiting.

        Raises BusyError if too many wait, ShuttingDownError after `close`, TruncatedError if it gave up.
        """
        turn = _Turn(source, known=known)
        with self._lock:
            if self._closed:
                raise _closing()
            if self._free:
                self._free -= 1
                turn.granted = True
                turn.over.set()
            else:
                self._join(turn)
        try:
            while not turn.over.wait(GLANCE_SECONDS if give_up else None):
                if give_up and give_up():
                    raise TruncatedError("the other side left while its login waited")
            if turn.refusal:
                raise turn.refusal
            yield
        finally:
            self._leave(turn)

    def close(self) -> None:
        """Refuse every caller from now on, those that wait included; those at work come to their end."""
        with self._lock:
            self._closed = True
            while turn := self._next():
                turn.refuse(_closing())

    def waiting(self) -> int:
        """Return how many callers wait."""
        return sum(len(turns) for line in self._lines.values() for turns in line.values())

    # -- with the lock held, but for `_leave` ------------------------------------------------------------------------

    def _join(self, turn: _Turn) -> None:
        line = self._lines[turn.known]
        if self.waiting() >= self._most:
            longest = self._most_crowded(turn)
            last = longest[-1]
            self._withdraw(last)
            last.refuse(self._full())
        line.setdefault(turn.source, deque()).append(turn)

    def _most_crowded(self, newcomer: _Turn) -> deque[_Turn]:
        """Return whose last place goes to a newcomer; raise BusyError if nobody's does."""
        own, others = self._lines[newcomer.known], self._lines[not newcomer.known]
        if others and sum(map(len, own.values())) < self._most // 2:
            return max(others.values(), key=len)
        longest = max((*own.values(), *others.values()), key=len, default=deque())
        if len(longest) <= len(own.get(newcomer.source, ())) + 1:
            raise self._full()
        return longest

    def _next(self) -> _Turn | None:
        """Take the turn that is due out of the queue."""
        for known in (self._known_next, not self._known_next):
            line = self._lines[known]
            if line:
                self._known_next = not known
                source, turns = line.popitem(last=False)
                turn = turns.popleft()
                if turns:
                    line[source] = turns  # behind the other sources
                return turn
        return None

    def _withdraw(self, turn: _Turn) -> None:
        line = self._lines[turn.known]
        with contextlib.suppress(KeyError, ValueError):
            line[turn.source].remove(turn)
            if not line[turn.source]:
                del line[turn.source]

    def _leave(self, turn: _Turn) -> None:
        """Give the place to whoever is next."""
        with self._lock:
            if not turn.granted:
                self._withdraw(turn)
            elif following := self._next():
                following.granted = True
                following.over.set()
            else:
                self._free += 1

    def _full(self) -> BusyError:
        return BusyError(f"{self._most} logins wait already")


class _Turn:
    """One caller's place in the queue, changed under the lock: `over` when its waiting is, `granted` if it may go."""

    def __init__(self, source: str, *, known: bool) -> None:
        self.source = source
        self.known = known
        self.over = threading.Event()
        self.granted = False
        self.refusal: SecurexferError | None = None

    def refuse(self, error: SecurexferError) -> None:
        self.refusal = error
        self.over.set()


def _closing() -> ShuttingDownError:
    return ShuttingDownError("the server is being shut down")
