"""What is moved: a place with room for it at both ends, its random bytes, and the check of what arrived."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHUNK = 1 << 20
RESERVE = 1 << 30  # a securexfer server keeps up to this much of its file system free

NANOSECOND, SECOND = 1, 10**9

BLOCK = 4096  # bytes that a small file takes on most file systems
FILES = 100  # in each directory of a tree that is made


@contextlib.contextmanager
def workplace(directory: Path, size: int) -> Iterator[Path]:
    """Make a directory of our own under `directory`, with room for a source of `size` bytes at both ends.

    It is taken away at the end of the block. Raises BenchError if there is too little room.
    """
    free = shutil.disk_usage(directory).free
    if free < 2 * size + RESERVE:
        raise BenchError(f"{directory} has {free >> 20} MiB free; this run needs {(2 * size + RESERVE) >> 20} MiB")
    with tempfile.TemporaryDirectory(prefix="securexfer-bench-", dir=directory) as made:
        yield Path(made)


@dataclass(frozen=True, slots=True)
class Entry:
    """What has to arrive of one file."""

    digest: bytes
    size: int
    mtime: int  # nanoseconds


@dataclass(frozen=True, slots=True)
class Source:
    """A file or a tree that is moved, and each of its files by its name below `path` ("." for a file itself)."""

    path: Path
    entries: Mapping[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries.values())

    def check(self, received: Path, *, mtime_unit: int | None) -> None:
        """Raise BenchError unless these files and no others stand there, with the same content.

        Their times are compared in units of `mtime_unit` nanoseconds; None: not at all.
        """
        if not received.exists():
            raise BenchError(f"{received} was not received")
        arrived = entries_of(received)
        if arrived.keys() != self.entries.keys():
            name = min(arrived.keys() ^ self.entries.keys())
            raise BenchError(f"{received} has {len(arrived)} files of {len(self.entries)}: {name} is missing or extra")
        for name, entry in self.entries.items():
            if arrived[name].digest != entry.digest:
                raise BenchError(f"{received / name} differs from the source")
            if mtime_unit and arrived[name].mtime // mtime_unit != entry.mtime // mtime_unit:
                raise BenchError(f"{received / name} has another time than the source")


def entries_of(path: Path) -> dict[str, Entry]:
    """Return what stands at a path: the files below a directory, or the file itself."""
    if not path.is_dir():
        return {".": _entry(path)}
    return {
        os.path.relpath(os.path.join(parent, name), path): _entry(os.path.join(parent, name))  # noqa: PTH118
        for parent, _, names in os.walk(path)
        for name in names
    }


def _entry(path: str | Path) -> Entry:
    with open(path, "rb") as file:  # noqa: PTH123 - a hundred thousand times: a Path each would take seconds more
        status = os.fstat(file.fileno())
        return Entry(hashlib.file_digest(file, "sha256").digest(), status.st_size, status.st_mtime_ns)


def make_file(path: Path, size: int) -> Source:
    """Write a file of random bytes."""
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            file.write(os.urandom(min(CHUNK, size - start)))
    return Source(path, entries_of(path))


def make_tree(path: Path, directories: int, files: int, size: int) -> Source:
    """Make a directory with so many directories of so many files each, all of `size` random bytes."""
    for number in range(directories):
        directory = path / f"directory-{number:04}"
        directory.mkdir(parents=True)
        content = memoryview(os.urandom(files * size))
        for place in range(files):
            with open(f"{directory}/file-{place:04}", "wb") as file:  # noqa: PTH123 - the same
                file.write(content[place * size : (place + 1) * size])
    return Source(path, entries_of(path))


def titled(files: int, size: int) -> str:
    """Return `10 000 files of 4 KiB`."""
    shown = f"{size >> 10} KiB" if size % 1024 == 0 else f"{size} bytes"
    return f"{files:,} files of {shown}".replace(",", " ")


def sync(directory: Path) -> None:
    """Wait until the file system that a directory is on has written all it holds: syncfs(2), not in `os`."""
    libc = ctypes.CDLL(None, use_errno=True)
    held = os.open(directory, os.O_RDONLY)
    try:
        if libc.syncfs(held):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(held)


def remove(path: Path) -> None:
    """Take away a file or a tree."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
