"""A file that was offered: its room is set aside, and nothing of it has come yet."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from securexfer.errors import ChangedError, SecurexferError
from securexfer.names import show
from securexfer.storage.base import Committed, Outcome
from securexfer.storage.staged import LocalStaging

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.storage.base import Description
    from securexfer.storage.local import Inbox
    from securexfer.storage.space import Claim


class LocalOffered:
    """A file that was offered; see Offered."""

    def __init__(self, inbox: Inbox, claim: Claim, described: Description) -> None:
        self.have = 0
        self.stands = False
        self.known = True
        self._inbox = inbox
        self._claim = claim
        self._described = described

    def prefix(self, tick: Callable[[], None]) -> hashlib._Hash:
        """Hash what is here; see Offered.prefix."""
        tick()
        return hashlib.sha256()

    def keep(self) -> Committed:
        """Leave what stands there as it is; see Offered.keep."""
        self.drop()
        return Committed(Outcome.UNCHANGED, self._described.name)

    def differs(self) -> SecurexferError:
        """See Offered.differs."""
        self.drop()
        return ChangedError(f"what is here of {show(str(self._described.name))!r} is other content")

    def stage(self, *, resume: bool) -> LocalStaging:  # noqa: ARG002 - nothing is here to resume
        """Begin to take the bytes; see Offered.stage."""
        return LocalStaging(self._inbox, self._claim, self._described)

    def drop(self) -> None:
        """Give the room back; see Offered.drop."""
        self._claim.settle(0)
