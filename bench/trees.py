"""Compare moving trees of files with rsync, tar and scp over ssh; every file is checked after every run.

Whole processes over loopback, login included. README.md says how to read it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comparing import OURS, compare_moving, with_machine
from measuring import Command, run
from options import between, end_with, note, parser
from peers import TREE_PEERS
from sources import BLOCK, FILES, Source, entries_of, make_tree, sync, titled, workplace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from comparing import Comparison

PINNED = ("numpy==2.3.5", "scipy==1.16.3", "sympy==1.14.0", "matplotlib==3.10.7")
SLOW = ("scp -r",)  # only by name
FINDS = (OURS, "rsync -a", "rsync -a --fsync")  # who finds out what is there already


@dataclass(frozen=True, slots=True)
class Work:
    """A tree of FILES files of `size` bytes in each of its directories, or (size 0) the installed packages."""

    directories: int = 0
    size: int = 0
    again: bool = False

    def title(self, directories: int) -> str:
        """Return what is moved if so many directories are made."""
        if not self.size:
            return "numpy, scipy, sympy and matplotlib"
        return titled(directories * FILES, self.size) + (", unchanged since the last send" if self.again else "")


MEMORY = "memory"  # what a directory is on that is on no disk
WORKS = {
    "small": Work(100, 4096),
    "tiny": Work(1000, 1024),
    "site": Work(),
    "again": Work(100, 4096, again=True),
}


def main() -> None:
    """Measure, then print a table for each work, or JSON."""
    options = parser(__doc__)
    default = [name for name in TREE_PEERS if name not in SLOW]
    options.add_argument("--work", action="append", choices=WORKS, help="repeatable (default: all)")
    options.add_argument("--peers", nargs="+", choices=TREE_PEERS, default=default, help="default: all but scp -r")
    options.add_argument("--runs", type=between(1, 100), default=5, help="pairs with each peer (default: 5)")
    options.add_argument("--directories", type=between(1, 10_000), help=f"of {FILES} files, in the trees that are made")
    options.add_argument("--packages", type=Path, help="where the packages are installed, or will be (default: anew)")
    chosen = options.parse_args()
    kind = file_system(chosen.directory)
    found = {name: measured(name, chosen, kind) for name in chosen.work or WORKS}
    if chosen.json:
        works = {name: each.document() for name, each in found.items()}
        print(json.dumps(with_machine(file_system=kind, works=works), indent=2))
        return
    print("Medians; the last column is securexfer's seconds over the peer's: below 1, securexfer was faster.\n")
    print("\n".join(each.text() for each in found.values()))
    if {"small", "tiny"} <= found.keys():
        print("\n".join(growth(found["small"], found["tiny"])))


def measured(name: str, chosen: argparse.Namespace, kind: str) -> Comparison:
    """Make the tree of a work and move it with all who are chosen."""
    work = WORKS[name]
    directories = chosen.directories or work.directories
    title = f"{work.title(directories)}, {kind}"
    note(f"{name}: {title}")
    with tempfile.TemporaryDirectory() as own:
        packages = installed(chosen.packages or Path(own)) if not work.size else None
        room = occupied(packages) if packages else directories * FILES * max(work.size, BLOCK)
        runs = (chosen.runs + 1) * 2 * len(chosen.peers)
        on_disk = kind != MEMORY and work.size and not work.again
        with workplace(chosen.directory, room * runs if on_disk else room) as place:
            if packages:
                shutil.copytree(packages, place / name)
                source = Source(place / name, entries_of(place / name))
            else:
                source = make_tree(place / name, directories, FILES, work.size)
            sync(place)
            names = [peer for peer in chosen.peers if not work.again or peer in FINDS]
            aside = Path(tempfile.mkdtemp(dir=place)) if on_disk else None
            return compare_moving(source, title, names, place, chosen.runs, again=work.again, aside=aside)


def installed(directory: Path) -> Path:
    """Return where exactly the pinned packages are installed below a directory, and install them first if need be."""
    place = directory / "-".join(sorted(pin.replace("==", "-") for pin in PINNED))
    if not place.exists():
        note(f"installing {', '.join(PINNED)}")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as unfinished:
            pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:")
            run(Command((*pip, "--target", f"{unfinished}/site", *PINNED)))
            Path(unfinished, "site").rename(place)
    return place


def occupied(tree: Path) -> int:
    """Return how many bytes the files of a tree take, each rounded up to blocks."""
    return sum(-(-entry.size // BLOCK) * BLOCK for entry in entries_of(tree).values())


def file_system(directory: Path) -> str:
    """Return what a directory is on, in a word or two."""
    done = subprocess.run(["df", "--output=fstype", directory], capture_output=True, text=True, check=True)
    kind = done.stdout.split()[-1]
    return MEMORY if kind == "tmpfs" else f"disk ({kind})"


def growth(small: Comparison, tiny: Comparison) -> Sequence[str]:
    """Return lines that say how much more memory each peer took for many files than for a tenth of them."""
    before = {each.peer: each for each in small.summaries}
    return [
        f"{each.peer}: from {small.files} to {tiny.files} files the client's peak grew by "
        f"{(each.client_peak - before[each.peer].client_peak) / 2**20:.1f} MiB, "
        f"the server's by {(each.server_peak - before[each.peer].server_peak) / 2**20:.1f} MiB"
        for each in tiny.summaries
        if each.peer in before
    ]


if __name__ == "__main__":
    end_with(main)
