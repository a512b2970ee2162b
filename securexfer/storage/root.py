"""Which directory can be the root of an inbox: one that is the server's own, where files are no more than files."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from securexfer.errors import ConfigurationError
from securexfer.files import check_not_shared

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME = ".securexfer-lock"  # in the root, which no peer can name a file in: users' directories are there
CREATE = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a ConfigurationError."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the inbox {path} cannot be used: {error.strerror} ({error.filename or path})",
            hint="Choose a directory, not a link, that this user can write: securexfer serve --inbox DIR",
        ) from error


def refuse_shared(path: Path, root: int, directory_mode: int) -> None:
    """Raise ConfigurationError for a root that somebody else could change, or put another in the place of."""
    found, above = os.fstat(root), os.stat("..", dir_fd=root)
    quoted = shlex.quote(str(path))
    # Root takes also what belongs to the owner of the directory above, as with every other file (files.py).
    if found.st_uid not in {os.geteuid(), 0, above.st_uid if os.geteuid() == 0 else 0}:
        raise ConfigurationError(
            f"the inbox {path} belongs to another user (uid {found.st_uid})",
            hint=f"chown -hR {os.geteuid()} {quoted}",
        )
    forbidden = 0o022 & ~directory_mode  # --dir-mode may let the group write
    if found.st_mode & forbidden:
        raise ConfigurationError(
            f"others can change the inbox {path} (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod {'o' if forbidden == 0o002 else 'go'}-w {quoted}",
        )
    check_not_shared(path.absolute().parent, "the inbox", above.st_mode)


def lock(path: Path, root: int) -> int:
    """Return the descriptor that keeps other servers out: a file's, as NFS locks only what is open for writing."""
    import fcntl

    descriptor = os.open(LOCK_NAME, os.O_RDWR | CREATE, 0o600, dir_fd=root)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise
        raise ConfigurationError(
            f"another `securexfer serve` is using the inbox {path}",
            hint="Stop it first, or give this one its own: securexfer serve --inbox DIR",
        ) from None
    return descriptor


def refuse_link(path: Path) -> None:
    """Raise ConfigurationError for a root that is a link. Opening it would fail, too, but not say where it leads."""
    if path.is_symlink():
        raise ConfigurationError(
            f"the inbox {path} cannot be used: it is a link, not a directory",
            hint=f"Name the directory itself: securexfer serve --inbox {shlex.quote(str(path.resolve()))}",
        )


def refuse_precious(path: Path) -> None:
    """Raise ConfigurationError for a root where a peer's files would be more than files."""
    problem = why_precious(path)
    if problem:
        raise ConfigurationError(
            f"the inbox {path.resolve()} {problem}",
            hint="Files like .bashrc would take effect there. Use a directory of its own: securexfer serve --inbox DIR",
        )


def why_precious(path: Path) -> str | None:
    """Return why somebody else's files would be more than files in a directory: it is ``/``, a home, or holds one.

    (With /home as the root, the files of the user ana would go to /home/ana.)
    """
    resolved = path.resolve()
    homes = _homes(path)
    if resolved == Path("/"):
        return "is the root directory"
    if resolved in homes:
        return "is a home directory"
    if resolved in {home.parent for home in homes}:
        return "holds home directories"
    return None


def _homes(path: Path) -> set[Path]:
    """Return the home directories of this machine; those of ourselves and of the owner of `path` with links resolved.

    (Resolving all of them would mount every home of a lab that mounts them on demand.)
    """
    import pwd

    homes = {Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_dir.startswith("/")}
    owners = {os.geteuid()}
    with contextlib.suppress(OSError):
        owners.add(path.stat().st_uid)
    for owner in owners:
        with contextlib.suppress(KeyError, OSError):
            homes.add(Path(pwd.getpwuid(owner).pw_dir).resolve())
    return homes
