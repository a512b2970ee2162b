"""Complete files, made durable in groups by a worker, so that many small ones share the cost of reaching the disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from securexfer.errors import SecurexferError
from securexfer.net.payload import PARALLEL_BYTES
from securexfer.storage.base import Committed

if TYPE_CHECKING:
    from securexfer.storage.base import Description, Staging, Storage
    from securexfer.workers import Job, Worker

Outcome = Committed | SecurexferError

# A group is committed when it holds this much, or is this old, or there is nothing more to read. On a disk the gain of
# grouping is nearly whole at 128 files (bench/commit_groups.py), and each holds a descriptor open.
GROUP_FILES = 128
GROUP_BYTES = 32 << 20
GROUP_SECONDS = 0.05
# Each directory on the way to a file is held open until its group is committed; depth counts as if all differed.
GROUP_DIRECTORIES = 256
_GROUPS = 2  # that may be under way; whoever has a third one waits


class Complete(NamedTuple):
    """One file all of which has arrived, and was verified; or a directory, which is not staged and has no digest."""

    number: int
    description: Description
    staging: Staging | None
    sha256: str
    started: float


class Groups:
    """The files of one send that are complete, in the order in which they became so."""

    def __init__(self, storage: Storage, worker: Worker) -> None:
        self._storage = storage
        self._worker = worker
        self._held: list[Complete] = []
        self._bytes = 0
        self._directories = 0
        self._jobs: list[Job[list[tuple[Complete, Outcome]]]] = []

    def add(self, complete: Complete) -> None:
        """Take a complete file; commit what is held, if that is enough."""
        held, file = self._held, complete.description
        size = file.size
        held.append(complete)
        self._bytes += size
        self._directories += len(file.name.parts) - 1
        if (
            len(held) >= GROUP_FILES
            or self._bytes >= GROUP_BYTES
            or self._directories >= GROUP_DIRECTORIES
            or size >= PARALLEL_BYTES
            or time.monotonic() - held[0].started >= GROUP_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """Have what is held made durable; wait, if too many groups before it are not yet."""
        if not self._held:
            return
        if len(self._jobs) >= _GROUPS:
            self._jobs[-_GROUPS].wait()
        held, size = self._held, self._bytes
        self._held, self._bytes, self._directories = [], 0, 0
        # Where it takes no time, two threads that take turns would take more of it. But one group after the other:
        # a directory gets its time when all that is in it is there.
        here = self._storage.quick and size < PARALLEL_BYTES and self._idle
        self._jobs.append((self._worker.do_here if here else self._worker.do)(lambda: self._commit(held)))

    def commit_if_idle(self) -> None:
        """Have what is held made durable, unless others are just being made so: then more may come meanwhile."""
        if self._idle:
            self.commit()

    @property
    def _idle(self) -> bool:
        return not self._jobs or self._jobs[-1].done  # they are done in order

    @property
    def busy(self) -> bool:
        """Whether there is anything that `collect` has not returned yet."""
        return bool(self._jobs or self._held)

    @property
    def collectable(self) -> bool:
        """Whether `collect` would return anything at once."""
        return bool(self._jobs) and self._jobs[0].done

    def collect(self, wait: float = 0.0) -> list[tuple[Complete, Outcome]]:
        """Return what has become of files since the last time, in order, waiting so long for a group at most."""
        found: list[tuple[Complete, Outcome]] = []
        while self._jobs and (self._jobs[0].done or (wait and not found and self._jobs[0].wait(wait))):
            found += self._jobs.pop(0).result()
        return found

    def _commit(self, group: list[Complete]) -> list[tuple[Complete, Outcome]]:
        """Commit the staged ones, then make the directories: they come after what is in them."""
        stagings = [complete.staging for complete in group if complete.staging]
        results = iter(self._storage.commit(stagings) if stagings else ())
        committed = [next(results) if complete.staging else None for complete in group]
        directories = [complete.description for complete in group if not complete.staging]
        made = iter(self._storage.make_directories(directories) if directories else ())
        return [(complete, done or next(made)) for complete, done in zip(group, committed, strict=True)]
