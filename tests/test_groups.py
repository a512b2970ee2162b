"""Groups of complete files: one after the other, whoever makes them durable."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from securexfer.names import Name
from securexfer.net.payload import PARALLEL_BYTES
from securexfer.storage.base import Committed, Description, Outcome
from securexfer.transfer.groups import GROUP_DIRECTORIES, GROUP_FILES, GROUP_SECONDS, Complete, Groups
from securexfer.workers import Bell, Job, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from securexfer.storage.base import Steps


class Slow:
    """A storage whose large files take their time to reach the disk, and which notes what is done when, and where."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.may_end = threading.Event()
        self.begun: list[str] = []
        self.done: list[str] = []
        self.left: list[str] = []
        self.waited_in: set[int] = set()

    def commit_in_steps(self, group: Sequence[Any]) -> Steps:
        self.begun += group

        def wait() -> None:
            self.waited_in.add(threading.get_ident())
            if "large" in group:
                assert self.may_end.wait(20)

        try:
            yield wait
            self.done += group
            yield wait
            return [Committed(Outcome.STORED, Name.parse(name)) for name in group]
        finally:
            self.left += group

    def make_directories(self, group: Sequence[Description]) -> Steps:
        self.done += [str(file.name) for file in group]
        yield lambda: None
        return [Committed(Outcome.STORED, file.name) for file in group]


@pytest.fixture
def worker() -> Iterator[Worker]:
    bell = Bell()
    made = Worker(bell)
    yield made
    made.close()
    bell.close()


def complete(number: int, name: str, size: int = 1, *, directory: bool = False) -> Complete:
    staging: Any = None if directory else name  # what this storage takes for one
    return Complete(number, Description(Name.parse(name), size), staging, "", time.monotonic())


def collected(groups: Groups) -> list[int]:
    """Return the numbers of all that were added, in the order in which they were told."""
    found = []
    while groups.busy:
        found += groups.collect(1.0)
        groups.commit_if_idle()
    return [each.number for each, _ in found]


@pytest.mark.parametrize("quick", [True, False])
def test_a_directory_waits_for_the_large_file_in_it(worker: Worker, *, quick: bool) -> None:
    """Also where small groups are committed at once: its time would be set before the file changes it."""
    storage = Slow(quick=quick)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    groups.add(complete(1, "large", PARALLEL_BYTES))
    groups.add(complete(2, "d", directory=True))
    groups.commit()
    assert storage.done == []
    storage.may_end.set()
    assert collected(groups) == [1, 2]
    assert storage.done == ["large", "d"]


def test_where_it_takes_no_time_a_full_group_is_there_at_once(worker: Worker) -> None:
    groups = Groups(Slow(quick=True), worker)  # type: ignore[arg-type]  # all of it that is used
    for number in range(GROUP_FILES - 1):
        groups.add(complete(number, "x"))
    assert not groups.collectable
    groups.add(complete(GROUP_FILES, "x"))
    assert len(groups.collect()) == GROUP_FILES
    assert not groups.busy


def test_a_group_begins_to_reach_the_disk_while_the_one_before_it_waits_and_is_told_after_it(worker: Worker) -> None:
    storage = Slow(quick=False)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    for number, name in enumerate(("large", "a", "b"), start=1):
        groups.add(complete(number, name))
        if number < 3:
            groups.commit()
    assert storage.begun == ["large", "a"]
    assert storage.done == []
    assert not groups.collectable
    groups.commit_if_idle()  # which it is not
    assert storage.begun == ["large", "a"]
    storage.may_end.set()
    assert collected(groups) == [1, 2, 3]
    assert storage.done == storage.left == ["large", "a", "b"]
    assert threading.get_ident() not in storage.waited_in


def test_what_takes_no_time_is_waited_for_here(worker: Worker) -> None:
    storage = Slow(quick=True)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    groups.add(complete(1, "x"))
    groups.commit()
    assert storage.waited_in == {threading.get_ident()}
    assert collected(groups) == [1]


