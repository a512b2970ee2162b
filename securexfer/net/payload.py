"""The buffer between a socket and a disk, whichever of the two is the source.

Payload is moved, never parsed. One large buffer a connection is filled by many small reads (a TLS socket
gives at most one record, 16 KiB, a call) and passed on once; on the sending side headers and trailers share
it, because a header sent by itself would be a TLS record by itself.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

from securexfer.errors import PeerTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Of 256 KiB, 512 KiB and 1 MiB, in turn, with a 2 GiB file on two cores: the first takes a tenth longer (each piece
# that changes threads costs), the last gains nothing more.
BUFFER_SIZE = 512 * 1024

# From this size on, a receiver hashes and writes beside the TLS work, in a thread of its own. Below it, starting the
# thread costs more than it gains. (A sender does not: it has less to do than a receiver, and what it has just read is
# hashed and encrypted fastest by the core that read it.)
PARALLEL_BYTES = 4 << 20
_IN_WORK = 2  # pieces that the thread may have; one more is being filled meanwhile

RATE_GRACE_SECONDS = 30.0  # no rate is asked for before this: links and disks take time to wake
RATE_WINDOW_SECONDS = 60.0
MINIMUM_RATE = 1024  # bytes a second over the window: slower than any link in use, faster than a stalled attacker


class Buffer:
    """Collects bytes from wherever they come and passes them to `drain` in large pieces, in order.

    While `rotating`, a piece stays untouched for as long as `Parallel` may work on it.
    """

    def __init__(self, drain: Callable[[memoryview], None]) -> None:
        self.rotating = False
        self._drain = drain
        # Mapped, not allocated: a piece that is never used costs no memory.
        whole = memoryview(mmap.mmap(-1, BUFFER_SIZE * (_IN_WORK + 1)))
        self._pieces = [whole[start : start + BUFFER_SIZE] for start in range(0, len(whole), BUFFER_SIZE)]
        self._end = 0

    def append(self, data: bytes) -> None:
        """Add a header or a trailer."""
        if self._end + len(data) > BUFFER_SIZE:
            self.flush()
        self._pieces[0][self._end : self._end + len(data)] = data
        self._end += len(data)

    def fill_from(self, read_into: Callable[[memoryview], int], limit: int) -> memoryview:
        """Read once, at most `limit` bytes, and return what was read; empty at the source's end."""
        if self._end == BUFFER_SIZE:
            self.flush()
        piece, start = self._pieces[0], self._end
        self._end += read_into(piece[start : start + limit])
        return piece[start : self._end]

    def clear(self) -> None:
        """Throw away what is held."""
        self._end = 0

    def flush(self) -> None:
        """Pass on what is held."""
        if self._end:
            held = self._pieces[0][: self._end]
            self._end = 0
            if self.rotating:
                self._pieces.append(self._pieces.pop(0))
            self._drain(held)


class Parallel:
    """Does `work` on pieces, in order, in a thread of its own, a few pieces behind whoever hands them over.

    Used as a context. Leaving it in order waits for the work; what went wrong in the thread is raised by the next
    `hand_over`, or there. Where no thread is to be had, `hand_over` does the work itself.
    """

    def __init__(self, work: Callable[[memoryview], None]) -> None:
        self._work = work
        self._pieces: SimpleQueue[memoryview | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(_IN_WORK):
            self._room.put(None)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="payload")

    def hand_over(self, piece: memoryview) -> None:
        """Have the work done on a piece, which must stay as it is until two more have been handed over."""
        if not self._thread.ident:
            self._work(piece)
            return
        self._room.get()
        if self._error:
            self._room.put(None)
            raise self._error
        self._pieces.put(piece)

    def __enter__(self) -> Self:
        with contextlib.suppress(RuntimeError):  # the system has no more threads, or no memory for one
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._thread.ident:
            return
        self._pieces.put(None)
        self._thread.join()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if not self._error:
                try:
                    self._work(piece)
                except Exception as error:  # noqa: BLE001 - it is raised where the pieces come from
                    self._error = error
            self._room.put(None)


class MinimumRate:
    """Ends a payload that only trickles: less than `least` bytes a second over the last minute, after a grace."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._start = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque([(self._start, 0)])

    def check(self, total: int) -> None:
        """Raise PeerTimeoutError if the `total` bytes received so far came too slowly. Called when there is a wait."""
        now = time.monotonic()
        samples = self._samples
        if now - samples[-1][0] >= 1.0:
            samples.append((now, total))
        while len(samples) > 1 and now - samples[0][0] > RATE_WINDOW_SECONDS:
            samples.popleft()
        since, before = samples[0]
        if now - self._start > RATE_GRACE_SECONDS and total - before < self._least * (now - since):
            raise PeerTimeoutError(
                f"the sender was slower than {self._least} bytes a second for {now - since:.0f} seconds"
            )
