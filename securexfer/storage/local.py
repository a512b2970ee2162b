"""Received files in a directory tree: the root of it, held by one server alone, and how it stores.

The rules of the whole tree:

* The root is opened once; everything else is opened from a directory handle we hold (directories.py).
* An unfinished file lives in a directory of the root that no peer can name and only one server may use (staged.py).
* A file is published under its name only when it is complete, verified and on disk (publishing.py).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securexfer.errors import ConfigurationError
from securexfer.files import check_not_shared
from securexfer.names import STAGING_NAME, NamePolicy
from securexfer.storage import directories
from securexfer.storage.base import OnConflict
from securexfer.storage.failures import translated
from securexfer.storage.folding import FoldedNames
from securexfer.storage.publishing import UserStorage
from securexfer.storage.space import FreeSpace, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME = ".securexfer-lock"  # in the root, which no peer can name a file in: users' directories are there
_CREATE = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # link(2): what says that there are none


@dataclass(frozen=True, slots=True)
class Rules:
    """How a server stores: its conflict policy, names, modes and limits (sizes in bytes).

    `allowed` are the policies that a sender may ask for. Without `durable` nothing is synced: a file that was
    acknowledged survives the server's end, but not the machine's.
    """

    on_conflict: OnConflict = OnConflict.REFUSE
    names: NamePolicy = NamePolicy.NATIVE
    file_mode: int = 0o600
    directory_mode: int = 0o700
    group: int | None = None
    quota: int | None = None
    reserve: int | None = None
    allowed: frozenset[OnConflict] = frozenset(OnConflict)
    durable: bool = True


class Inbox:
    """The root directory, held by this server alone; hands out each user's part of it."""

    def __init__(self, path: Path, rules: Rules) -> None:
        """Open or make the root, take hold of it, and clear what an earlier server left unfinished.

        Sets the process's umask. Raises ConfigurationError if the root is a link, ``/``, a home directory or what
        holds some, in use by another server, or on a disk that could not store a file as the rules want it.
        """
        self.path = path
        self.rules = rules
        self._folded = FoldedNames() if rules.names is NamePolicy.PORTABLE else None
        self._usages: dict[str, Usage] = {}
        self._numbers = itertools.count(1)
        _refuse_precious(path)
        _refuse_link(path)
        os.umask(0o077)  # each mode is set to the bit later; until then what we make is ours to use, and only ours
        with contextlib.ExitStack() as stack:
            with self._explained():
                self._root = directories.open_root(path, rules)
                stack.callback(os.close, self._root)
                self._refuse_shared()
                stack.callback(os.close, self._lock())
                with contextlib.suppress(FileExistsError):
                    os.mkdir(STAGING_NAME, 0o700, dir_fd=self._root)
                self._staging = os.open(STAGING_NAME, directories.OPEN, dir_fd=self._root)
                stack.callback(os.close, self._staging)
                # Only ever unlinked, never opened: one may be a published file (a crash between link and unlink).
                for leftover in os.listdir(self._staging):  # noqa: PTH208 - by handle
                    os.unlink(leftover, dir_fd=self._staging)
                self._rehearse()
            self.space = FreeSpace(self._root, rules.reserve)
            self._held = stack.pop_all()

    def for_user(self, user: str, *, policy: OnConflict | None = None, send_id: bytes = b"") -> UserStorage:
        """Return the part of the inbox that is `user`'s, for one send, making its directory where missing.

        A `policy` of None is the server's own; whether another is allowed is the caller's to ask. With a `send_id`,
        which is the same when a send is tried again, large files are kept to be resumed.
        Raises NameTakenError (a link or a file stands there), StorageFailedError or NoSpaceError.
        """
        with translated("the user's directory"):
            home, made = directories.enter(self._root, user, self.rules)
            try:
                if made:
                    directories.sync(self._root, self.rules)
            except OSError:
                os.close(home)
                raise
        usage = None
        if self.rules.quota is not None:
            usage = self._usages.setdefault(user, Usage(user, self.rules.quota, lambda: self._count(user)))
        return UserStorage(self, home, usage, policy or self.rules.on_conflict, send_id)

    def create_staging(self) -> tuple[int, str]:
        """Create an empty file where no peer can name it; return its descriptor and its name there."""
        name = str(next(self._numbers))
        return os.open(name, os.O_WRONLY | os.O_EXCL | _CREATE, 0o600, dir_fd=self._staging), name

    def claim(self, directory: int, name: str) -> contextlib.AbstractContextManager[bool]:
        """Return what to hold while making `name`; it says whether the name policy lets it stand beside the others."""
        return self._folded.claim(directory, name) if self._folded else contextlib.nullcontext(enter_result=True)

    def publish(self, staged: str, name: str, directory: int) -> None:
        """Make a staged file visible as `name`; raises FileExistsError if that is taken."""
        os.link(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory, follow_symlinks=False)

    def replace(self, staged: str, name: str, directory: int) -> None:
        """Put a staged file in the place of the one that stands under `name`, in one step."""
        os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory)

    def remove_staging(self, name: str) -> None:
        """Remove a staged file, if it is still there."""
        with contextlib.suppress(OSError):  # a leftover is swept when the next server starts
            os.unlink(name, dir_fd=self._staging)

    def close(self) -> None:
        """Let go of the root, so that another server can take it."""
        self._held.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"the inbox {self.path} cannot be used: {error.strerror} ({error.filename or self.path})",
                hint="Choose a directory, not a link, that this user can write: securexfer serve --inbox DIR",
            ) from error

    def _refuse_shared(self) -> None:
        """Raise ConfigurationError for a root that somebody else could change, or put another in the place of."""
        found, above = os.fstat(self._root), os.stat("..", dir_fd=self._root)
        quoted = shlex.quote(str(self.path))
        # Root takes also what belongs to the owner of the directory above, as with every other file (files.py).
        if found.st_uid not in {os.geteuid(), 0, above.st_uid if os.geteuid() == 0 else 0}:
            raise ConfigurationError(
                f"the inbox {self.path} belongs to another user (uid {found.st_uid})",
                hint=f"chown -hR {os.geteuid()} {quoted}",
            )
        forbidden = 0o022 & ~self.rules.directory_mode  # --dir-mode may let the group write
        if found.st_mode & forbidden:
            raise ConfigurationError(
                f"others can change the inbox {self.path} (mode {stat.S_IMODE(found.st_mode):04o})",
                hint=f"chmod {'o' if forbidden == 0o002 else 'go'}-w {quoted}",
            )
        check_not_shared(self.path.absolute().parent, "the inbox", above.st_mode)

    def _lock(self) -> int:
        """Return the descriptor that keeps other servers out: a file's, as NFS locks only what is open for writing."""
        import fcntl

        descriptor = os.open(LOCK_NAME, os.O_RDWR | _CREATE, 0o600, dir_fd=self._root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise ConfigurationError(
                f"another `securexfer serve` is using the inbox {self.path}",
                hint="Stop it first, or give this one its own: securexfer serve --inbox DIR",
            ) from None
        return descriptor

    def _rehearse(self) -> None:
        """Stage and link a file as if it had come, and remove it: what would fail for every file is better said now."""
        try:
            descriptor, name = self.create_staging()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return  # there may be room when a file comes; until then each is refused with that reason
            raise
        try:
            self._rehearse_access(descriptor)
            self._rehearse_link(name)
        finally:
            os.close(descriptor)
            self.remove_staging(name)

    def _rehearse_access(self, descriptor: int) -> None:
        try:
            directories.set_access(descriptor, self.rules.group, self.rules.file_mode)
        except PermissionError:
            raise ConfigurationError(
                f"this user cannot give files in the inbox {self.path} to the group {self.rules.group}",
                hint="Make the user that runs `securexfer serve` a member of the group, or leave --group out.",
            ) from None

    def _rehearse_link(self, name: str) -> None:
        linked = f"{name}-linked"
        try:
            self.publish(name, linked, self._staging)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise ConfigurationError(
                f"the disk of the inbox {self.path} has no hard links, without which a file could overwrite another",
                hint="Choose a directory on another file system: securexfer serve --inbox DIR",
            ) from None
        self.remove_staging(linked)

    def _count(self, user: str) -> int:
        """Return the bytes in a user's directory; files that go away meanwhile do not count."""
        total = 0
        for _, _, files, handle in os.fwalk(user, dir_fd=self._root, follow_symlinks=False):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    total += found.st_size if stat.S_ISREG(found.st_mode) else 0
        return total


def _refuse_link(path: Path) -> None:
    """Raise ConfigurationError for a root that is a link. Opening it would fail, too, but not say where it leads."""
    if path.is_symlink():
        raise ConfigurationError(
            f"the inbox {path} cannot be used: it is a link, not a directory",
            hint=f"Name the directory itself: securexfer serve --inbox {shlex.quote(str(path.resolve()))}",
        )


def _refuse_precious(path: Path) -> None:
    """Raise ConfigurationError for a root where a peer's files would be more than files: ``/``, a home, what holds one.

    (With /home as the root, the files of the user ana would go to /home/ana.)
    """
    resolved = path.resolve()
    homes = _homes(path)
    if resolved == Path("/"):
        problem = "is the root directory"
    elif resolved in homes:
        problem = "is a home directory"
    elif resolved in {home.parent for home in homes}:
        problem = "holds home directories"
    else:
        return
    raise ConfigurationError(
        f"the inbox {resolved} {problem}",
        hint="Files like .bashrc would take effect there. Use a directory of its own: securexfer serve --inbox DIR",
    )


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
