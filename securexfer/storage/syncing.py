"""Many things made durable at a time.

* A group of many is synced with its whole file system (syncfs(2)): the disk writes what is next to each other at once,
  and flushes its cache once. One of them is synced by itself after it, which tells what syncfs does not: of a file
  system that has given up, it says nothing.
* Only where that is known to mean the same as a sync of each: Linux has told of errors since 5.8, and a file system in
  user space need not sync at all. And not while somebody else writes so much that it takes long.
* Else by several threads: a disk that has to flush its cache for each sync does that once for all who wait.

On ext4 on one such disk a file of 256 took 2500 us one after the other, 60 us by eight threads, and 14 us so; with the
threads also holding up who receives the next ones, whose turn at the interpreter they took for each.
"""

from __future__ import annotations

import ctypes
import functools
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from securexfer.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

THREADS = 8  # four did nearly as well, sixteen no better
MANY = 8  # for fewer, syncing all that others have written gains nothing
PATIENCE_SECONDS = 0.5  # a group takes a hundredth of that where nobody else writes, if its files are small
REST_SECONDS = 60.0  # without it, once it took longer
_LINUX = (5, 8)
EXT, XFS, TMPFS = 0xEF53, 0x58465342, 0x01021994  # statfs(2); the first is ext2 to ext4
_KINDS = {EXT, XFS}


class Synced(NamedTuple):
    """What each of many syncs raised, and whether there was no more than one for nearly all of them."""

    errors: list[Exception | None]
    together: bool


class Rest:
    """The time in which an inbox does without syncs of its whole file system, as somebody else writes so much."""

    def __init__(self) -> None:
        self.until = 0.0


class Whole:
    """A file system that is synced as a whole, for one send, which opens this before it writes."""

    def __init__(self, directory: int, rest: Rest) -> None:
        """Take a directory on it, and open it anew: an error is told to each handle once. Raises OSError."""
        self._rest = rest
        self._handle: int | None = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            known = _release() >= _LINUX and kind_of(self._handle) in _KINDS
        except BaseException:
            self.close()
            raise
        if not known:
            self.close()

    @property
    def usable(self) -> bool:
        """Whether `sync` is worth trying."""
        return self._handle is not None and time.monotonic() >= self._rest.until

    def sync(self) -> bool:
        """Make all of it durable; return whether it is, as far as is known."""
        began = time.monotonic()
        if _libc().syncfs(self._handle):
            self.close()  # what is wrong was told now, and will not be again: from now on each is asked by itself
            return False
        if time.monotonic() - began > PATIENCE_SECONDS:
            self._rest.until = time.monotonic() + REST_SECONDS
        return True

    def close(self) -> None:
        """Do without, from now on."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Syncer:
    """Syncs for one send, with threads of its own where the disk takes its time."""

    def __init__(self, whole: Whole | None) -> None:
        """Take the file system, which is this object's now; without, syncs take no time, and need no threads."""
        self._whole = whole
        self._workers: list[Worker] = []

    def sync_all(self, syncs: Sequence[Callable[[], None]], *, together: bool = True) -> Synced:
        """Do each of them, once; or, only if they may go `together`, one of them and a sync of the whole."""
        if self._whole is None or len(syncs) < 2:
            return Synced(errors_of(syncs), together=False)
        if together and self._whole.usable:
            if len(syncs) < MANY:
                return Synced(errors_of(syncs), together=False)  # the first one takes most of the others along
            if self._whole.sync():
                last = errors_of(syncs[-1:])
                if last == [None]:
                    return Synced([None] * len(syncs), together=True)
                return Synced([*self._each(syncs[:-1]), *last], together=False)
        return Synced(self._each(syncs), together=False)

    def _each(self, syncs: Sequence[Callable[[], None]]) -> list[Exception | None]:
        """Do each of them, some at a time."""
        shares = [syncs[first::THREADS] for first in range(min(THREADS, len(syncs)))]
        self._workers += [Worker() for _ in range(len(shares) - 1 - len(self._workers))]
        jobs = [
            worker.do(functools.partial(errors_of, share))
            for worker, share in zip(self._workers, shares[1:], strict=False)
        ]
        found = [errors_of(shares[0]), *(job.result() for job in jobs)]
        return [found[place % THREADS][place // THREADS] for place in range(len(syncs))]

    def close(self) -> None:
        """Let the threads go."""
        for worker in self._workers:
            worker.close()
        if self._whole:
            self._whole.close()


def errors_of(acts: Sequence[Callable[[], None]]) -> list[Exception | None]:
    """Do each, and return what it raised."""
    errors: list[Exception | None] = []
    for act in acts:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - it belongs to one of many, and whoever asked gets it
            errors.append(error)
        else:
            errors.append(None)
    return errors


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def kind_of(handle: int) -> int:
    """Return the number of a kind of file system, the first word that Linux's fstatfs(2) fills in; 0 if unknown."""
    found = (ctypes.c_long * 64)()  # four times as long as what it fills in
    return int(found[0]) if not _libc().fstatfs(handle, found) else 0


def _release() -> tuple[int, ...]:
    """Return the version of Linux; () of anything else."""
    words = os.uname().release.split(".")[:2]
    return tuple(map(int, words)) if os.uname().sysname == "Linux" and all(map(str.isdecimal, words)) else ()
