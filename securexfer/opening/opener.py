"""Opens the files of a send once all of it is stored.

* Three switches have to agree: the server's, the user's permission, and a sandbox that works. The permission is asked
  for again when the turn of a file comes.
* Only what came in the send is opened, by the name that it is stored under, from what is kept of it since its commit
  (storage/bundle.py): whatever happens to its name afterwards changes nothing.
* So many wait at most, of all users together; what is more is refused. Two are opened at a time, in threads of their
  own: a transfer never waits for them.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from queue import Full, Queue
from typing import TYPE_CHECKING, NamedTuple

from securexfer.amounts import exactly
from securexfer.errors import SecurexferError
from securexfer.events import FileOpened, OpeningKilled, OpeningRefused, StoreError
from securexfer.opening.actions import Opened, failed
from securexfer.opening.rules import Action
from securexfer.opening.showing import LINE, shown
from securexfer.storage.bundle import MAX_FILES
from securexfer.workers import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from securexfer.events import Observer
    from securexfer.names import Name
    from securexfer.opening.actions import Opens
    from securexfer.opening.rules import Rules
    from securexfer.storage.base import Committed
    from securexfer.storage.bundle import Bundle, Entry

THREADS = 2  # openings at a time: a script is one busy processor
_KILLED = {"time", "cpu", "memory", "output", "cancelled"}
_WHY = {
    "off": "this server opens nothing: it was started without --open",
    "denied": "the user may not have files opened: securexfer user allow NAME open",
    "unavailable": "there is no sandbox: securexfer doctor says why",
}
_CROWD = "it came with too many others"


class Whose(NamedTuple):
    """Who sent it, for the log."""

    connection: int
    address: str
    user: str


class Opener:
    """All that a server opens."""

    def __init__(
        self,
        rules: Rules,
        actions: Mapping[Action, Opens],
        may_open: Callable[[str], bool],
        observe: Observer,
        *,
        on: bool,
        works: bool,
        keep: Callable[[str, str, bytes], None] | None = None,
        width: int = LINE,
    ) -> None:
        """Open by these rules and actions if it is switched `on`, the sandbox `works`, and the user may.

        `may_open` says whether a user may at this moment. `keep` is given the user, the name under which a script is
        stored, and what it printed; it may raise SecurexferError. Lines for the log have `width` columns at most.
        """
        self.rules = rules
        self._actions = actions
        self._may_open = may_open
        self._observe = observe
        self._on = on
        self._works = works
        self._keep = keep
        self._width = width
        self._waiting: Queue[Job[Opened] | None] = Queue(rules.limits.queue)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    def verdict(self, user: str) -> str:
        """Return whether this user's files are opened: one of the words of messages.OPENING."""
        if not self._on:
            return "off"
        if not self._may_open(user):
            return "denied"
        return "yes" if self._works else "unavailable"

    def for_send(self, whose: Whose, bundle: Callable[[], Bundle]) -> Openings:
        """Return what is to be opened of one send; `bundle` makes what keeps its files, if any are."""
        verdict = self.verdict(whose.user)
        # A server that opens nothing says so only where somebody was told to expect it.
        silent = not self._on and not self._may_open(whose.user)
        return Openings(self, whose, verdict, bundle() if verdict == "yes" else None, silent=silent)

    def submit(self, work: Callable[[], Opened]) -> Job[Opened] | None:
        """Have something opened when its turn comes; None if too much waits."""
        with self._lock:
            while len(self._threads) < THREADS and self._start():
                pass
        job = Job(work)
        try:
            if self._threads:  # else the system has none to spare
                self._waiting.put_nowait(job)
                return job
        except Full:
            pass
        return None

    def close(self) -> None:
        """End what is being opened, and wait for that."""
        self._closing.set()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def open(self, whose: Whose, entry: Entry, bundle: Bundle, cancelled: Callable[[], bool]) -> Opened:
        """Open one file, and tell the log what came of it. Never raises."""
        action = self.rules.action_for(str(entry.stored_as))

        def gone() -> bool:
            return cancelled() or self._closing.is_set()

        if gone():
            return self._told(whose, entry, Opened(action, "cancelled"))
        if not self._may_open(whose.user):
            return self.refuse(whose, entry.stored_as, action, "denied", _WHY["denied"])
        try:
            file = bundle.open(entry.name)
        except OSError as error:
            return self.refuse(whose, entry.stored_as, action, "gone", str(error))
        try:
            opened = self._actions[action].open(file, entry.digest, bundle.path, gone)
        except (SecurexferError, OSError) as error:
            opened = failed(action, error)
        except Exception as error:  # noqa: BLE001 - one script must never keep the others from being opened
            self._observe(StoreError(f"opening {entry.name!r} met an error inside securexfer: {error!r}"))
            opened = Opened(action, "failed", detail="an error inside securexfer")
        finally:
            os.close(file)
        if self._keep and action is Action.RUN and opened.output:
            self._keep_output(self._keep, whose, entry, opened)
        return self._told(whose, entry, opened)

    def refuse(self, whose: Whose, name: Name, action: str, how: str, why: str) -> Opened:
        """Tell the log that a file is not opened, and why; return that."""
        self._observe(OpeningRefused(*whose, str(name), how, why))
        return Opened(action, how, detail=why)

    def _told(self, whose: Whose, entry: Entry, opened: Opened) -> Opened:
        limits = self.rules.limits
        most = limits.show if opened.action == Action.SHOW else limits.output
        lines = shown(opened.output, most, self._width).lines
        if opened.cut:
            lines.append(f"… cut after {exactly(most)}")
        self._observe(
            (OpeningKilled if opened.how in _KILLED else FileOpened)(
                *whose,
                str(entry.stored_as),
                entry.digest.hex(),
                opened.action,
                opened.how,
                opened.code,
                opened.seconds,
                opened.detail,
                tuple(result.name for result in opened.results),
                tuple(lines),
            )
        )
        return opened

    def _keep_output(self, keep: Callable[[str, str, bytes], None], whose: Whose, entry: Entry, opened: Opened) -> None:
        try:
            keep(whose.user, f"{entry.stored_as}.out.txt", opened.output)
        except SecurexferError as error:
            self._observe(
                OpeningRefused(*whose, str(entry.stored_as), "output", f"what it printed was not kept: {error.message}")
            )

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, daemon=True, name="opener")
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def _run(self) -> None:
        while job := self._waiting.get():
            job.run()
            del job  # what came of it is its sender's, and goes with that, not with the next


