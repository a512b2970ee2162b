"""The file that is moved: a place with room for it at both ends, its random bytes, and the check of what arrived."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 20
RESERVE = 1 << 30  # a securexfer server keeps up to this much of its file system free


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


def make_source(path: Path, size: int) -> str:
    """Write a file of random bytes and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            chunk = os.urandom(min(CHUNK, size - start))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def check_received(path: Path, digest: str) -> None:
    """Raise BenchError unless the file stands there with this SHA-256."""
    if not path.exists():
        raise BenchError(f"{path} was not received")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise BenchError(f"{path} differs from the source")
