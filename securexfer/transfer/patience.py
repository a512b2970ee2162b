"""How long a side that has work to do, and says so with Alive, is waited for."""

from __future__ import annotations

ALIVE_SECONDS = 5.0  # between two signs of life, while something takes long
SECONDS = 60.0  # for whatever a busy machine has to do first
RATE = 20_000_000  # bytes a second that a slow disk still reads or writes


def patience(size: int) -> float:
    """Return for how many seconds somebody may say nothing but Alive, who has so many bytes to hash or to sync."""
    return SECONDS + size / RATE
