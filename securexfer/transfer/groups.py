"""Complete files, made durable in groups, so that many small ones share the cost of reaching the disk.

A worker waits for the disk; everything else is done by the owner of the connection. Two threads that both have much to
do take turns at the interpreter for each system call, and that costs more than the second one gains.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from securexfer.errors import SecurexferError
from securexfer.net.payload import PARALLEL_BYTES
from securexfer.storage.base import Committed
from securexfer.workers import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.storage.base import Description, Staging, Steps, Storage
    from securexfer.workers import Worker

Outcome = Committed | SecurexferError

# A group is committed when it holds this much, or is this old, or there is nothing more to read. On a disk the gain of
# grouping is nearly whole at 128 files (bench/commit_groups.py), and each holds a descriptor open.
GROUP_FILES = 128
GROUP_BYTES = 32 << 20
GROUP_SECONDS = 0.05
# Each directory on the way to a file is held open until its group is committed. Those on the way to a file in another
# directory than the one before it count as if all differed.
GROUP_DIRECTORIES = 256
_GROUPS = 2  # that may be under way; whoever has a third one waits


class Complete(NamedTuple):
    """One file all of which has arrived, and was verified; or a directory, which is not staged and has no digest."""

    number: int
    description: Description
    staging: Staging | None
    sha256: str
    started: float


class _Commit:
    """A group on its way to the disk; `do` has done what waits for that."""

    def __init__(self, group: list[Complete], steps: Steps, do: Callable[[Callable[[], None]], Job[None]]) -> None:
        self._group = group
        self._steps = steps
        self._do = do
        self._step: Job[None] | None = None
        self._results: list[Outcome] | None = None
        self._take_step()  # nothing is visible before the first one is done

    @property
    def ready(self) -> bool:
        """Whether it can go on."""
        return self._step is None or self._step.done

    def wait(self, wait: Callable[[Job[None]], object]) -> None:
        """Have the step that is under way waited for."""
        if self._step:
            wait(self._step)

    def go_on(self) -> list[tuple[Complete, Outcome]] | None:
        """Take the steps that need not wait; return what became of each, at the end."""
        while self._results is None and self.ready:
            self._take_step()
        return None if self._results is None else list(zip(self._group, self._results, strict=True))

    def _take_step(self) -> None:
        try:
            if self._step:
                self._step.result()
            self._step = self._do(next(self._steps))
        except StopIteration as end:
            self._step, self._results = None, end.value

    def close(self) -> None:
        """Leave it where it is: what is not visible yet never will be."""
        self.wait(Job.wait)
        self._steps.close()


class Groups:
    """The files of one send that are complete, in the order in which they became so."""

    def __init__(self, storage: Storage, worker: Worker, wait_for: Callable[[Job[None]], object] = Job.wait) -> None:
        """Have the worker wait for the disk; where that has to be waited for, `wait_for` does, and may `collect`."""
        self._storage = storage
        self._worker = worker
        self._wait_for = wait_for
        self._held: list[Complete] = []
        self._bytes = 0
        self._directories = 0
        self._parent: tuple[str, ...] | None = None  # of the last of these
        self._since = 0.0  # when the first of these was added
        self._commits: list[_Commit] = []
        self._over: list[tuple[Complete, Outcome]] = []

    def add(self, complete: Complete) -> None:
        """Take a complete file; commit what is held, if that is enough."""
        held, file, now = self._held, complete.description, time.monotonic()
        size = file.size
        if not held:
            self._since = now
        held.append(complete)
        self._bytes += size
        parent = file.name.parts[:-1]
        if parent != self._parent:
            self._parent = parent
            self._directories += len(parent)
        if (
            len(held) >= GROUP_FILES
            or self._bytes >= GROUP_BYTES
            or self._directories >= GROUP_DIRECTORIES
            or size >= PARALLEL_BYTES
            or now - self._since >= GROUP_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """Have what is held made durable; wait, if too many groups before it are not yet."""
        if not self._held:
            return
        while len(self._commits) >= _GROUPS:
            self._commits[0].wait(self._wait_for)
            self._go_on()
        held, size = self._held, self._bytes
        self._held, self._bytes, self._directories, self._parent = [], 0, 0, None
        # Where it takes no time, a thread that takes turns with this one would take more of it.
        here = self._storage.quick and size < PARALLEL_BYTES
        self._commits.append(_Commit(held, self._steps(held), self._worker.do_here if here else self._worker.do))
        self._go_on()

    def commit_if_idle(self) -> None:
        """Have what is held made durable, unless others are just being made so: then more may come meanwhile."""
        self._go_on()
        if not self._commits:
            self.commit()

    @property
    def busy(self) -> bool:
        """Whether there is anything that `collect` has not returned yet."""
        return bool(self._commits or self._held or self._over)

    @property
    def collectable(self) -> bool:
        """Whether `collect` would return, or do, anything at once."""
        return bool(self._over or (self._commits and self._commits[0].ready))

    def collect(self, wait: float = 0.0) -> list[tuple[Complete, Outcome]]:
        """Return what has become of files since the last time, in order, waiting so long for the disk at most."""
        if wait and self._commits and not self._over:
            self._commits[0].wait(lambda step: step.wait(wait))
        self._go_on()
        found, self._over = self._over, []
        return found

    def close(self) -> None:
        """Leave what is not committed yet."""
        while self._commits:
            self._commits.pop(0).close()
        for complete in self._held:
            if complete.staging:
                complete.staging.discard()
        self._held.clear()

    def _go_on(self) -> None:
        """Let the first group, and those after it that can, take their steps; one after the other, as they came."""
        while self._commits:
            first = self._commits[0]
            try:
                found = first.go_on()
            except BaseException:
                del self._commits[0]
                first.close()
                raise
            if found is None:
                return
            del self._commits[0]
            self._over += found

    def _steps(self, group: list[Complete]) -> Steps:
        """Commit the staged ones, then make the directories: their times are set when all that is in them is there."""
        stagings = [complete.staging for complete in group if complete.staging]
        if len(stagings) == len(group):
            return (yield from self._storage.commit_in_steps(stagings))
        if not stagings:
            yield lambda: None  # what is made below is visible at once
        results = iter((yield from self._storage.commit_in_steps(stagings)) if stagings else ())
        committed = [next(results) if complete.staging else None for complete in group]
        directories = [complete.description for complete in group if not complete.staging]
        made = iter((yield from self._storage.make_directories(directories)))
        return [done or next(made) for done in committed]
