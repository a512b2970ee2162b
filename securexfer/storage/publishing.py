"""Whole groups of files are made durable, then visible, then acknowledged.

A commit is: sync the file, link it under its name (which fails if the name is taken), sync the directory and the
parents of directories that were made, and the file again if that was its first link and the disk has no journal
(nameless.py). Only then is it acknowledged. A sync that failed is never tried again: the
kernel may have dropped the pages, and a second sync would report a success that is none. A group shares its syncs
(syncing.py), and who commits it can do something else while they last. At the end, the index notes what is stored.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
from itertools import chain
from typing import TYPE_CHECKING

from securexfer.errors import NoSpaceError, SecurexferError, StorageFailedError
from securexfer.names import numbered, show
from securexfer.storage import directories
from securexfer.storage.base import Committed, OnConflict, Outcome
from securexfer.storage.failures import taken, translation
from securexfer.storage.standing import digest_of
from securexfer.storage.syncing import errors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from securexfer.names import Name
    from securexfer.storage.base import Steps
    from securexfer.storage.bundle import Bundle
    from securexfer.storage.local import Inbox
    from securexfer.storage.staged import LocalStaging
    from securexfer.storage.syncing import Synced, Syncer


class Publisher:
    """Commits the groups of one send into its user's directory: while one becomes visible, the next may be synced."""

    def __init__(
        self, inbox: Inbox, user: str, home: int, policy: OnConflict, syncer: Syncer, bundle: Bundle | None
    ) -> None:
        """Take a handle on the user's directory and the bundle for what is stored, which stay the caller's."""
        self.made: set[tuple[int, int]] = set()  # directories, by device and inode
        self._inbox = inbox
        self._user = user
        self._home = home
        self._policy = policy
        self._syncer = syncer
        self._bundle = bundle

    def commit(self, group: Sequence[LocalStaging]) -> Steps:
        """Make a group durable and visible, in order; see Storage.commit_in_steps."""
        handles = directories.Handles(self._inbox, self._home)
        try:
            failures: list[Exception | None] = [staging.finish() for staging in group]
            if self._inbox.rules.durable:
                synced: list[Synced] = []
                yield lambda: synced.append(self._sync(group))
                late = errors_of([each.check_blocks for each in group]) if synced[0].together else synced[0].errors
                failures = [before or after for before, after in zip(failures, late, strict=True)]
            results = self._place_while_free(group, failures, handles)
            if len(results) < len(group):
                # What stands under a name may have to be read, and be synced: that is not for who receives the next.
                rest = list(zip(group, failures, strict=True))[len(results) :]
                yield lambda: results.extend([self._place(each, handles, failure, meet=True) for each, failure in rest])
            failure = yield from handles.sync(self._syncer, self._syncs_of_links(group, results))
            if failure:
                results = [
                    self._withdraw(staging, result, handles, failure) if isinstance(result, Committed) else result
                    for staging, result in zip(group, results, strict=True)
                ]
            if not all(isinstance(result, Committed) for result in results):
                handles.remove_unused()
            self.made |= handles.made
            if self._bundle:
                self._bundle_up(self._bundle, group, results)
            self._note(group, results)
            return results
        finally:
            handles.close()
            for staging in group:
                staging.settle()

    def _syncs_of_links(
        self, group: Sequence[LocalStaging], results: list[Committed | SecurexferError]
    ) -> list[Callable[[], None]]:
        """Return the syncs of those files whose first name came after they were synced, where that does not last."""
        if self._inbox.links_last:
            return []
        pairs = zip(group, results, strict=True)
        return [each.sync for each, result in pairs if each.began_nameless and isinstance(result, Committed)]

    def _sync(self, group: Sequence[LocalStaging]) -> Synced:
        together = not any(staging.only_by_itself for staging in group)
        return self._syncer.sync_all([staging.sync for staging in group], together=together)

    def _bundle_up(
        self, bundle: Bundle, group: Sequence[LocalStaging], results: list[Committed | SecurexferError]
    ) -> None:
        """Put what was stored into the bundle, while it has its name in staging and before its ctime is noted."""
        for staging, result in zip(group, results, strict=True):
            if isinstance(result, Committed):
                bundle.add(staging, result)

    def _note(self, group: Sequence[LocalStaging], results: list[Committed | SecurexferError]) -> None:
        """Note in the index what was stored, as it is once no other name of it is left: that changes its ctime."""
        stored = []
        for staging, result in zip(group, results, strict=True):
            if isinstance(result, Committed) and result.outcome is not Outcome.UNCHANGED:
                staging.unname()
                try:
                    found = staging.stat()
                except OSError:
                    continue
                stored.append((str(result.stored_as), found, staging.digest))
        if stored:
            self._inbox.index.note(self._user, stored)

    def _place_while_free(
        self, group: Sequence[LocalStaging], failures: Sequence[Exception | None], handles: directories.Handles
    ) -> list[Committed | SecurexferError]:
        """Make files visible, in order, up to the first one whose name is taken."""
        results: list[Committed | SecurexferError] = []
        parent, folds = handles.parent, self._inbox.folds
        with contextlib.suppress(FileExistsError):
            for staging, failure in zip(group, failures, strict=True):
                if failure or folds:
                    results.append(self._place(staging, handles, failure, meet=False))
                    continue
                name = staging.name
                try:  # what `_place` does of most files, in a third of the time
                    staging.publish(name.parts[-1], parent(name))
                except FileExistsError:
                    raise
                except OSError as error:
                    results.append(translation(error, name))
                except SecurexferError as error:
                    results.append(error)
                else:
                    staging.added = staging.size
                    results.append(Committed(Outcome.STORED, name))
        return results

    def _place(
        self, staging: LocalStaging, handles: directories.Handles, failure: Exception | None, *, meet: bool
    ) -> Committed | SecurexferError:
        """Make one file visible, unless it could not be made durable; return what was done or why not.

        Raises FileExistsError if its name is taken and it is not to `meet` what stands there.
        """
        try:
            if failure:
                raise failure
            return self._publish(staging, handles.parent(staging.name), meet=meet)
        except OSError as error:
            if isinstance(error, FileExistsError) and not meet:
                raise
            return translation(error, staging.name)
        except SecurexferError as error:
            return error

    def _publish(self, staging: LocalStaging, directory: int, *, meet: bool) -> Committed:
        """Make one durable file visible under its name, or the first of its names that will do; NameTakenError.

        FileExistsError if it is taken and it is not to `meet` what stands there.
        """
        name = staging.name
        why = "other content stands under it"
        for candidate in chain((name,), numbered(name)) if self._policy is OnConflict.RENAME else (name,):
            last = candidate.parts[-1]
            try:
                if not self._inbox.folds:
                    staging.publish(last, directory)
                else:
                    with self._inbox.claim(directory, last) as free:
                        if not free:
                            why = "a name that other systems cannot tell from it stands there"
                            continue
                        staging.publish(last, directory)
            except FileExistsError:
                if not meet:
                    raise
                outcome = self._meet(staging, directory, candidate)
                if outcome:
                    return Committed(outcome, candidate)
            else:
                staging.added = staging.size
                return Committed(Outcome.STORED if candidate is name else Outcome.RENAMED, candidate)
        raise taken(name, why, self._policy)

    def _meet(self, staging: LocalStaging, directory: int, name: Name) -> Outcome | None:
        """Do what is right about what stands under a name already; return None if it has to stay as it is."""
        last = name.parts[-1]
        digest = digest_of(self._inbox, self._user, name, directory, staging.size, lambda: None)
        if digest is not None and hmac.compare_digest(digest, staging.digest):
            return Outcome.UNCHANGED
        if self._policy is not OnConflict.REPLACE:
            return None
        standing = os.stat(last, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(standing.st_mode):
            return None
        self._replace(staging.named(), last, directory)
        staging.added = max(0, staging.size - standing.st_size)  # rather too much than too little; see Usage
        return Outcome.REPLACED

    def _replace(self, staged: str, name: str, directory: int) -> None:
        """Put a staged file in the place of another. That uses up a name, and a bundle needs one that is left."""
        if not self._bundle:
            self._inbox.replace(staged, name, directory)
            return
        again = self._inbox.name_again(staged)
        try:
            self._inbox.replace(again, name, directory)
        except OSError:
            if again != staged:
                self._inbox.remove_staging(again)
            raise

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
