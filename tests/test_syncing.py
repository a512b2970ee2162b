"""Many syncs at a time: each is done once, and what went wrong with one is said of that one."""

from __future__ import annotations

import functools
import threading
from collections import Counter

import pytest

from securexfer.storage.syncing import THREADS, Syncer


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, THREADS, THREADS + 1, 100])
def test_each_is_done_once_and_has_its_own_error(count: int, *, quick: bool) -> None:
    done: Counter[int] = Counter()
    threads = set()

    def sync(number: int) -> None:
        done[number] += 1
        threads.add(threading.get_ident())
        if number % 3 == 1:
            raise OSError(number, "as asked")

    syncer = Syncer(quick=quick)
    errors = syncer.sync_all([functools.partial(sync, number) for number in range(count)])
    syncer.close()
    assert done == Counter(range(count))
    assert [error.errno if isinstance(error, OSError) else None for error in errors] == [
        number if number % 3 == 1 else None for number in range(count)
    ]
    assert len(threads) <= (1 if quick else THREADS)


def test_those_that_wait_wait_together() -> None:
    """As many as there are threads are under way at once: none could pass the barrier alone."""
    barrier = threading.Barrier(THREADS, timeout=20)
    syncer = Syncer(quick=False)
    errors = syncer.sync_all([lambda: barrier.wait() and None for _ in range(THREADS)])
    syncer.close()
    assert errors == [None] * THREADS
