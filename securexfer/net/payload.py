"""The buffer between a socket and a disk, whichever of the two is the source.

Payload is moved, never parsed. One large buffer a connection is filled by many small reads (a TLS socket
gives at most one record, 16 KiB, a call) and passed on once; on the sending side headers and trailers share
it, because a header sent by itself would be a TLS record by itself.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from securexfer.errors import PeerTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

# Measured from 64 KiB to 4 MiB with bench/large_file.py: throughput is flat from 128 KiB on.
BUFFER_SIZE = 256 * 1024

IDLE_SECONDS = 30.0  # a peer that owes bytes may be silent this long
RATE_GRACE_SECONDS = 30.0  # no rate is asked for before this: links and disks take time to wake
RATE_WINDOW_SECONDS = 60.0
MINIMUM_RATE = 1024  # bytes a second over the window: slower than any link in use, faster than a stalled attacker


class Buffer:
    """Collects bytes from wherever they come and passes them to `drain` in large pieces, in order."""

    def __init__(self, drain: Callable[[memoryview], None], size: int = BUFFER_SIZE) -> None:
        self._drain = drain
        self._view = memoryview(bytearray(size))
        self._end = 0

    def append(self, data: bytes) -> None:
        """Add a header or a trailer."""
        if self._end + len(data) > len(self._view):
            self.flush()
        self._view[self._end : self._end + len(data)] = data
        self._end += len(data)

    def fill_from(self, read_into: Callable[[memoryview], int], limit: int) -> memoryview:
        """Read once, at most `limit` bytes, and return what was read; empty at the source's end."""
        if self._end == len(self._view):
            self.flush()
        start = self._end
        self._end += read_into(self._view[start : start + limit])
        return self._view[start : self._end]

    def flush(self) -> None:
        """Pass on what is held."""
        if self._end:
            held = self._view[: self._end]
            self._end = 0
            self._drain(held)


class MinimumRate:
    """Ends a payload that only trickles: less than the minimum rate over the last minute, after a time of grace."""

    def __init__(self) -> None:
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
        if now - self._start > RATE_GRACE_SECONDS and total - before < MINIMUM_RATE * (now - since):
            raise PeerTimeoutError(
                f"the sender was slower than {MINIMUM_RATE} bytes a second for {now - since:.0f} seconds"
            )
