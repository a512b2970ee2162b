"""What grouping gains: the cost of one small file in the storage alone, for groups of several sizes.

Takes and commits files of 4 KiB, with an mtime, in directories of 1000, group after group, on the file system of
--directory (a disk shows the gain; on a memory file system a sync costs nothing): one after the other, and as a session
of protocol 2 does, with a worker that waits for the disk while the next group is taken. Prints the median and the best
of the runs, microseconds a file, and what it costs to find all of them unchanged afterwards.

    python bench/commit_groups.py --directory /var/tmp
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securexfer.names import Name
from securexfer.storage.base import Description
from securexfer.storage.local import Inbox, Rules
from securexfer.transfer import groups as grouping
from securexfer.transfer.groups import Complete, Groups
from securexfer.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.storage.user import UserStorage

SIZES = (1, 8, 64, 128, 256, 512)
CONTENT = memoryview(os.urandom(4096))
DIGEST = hashlib.sha256(CONTENT).digest()


@dataclass
class Timing:
    """Seconds for all files: stored in one thread, stored with one that waits for the disk, found unchanged."""

    alone: float
    beside: float
    unchanged: float


def store_alone(storage: UserStorage, groups: list[list[Description]]) -> None:
    """Take and commit in turn."""
    for files in groups:
        storage.commit([storage.take(file, CONTENT, DIGEST) for file in files])


def store_beside(storage: UserStorage, groups: list[list[Description]]) -> None:
    """Take the next group while the disk is waited for."""
    worker = Worker()
    session = Groups(storage, worker)
    for files in groups:
        for file in files:
            session.add(Complete(1, file, storage.take(file, CONTENT, DIGEST), "known", 0.0))
        session.commit()
        session.collect()
    while session.busy:
        session.collect(1.0)
    worker.close()


def find_unchanged(storage: UserStorage, groups: list[list[Description]]) -> None:
    """Offer all of it again, as a second send does."""
    for files in groups:
        for file in files:
            offered = storage.offer(file, fresh=False)
            offered.prefix(lambda: None).digest()
            offered.keep()


def seconds(
    act: Callable[[UserStorage, list[list[Description]]], None],
    user: str,
    inbox: Inbox,
    groups: list[list[Description]],
) -> float:
    """Return how long it takes to do something with all files of a user."""
    storage = inbox.for_user(user)
    started = time.perf_counter()
    act(storage, groups)
    elapsed = time.perf_counter() - started
    storage.close()
    return elapsed


def measure(group_size: int, count: int, directory: str) -> Timing:
    """Store `count` files in groups of `group_size`, twice, and look for them."""
    files = [Description(Name.parse(f"{number // 1000}/{number}"), len(CONTENT), number) for number in range(count)]
    groups = [files[first : first + group_size] for first in range(0, count, group_size)]
    place = tempfile.mkdtemp(dir=directory)  # not removed before the end: freed inodes slow down who makes new ones
    inbox = Inbox(Path(place) / "inbox", Rules())
    timing = Timing(
        seconds(store_alone, "alone", inbox, groups),
        seconds(store_beside, "beside", inbox, groups),
        seconds(find_unchanged, "alone", inbox, groups),
    )
    inbox.close()
    return timing


def main() -> None:
    """Measure the group sizes in turn, several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default=".", help="where the files go")
    parser.add_argument("--files", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    grouping.GROUP_FILES, grouping.GROUP_SECONDS = SIZES[-1], 60.0  # the sizes here are the only ones
    found: dict[int, list[Timing]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory(dir=chosen.directory) as place:
        for _ in range(chosen.runs):
            for size in SIZES:
                found[size].append(measure(size, chosen.files, place))
    print("us a file   one after the other   beside each other       unchanged    (median, best)")
    for size, timings in found.items():
        columns = [[timing.alone for timing in timings], [timing.beside for timing in timings]]
        columns.append([timing.unchanged for timing in timings])
        shown = (
            f"{statistics.median(column) / chosen.files * 1e6:6.0f} {min(column) / chosen.files * 1e6:6.0f}"
            for column in columns
        )
        print(f"groups of {size:3}:      ", "         ".join(shown))


if __name__ == "__main__":
    main()
