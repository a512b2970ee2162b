"""What a place for received files must promise, whether it is a directory or, later, an object store.

A file is *offered* (is there room, is its name free, how much of it is here already?), *staged* while its bytes
arrive, *sealed* with the digest they must have had, and *committed*: made durable, then visible, then acknowledged.
Leaving the `with` block of a staging that was not sealed discards it, or keeps it for a later send to resume.
The interface knows names, bytes and commits; it knows no descriptors and no renames.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

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


class Committed(NamedTuple):
    """A file that is durable and visible under `stored_as`."""

    outcome: Outcome
    stored_as: Name


class Description(NamedTuple):
    """What a sender says about a file: its name, its size in bytes, its mtime (None: the moment it is stored)."""

    name: Name
    size: int
    mtime_ns: int | None = None
    executable: bool = False


# What becomes of each of a group, in steps: what is yielded waits for the disk, and has to be called, in any thread,
# before the next step is asked for. Whoever does not go to the end closes it.
Steps = Generator[Callable[[], None], None, list["Committed | SecurexferError"]]


def in_one(steps: Steps) -> list[Committed | SecurexferError]:
    """Take all the steps, one after the other; return what became of each."""
    with contextlib.closing(steps):
        try:
            while True:
                next(steps)()
        except StopIteration as end:
            found: list[Committed | SecurexferError] = end.value
            return found


class Staging(Protocol):
    """A file on its way in: invisible, and gone again, or kept to be resumed, unless it is sealed and committed."""

    @property
    def name(self) -> Name:
        """The name it was offered under."""
        ...

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises NoSpaceError, StorageFailedError, or BusyError once another transfer took it over."""
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
    ) -> None:
        """Keep what came, if it is worth resuming and `kind` is an end of the connection; else discard it."""
        ...


class Prefix(Protocol):
    """SHA-256, as far as it has come: as of hashlib, but what is known of a whole file without it can only be asked."""

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes so far."""
        ...

    def update(self, data: memoryview, /) -> None:
        """Go on with the bytes that follow, where some may."""
        ...


class Offered(Protocol):
    """A file that was offered, with room for it set aside, until it is staged, kept or dropped."""

    @property
    def have(self) -> int:
        """So many of its first bytes may be here already: the sender has to prove that they are the same.

        All of them if a file of that size stands under the name, and only then.
        """
        ...

    @property
    def stands(self) -> bool:
        """Whether those bytes are a whole file under the name, not the beginning of one that was broken off."""
        ...

    @property
    def known(self) -> bool:
        """Whether their digest is known, so that `prefix` takes no time."""
        ...

    def prefix(self, tick: Callable[[], None]) -> Prefix:
        """Return SHA-256 over those bytes. Takes as long as reading them; `tick` runs often.

        What stands is durable then. May be called from another thread. Raises StorageFailedError, and the like.
        """
        ...

    def keep(self) -> Committed:
        """Say that the whole file was proved, by its `prefix`, to be the one that stands there: it is unchanged."""
        ...

    def differs(self) -> SecurexferError:
        """Say that the bytes here are others. Return why the file is refused for good, or ChangedError: offer it anew.

        A partial file is discarded.
        """
        ...

    def stage(self, *, resume: bool) -> Staging:
        """Begin to take the bytes: those after `have`, or all. Raises what `Storage.offer` raises, and BusyError."""
        ...

    def drop(self) -> None:
        """Give the room back; what is here of it stays."""
        ...


class Storage(Protocol):
    """Where one user's files go, for one send."""

    def offer(self, file: Description, *, fresh: bool) -> Offered:
        """Set room aside for a file. With `fresh`, what is here of it does not count.

        Raises NameTakenError, SkippedError, QuotaExceededError, NoSpaceError or StorageFailedError where it is known
        already that the file could not be committed.
        """
        ...

    def claimed(self, file: Description, digest: bytes) -> Committed | None:
        """Say that a file stands under its name already, durable, with this SHA-256 (32 bytes); None if it does not.

        Also where that cannot be known without reading it: then `offer` says what is here, or in the way.
        """
        ...

    def stage(self, file: Description) -> Staging:
        """Begin a file of which nothing is here, and nothing will be kept. Raises what `offer` raises."""
        ...

    def take(self, file: Description, content: memoryview, digest: bytes) -> Staging:
        """Begin a file, write all of it, and seal it. Raises what `stage` and `Staging.write` raise."""
        ...

    def commit_in_steps(self, group: Sequence[Staging]) -> Steps:
        """Make a group of sealed files durable and visible, in order; return what became of each.

        At the end, every Committed file is on disk under its name; the others have left nothing. Nothing is visible
        before the first step is done.
        """
        ...

    def commit(self, group: Sequence[Staging]) -> list[Committed | SecurexferError]:
        """Do the same at once."""
        ...

    @property
    def quick(self) -> bool:
        """Whether making a small file durable takes no time worth mentioning."""
        ...

    def room(self) -> tuple[int | None, int | None]:
        """Return how many bytes and how many files may still come; None where nothing but the disk sets an end."""
        ...

    def make_directories(self, group: Sequence[Description]) -> Steps:
        """Make directories, durably, unless they are there, and set their mtimes; return what became of each."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...
