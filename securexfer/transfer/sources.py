"""Plain files to send: opened without waiting, never through a link, and watched for changes while they are read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from securexfer.errors import SourceError
from securexfer.names import show
from securexfer.transfer.digests import clock_ns

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable

# Never waits on a FIFO or a device, never follows a link.
_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_PIECE = 512 * 1024  # bytes that are hashed at once


class SourceFile:
    """An open plain file that notices when it changes while it is read. `found` is what it was when it was opened."""

    def __init__(self, path: Path | str, identity: tuple[int, int] | None = None) -> None:
        """Open `path`; raise SourceError if it is missing, unreadable, not a plain file, or not that of `identity`.

        Only the last component is safe from links here. Whoever may rename what is above it can lead the path
        anywhere, but not to the device and inode that `tree.scan` saw without following a link.
        """
        self.opened_ns = clock_ns()  # nothing of it was read before that
        self._descriptor = _open(path)
        self.found = os.fstat(self._descriptor)
        try:
            _check_found(path, self.found, identity)
        except SourceError:
            os.close(self._descriptor)
            raise
        self.path = path
        self.size = self.found.st_size
        self.mtime_ns = self.found.st_mtime_ns

    def read_into(self, view: memoryview) -> int:
        """Read the next bytes; 0 at the end of the file. Raises SourceError."""
        try:
            return os.readv(self._descriptor, [view]) if hasattr(os, "readv") else _read_into(self._descriptor, view)
        except OSError as error:
            raise _read_problem(self.path, error) from error

    def hash_into(self, digest: hashlib._Hash, left: int, between: Callable[[], None]) -> None:
        """Hash the next `left` bytes, and call `between` after each piece; raise SourceError if there are fewer."""
        scratch = memoryview(bytearray(min(_PIECE, left)))
        while left:
            count = self.read_into(scratch[: min(left, _PIECE)])
            if not count:
                raise SourceError(f"{show(str(self.path))} became shorter while it was being sent")
            digest.update(scratch[:count])
            left -= count
            between()

    def check_unchanged(self) -> None:
        """Raise SourceError if the file, which was read to its end, is not what it was when it was opened."""
        other = self.read_into(memoryview(bytearray(1))) != 0
        _check_unchanged(self.path, self.found, os.fstat(self._descriptor), other=other)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)


def read_small(
    path: Path | str, identity: tuple[int, int] | None, most: int
) -> tuple[os.stat_result, int, bytes | None]:
    """Return what a file was when it was opened, the moment by `clock_ns` just before that, and all that it holds.

    That promises what `SourceFile` does, in a few calls less for each of many small files. The content is None, and
    was not read, if it is over `most` bytes. Raises SourceError, also if the file changes meanwhile.
    """
    opened_ns = clock_ns()
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor)
        _check_found(path, found, identity)
        size = found.st_size
        if size > most:
            return found, opened_ns, None
        content = os.read(descriptor, size + 1)
        after = os.fstat(descriptor)
    except OSError as error:
        raise _read_problem(path, error) from error
    finally:
        os.close(descriptor)
    _check_unchanged(path, found, after, other=len(content) != size)
    return found, opened_ns, content


def _open(path: Path | str) -> int:
    """Return the descriptor of what is at `path` itself, without waiting for anything. Raises SourceError."""
    try:
        return os.open(path, _OPEN)
    except OSError as error:
        raise _open_problem(path, error) from error


def _check_found(path: Path | str, found: os.stat_result, identity: tuple[int, int] | None) -> None:
    """Raise SourceError if what was opened is not a plain file, or not that of `identity`."""
    if not stat.S_ISREG(found.st_mode):
        raise unsendable(path, found.st_mode)
    if identity is not None and identity != (found.st_dev, found.st_ino):
        raise SourceError(f"{show(str(path))} was replaced before its turn came", hint="Send it again.")


def _check_unchanged(path: Path | str, before: os.stat_result, after: os.stat_result, *, other: bool) -> None:
    """Raise SourceError if a file changed while it was read, as its times tell or its length: it is `other`."""
    if after.st_nlink == 0 and before.st_nlink:
        raise SourceError(f"{show(str(path))} was deleted or replaced while it was being sent")
    if other or before.st_size != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise SourceError(f"{show(str(path))} changed while it was being sent")


def kind_of(mode: int) -> str:
    """Return what a directory entry is that is not a plain file, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "not a plain file")


def unsendable(path: Path | str, mode: int) -> SourceError:
    """Return the error for an entry that is not a plain file, with what to send instead."""
    path = Path(path)
    if stat.S_ISDIR(mode):
        shown = show(str(path))
        hint = f"Send the files in it ({shown}/*), or pack it: tar czf {show(path.name)}.tar.gz {shown}"
    elif stat.S_ISLNK(mode):
        hint = f"Send what it points to: {show(os.path.realpath(path))}"
    else:
        hint = "Save its content to a file and send that."
    return SourceError(f"{show(str(path))} is {kind_of(mode)}, not a file", hint=hint)


def _open_problem(path: Path | str, error: OSError) -> SourceError:
    if error.errno == errno.ELOOP:
        return unsendable(path, stat.S_IFLNK)
    return SourceError(f"{show(str(path))} cannot be opened: {error.strerror}")


def _read_problem(path: Path | str, error: OSError) -> SourceError:
    return SourceError(f"{show(str(path))} cannot be read: {error.strerror}")


def _read_into(descriptor: int, view: memoryview) -> int:
    """Do what `os.readv` does, where there is none (Windows)."""
    data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)
