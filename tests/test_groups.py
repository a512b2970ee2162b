"""Groups of complete files: one after the other, whoever makes them durable."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from securexfer.names import Name
from securexfer.net.payload import PARALLEL_BYTES
from securexfer.storage.base import Committed, Description, Outcome
from securexfer.transfer.groups import GROUP_FILES, Complete, Groups
from securexfer.workers import Bell, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Slow:
    """A storage whose commits wait until they may end, and which notes what is done when."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.may_end = threading.Event()
        self.done: list[str] = []

    def commit(self, group: Sequence[Any]) -> list[Committed]:
        if "large" in group:
            assert self.may_end.wait(20)
        self.done += group
        return [Committed(Outcome.STORED, Name.parse(name)) for name in group]

    def make_directories(self, group: Sequence[Description]) -> list[Committed]:
        self.done += [str(file.name) for file in group]
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
    found = []
    while groups.busy:
        found += groups.collect(1.0)
    assert storage.done == ["large", "d"]
    assert [each.number for each, _ in found] == [1, 2]


def test_where_it_takes_no_time_a_full_group_is_there_at_once(worker: Worker) -> None:
    groups = Groups(Slow(quick=True), worker)  # type: ignore[arg-type]  # all of it that is used
    for number in range(GROUP_FILES - 1):
        groups.add(complete(number, "x"))
    assert not groups.collectable
    groups.add(complete(GROUP_FILES, "x"))
    assert len(groups.collect()) == GROUP_FILES
    assert not groups.busy