def test_when_it_is_over_nothing_is_under_way_any_more(worker: Worker) -> None:
    storage = Slow(quick=False)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    for number, name in enumerate(("large", "a"), start=1):
        groups.add(complete(number, name))
        groups.commit()
    threading.Timer(0.2, storage.may_end.set).start()
    groups.close()
    assert storage.may_end.is_set()  # a file is not let go while it is being synced
    assert storage.left == ["large", "a"]
    assert storage.done == []


@pytest.mark.parametrize("where", ["in the worker", "here"])
def test_what_a_step_raises_is_raised_to_whoever_collects_and_others_go_on(worker: Worker, where: str) -> None:
    class Failing(Slow):
        def commit_in_steps(self, group: Sequence[Any]) -> Steps:
            def fail() -> None:
                if where == "in the worker" and "bad" in group:
                    raise MemoryError

            try:
                yield fail
                if "bad" in group:
                    raise MemoryError
            finally:
                self.left += group
            return [Committed(Outcome.STORED, Name.parse(name)) for name in group]

    storage = Failing(quick=False)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    for number, name in enumerate(("bad", "good"), start=1):
        groups.add(complete(number, name))
        groups.commit()
    with pytest.raises(MemoryError):
        collected(groups)
    assert storage.left == ["bad"]
    assert collected(groups) == [2]
    assert storage.left == ["bad", "good"]


def test_what_is_held_at_the_end_is_discarded(worker: Worker) -> None:
    class Staged:
        discarded = False

        def discard(self) -> None:
            self.discarded = True

    staged = Staged()
    groups = Groups(Slow(quick=False), worker)  # type: ignore[arg-type]  # all of it that is used
    groups.add(complete(1, "x")._replace(staging=staged))  # type: ignore[arg-type]  # likewise
    groups.close()
    assert staged.discarded
    assert not groups.busy


def test_a_group_is_as_old_as_its_first_file_has_been_in_it(worker: Worker) -> None:
    """Not as that has been here: of many that came at once, the last would each be a group where the disk is slow."""
    storage = Slow(quick=True)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    long_ago = time.monotonic() - 60
    for number in range(1, 4):
        groups.add(complete(number, "x")._replace(started=long_ago))
    assert storage.begun == []
    time.sleep(GROUP_SECONDS)
    groups.add(complete(4, "x"))
    assert collected(groups) == [1, 2, 3, 4]
    assert storage.begun == ["x"] * 4


def test_the_directories_that_a_group_holds_open_are_bounded_and_counted_once_for_neighbours(worker: Worker) -> None:
    storage = Slow(quick=True)
    groups = Groups(storage, worker)  # type: ignore[arg-type]  # all of it that is used
    deep = "/".join("d" * 20)
    for number in range(1, GROUP_FILES):
        groups.add(complete(number, f"{deep}/{number}"))
    assert storage.begun == [], "20 directories are no reason to begin"
    groups.commit()
    storage.begun.clear()
    for number in range(1, GROUP_FILES):
        groups.add(complete(GROUP_FILES + number, f"{number}/{deep}/x"))
        if storage.begun:
            break
    assert number * 21 >= GROUP_DIRECTORIES > (number - 1) * 21


def test_who_waits_for_room_for_a_group_can_go_on_living(worker: Worker) -> None:
    """And collect meanwhile what is done."""
    storage = Slow(quick=False)
    waited, found = [], []

    def wait_for(step: Job[None]) -> None:
        waited.append(step)
        storage.may_end.set()
        assert step.wait(20)
        found.extend(groups.collect())

    groups = Groups(storage, worker, wait_for)  # type: ignore[arg-type]  # all of it that is used
    for number, name in enumerate(("large", "a", "b"), start=1):
        groups.add(complete(number, name))
        groups.commit()
    assert waited
    assert [each.number for each, _ in found] + collected(groups) == [1, 2, 3]
