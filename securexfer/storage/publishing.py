"""One user's part of the inbox: whole groups of files made durable, then visible, then acknowledged.

A commit is: sync the file, link it under its name (which fails if the name is taken), sync the directory and the
parents of directories that were made. Only then is it acknowledged. A sync that failed is never tried again: the
kernel may have dropped the pages, and a second sync would report a success that is none. A group shares the
directory syncs, and its files' writeback is started together.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import stat
from typing import TYPE_CHECKING

from securexfer.errors import NoSpaceError, SecurexferError, StorageFailedError, UnsafeNameError
from securexfer.names import Name, show
from securexfer.storage import directories
from securexfer.storage.base import Committed, OnConflict, Outcome
from securexfer.storage.failures import taken, translated
from securexfer.storage.offers import LocalOffered
from securexfer.storage.space import Claim
from securexfer.storage.staged import LocalStaging

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from securexfer.storage.base import Description, Staging
    from securexfer.storage.local import Inbox
    from securexfer.storage.space import Usage

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What open(2) says of a link, a socket, a device without a driver, a file of somebody else's, one that is gone again.
_NOT_READABLE = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.ENOENT}
_MAX_RENAMES = 1000  # `x (1)` to `x (1000)`; beyond that the name is taken
_HASH_BUFFER = 1 << 20


class UserStorage:
    """One user's directory, held open for one session: whatever happens to its path, nothing is written elsewhere."""

    def __init__(self, inbox: Inbox, home: int, usage: Usage | None, policy: OnConflict, send_id: bytes) -> None:
        self._inbox = inbox
        self._policy = policy
        self._home = home
        self._usage = usage
        self._send_id = send_id
        self._made: set[tuple[int, int]] = set()  # directories, by device and inode

    def offer(self, file: Description, *, fresh: bool) -> LocalOffered:  # noqa: ARG002 - nothing is here yet
        """Set room aside for a file; see Storage.offer."""
        return LocalOffered(self._inbox, self._claim_room(file), file)

    def stage(self, file: Description) -> LocalStaging:
        """Begin a file; see Storage.stage."""
        return LocalStaging(self._inbox, self._claim_room(file), file)

    def room(self) -> tuple[int | None, int | None]:
        """Return what is left of the quota; see Storage.room."""
        return (self._usage.left() if self._usage else None), None

    def make_directory(self, file: Description) -> Committed:
        """Make a directory, durably, unless it is there, and set its mtime; see Storage.make_directory."""
        handles = directories.Handles(self._home, self._inbox.rules, self._inbox.claim)
        try:
            with translated(f"{show(str(file.name))!r}"):
                directory = handles.directory(file.name)
                found = os.fstat(directory)
                made = handles.made | self._made
                self._made = made - {(found.st_dev, found.st_ino)}  # each directory is offered once
                if file.mtime_ns is not None and file.mtime_ns != found.st_mtime_ns:
                    os.utime(directory, ns=(file.mtime_ns, file.mtime_ns))
                    directories.sync(directory, self._inbox.rules)
                failure = handles.sync()
                if failure:
                    raise StorageFailedError(f"{show(str(file.name))!r} was not made: its sync gave {failure}")
        finally:
            handles.close()
        ours = (found.st_dev, found.st_ino) in made
        return Committed(Outcome.STORED if ours else Outcome.UNCHANGED, file.name)

    def commit(self, group: Sequence[Staging]) -> list[Committed | SecurexferError]:
        """Make a group durable and visible, in order; see Storage.commit."""
        staged = [staging for staging in group if isinstance(staging, LocalStaging)]
        with contextlib.ExitStack() as stack:
            for staging in staged:
                stack.callback(staging.settle)
            if len(staged) > 1:
                for staging in staged:
                    staging.start_writeback()
            handles = directories.Handles(self._home, self._inbox.rules, self._inbox.claim)
            stack.callback(handles.close)
            results = [self._place(staging, handles) for staging in staged]
            failure = handles.sync()
            if failure:
                results = [
                    self._withdraw(staging, result, handles, failure) if isinstance(result, Committed) else result
                    for staging, result in zip(staged, results, strict=True)
                ]
            if not all(isinstance(result, Committed) for result in results):
                handles.remove_unused()
            self._made |= handles.made
            return results

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._home)

    def _claim_room(self, file: Description) -> Claim:
        """Set room aside for a file that may be stored under its name, as far as that is known; else raise why not."""
        with translated(f"{show(str(file.name))!r}"):
            standing = self._find(file.name)
            if standing:
                self._refuse_early(file.name, file.size, standing)
            # In the place of a file of its size it adds nothing, so that one whose acknowledgement was lost can be
            # sent again when the quota is used up. (Only `rename` may keep both.)
            adds = self._policy is OnConflict.RENAME or not standing or standing.st_size != file.size
            return Claim(self._inbox.space, self._usage if adds else None, file.size)

    def _find(self, name: Name) -> os.stat_result | None:
        """Return what stands under a name, if anything."""
        with contextlib.ExitStack() as stack:
            directory = self._home
            try:
                for part in name.parts[:-1]:
                    directory = os.open(part, directories.OPEN, dir_fd=directory)
                    stack.callback(os.close, directory)
                return os.stat(name.parts[-1], dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def _refuse_early(self, name: Name, size: int, standing: os.stat_result) -> None:
        """Raise NameTakenError where it is plain already, before any bytes come, that the name cannot be used."""
        if self._policy is OnConflict.RENAME:
            return
        if not stat.S_ISREG(standing.st_mode):
            raise taken(name, "something that is not a plain file stands there", self._policy)
        if self._policy is not OnConflict.REPLACE and standing.st_size != size:
            raise taken(name, "other content stands under it", self._policy)

    def _place(self, staging: LocalStaging, handles: directories.Handles) -> Committed | SecurexferError:
        """Make one file durable, then visible; return what was done or why not."""
        try:
            with translated(f"{show(str(staging.name))!r}"):
                staging.sync()
                return self._publish(staging, handles.parent(staging.name))
        except SecurexferError as error:
            return error

    def _publish(self, staging: LocalStaging, directory: int) -> Committed:
        """Make one durable file visible under its name, or the first of its names that will do; NameTakenError."""
        name = staging.name
        why = "other content stands under it"
        for candidate in _candidates(name, self._policy):
            last = candidate.parts[-1]
            try:
                with self._inbox.claim(directory, last) as free:
                    if not free:
                        why = "a name that other systems cannot tell from it stands there"
                        continue
                    self._inbox.publish(staging.file, last, directory)
            except FileExistsError:
                outcome = self._meet(staging, directory, last)
                if outcome:
                    return Committed(outcome, candidate)
            else:
                staging.added = staging.size
                return Committed(Outcome.STORED if candidate == name else Outcome.RENAMED, candidate)
        raise taken(name, why, self._policy)

    def _meet(self, staging: LocalStaging, directory: int, last: str) -> Outcome | None:
        """Do what is right about what stands under a name already; return None if it has to stay as it is."""
        if _same_content(directory, last, staging, durable=self._inbox.rules.durable):
            return Outcome.UNCHANGED
        if self._policy is not OnConflict.REPLACE:
            return None
        standing = os.stat(last, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(standing.st_mode):
            return None
        self._inbox.replace(staging.file, last, directory)
        staging.added = max(0, staging.size - standing.st_size)  # rather too much than too little; see Usage
        return Outcome.REPLACED

    def _withdraw(
        self, staging: LocalStaging, result: Committed, handles: directories.Handles, failure: str
    ) -> SecurexferError:
        """Take back a file whose directory may not be on disk: not acknowledged, so not visible either."""
        if result.outcome in {Outcome.STORED, Outcome.RENAMED}:
            last, directory = result.stored_as.parts[-1], handles.parent(result.stored_as)
            with contextlib.suppress(OSError):
                if staging.is_published_as(last, directory):  # another session may have replaced it
                    os.unlink(last, dir_fd=directory)
                    staging.added = 0
        full = failure in {"ENOSPC", "EDQUOT"}
        return (NoSpaceError if full else StorageFailedError)(
            f"{show(str(result.stored_as))!r} was not stored: its directory's sync gave {failure}"
        )


def _candidates(name: Name, policy: OnConflict) -> Iterator[Name]:
    """Return the names that a file may be stored under, in the order to try them."""
    yield name
    if policy is not OnConflict.RENAME:
        return
    stem, dot, suffix = name.parts[-1].rpartition(".")
    if not stem:  # no dot, or only a leading one
        stem, dot, suffix = name.parts[-1], "", ""
    for number in range(1, _MAX_RENAMES + 1):
        with contextlib.suppress(UnsafeNameError):  # too long with its number: then there is no such candidate
            yield Name.parse("/".join((*name.parts[:-1], f"{stem} ({number}){dot}{suffix}")))


def _same_content(directory: int, last: str, staging: LocalStaging, *, durable: bool) -> bool:
    """Whether a plain file with the staged content stands there; if so, and `durable`, make sure that it is on disk."""
    try:
        descriptor = os.open(last, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOT_READABLE:
            return False
        raise  # no descriptors left, a disk that fails: that says nothing about the content
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != staging.size:
            return False
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_HASH_BUFFER, found.st_size + 1)))
        while count := os.readv(descriptor, [buffer]):
            digest.update(buffer[:count])
        same = hmac.compare_digest(digest.digest(), staging.digest)
        if same and durable:
            os.fsync(descriptor)
        return same
    finally:
        os.close(descriptor)
