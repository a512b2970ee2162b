"""Files that have no name until they are published: of one that is broken off nothing is left, whatever happens.

* Linux has them, but not every file system (open(2), O_TMPFILE). Who opened one may give it a name by its descriptor
  since Linux 6.10; before that, by the link to each open file that /proc has, which takes 1.4 us more.
* Such a file is synced while it has no link, and then its directory. That is enough only where one journal holds the
  link count and the entry. On ext4 without a journal, and on ext2, the entry would be there after a power cut, and the
  file would not: there the file is synced once more after that. btrfs logged nothing of files without links for long;
  on it, and wherever nobody has looked, there are no such files.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from securexfer.storage import syncing

_AT_EMPTY_PATH = 0x1000  # linkat(2)
_OPEN_FILES = "/proc/self/fd"  # proc(5)
_DEVICES, _EXT4 = Path("/sys/dev/block"), Path("/sys/fs/ext4")  # Linux, Documentation/ABI: sysfs-block, sysfs-fs-ext4

# Gives the file that is open as a descriptor a name in a directory. Raises FileExistsError if it is taken, and OSError.
Way = Callable[[int, str, int], None]


def create(directory: int) -> int:
    """Create an empty file, to be written, on the file system of a directory; return its descriptor. Raises OSError."""
    return os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)


def by_descriptor(descriptor: int, name: str, directory: int) -> None:
    """See Way."""
    if _linkat()(descriptor, b"", directory, os.fsencode(name), _AT_EMPTY_PATH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def by_proc(descriptor: int, name: str, directory: int) -> None:
    """See Way."""
    os.link(f"{_OPEN_FILES}/{descriptor}", name, dst_dir_fd=directory, follow_symlinks=True)


def way(directory: int, name: str) -> Way | None:
    """Return what gives such files names on the file system of a directory, in which `name` is free; or None.

    None also where nobody has looked whether they last.
    """
    if syncing.kind_of(directory) not in {syncing.TMPFS, syncing.XFS, syncing.EXT}:
        return None
    return next((give for give in (by_descriptor, by_proc) if works(give, directory, name)), None)


def links_last(directory: int) -> bool:
    """Whether a file that got its name in a directory is durable with that; else it has to be synced once more.

    Raises OSError.
    """
    return syncing.kind_of(directory) != syncing.EXT or _has_journal(os.fstat(directory).st_dev)


def _has_journal(device: int) -> bool:
    """Whether the ext4 on a device has a journal; False also if that cannot be known."""
    try:
        name = (_DEVICES / f"{os.major(device)}:{os.minor(device)}").resolve(strict=True).name
        return (_EXT4 / name / "journal_task").read_text().strip().isdecimal()  # the process that writes it
    except OSError:
        return False


def works(give: Way, directory: int, name: str) -> bool:
    """Whether a file can be created without a name on the file system of a directory, and be given one so."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        descriptor = create(directory)
        try:
            give(descriptor, name, directory)
        finally:
            os.close(descriptor)
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


@functools.cache
def _linkat() -> Any:
    function = ctypes.CDLL(None, use_errno=True).linkat
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    return function
