"""One file on its way in, in a directory that no peer can name."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Self

from securexfer.names import show
from securexfer.storage.directories import set_access
from securexfer.storage.failures import translated

if TYPE_CHECKING:
    from types import TracebackType

    from securexfer.names import Name
    from securexfer.storage.base import Description
    from securexfer.storage.local import Inbox
    from securexfer.storage.space import Claim


class LocalStaging:
    """One unfinished file in the staging directory, with the room it was promised; see Staging."""

    def __init__(self, inbox: Inbox, claim: Claim, described: Description) -> None:
        """Create the file. The claim is this object's from now on, also if that fails."""
        self.described = described
        self.digest = b""
        self.added = 0  # bytes that the user's files have grown by; set when it is published
        self._inbox = inbox
        self._claim = claim
        try:
            with translated(f"{show(str(described.name))!r}"):
                self._descriptor, self.file = inbox.create_staging()
        except BaseException:
            claim.settle(0)
            raise

    @property
    def name(self) -> Name:
        """The name it was offered under."""
        return self.described.name

    @property
    def size(self) -> int:
        """The size it was offered with, in bytes."""
        return self.described.size

    def write(self, data: memoryview) -> None:
        """Append bytes; see Staging.write."""
        with translated(f"{show(str(self.name))!r}"):
            while data:
                count = os.write(self._descriptor, data)
                self._claim.written(count)
                data = data[count:]

    def seal(self, digest: bytes) -> None:
        """All bytes are here and were verified; see Staging.seal."""
        self.digest = digest

    def start_writeback(self) -> None:
        """Ask the system to start writing to disk, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            # On Linux this starts writeback of dirty pages; clean ones are dropped, and nobody reads them soon.
            with contextlib.suppress(OSError):  # advice: the sync that follows is what counts
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Set the mode that the server's rules ask for and the mtime, and make them and the content durable."""
        rules, described = self._inbox.rules, self.described
        # Of the sender's mode, one bit at most: whether the owner may execute it.
        set_access(self._descriptor, rules.group, rules.file_mode | (0o100 if described.executable else 0))
        if described.mtime_ns is not None:
            os.utime(self._descriptor, ns=(described.mtime_ns, described.mtime_ns))
        if rules.durable:
            os.fsync(self._descriptor)

    def is_published_as(self, name: str, directory: int) -> bool:
        """Whether what stands under `name` is this file itself, not another that came after it."""
        return os.path.samestat(os.fstat(self._descriptor), os.stat(name, dir_fd=directory, follow_symlinks=False))

    def settle(self) -> None:
        """Forget the staging name and account for the space, whether it was published or not."""
        with contextlib.suppress(OSError):  # what was to be durable was synced; some file systems fail here as well
            os.close(self._descriptor)
        self._inbox.remove_staging(self.file)
        self._claim.settle(self.added)

    def discard(self) -> None:
        """Remove every trace; see Staging.discard."""
        self.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.digest:
            self.discard()
