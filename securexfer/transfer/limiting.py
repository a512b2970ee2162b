"""How fast a sender may send."""

from __future__ import annotations

import time

_BURST_SECONDS = 0.25  # what was not used may be caught up with, so far


class Limit:
    """Keeps an average of `rate` bytes a second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._due = time.monotonic()
        self.piece = max(16 * 1024, min(rate // 20, 512 * 1024))  # bytes to send at a time, so that it flows evenly

    def next_after(self, count: int) -> float:
        """Count bytes that were sent; return the moment of the monotonic clock from which on more may be."""
        self._due = max(self._due, time.monotonic() - _BURST_SECONDS) + count / self._rate
        return self._due
