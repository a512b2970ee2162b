"""One user's part of the inbox, for one send: what is offered, staged and committed there."""

from __future__ import annotations

import hmac
import os
import stat
from typing import TYPE_CHECKING

from securexfer.errors import SecurexferError, StorageFailedError
from securexfer.names import show
from securexfer.storage import directories, partials
from securexfer.storage.base import Committed, OnConflict, Outcome, in_one
from securexfer.storage.failures import Translated, taken, translation
from securexfer.storage.index import ReadAhead
from securexfer.storage.offers import Beginning, LocalOffered, Standing
from securexfer.storage.publishing import Publisher
from securexfer.storage.resumable import ResumableStaging
from securexfer.storage.space import Claim
from securexfer.storage.staged import LocalStaging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securexfer.storage.base import Description, Staging, Steps
    from securexfer.storage.bundle import Bundle
    from securexfer.storage.local import Inbox
    from securexfer.storage.space import Usage
    from securexfer.storage.syncing import Syncer


class UserStorage:
    """One user's directory, held open for one session: whatever happens to its path, nothing is written elsewhere.

    What is yielded by steps may be called in another thread, everything else is one thread's.
    """

    def __init__(
        self,
        inbox: Inbox,
        user: str,
        home: int,
        syncer: Syncer,
        usage: Usage | None,
        policy: OnConflict,
        send_id: bytes,
        bundle: Bundle | None,
    ) -> None:
        """Take a handle on the user's directory and a syncer, both this object's now; the bundle stays the caller's."""
        self.inbox = inbox
        self.user = user
        self.home = home
        self.policy = policy
        self.bundle = bundle
        self._usage = usage
        self._send_id = send_id
        self._finder = directories.Finder(home)
        self._known = ReadAhead(inbox.index, user)
        self.quick = inbox.quick
        self._syncer = syncer
        self._publisher = Publisher(inbox, user, home, policy, syncer, bundle)

    def offer(self, file: Description, *, fresh: bool) -> LocalOffered:
        """Set room aside for a file; see Storage.offer."""
        with Translated(file.name):
            found = self._find(file)
            # What came of it in part is first: it came because what stands there turned out to be something else.
            if self._is_resumable(file):
                hold = self.inbox.partials.take(self.user, file, self, self._send_id, fresh=fresh)
                if hold:
                    offered = Beginning(self, file, hold)
                    try:
                        hold.claim_room(self.inbox.space, self._usage_of(file, found))
                    except BaseException:
                        offered.drop()
                        raise
                    return offered
            if found and found.st_size == file.size and stat.S_ISREG(found.st_mode) and file.size and not fresh:
                return Standing(self, file, found)
            return LocalOffered(self, file, found, self.claim_room(file, found))

    def claimed(self, file: Description, digest: bytes) -> Committed | None:
        """Say that a file is there already, if that is known without reading it; see Storage.claimed."""
        name = file.name
        try:
            found = self._finder.find(name)
        except OSError:
            return None  # `offer` says what it was
        if found is None or found.st_size != file.size or not stat.S_ISREG(found.st_mode):
            return None
        known = self._known.find(str(name), found)
        if not known or not hmac.compare_digest(known, digest):
            return None
        if self.bundle:
            self.bundle.keep(self.home, name, found, digest)
        return Committed(Outcome.UNCHANGED, name)

    def stage(self, file: Description) -> LocalStaging:
        """Begin a file; see Storage.stage."""
        with Translated(file.name):
            return LocalStaging(self.inbox, file, self.claim_room(file, self._find(file)))

    def take(self, file: Description, content: memoryview, digest: bytes) -> LocalStaging:
        """Begin a file, write all of it, and seal it; see Storage.take."""
        try:
            # It is here, so that nothing is gained by refusing it before its commit; and what is written at once need
            # not be set aside on the disk, if only there is room. To the user's files it is added like any other.
            usage = self._usage_of(file, self._find(file)) if self._usage else None
            self.inbox.space.check(file.size)
            claim = Claim(self.inbox.space, usage, file.size) if usage else None
            # A bundle is made of names in staging. For all others none is made, and removed: on a disk that was a tenth
            # of what a small file costs.
            staging = LocalStaging(self.inbox, file, claim, None, None if self.bundle else self.inbox.give_name)
            try:
                staging.append(content)
            except OSError:
                staging.discard()
                raise
        except OSError as error:
            raise translation(error, file.name) from error
        if claim:
            claim.written(file.size)
        staging.digest = digest
        return staging

    def begin(self, file: Description, claim: Claim) -> LocalStaging:
        """Begin a file that was offered, of which nothing is here; what comes is kept if it is worth it."""
        if self._is_resumable(file):
            try:
                with Translated(file.name):
                    hold = self.inbox.partials.begin(self.user, file, self, self._send_id)
            except BaseException:
                claim.settle(0)
                raise
            if hold:
                hold.claim = claim
                return ResumableStaging(self.inbox, file, hold, 0)
        return LocalStaging(self.inbox, file, claim)

    def commit_in_steps(self, group: Sequence[Staging]) -> Steps:
        """Make a group durable and visible, in order; see Storage.commit_in_steps."""
        return self._publisher.commit([staging for staging in group if isinstance(staging, LocalStaging)])

    def commit(self, group: Sequence[Staging]) -> list[Committed | SecurexferError]:
        """Do the same at once."""
        return in_one(self.commit_in_steps(group))

    def room(self) -> tuple[int | None, int | None]:
        """Return what is left of the quota; see Storage.room."""
        return (self._usage.left() if self._usage else None), None

    def make_directories(self, group: Sequence[Description]) -> Steps:
        """Make directories, durably, unless they are there, and set their mtimes; see Storage.make_directories."""
        handles = directories.Handles(self.inbox, self.home)
        try:
            found = [self._make_directory(file, handles) for file in group]
            failure = yield from handles.sync(self._syncer)
            made = handles.made | self._publisher.made
            self._publisher.made = made - {identity for identity in found if isinstance(identity, tuple)}
            return [
                identity if isinstance(identity, SecurexferError) else _outcome(file, failure, made=identity in made)
                for file, identity in zip(group, found, strict=True)
            ]
        finally:
            handles.close()

    def _make_directory(self, file: Description, handles: directories.Handles) -> tuple[int, int] | SecurexferError:
        """Make one directory unless it is there; return its device and inode, or why not."""
        try:
            with Translated(file.name):
                directory = handles.directory(file.name)
                found = os.fstat(directory)
                if file.mtime_ns is not None and file.mtime_ns != found.st_mtime_ns:
                    os.utime(directory, ns=(file.mtime_ns, file.mtime_ns))
                    handles.touch(directory)
                return found.st_dev, found.st_ino
        except SecurexferError as error:
            return error

    def claim_room(self, file: Description, found: os.stat_result | None) -> Claim:
        """Set room aside for a file, under whose name this was found. Raises NoSpaceError or QuotaExceededError."""
        return Claim(self.inbox.space, self._usage_of(file, found), file.size)

    def close(self) -> None:
        """Let the directory go."""
        self._syncer.close()
        self._finder.close()
        os.close(self.home)

    def _find(self, file: Description) -> os.stat_result | None:
        """Return what stands under a file's name; raise why not where it is plain already that it cannot be used."""
        found = self._finder.find(file.name)
        if found is None or self.policy is OnConflict.RENAME:
            return found
        if not stat.S_ISREG(found.st_mode):
            raise taken(file.name, "something that is not a plain file stands there", self.policy)
        if self.policy is not OnConflict.REPLACE and found.st_size != file.size:
            raise taken(file.name, "other content stands under it", self.policy)
        return found

    def _usage_of(self, file: Description, found: os.stat_result | None) -> Usage | None:
        """Return whose quota a file counts towards; None if it does not count, or there is no quota.

        In the place of a file of its size it adds nothing, so that one whose acknowledgement was lost can be sent again
        when the quota is used up. (Only `rename` may keep both.)
        """
        adds = self.policy is OnConflict.RENAME or not found or found.st_size != file.size
        return self._usage if adds else None

    def _is_resumable(self, file: Description) -> bool:
        return file.size >= partials.MIN_SIZE and bool(self._send_id)


def _outcome(file: Description, failure: str | None, *, made: bool) -> Committed | SecurexferError:
    if failure:
        return StorageFailedError(f"{show(str(file.name))!r} was not made: its sync gave {failure}")
    return Committed(Outcome.STORED if made else Outcome.UNCHANGED, file.name)
