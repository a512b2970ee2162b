"""Many things made durable at a time.

A disk that has to flush its cache for each sync does that once for all who wait: on one such disk 256 files took 2500
us each, one after the other, and 60 us each by eight threads. Where a sync takes no time, threads would.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 8  # four did nearly as well, sixteen no better
SLOW_SECONDS = 0.0001  # a disk's; a memory file system takes a hundredth of that


class Syncer:
    """Syncs for one session, with threads of its own where the disk takes its time."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def sync_all(self, syncs: Sequence[Callable[[], None]]) -> list[Exception | None]:
        """Do each of them, and return what it raised. If the first takes long, several threads do the others."""
        began = time.monotonic()
        errors = [_error_of(sync) for sync in syncs[:1]]
        rest = syncs[1:]
        if time.monotonic() - began < SLOW_SECONDS or not rest:
            return errors + [_error_of(sync) for sync in rest]
        shares = [rest[first::THREADS] for first in range(min(THREADS, len(rest)))]
        # The last share is done here, and those that no thread is to be had for.
        done: list[Future[list[Exception | None]] | list[Exception | None]] = []
        for share in shares[:-1]:
            try:
                done.append(self._started().submit(_errors_of, share))
            except RuntimeError:  # the system has no more threads, or no memory for one
                done.append(_errors_of(share))
        done.append(_errors_of(shares[-1]))
        found = [each if isinstance(each, list) else each.result() for each in done]
        return errors + [found[place % THREADS][place // THREADS] for place in range(len(rest))]

    def close(self) -> None:
        """Let the threads go."""
        if self._threads:
            self._threads.shutdown()

    def _started(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(THREADS - 1, thread_name_prefix="sync")
        return self._threads


def _errors_of(syncs: Sequence[Callable[[], None]]) -> list[Exception | None]:
    return [_error_of(sync) for sync in syncs]


def _error_of(sync: Callable[[], None]) -> Exception | None:
    try:
        sync()
    except Exception as error:  # noqa: BLE001 - it belongs to one of many, and whoever asked gets it
        return error
    return None
