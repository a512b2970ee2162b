"""Files on their way in, and the group of complete ones that is made durable and answered for together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securexfer.errors import SecurexferError
from securexfer.net.payload import PARALLEL_BYTES
from securexfer.storage.base import Committed, Description, Offered, Staging

if TYPE_CHECKING:
    import hashlib

    from securexfer.storage.base import Storage
    from securexfer.transfer.worker import Job, Worker

# A group is committed when it holds this much, or is this old, or there is nothing more to read. The gain of grouping
# is nearly whole at 64 files (bench/commit_groups.py), and each holds a descriptor open.
GROUP_FILES = 64
GROUP_BYTES = 32 << 20
GROUP_SECONDS = 0.05
# Each directory on the way to a file is held open until its group is committed; depth counts as if all differed.
GROUP_DIRECTORIES = 128

Outcome = Committed | SecurexferError


@dataclass(slots=True, eq=False)
class Arrival:
    """One file from its offer to its answer."""

    number: int
    name: str  # as offered, below the destination directory of the send
    size: int
    description: Description | None = None
    offered: Offered | None = None
    staging: Staging | None = None
    nonce: bytes = b""
    prefix: Job[hashlib._Hash] | None = None
    digest: hashlib._Hash | None = None
    received: int = 0  # bytes of it, those that were here included
    directory: bool = False
    refused: bool = False  # that was said; what still comes of it is thrown away
    sha256: str = ""
    started: float = field(default_factory=time.monotonic)


class Group:
    """Complete files, committed by a worker in groups, in the order in which they became complete."""

    def __init__(self, storage: Storage, worker: Worker) -> None:
        self._storage = storage
        self._worker = worker
        self._held: list[Arrival] = []
        self._bytes = 0
        self._directories = 0
        self._jobs: list[Job[list[tuple[Arrival, Outcome]]]] = []

    def add(self, arrival: Arrival) -> None:
        """Take a complete file; commit what is held, if that is enough."""
        self._held.append(arrival)
        self._bytes += arrival.size
        self._directories += arrival.name.count("/")
        if (
            len(self._held) >= GROUP_FILES
            or self._bytes >= GROUP_BYTES
            or self._directories >= GROUP_DIRECTORIES
            or arrival.size >= PARALLEL_BYTES
            or time.monotonic() - self._held[0].started >= GROUP_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """Have what is held made durable; wait if two groups before it are still being made so."""
        if not self._held:
            return
        while len(self._jobs) >= 2 and not self._jobs[-2].done:
            self._jobs[-2].wait(1.0)
        held, self._held, self._bytes, self._directories = self._held, [], 0, 0
        self._jobs.append(self._worker.do(lambda: self._commit(held)))

    def commit_if_idle(self) -> None:
        """Have what is held made durable, unless others are just being made so: then more may come meanwhile."""
        if self._held and all(job.done for job in self._jobs):
            self.commit()

    @property
    def busy(self) -> bool:
        """Whether anything has not been answered for."""
        return bool(self._jobs or self._held)

    @property
    def collectable(self) -> bool:
        """Whether `collect` would return anything at once."""
        return bool(self._jobs) and self._jobs[0].done

    def collect(self, *, wait: float = 0.0) -> list[tuple[Arrival, Outcome]]:
        """Return what has become of files since the last time, in order, waiting so long for the next group at most."""
        found: list[tuple[Arrival, Outcome]] = []
        while self._jobs and (self._jobs[0].done or (wait and not found and self._jobs[0].wait(wait))):
            found += self._jobs.pop(0).result()
        return found

    def _commit(self, group: list[Arrival]) -> list[tuple[Arrival, Outcome]]:
        stagings = [arrival.staging for arrival in group if arrival.staging]
        results = iter(self._storage.commit(stagings) if stagings else ())
        outcomes = [next(results) if arrival.staging else None for arrival in group]
        return [(arrival, outcome or self._settle(arrival)) for arrival, outcome in zip(group, outcomes, strict=True)]

    def _settle(self, arrival: Arrival) -> Outcome:
        """Do what is to be done for a file that was here already, or for a directory."""
        try:
            if arrival.offered:
                return arrival.offered.keep()
            assert arrival.description
            return self._storage.make_directory(arrival.description)
        except SecurexferError as error:
            return error
