"""Received files in a directory tree: staged aside, published without clobbering, durable before acknowledged.

The rules:

* The root is opened once; everything else is opened from a directory handle we hold, one component at a time,
  never following a link. (A check of the path's string loses races: measured, 33 in 441.)
* An unfinished file lives in a directory of the root that no peer can name and only one server may use.
* A commit is: sync the file, link it under its name (which fails if the name is taken), sync the directory and
  the parents of directories that were made. Only then is it acknowledged. A sync that failed is never tried
  again: the kernel may have dropped the pages, and a second sync would report a success that is none.
* A group shares the directory syncs, and its files' writeback is started together.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import itertools
import os
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from securexfer.errors import (
    ConfigurationError,
    NameTakenError,
    NoSpaceError,
    SecurexferError,
    StorageFailedError,
    UnsafeNameError,
)
from securexfer.names import STAGING_NAME, Name, NamePolicy, folded, show
from securexfer.storage.base import Committed, OnConflict, Outcome
from securexfer.storage.space import FreeSpace, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from securexfer.storage.base import Staging

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_RENAMES = 1000  # `x (1)` to `x (1000)`; beyond that the name is taken
_HASH_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Rules:
    """How a server stores: its conflict policy, names, modes and limits (sizes in bytes)."""

    on_conflict: OnConflict = OnConflict.REFUSE
    names: NamePolicy = NamePolicy.NATIVE
    file_mode: int = 0o600
    directory_mode: int = 0o700
    group: int | None = None
    quota: int | None = None
    reserve: int | None = None


class Inbox:
    """The root directory, held by this server alone; hands out each user's part of it."""

    def __init__(self, path: Path, rules: Rules) -> None:
        """Open or make the root, take hold of it, and clear what an earlier server left unfinished.

        Raises ConfigurationError if the root is a home directory or ``/``, a link, or in use by another server.
        """
        self.path = path
        self.rules = rules
        _refuse_precious(path)
        with contextlib.ExitStack() as undo:
            try:
                path.mkdir(mode=rules.directory_mode, parents=True, exist_ok=True)
                self._root = os.open(path, _DIRECTORY)
                undo.callback(os.close, self._root)
                self._staging = self._claim_staging()
            except OSError as error:
                raise ConfigurationError(
                    f"the inbox {path} cannot be used: {error.strerror} ({error.filename or path})",
                    hint="Choose a directory, not a link, that this user can write: securexfer serve --inbox DIR",
                ) from error
            undo.pop_all()
        self.space = FreeSpace(self._root, rules.reserve)
        self._usages: dict[str, Usage] = {}
        self._numbers = itertools.count(1)
        self._publishing = threading.Lock()

    def for_user(self, user: str) -> UserStorage:
        """Return the part of the inbox that is `user`'s, making its directory where missing.

        Raises StorageFailedError or NoSpaceError.
        """
        with _translated("the user's directory"):
            home, made = _enter(self._root, user, self.rules)
            if made:
                os.fsync(self._root)
        usage = None
        if self.rules.quota is not None:
            usage = self._usages.setdefault(user, Usage(user, self.rules.quota, lambda: self._count(user)))
        return UserStorage(self, home, usage)

    def create_staging(self) -> tuple[int, str]:
        """Create an empty file where no peer can name it; return its descriptor and its name there."""
        name = str(next(self._numbers))
        return os.open(name, _CREATE, 0o600, dir_fd=self._staging), name

    def publish(self, staged: str, name: str, directory: int, *, clobber: bool) -> None:
        """Make a staged file visible as `name`; raises FileExistsError if that is taken and `clobber` is not set."""
        if clobber:
            os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory)
        else:
            os.link(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory, follow_symlinks=False)

    def remove_staging(self, name: str) -> None:
        """Remove a staged file, if it is still there."""
        with contextlib.suppress(OSError):  # a leftover is swept when the next server starts
            os.unlink(name, dir_fd=self._staging)

    def publication(self) -> contextlib.AbstractContextManager[object]:
        """Return what to hold while publishing: a lock where names must not collide after folding, else nothing."""
        return self._publishing if self.rules.names is NamePolicy.PORTABLE else contextlib.nullcontext()

    def close(self) -> None:
        """Let go of the root, so that another server can take it."""
        os.close(self._staging)
        os.close(self._root)

    def _claim_staging(self) -> int:
        import fcntl

        with contextlib.suppress(FileExistsError):
            os.mkdir(STAGING_NAME, 0o700, dir_fd=self._root)
        descriptor = os.open(STAGING_NAME, _DIRECTORY, dir_fd=self._root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigurationError(
                f"another `securexfer serve` is using the inbox {self.path}",
                hint="Stop it first, or give this one its own: securexfer serve --inbox DIR",
            ) from None
        # Only ever unlinked, never opened: a file here may be a published one (a crash between link and unlink).
        for leftover in os.listdir(descriptor):  # noqa: PTH208 - by handle
            os.unlink(leftover, dir_fd=descriptor)
        return descriptor

    def _count(self, user: str) -> int:
        """Return the bytes in a user's directory; files that go away meanwhile do not count."""
        total = 0
        for _, _, files, handle in os.fwalk(user, dir_fd=self._root, follow_symlinks=False):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    total += found.st_size if stat.S_ISREG(found.st_mode) else 0
        return total


class UserStorage:
    """One user's directory, held open for one session: whatever happens to its path, nothing is written elsewhere."""

    def __init__(self, inbox: Inbox, home: int, usage: Usage | None) -> None:
        self._inbox = inbox
        self._home = home
        self._usage = usage

    def stage(self, name: Name, size: int) -> LocalStaging:
        """Begin a file; see Storage.stage."""
        with _translated(f"{show(str(name))!r}"):
            self._foresee(name, size)
            return LocalStaging(self._inbox, self._usage, name, size)

    def commit(self, group: Sequence[Staging]) -> list[Committed | SecurexferError]:
        """Make a group durable and visible, in order; see Storage.commit."""
        staged = [staging for staging in group if isinstance(staging, LocalStaging)]
        if len(staged) > 1:
            for staging in staged:
                staging.start_writeback()
        with contextlib.ExitStack() as stack:
            handles = _Handles(self._home, self._inbox.rules, stack)
            results = [self._place(staging, handles) for staging in staged]
            failure = handles.sync()
            if failure:
                results = [self._withdraw(result, handles, failure) for result in results]
        for staging, result in zip(staged, results, strict=True):
            staging.settle(stored=isinstance(result, Committed) and result.outcome is not Outcome.UNCHANGED)
        return results

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._home)

    def _foresee(self, name: Name, size: int) -> None:
        """Raise NameTakenError where it is plain already, before any bytes come, that the name cannot be used."""
        with contextlib.ExitStack() as stack:
            directory = self._home
            for part in name.parts[:-1]:
                try:
                    directory = os.open(part, _DIRECTORY, dir_fd=directory)
                except FileNotFoundError:
                    return
                stack.callback(os.close, directory)
            try:
                found = os.stat(name.parts[-1], dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return
        if not stat.S_ISREG(found.st_mode):
            raise _taken(name, "something that is not a plain file stands there")
        if self._inbox.rules.on_conflict in {OnConflict.REFUSE, OnConflict.SKIP} and found.st_size != size:
            raise _taken(name, "other content stands under it")

    def _place(self, staging: LocalStaging, handles: _Handles) -> Committed | SecurexferError:
        """Make one file durable, then visible; return what was done or why not."""
        try:
            with _translated(f"{show(str(staging.name))!r}"):
                staging.sync()
                directory = handles.parent(staging.name)
                handles.touch(directory)
                with self._inbox.publication():
                    return self._publish(staging, directory)
        except SecurexferError as error:
            return error

    def _publish(self, staging: LocalStaging, directory: int) -> Committed:
        """Make one durable file visible under its name, or the first of its names that will do; NameTakenError."""
        name = staging.name
        policy = self._inbox.rules.on_conflict
        for candidate in _candidates(name, policy):
            last = candidate.parts[-1]
            if self._inbox.rules.names is NamePolicy.PORTABLE and _collides(directory, last):
                raise _taken(name, "a name that other systems cannot tell from it stands there")
            try:
                self._inbox.publish(staging.file, last, directory, clobber=False)
            except FileExistsError:
                if _same_content(directory, last, staging):
                    return Committed(Outcome.UNCHANGED, candidate)
                if policy is OnConflict.REPLACE:
                    if not stat.S_ISREG(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                        raise _taken(name, "something that is not a plain file stands there") from None
                    self._inbox.publish(staging.file, last, directory, clobber=True)
                    return Committed(Outcome.REPLACED, candidate)
            else:
                return Committed(Outcome.STORED if candidate == name else Outcome.RENAMED, candidate)
        raise _taken(name, "other content stands under it")

    def _withdraw(
        self, result: Committed | SecurexferError, handles: _Handles, failure: str
    ) -> Committed | SecurexferError:
        """Take back a file whose directory may not be on disk: not acknowledged, so not visible either."""
        if isinstance(result, SecurexferError):
            return result
        if result.outcome in {Outcome.STORED, Outcome.RENAMED}:
            with contextlib.suppress(OSError):
                os.unlink(result.stored_as.parts[-1], dir_fd=handles.parent(result.stored_as))
        return StorageFailedError(
            f"{show(str(result.stored_as))!r} was not stored: its directory's sync gave {failure}"
        )


class LocalStaging:
    """One unfinished file in the staging directory, with the space it was promised."""

    def __init__(self, inbox: Inbox, usage: Usage | None, name: Name, size: int) -> None:
        self.name = name
        self.size = size
        self.digest = b""
        self._inbox = inbox
        self._usage = usage
        self._unwritten = size
        with contextlib.ExitStack() as undo:
            inbox.space.claim(size)
            undo.callback(inbox.space.release, size)
            if usage:
                usage.claim(size)
                undo.callback(usage.settle, size, stored=False)
            self._descriptor, self.file = inbox.create_staging()
            undo.pop_all()

    def write(self, data: memoryview) -> None:
        """Append bytes; see Staging.write."""
        with _translated(f"{show(str(self.name))!r}"):
            while data:
                count = os.write(self._descriptor, data)
                self._inbox.space.release(count)
                self._unwritten -= count
                data = data[count:]

    def seal(self, digest: bytes) -> None:
        """All bytes are here and were verified; see Staging.seal."""
        self.digest = digest

    def start_writeback(self) -> None:
        """Ask the system to start writing to disk, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            # On Linux this starts writeback of dirty pages; clean ones are dropped, and nobody reads them soon.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Set the mode that the server's rules ask for, and make the content durable."""
        rules = self._inbox.rules
        if rules.group is not None:
            os.fchown(self._descriptor, -1, rules.group)
        os.fchmod(self._descriptor, rules.file_mode)  # whatever the umask says
        os.fsync(self._descriptor)

    def settle(self, *, stored: bool) -> None:
        """Forget the staging name and account for the space."""
        os.close(self._descriptor)
        self._inbox.remove_staging(self.file)
        self._inbox.space.release(self._unwritten)
        self._unwritten = 0
        if self._usage:
            self._usage.settle(self.size, stored=stored)

    def discard(self) -> None:
        """Remove every trace; see Staging.discard."""
        self.settle(stored=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.digest:
            self.discard()


class _Handles:
    """The directories of one group of files: each walked and made once, synced together, closed together."""

    def __init__(self, home: int, rules: Rules, stack: contextlib.ExitStack) -> None:
        self._rules = rules
        self._stack = stack
        self._open: dict[tuple[str, ...], int] = {(): home}
        self._touched: set[int] = set()

    def parent(self, name: Name) -> int:
        """Return a handle on the directory that `name` is in, made where missing."""
        return self._enter(name.parts[:-1])

    def touch(self, directory: int) -> None:
        """Note that the entries of a directory change."""
        self._touched.add(directory)

    def sync(self) -> str | None:
        """Make the entries of all touched directories durable; return the first error's name."""
        failure = None
        for directory in self._touched:
            try:
                os.fsync(directory)
            except OSError as error:
                failure = failure or _errno_name(error)
        return failure

    def _enter(self, parts: tuple[str, ...]) -> int:
        if parts in self._open:
            return self._open[parts]
        above = self._enter(parts[:-1])
        handle, made = _enter(above, parts[-1], self._rules)
        self._stack.callback(os.close, handle)
        if made:
            self.touch(above)
        self._open[parts] = handle
        return handle


def _enter(above: int, part: str, rules: Rules) -> tuple[int, bool]:
    """Open one directory without following a link, making it if it is missing; say whether it was."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(part, _DIRECTORY, dir_fd=above), False
    with contextlib.suppress(FileExistsError):  # another session may be quicker; its parent is synced twice then
        os.mkdir(part, 0o700, dir_fd=above)
    handle = os.open(part, _DIRECTORY, dir_fd=above)
    try:
        if rules.group is not None:
            os.fchown(handle, -1, rules.group)
        os.fchmod(handle, rules.directory_mode)  # after the owner changed: that clears the set-group-id bit
    except BaseException:
        os.close(handle)
        raise
    return handle, True


def _candidates(name: Name, policy: OnConflict) -> Iterator[Name]:
    yield name
    if policy is not OnConflict.RENAME:
        return
    stem, dot, suffix = name.parts[-1].rpartition(".")
    if not stem:  # no dot, or only a leading one
        stem, dot, suffix = name.parts[-1], "", ""
    for number in range(1, _MAX_RENAMES + 1):
        with contextlib.suppress(UnsafeNameError):  # too long with its number: then there is no such candidate
            yield Name.parse("/".join((*name.parts[:-1], f"{stem} ({number}){dot}{suffix}")))


def _collides(directory: int, last: str) -> bool:
    """Whether another entry of the directory folds to the same name."""
    wanted = folded(last)
    with os.scandir(directory) as entries:
        return any(entry.name != last and folded(entry.name) == wanted for entry in entries)


def _same_content(directory: int, last: str, staging: LocalStaging) -> bool:
    """Whether a plain file with the staged content stands there; if so, make sure that it is on disk, too."""
    try:
        descriptor = os.open(last, _READ, dir_fd=directory)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != staging.size:
            return False
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_HASH_BUFFER, found.st_size + 1)))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
        same = hmac.compare_digest(digest.digest(), staging.digest)
        if same:
            os.fsync(descriptor)
        return same


def _taken(name: Name, why: str) -> NameTakenError:
    return NameTakenError(f"the name {show(str(name))!r} is taken: {why}")


def _refuse_precious(path: Path) -> None:
    """Raise ConfigurationError for a root where a peer's files would be more than files: ``/`` or a home directory."""
    import pwd

    resolved = path.resolve()
    homes = {entry.pw_dir for entry in pwd.getpwall() if entry.pw_dir not in {"", "/nonexistent"}}
    if str(resolved) == "/" or str(resolved) in homes:
        raise ConfigurationError(
            f"the inbox {resolved} is {'the root directory' if str(resolved) == '/' else 'a home directory'}",
            hint="Files like .bashrc would take effect there. Use a directory below it: securexfer serve --inbox DIR",
        )


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn what the system says into what the sender can be told."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpaceError(f"{what} was not stored: no room on the server's disk ({_errno_name(error)})") from error
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise NameTakenError(f"{what} was not stored: a part of its path is not a directory") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UnsafeNameError(f"{what} was not stored: the name is too long for the server's disk") from error
        raise StorageFailedError(f"{what} was not stored: {_errno_name(error)}") from error


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
