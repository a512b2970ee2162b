"""One large file on its way in, of which what came is kept when the connection ends, for a later send to resume."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from securexfer.errors import PeerTimeoutError, ShuttingDownError, TruncatedError
from securexfer.storage.failures import Translated
from securexfer.storage.staged import LocalStaging

if TYPE_CHECKING:
    from types import TracebackType

    from securexfer.storage.base import Description
    from securexfer.storage.local import Inbox
    from securexfer.storage.partials import Hold

# What is on disk is noted so often: at most so much is sent again after a power cut.
SYNC_BYTES = 32 << 20
WRITEBACK_BYTES = 4 << 20  # written to disk as they come, so that a sync finds little to do
_ENDS_OF_CONNECTION = (TruncatedError, PeerTimeoutError, ShuttingDownError)


class ResumableStaging(LocalStaging):
    """A file in the staging directory under a name of its own, held until another transfer takes it over."""

    only_by_itself = True

    def __init__(self, inbox: Inbox, described: Description, hold: Hold, offset: int) -> None:
        """Go on at `offset` of what is held. Raises StorageFailedError, or BusyError if it was taken over."""
        super().__init__(inbox, described, None, (hold.descriptor, hold.file))
        self._hold = hold
        self._length = self._begun = self._synced = offset
        self._syncing: threading.Thread | None = None
        self._error: OSError | None = None
        try:
            with Translated(self.name):
                hold.restart(offset)
        except BaseException:
            self.settle()
            raise

    def write(self, data: memoryview) -> None:
        """Append bytes; see Staging.write."""
        with Translated(self.name):
            while data:
                count = self._hold.write(data)
                self._length += count
                data = data[count:]
            if self._inbox.rules.durable:
                self._keep_up()

    def seal(self, digest: bytes) -> None:
        """All bytes are here and were verified: nobody takes it over any more. Raises BusyError if somebody has."""
        self._hold.seal()
        super().seal(digest)

    def sync(self) -> None:
        """Make it durable. Raises OSError, also for an earlier sync that failed."""
        self._wait_for_sync()
        super().sync()

    def unname(self) -> None:
        """Forget its name in staging, and what is noted of it; see LocalStaging.unname."""
        self._hold.release(keep=False)

    def settle(self) -> None:
        """Forget it, whether it was published or not, unless it is another transfer's by now."""
        with contextlib.suppress(OSError):  # whoever can be told was told when the file was to be committed
            self._wait_for_sync()
        super().settle()

    def give_back(self) -> None:
        """Give its room back, unless another transfer has that now."""
        self._hold.give_back(self.added)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.digest and kind and issubclass(kind, _ENDS_OF_CONNECTION):
            with contextlib.suppress(OSError):  # what failed to be synced is not worth keeping
                self._wait_for_sync()
                self.added = self._hold.release(keep=True)
        super().__exit__(kind, error, traceback)

    def _keep_up(self) -> None:
        """Have what came written to disk, and now and then synced and noted. Raises the OSError of an earlier sync."""
        if self._length - self._begun >= WRITEBACK_BYTES:
            self.start_writeback(self._begun, self._length - self._begun)
            self._begun = self._length
        if self._length - self._synced >= SYNC_BYTES:
            self._wait_for_sync()
            self._synced = self._length
            self._start_sync()

    def _start_sync(self) -> None:
        """Sync what has come in a thread of its own, which takes as long as the disk takes."""
        self._syncing = threading.Thread(target=self._sync, args=(self._length,), daemon=True, name="partial")
        try:
            self._syncing.start()
        except RuntimeError:  # the system has no more threads, or no memory for one
            self._syncing = None
            self._sync(self._length)

    def _sync(self, length: int) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._error = error
        else:
            self._hold.note_synced(length)

    def _wait_for_sync(self) -> None:
        """Wait until the last sync has ended. Raises its OSError: what is said of it once is not said again."""
        if self._syncing:
            self._syncing.join()
            self._syncing = None
        if self._error:
            raise self._error
