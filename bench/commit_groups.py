"""What grouping gains: the cost of one small file in the storage alone, for groups of several sizes.

Stages, seals and commits files of 4 KiB, with an mtime, in directories of 1000, group after group, on the file system
of --directory (a disk shows the gain; on a memory file system a sync costs nothing): in one thread, and with a second
one that commits while the first one stages. Prints the median and the best of the runs, microseconds a file, and what
it costs to find all of them unchanged afterwards.

    python bench/commit_groups.py --directory /var/tmp
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from securexfer.names import Name
from securexfer.storage.base import Description
from securexfer.storage.local import Inbox, Rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.storage.base import Staging
    from securexfer.storage.user import UserStorage

SIZES = (1, 8, 64, 128, 256, 512)
CONTENT = memoryview(os.urandom(4096))
DIGEST = hashlib.sha256(CONTENT).digest()


@dataclass
class Timing:
    """Seconds for all files: stored in one thread, stored with a thread that commits, found unchanged."""

    alone: float
    beside: float
    unchanged: float


def staged(storage: UserStorage, files: list[Description]) -> list[Staging]:
    """Return files, complete but for their commit."""
    group: list[Staging] = []
    for file in files:
        with storage.stage(file) as staging:
            staging.write(CONTENT)
            staging.seal(DIGEST)
        group.append(staging)
    return group


def store_alone(storage: UserStorage, groups: list[list[Description]]) -> None:
    """Stage and commit in turn."""
    for files in groups:
        storage.commit(staged(storage, files))


def store_beside(storage: UserStorage, groups: list[list[Description]]) -> None:
    """Commit in another thread than the one that stages, which is at most two groups ahead."""
    complete: SimpleQueue[list[Staging]] = SimpleQueue()
    ahead = threading.Semaphore(2)

    def commit() -> None:
        while group := complete.get():
            storage.commit(group)
            ahead.release()

    thread = threading.Thread(target=commit)
    thread.start()
    for files in groups:
        ahead.acquire()
        complete.put(staged(storage, files))
    complete.put([])
    thread.join()


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
    with tempfile.TemporaryDirectory(dir=directory) as place:
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
    found: dict[int, list[Timing]] = {size: [] for size in SIZES}
    for _ in range(chosen.runs):
        for size in SIZES:
            found[size].append(measure(size, chosen.files, chosen.directory))
    print("us a file        one thread     two threads     unchanged    (median, best)")
    for size, timings in found.items():
        columns = [[timing.alone for timing in timings], [timing.beside for timing in timings]]
        columns.append([timing.unchanged for timing in timings])
        shown = (
            f"{statistics.median(column) / chosen.files * 1e6:6.0f} {min(column) / chosen.files * 1e6:6.0f}"
            for column in columns
        )
        print(f"groups of {size:3}:", "   ".join(shown))


if __name__ == "__main__":
    main()
