"""This machine's own files: keys, databases and settings created privately, replaced whole, checked for owner and mode.

The one seam for calls that only POSIX systems have; elsewhere the system's own default permissions hold.
Received files are not written here but in `storage`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import sys
from typing import TYPE_CHECKING

from securexfer.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

POSIX = os.name == "posix"

# Files that change together are made in the first of these, which is renamed to the second once it is complete.
_UNDECIDED = ".new.partial"
_DECIDED = ".new.ready"

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def make_private_directory(path: Path) -> None:
    """Make `path` and its parents where missing; those made are 0700 whatever the umask says."""
    if path.is_dir():
        return
    make_private_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():  # somebody else may have made it in the meantime, and as a directory
            raise
    else:
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
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    create_private(temporary, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def lock_directory(path: Path) -> Iterator[None]:
    """Hold a lock on a directory, waiting for whoever holds it; the system lets it go if the process dies.

    It is held on a private file `.lock` in there, not on the directory: NFS locks only what is open for writing, and a
    directory that others may read is one that they could lock.
    """
    if sys.platform == "win32":  # only `serve`, `init`, `cert` and `user` lock, and those are for POSIX
        yield
    else:
        import fcntl

        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def place_together(directory: Path, contents: Mapping[str, tuple[bytes, int]]) -> None:
    """Put several files (name, or directory/name -> data, mode) into `directory` as one change.

    After a crash or an error at any point, `roll_forward` leaves either all of them or none. What they replace is
    lost. Call it with the lock held, after `roll_forward`; `settle` ends it.
    """
    undecided = directory / _UNDECIDED
    make_private_directory(undecided)
    for name, (data, mode) in contents.items():
        make_private_directory((undecided / name).parent)
        create_private(undecided / name, data, mode)
    undecided.rename(directory / _DECIDED)
    sync_directory(directory)
    roll_forward(directory)


def is_unsettled(directory: Path) -> bool:
    """Whether a change of several files is under way in `directory`, or was when its process died."""
    return any((directory / name).is_dir() for name in (_UNDECIDED, _DECIDED))


def roll_forward(directory: Path) -> bool:
    """Finish the change that `place_together` had decided, and drop what it had not; call it with the lock held.

    Returns whether there was a decided one that nobody has settled.
    """
    if os.path.lexists(directory / _UNDECIDED):
        shutil.rmtree(directory / _UNDECIDED)
    decided = directory / _DECIDED
    if not os.path.lexists(decided):
        return False
    _check_made_here(decided)
    for entry in sorted(decided.iterdir()):
        entry.rename(directory / entry.name)
    sync_directory(directory)
    return True


def settle(directory: Path) -> None:
    """End the change that `place_together` made: from here on it is no longer an interrupted one.

    Until then a command that was killed before it could give its answer can be run again and gives it.
    """
    with contextlib.suppress(OSError):  # gone, or somebody else's next change, or for whoever comes next
        (directory / _DECIDED).rmdir()


def _check_made_here(path: Path) -> None:
    """Raise ConfigurationError unless nobody else can have made the directory `path`: its contents become ours."""
    if sys.platform != "win32":
        found = path.lstat()
        trusted = {os.geteuid(), 0, path.parent.stat().st_uid}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{path} was left by somebody else (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})",
                hint=f"Find out who left it there, then remove {path}.",
            )


def check_not_shared(path: Path, what: str, mode: int | None = None) -> None:
    """Raise ConfigurationError if others can replace `what`, which the directory `path` holds.

    `mode` is the directory's, if the caller has looked already.
    """
    mode = path.stat().st_mode if mode is None else mode
    # In a sticky directory (/tmp) others can add entries but not replace ours.
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"others can change the directory {path} that holds {what} (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod go-w {shlex.quote(str(path))}",
        )


def check_plain(path: Path, what: str) -> None:
    """Raise ConfigurationError for a link, a pipe and the like: whoever can change its target would decide for us.

    The hint is the command that mends it, where one can. Raises FileNotFoundError if nothing is there.
    """
    found = path.lstat()
    if stat.S_ISREG(found.st_mode):
        return
    target = path.resolve()
    if stat.S_ISLNK(found.st_mode) and target.is_file():
        raise ConfigurationError(
            f"{what} {path} is not a plain file but a link to {target}",
            hint=f"mv -f {shlex.quote(str(target))} {shlex.quote(str(path))}",
        )
    raise ConfigurationError(f"{what} {path} is not a plain file", hint=f"Put the file itself there, or remove {path}.")


def read_itself(path: Path) -> bytes:
    """Return what the file at `path` holds; raises OSError if that is a link, whatever it was when it was checked."""
    with os.fdopen(os.open(path, os.O_RDONLY | _NOFOLLOW), "rb") as file:
        return file.read()


def check_private(path: Path, what: str, *, secret: bool = True) -> None:
    """Raise ConfigurationError unless `path` is a plain file of ours that nobody else can change (or, if secret, read).

    `what` is how the message calls it ("the server key"). The hint is the command that mends it. Root's files are as
    good as ours where we can read them; root takes those of a directory's owner, who could replace any other.
    """
    check_plain(path, what)
    if sys.platform != "win32":
        found, ourselves = path.lstat(), os.geteuid()
        directory = path.resolve().parent
        others = directory.stat().st_uid if ourselves == 0 else ourselves if secret else 0
        if found.st_uid not in {ourselves, others}:
            raise ConfigurationError(
                f"{what} {path} belongs to another user (uid {found.st_uid})",
                hint=f"chown {ourselves} {shlex.quote(str(path))}",
            )
        check_access(path, found.st_mode, what, secret=secret)
        check_not_shared(directory, what)


def check_access(path: Path, mode: int, what: str, *, secret: bool) -> None:
    """Raise ConfigurationError if a file's mode lets others change it (or, if secret, read it)."""
    if mode & (0o077 if secret else 0o022):
        deed = "read" if secret and not mode & 0o022 else "change"
        raise ConfigurationError(
            f"others can {deed} {what} {path} (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod {'600' if secret else 'go-w'} {shlex.quote(str(path))}",
        )
