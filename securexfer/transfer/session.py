"""Whose session it is, what the server allows it, and how it tells what became of each file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securexfer.events import FileAborted, FileRejected, FilesStored, LimitHit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from securexfer.errors import SecurexferError
    from securexfer.events import Observer, StoredFile
    from securexfer.names import NamePolicy
    from securexfer.storage.bundle import Bundle
    from securexfer.transfer.openings import Openings


@dataclass(frozen=True, slots=True)
class Session:
    """A connection after its login. The limits are bytes, seconds of silence, bytes a second."""

    connection: int
    address: str
    user: str
    largest_file: int
    idle_seconds: float
    minimum_rate: int
    names: NamePolicy
    observe: Observer
    open_send: Callable[[Callable[[], Bundle]], Openings]  # what is opened of one send; it is given what makes a bundle

    def stored(self, files: Sequence[StoredFile]) -> None:
        """Tell that files are durable under their names."""
        self.observe(FilesStored(self.connection, self.address, self.user, files))

    def rejected(self, name: str, size: int, digest: str, error: SecurexferError, started: float) -> None:
        """Tell that a file arrived, or was announced, and is not stored."""
        self.observe(
            FileRejected(
                self.connection,
                self.address,
                self.user,
                name,
                size,
                digest,
                "refused",
                error.reason,
                error.message,
                time.monotonic() - started,
            )
        )

    def aborted(self, name: str, size: int, received: int, reason: str, detail: str, started: float) -> None:
        """Tell that a file did not come to its end."""
        self.observe(
            FileAborted(
                self.connection,
                self.address,
                self.user,
                name,
                size,
                received,
                reason,
                detail,
                time.monotonic() - started,
            )
        )

    def hit(self, limit: str, detail: str) -> None:
        """Tell that a limit was met."""
        self.observe(LimitHit(self.address, limit, detail, self.user))
