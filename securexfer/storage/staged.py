"""One file on its way in, in a directory that no peer can name."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Self

from securexfer.storage.directories import set_access
from securexfer.storage.failures import Translated, translation

if TYPE_CHECKING:
    from types import TracebackType

    from securexfer.storage.base import Description
    from securexfer.storage.local import Inbox
    from securexfer.storage.nameless import Way
    from securexfer.storage.space import Claim


class LocalStaging:
    """One unfinished file in the staging directory, with the room it was promised; see Staging."""

    only_by_itself = False  # whether nothing but `sync` will do to sync it
    digest = b""
    added = 0  # bytes that the user's files have grown by; set when it is published, or kept
    _settled = False

    def __init__(
        self,
        inbox: Inbox,
        described: Description,
        claim: Claim | None,
        opened: tuple[int, str] | None = None,
        give_name: Way | None = None,
    ) -> None:
        """Take a file that is open, and its name in staging; without, create one. A claim is this object's now.

        With what can `give_name` to it later, it is created without one, and leaves nothing in staging.
        """
        self.name, self.size, _, _ = self._described = described
        self._inbox = inbox
        self._claim = claim
        self._give_name = give_name
        self._mode = None if opened else inbox.made_with  # that it has, if that is known
        try:
            self._descriptor, self.file = opened or inbox.create_staging(named=give_name is None)
        except BaseException as error:
            self.give_back()
            if isinstance(error, OSError):
                raise translation(error, self.name) from error
            raise

    def write(self, data: memoryview) -> None:
        """Append bytes; see Staging.write."""
        with Translated(self.name):
            while data:
                count = os.write(self._descriptor, data)
                if self._claim:
                    self._claim.written(count)
                data = data[count:]

    def append(self, content: memoryview) -> None:
        """Write all of a file for which nothing was set aside on the disk. Raises OSError."""
        while content and (count := os.write(self._descriptor, content)) < len(content):
            content = content[count:]

    def seal(self, digest: bytes) -> None:
        """All bytes are here and were verified; see Staging.seal."""
        self.digest = digest

    def start_writeback(self, offset: int, length: int) -> None:
        """Ask the system to start writing to disk, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            # On Linux this starts writeback of dirty pages; clean ones are dropped, and nobody reads them soon.
            with contextlib.suppress(OSError):  # advice: the sync that follows is what counts
                os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)

    def finish(self) -> OSError | None:
        """Set the mode that the server's rules ask for, and the mtime. Return what keeps it from that."""
        rules, (_, _, mtime_ns, executable) = self._inbox.rules, self._described
        # Of the sender's mode, one bit at most: whether the owner may execute it.
        mode = rules.file_mode | 0o100 if executable else rules.file_mode
        try:
            if mode != self._mode or rules.group is not None:
                set_access(self._descriptor, rules.group, mode)
            if mtime_ns is not None:
                os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
        except OSError as error:
            return error
        return None

    def sync(self) -> None:
        """Make it durable. Raises OSError."""
        os.fsync(self._descriptor)

    def check_blocks(self) -> None:
        """Raise OSError if the disk has no blocks for all of it, which ext4 says to nobody but who syncs the file."""
        found = os.fstat(self._descriptor)
        if found.st_blocks * 512 < found.st_size:  # what is written here has no holes
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def is_published_as(self, name: str, directory: int) -> bool:
        """Whether what stands under `name` is this file itself, not another that came after it."""
        return os.path.samestat(self.stat(), os.stat(name, dir_fd=directory, follow_symlinks=False))

    def stat(self) -> os.stat_result:
        """Return what the system says of the file itself. Raises OSError."""
        return os.fstat(self._descriptor)

    @property
    def began_nameless(self) -> bool:
        """Whether it had no name when it was first synced."""
        return self._give_name is not None

    def publish(self, name: str, directory: int) -> None:
        """Make it visible as `name`; raises FileExistsError if that is taken."""
        if self._give_name:
            self._give_name(self._descriptor, name, directory)
        else:
            self._inbox.publish(self.file, name, directory)

    def named(self) -> str:
        """Return its name in staging, and give it one if it has none. Raises OSError."""
        if self._give_name and not self.file:
            self.file = self._inbox.name_staging(self._descriptor, self._give_name)
        return self.file

    def unname(self) -> None:
        """Forget its name in staging, whether it has another by now or not; once is enough."""
        if self.file:
            self._inbox.remove_staging(self.file)
            self.file = ""

    def give_back(self) -> None:
        """Give the room back that was set aside, but for what the user's files have grown by."""
        if self._claim:
            self._claim.settle(self.added)

    def settle(self) -> None:
        """Forget the staging name and account for the space, whether it was published or not; once is enough."""
        if self._settled:
            return
        self._settled = True
        self.unname()
        try:  # noqa: SIM105 - there is one for each of many files, and this costs them nothing
            os.close(self._descriptor)
        except OSError:  # what was to be durable was synced; some file systems fail here as well
            pass
        self.give_back()

    def discard(self) -> None:
        """Remove every trace; see Staging.discard."""
        self.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.digest:
            self.settle()
