"""What grouping gains: the cost of one small file in the storage alone, for groups of several sizes.

Stages, seals and commits files of 1 KiB in one directory, group after group, on the file system of --directory (a disk
shows the gain; on a memory file system a sync costs nothing). Prints the median of the runs, microseconds a file.

    python bench/commit_groups.py --directory /var/tmp
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from pathlib import Path

from securexfer.names import Name
from securexfer.storage.base import Description
from securexfer.storage.local import Inbox, Rules

SIZES = (1, 8, 64, 512)
CONTENT = memoryview(os.urandom(1024))


def seconds_for(group_size: int, files: int, directory: str) -> float:
    """Return how long it takes to store `files` files in groups of `group_size`."""
    digest = hashlib.sha256(CONTENT).digest()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        inbox = Inbox(Path(place) / "inbox", Rules())
        storage = inbox.for_user("bench")
        started = time.perf_counter()
        for first in range(0, files, group_size):
            group = []
            for number in range(first, min(first + group_size, files)):
                with storage.stage(Description(Name.parse(f"files/{number}"), len(CONTENT))) as staging:
                    staging.write(CONTENT)
                    staging.seal(digest)
                group.append(staging)
            storage.commit(group)
        elapsed = time.perf_counter() - started
        storage.close()
        inbox.close()
    return elapsed


def main() -> None:
    """Measure the group sizes in turn, several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default=".", help="where the files go")
    parser.add_argument("--files", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(chosen.runs):
        for size in SIZES:
            found[size].append(seconds_for(size, chosen.files, chosen.directory))
    for size in SIZES:
        print(f"groups of {size:3}: {statistics.median(found[size]) / chosen.files * 1e6:7.0f} us a file")


if __name__ == "__main__":
    main()
