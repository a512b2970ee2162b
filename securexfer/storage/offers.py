"""A file that was offered: what is here of it, and what becomes of that once the sender has said what it has.

Three things may be here: nothing; the beginning of it, from a send that was broken off (partials.py); a file of its
size under its name. That such a file has the same content is for the sender to prove, by a digest, as with a beginning.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from securexfer.errors import ChangedError, SecurexferError, StorageFailedError
from securexfer.names import show
from securexfer.storage import directories
from securexfer.storage.base import Committed, OnConflict, Outcome
from securexfer.storage.failures import Translated, taken
from securexfer.storage.resumable import ResumableStaging
from securexfer.storage.standing import digest_of, hash_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.storage.base import Description, Prefix
    from securexfer.storage.partials import Hold
    from securexfer.storage.space import Claim
    from securexfer.storage.staged import LocalStaging
    from securexfer.storage.user import UserStorage


class LocalOffered:
    """A file of which nothing is here; see Offered."""

    have = 0
    stands = False

    def __init__(
        self, storage: UserStorage, file: Description, found: os.stat_result | None, claim: Claim | None = None
    ) -> None:
        """Take what stands under its name, if anything, and the room that was set aside for it."""
        self._storage = storage
        self._file = file
        self._found = found
        self._claim = claim

    @property
    def known(self) -> bool:
        """Whether its digest is; see Offered.known."""
        return True

    def prefix(self, tick: Callable[[], None]) -> Prefix:  # noqa: ARG002 - it takes no time
        """Return the digest of nothing."""
        return hashlib.sha256()

    def keep(self) -> Committed:
        """Refuse to: there is nothing to keep."""
        raise ValueError("nothing of it stands here")

    def differs(self) -> SecurexferError:
        """Say that it has to be sent from the start; see Offered.differs."""
        self.drop()
        return ChangedError(f"what is here of {show(str(self._file.name))!r} is not the beginning of it")

    def stage(self, *, resume: bool) -> LocalStaging:  # noqa: ARG002 - there is nothing to resume
        """Begin to take the bytes; see Offered.stage. After a failure, and where none was, room is set aside anew."""
        claim, self._claim = self._claim or self._storage.claim_room(self._file, self._found), None
        return self._storage.begin(self._file, claim)

    def drop(self) -> None:
        """Give the room back; see Offered.drop."""
        if self._claim:
            self._claim.settle(0)
            self._claim = None


class Beginning(LocalOffered):
    """A file of which another send left the beginning."""

    def __init__(self, storage: UserStorage, file: Description, hold: Hold) -> None:
        super().__init__(storage, file, None)
        self.have = hold.length
        self._hold = hold
        self._held = True

    @property
    def known(self) -> bool:
        """Never: it has to be read."""
        return False

    def prefix(self, tick: Callable[[], None]) -> Prefix:
        """Hash what is here; see Offered.prefix. Raises BusyError if another transfer takes it over meanwhile."""

        def held() -> None:
            self._hold.check()
            self._hold.touch()
            tick()

        with Translated(self._file.name):
            digest = hash_of(self._hold.descriptor, self.have, held)
        if digest is None:
            raise _changed(self._file)
        return digest

    def stage(self, *, resume: bool) -> LocalStaging:
        """Go on where it ends, or from the start; see Offered.stage."""
        self._held = False
        return ResumableStaging(self._storage.inbox, self._file, self._hold, self.have if resume else 0)

    def differs(self) -> SecurexferError:
        """Remove it; see Offered.differs."""
        self._hold.release(keep=False)
        return super().differs()

    def drop(self) -> None:
        """Leave it for a later send; see Offered.drop."""
        if self._held:
            self._held = False
            kept = self._hold.release(keep=True)
            self._hold.give_back(kept)
            os.close(self._hold.descriptor)


class Standing(LocalOffered):
    """A file for which one of the same size stands under its name. Room is set aside only if it has to be stored."""

    stands = True

    def __init__(self, storage: UserStorage, file: Description, found: os.stat_result) -> None:
        super().__init__(storage, file, found)
        self.have = file.size
        self._digest = storage.inbox.index.find(storage.user, str(file.name), found)

    @property
    def known(self) -> bool:
        """Whether the index has its digest."""
        return self._digest is not None

    def prefix(self, tick: Callable[[], None]) -> Prefix:
        """Return its digest; see Offered.prefix. If it has to be read, it is made durable and noted in the index."""
        if self._digest is None:
            storage, name = self._storage, self._file.name
            with Translated(name):
                directory = directories.walk(storage.home, name.parts[:-1])
                try:
                    self._digest = digest_of(storage.inbox, storage.user, name, directory, self.have, tick)
                finally:
                    os.close(directory)
            if self._digest is None:
                raise _changed(self._file)
        return Known(self._digest)

    def keep(self) -> Committed:
        """Leave it as it is; see Offered.keep."""
        if self._storage.bundle and self._found and self._digest is not None:
            self._storage.bundle.keep(self._storage.home, self._file.name, self._found, self._digest)
        return Committed(Outcome.UNCHANGED, self._file.name)

    def differs(self) -> SecurexferError:
        """Say what the policy makes of other content; see Offered.differs."""
        if self._storage.policy in {OnConflict.REFUSE, OnConflict.SKIP}:
            return taken(self._file.name, "other content stands under it", self._storage.policy)
        return super().differs()


class Known:
    """The digest of a whole file, without the file; see Prefix."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def digest(self) -> bytes:
        """Return the SHA-256."""
        return self._digest

    def update(self, data: memoryview, /) -> None:  # noqa: ARG002 - nothing comes
        """Refuse to: nothing comes after a whole file."""
        raise ValueError("the whole file is here")


def _changed(file: Description) -> StorageFailedError:
    return StorageFailedError(f"what is here of {show(str(file.name))!r} was changed while it was read")
