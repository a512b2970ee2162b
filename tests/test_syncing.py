"""Many syncs at a time: each is done once, or all at once, and what went wrong with one is said of that one."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from securexfer.storage import syncing
from securexfer.storage.syncing import MANY, THREADS, Rest, Syncer, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNTS = [0, 1, 2, THREADS, THREADS + 1, 100]


class Noted:
    """Acts that note that they were done, in which threads, every third with an error of its own."""

    def __init__(self, *, fail: bool = True) -> None:
        self.done: Counter[int] = Counter()
        self.threads: set[int] = set()
        self._fail = fail

    def acts(self, count: int) -> list[Callable[[], None]]:
        return [functools.partial(self._act, number) for number in range(count)]

    def _act(self, number: int) -> None:
        self.done[number] += 1
        self.threads.add(threading.get_ident())
        if self._fail and number % 3 == 1:
            raise OSError(number, "as asked")


def numbers(errors: list[Exception | None]) -> list[int | None]:
    return [error.errno if isinstance(error, OSError) else None for error in errors]


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY)
    yield handle
    os.close(handle)


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    """A file system that is synced as a whole, of whatever kind the one here is."""
    with opened(tmp_path) as handle:
        monkeypatch.setattr(syncing, "_KINDS", {syncing.kind_of(handle)})
        made = Whole(handle, Rest())
        yield made
        made.close()


@pytest.fixture
def unknown(whole: Whole) -> Whole:
    """One that cannot be."""
    whole.close()
    return whole


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_each_is_done_once_and_has_its_own_error(unknown: Whole, count: int, *, quick: bool) -> None:
    noted = Noted()
    syncer = Syncer(None if quick else unknown)
    errors = syncer.sync_all(noted.acts(count)).errors
    syncer.close()
    assert noted.done == Counter(range(count))
    assert numbers(errors) == [number if number % 3 == 1 else None for number in range(count)]
    assert len(noted.threads) <= (1 if quick else THREADS)


def test_those_that_wait_wait_together(unknown: Whole) -> None:
    """As many as there are threads are under way at once: none could pass the barrier alone."""
    barrier = threading.Barrier(THREADS, timeout=20)
    syncer = Syncer(unknown)
    errors = syncer.sync_all([lambda: barrier.wait() and None for _ in range(THREADS)]).errors
    syncer.close()
    assert errors == [None] * THREADS


@pytest.mark.parametrize("count", COUNTS)
def test_many_are_synced_with_the_whole_and_one_of_them_by_itself(whole: Whole, count: int) -> None:
    noted = Noted(fail=False)
    syncer = Syncer(whole)
    assert syncer.sync_all(noted.acts(count)) == ([None] * count, count >= MANY)
    assert noted.done == (Counter(range(count)) if count < MANY else Counter([count - 1]))


def test_those_that_may_not_go_together_do_not(whole: Whole) -> None:
    noted = Noted()
    syncer = Syncer(whole)
    errors = syncer.sync_all(noted.acts(MANY), together=False).errors
    syncer.close()
    assert noted.done == Counter(range(MANY))
    assert numbers(errors) == [number if number % 3 == 1 else None for number in range(MANY)]


def test_if_the_one_by_itself_fails_each_is_asked(whole: Whole) -> None:
    """Of a journal that was given up, the system says nothing but to who syncs a file. That one is not asked again."""
    noted = Noted()
    syncer = Syncer(whole)
    errors = syncer.sync_all(noted.acts(MANY + 3)).errors  # the last one is one that fails
    syncer.close()
    assert noted.done == Counter(range(MANY + 3))
    assert numbers(errors) == [number if number % 3 == 1 else None for number in range(MANY + 3)]


def test_an_error_of_the_whole_has_each_asked_from_then_on(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, and may be that of a file that comes with the next group."""
    asked: list[int] = []

    class Failing:
        def syncfs(self, handle: int) -> int:
            asked.append(handle)
            return -1

    monkeypatch.setattr(syncing, "_libc", Failing)
    syncer = Syncer(whole)
    for _ in range(3):
        noted = Noted()
        errors = syncer.sync_all(noted.acts(MANY)).errors
        assert noted.done == Counter(range(MANY))
        assert numbers(errors) == [number if number % 3 == 1 else None for number in range(MANY)]
    syncer.close()
    assert len(asked) == 1


def test_while_somebody_else_makes_it_take_long_each_is_synced(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Slow:
        def syncfs(self, handle: int) -> int:
            asked.append(handle)
            time.sleep(0.02)
            return 0

    monkeypatch.setattr(syncing, "_libc", Slow)
    monkeypatch.setattr(syncing, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(syncing, "REST_SECONDS", 0.3)
    syncer = Syncer(whole)

    def times() -> int:
        assert syncer.sync_all(Noted(fail=False).acts(MANY)).errors == [None] * MANY
        return len(asked)

    assert (times(), times()) == (1, 1)
    time.sleep(0.35)
    assert times() == 2
    syncer.close()


def test_one_send_tells_the_others_that_it_takes_long(whole: Whole, tmp_path: Path) -> None:
    whole._rest.until = time.monotonic() + 60
    with opened(tmp_path) as handle:
        other = Whole(handle, whole._rest)
        assert not whole.usable
        assert not other.usable
        other.close()


@pytest.mark.parametrize("release", ["5.7.19", "4.19.0-27-amd64", "5"])
def test_an_older_system_is_asked_for_each(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    assert whole.usable
    known = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((known.sysname, known.nodename, release, "", "")))
    with opened(tmp_path) as handle:
        assert not Whole(handle, Rest()).usable


def test_a_kind_of_file_system_that_nobody_measured_is_asked_for_each() -> None:
    with opened(Path("/proc")) as handle:
        assert syncing.kind_of(handle) == 0x9FA0  # PROC_SUPER_MAGIC: statfs(2)
        assert not Whole(handle, Rest()).usable
