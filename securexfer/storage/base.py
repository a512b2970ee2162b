"""What a place for received files must promise, whether it is a directory or, later, an object store.

A file is *staged* while its bytes arrive, *sealed* with the digest they must have had, and *committed*: made
durable, then visible, then acknowledged. Leaving the `with` block of a staging that was not sealed discards it.
The interface knows names, bytes and commits; it knows no descriptors and no renames.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from securexfer.errors import SecurexferError
    from securexfer.names import Name


class OnConflict(enum.StrEnum):
    """What happens when other content stands under the name. The same content is a success under each of them."""

    REFUSE = "refuse"
    RENAME = "rename"
    REPLACE = "replace"
    SKIP = "skip"


class Outcome(enum.StrEnum):
    """What a commit did."""

    STORED = "stored"
    RENAMED = "renamed"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Committed:
    """A file that is durable and visible under `stored_as`."""

    outcome: Outcome
    stored_as: Name


class Staging(Protocol):
    """A file on its way in: invisible, and gone again unless it is sealed and committed."""

    @property
    def name(self) -> Name:
        """The name it was offered under."""
        ...

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises NoSpaceError or StorageFailedError."""
        ...

    def seal(self, digest: bytes) -> None:
        """Say that all bytes are here and verified against `digest` (SHA-256): what follows is commit or discard."""
        ...

    def discard(self) -> None:
        """Remove every trace and give the space back."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """Where one user's files go."""

    def stage(self, name: Name, size: int) -> Staging:
        """Begin a file of `size` bytes.

        Raises NameTakenError, QuotaExceededError, NoSpaceError or StorageFailedError where it is known already that
        the file could not be committed.
        """
        ...

    def commit(self, group: Sequence[Staging]) -> list[Committed | SecurexferError]:
        """Make a group of sealed files durable and visible, in order; return what became of each.

        When this returns, every Committed file is on disk under its name; the others have left nothing.
        """
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...
