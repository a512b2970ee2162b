"""Files that have no name until they are published: of one that is broken off nothing is left, whatever happens.

Linux has them, but not every file system (open(2), O_TMPFILE). Who opened one may give it a name by its descriptor
since Linux 6.10; before that, by the link to each open file that /proc has, which takes 1.4 us more.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

_AT_EMPTY_PATH = 0x1000  # linkat(2)
_OPEN_FILES = "/proc/self/fd"  # proc(5)

# Gives the file that is open as a descriptor a name in a directory. Raises FileExistsError if it is taken, and OSError.
Way = Callable[[int, str, int], None]


def create(directory: int) -> int:
    """Create an empty file, to be written, on the file system of a directory; return its descriptor. Raises OSError."""
    return os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)


def by_descriptor(descriptor: int, name: str, directory: int) -> None:
    """See Way."""
    if _linkat()(descriptor, b"", directory, name.encode(), _AT_EMPTY_PATH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def by_proc(descriptor: int, name: str, directory: int) -> None:
    """See Way."""
    os.link(f"{_OPEN_FILES}/{descriptor}", name, dst_dir_fd=directory)  # follows the link there, to the file itself


def way(directory: int, name: str) -> Way | None:
    """Return what gives such files names on the file system of a directory, in which `name` is free; or None."""
    return next((give for give in (by_descriptor, by_proc) if works(give, directory, name)), None)


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
