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
    from securexfer.storage.local import Inbox
    from securexfer.storage.space import Usage


class LocalStaging:
    """One unfinished file in the staging directory, with the space it was promised; see Staging.

    `usage` is None where nothing will be added to what the user has, or no quota is kept.
    """

    def __init__(self, inbox: Inbox, usage: Usage | None, name: Name, size: int) -> None:
        self.name = name
        self.size = size
        self.digest = b""
        self.added = 0  # bytes that the user's files have grown by; set when it is published
        self._inbox = inbox
        self._usage = usage
        self._unwritten = size
        with contextlib.ExitStack() as undo:
            inbox.space.claim(size)
            undo.callback(inbox.space.release, size)
            if usage:
                usage.claim(size)
                undo.callback(usage.settle, size, 0)
            self._descriptor, self.file = inbox.create_staging()
            undo.pop_all()

    def write(self, data: memoryview) -> None:
        """Append bytes; see Staging.write."""
        with translated(f"{show(str(self.name))!r}"):
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
            with contextlib.suppress(OSError):  # advice: the sync that follows is what counts
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Set the mode that the server's rules ask for, and make the content durable."""
        set_access(self._descriptor, self._inbox.rules.group, self._inbox.rules.file_mode)
        os.fsync(self._descriptor)

    def is_published_as(self, name: str, directory: int) -> bool:
        """Whether what stands under `name` is this file itself, not another that came after it."""
        return os.path.samestat(os.fstat(self._descriptor), os.stat(name, dir_fd=directory, follow_symlinks=False))

    def settle(self) -> None:
        """Forget the staging name and account for the space, whether it was published or not."""
        with contextlib.suppress(OSError):  # what was to be durable was synced; some file systems fail here as well
            os.close(self._descriptor)
        self._inbox.remove_staging(self.file)
        self._inbox.space.release(self._unwritten)
        if self._usage:
            self._usage.settle(self.size, self.added)

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
