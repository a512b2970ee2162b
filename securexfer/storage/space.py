"""Room: how much of the disk and of a user's quota is spoken for, counting what is still on its way."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from securexfer.errors import NoSpaceError, QuotaExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_RESERVE = 1 << 30  # and never more than a twentieth of the file system
_LOOK_SECONDS = 0.01  # between two looks at how full the disk is
RECOUNT_SECONDS = 5.0  # a user who is over the quota may have made room; look again, but not at every file


class FreeSpace:
    """Keeps a reserve free on the file system of the inbox, so that logs and the system go on working."""

    def __init__(self, root: int, reserve: int | None = None) -> None:
        found = os.fstatvfs(root)
        self.reserve = min(DEFAULT_RESERVE, found.f_blocks * found.f_frsize // 20) if reserve is None else reserve
        self._root = root
        self._promised = 0
        self._room = 0  # for what is written at once, until we look again
        self._room_until = 0.0
        self._lock = threading.Lock()

    def claim(self, size: int) -> None:
        """Set `size` bytes aside; raise NoSpaceError if they would eat into the reserve."""
        with self._lock:
            self._look(size)
            self._room = 0
            self._promised += size

    def check(self, size: int) -> None:
        """Raise NoSpaceError if `size` bytes, which are written at once, would eat into the reserve.

        Asks the system at most every hundredth of a second, and counts what was asked for since as written.
        """
        with self._lock:
            now = time.monotonic()
            self._room -= size
            if self._room < 0 or now >= self._room_until:
                self._look(size)
                self._room_until = now + _LOOK_SECONDS

    def _look(self, size: int) -> None:
        found = os.fstatvfs(self._root)
        free = found.f_bavail * found.f_frsize - self._promised
        if found.f_files and not found.f_favail:
            raise NoSpaceError("no more files fit: the server's disk has room, but no inodes")
        if size > free - self.reserve:
            raise NoSpaceError(
                f"{size} bytes do not fit: {max(free, 0)} are free and {self.reserve} of them are kept in reserve"
            )
        self._room = free - self.reserve - size

    def release(self, size: int) -> None:
        """Give back what was claimed: the bytes are on disk now, or will never come."""
        with self._lock:
            self._promised -= size


class Claim:
    """Room that was set aside for one file, on the disk and in its user's quota, until it is settled."""

    __slots__ = ("_size", "_space", "_unwritten", "_usage")

    def __init__(self, space: FreeSpace, usage: Usage | None, size: int, here: int = 0) -> None:
        """Set `size` bytes aside, `here` of which are on the disk and counted.

        Raises NoSpaceError or QuotaExceededError.
        `usage` is None where nothing will be added to what the user has, or no quota is kept.
        """
        self._space = space
        self._usage = usage
        self._size = size
        self._unwritten = size - here
        space.claim(self._unwritten)
        if usage:
            try:
                usage.claim(size, here)
            except QuotaExceededError:
                space.release(self._unwritten)
                raise

    def written(self, count: int) -> None:
        """Say that so many bytes are on the disk now: what the system says is free counts them already."""
        self._space.release(count)
        self._unwritten -= count

    def settle(self, added: int) -> None:
        """Give all of it back; the user's files have grown by `added` bytes meanwhile."""
        self._space.release(self._unwritten)
        if self._usage:
            self._usage.settle(self._size, added)


class Usage:
    """What one user's files take, counted once and then kept up; shared by all sessions of that user."""

    def __init__(self, user: str, quota: int, count: Callable[[], int]) -> None:
        self._user = user
        self._quota = quota
        self._count = count
        self._lock = threading.Lock()
        self._promised = 0
        self._used = 0
        self._counted_at: float | None = None

    def claim(self, size: int, here: int = 0) -> None:
        """Set `size` bytes of the quota aside; raise QuotaExceededError if it has not that much left.

        Of these, `here` bytes are counted among the user's files: from now on they are not.
        """
        with self._lock:
            over = self._used + self._promised + size - here > self._quota
            now = time.monotonic()
            if self._counted_at is None or (over and now - self._counted_at >= RECOUNT_SECONDS):
                # A file published but not settled yet is counted twice until the next count: never too little.
                self._used = self._count()
                self._counted_at = now
            left = self._quota - self._used - self._promised + here
            if size > left:
                raise QuotaExceededError(
                    f"{size} bytes are more than the {max(left, 0)} left of the quota of {self._user} ({self._quota})"
                )
            self._promised += size
            self._used -= here

    def left(self) -> int:
        """Return how many bytes the user may still store."""
        with self._lock:
            if self._counted_at is None:
                self._used = self._count()
                self._counted_at = time.monotonic()
            return max(0, self._quota - self._used - self._promised)

    def settle(self, claimed: int, added: int) -> None:
        """Give a claim back; the user's files have grown by `added` bytes meanwhile."""
        with self._lock:
            self._promised -= claimed
            self._used += added
