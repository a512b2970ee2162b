"""This machine's own files: keys, databases and settings created privately, replaced whole, checked for owner and mode.

The one seam for calls that only POSIX systems have; elsewhere the system's own default permissions hold.
Received files are not written here but in `storage`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from typing import TYPE_CHECKING

from securexfer.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POSIX = os.name == "posix"
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def make_private_directory(path: Path) -> None:
    """Make `path` and its parents where missing; those made are 0700 whatever the umask says."""
    if path.is_dir():
        return
    make_private_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)
        sync_directory(path.parent)


def create_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create `path` with `data`, synced to disk; never readable by others, not for an instant, if mode is 0600.

    Raises FileExistsError if anything stands there, a dangling link included.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if POSIX:
            os.chmod(descriptor, mode)  # noqa: PTH101 - by descriptor: the umask must not decide
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` under `path` in one step: readers see the old content or the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    create_private(temporary, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    if POSIX:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def lock_directory(path: Path) -> Iterator[None]:
    """Hold a lock on a directory, waiting for whoever holds it; the system lets it go if the process dies."""
    if sys.platform == "win32":  # only `serve`, `init`, `cert` and `user` lock, and those are for POSIX
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_private(path: Path, what: str, *, secret: bool = True) -> None:
    """Raise ConfigurationError unless `path` is a plain file of ours that nobody else can change (or, if secret, read).

    `what` is how the message calls it ("the server key"). The hint is the command that mends it.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "not a plain file"
        raise ConfigurationError(f"{what} {path} is {kind}", hint=f"Put the file itself at {path}.")
    if sys.platform == "win32":
        return
    if found.st_uid not in {os.geteuid(), 0}:
        raise ConfigurationError(
            f"{what} {path} belongs to another user (uid {found.st_uid})",
            hint=f"chown {os.geteuid()} {path}",
        )
    forbidden = 0o077 if secret else 0o022
    if found.st_mode & forbidden:
        deed = "read" if secret and not found.st_mode & 0o022 else "change"
        raise ConfigurationError(
            f"others can {deed} {what} {path} (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod {'600' if secret else 'go-w'} {path}",
        )
    parent = path.resolve().parent
    holder = parent.stat()
    # In a sticky directory (/tmp) others can add entries but not replace ours.
    if holder.st_mode & 0o022 and not holder.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"others can change the directory {parent} that holds {what} (mode {stat.S_IMODE(holder.st_mode):04o})",
            hint=f"chmod go-w {parent}",
        )