class Openings:
    """The files of one send that are to be opened; see transfer.openings.Openings."""

    def __init__(self, opener: Opener, whose: Whose, verdict: str, bundle: Bundle | None, *, silent: bool) -> None:
        """Take the bundle, which is this object's now."""
        self.verdict = verdict
        self.bundle = bundle
        self._opener = opener
        self._whose = whose
        self.silent = silent
        self._taken: list[tuple[str, Name, Action]] = []
        self._crowded = False  # whether more came than that list takes
        self._lock = threading.Lock()
        self._unfinished = 1  # of its files, and one until `close`

    def takes(self, name: str, stored: Committed) -> bool:
        """See transfer.openings.Openings."""
        if self.silent:
            return False
        action = self._opener.rules.action_for(str(stored.stored_as))
        if action is Action.STORE:
            return False
        if self.bundle is None:
            self._opener.refuse(self._whose, stored.stored_as, action, self.verdict, _WHY[self.verdict])
            return False
        if len(self._taken) >= MAX_FILES:  # also where it is one file again and again, which the bundle has once
            self._crowded = True
            self._opener.refuse(self._whose, stored.stored_as, action, "gone", _CROWD)
            return False
        self._taken.append((name, stored.stored_as, action))
        return True

    def open(self, cancelled: Callable[[], bool], *, results: bool) -> list[Job[Opened]]:
        """See transfer.openings.Openings."""
        return [self._begin(*taken, cancelled, results=results) for taken in self._taken]

    def close(self) -> None:
        """See transfer.openings.Openings."""
        self._done()

    def _done(self) -> None:
        """Let go of one file; of what is kept for all, with the last."""
        with self._lock:
            self._unfinished -= 1
            over = self._unfinished == 0
        if over and self.bundle:
            self.bundle.remove()

    def _begin(
        self, name: str, stored_as: Name, action: Action, cancelled: Callable[[], bool], *, results: bool
    ) -> Job[Opened]:
        opener, whose, bundle = self._opener, self._whose, self.bundle
        # What came with more than are kept would not see all of them: then nothing is opened.
        crowded = self._crowded or (bundle is not None and bundle.overfull)
        entry = bundle.entries.get(name) if bundle and not crowded else None
        if bundle is None or entry is None:
            return _over(opener.refuse(whose, stored_as, action, "gone", _CROWD if crowded else _missing(bundle, name)))

        def work() -> Opened:
            try:
                opened = opener.open(whose, entry, bundle, cancelled)
                if results and not cancelled():
                    return opened
                opened.close()  # nobody wants these, and each is an open file
                return replace(opened, results=())
            finally:
                self._done()

        with self._lock:
            self._unfinished += 1
        job = opener.submit(work)
        if job:
            return job
        self._done()
        return _over(opener.refuse(whose, stored_as, action, "busy", "as many wait as are allowed to"))


def _missing(bundle: Bundle | None, name: str) -> str:
    return bundle.missing.get(name, "it is not there any more") if bundle else ""


def _over(opened: Opened) -> Job[Opened]:
    job = Job(lambda: opened)
    job.run()
    return job
