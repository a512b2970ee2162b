"""How fast a send is and how long it still takes, from looks at how far it has come. Pure: the clock is told to it.

What is sent takes time by its bytes and by its number: ten thousand empty files take longer than one. So time is
explained as ``a * bytes + b * files``, fitted by least squares to what was seen, older looks counting less and less.
While files are all alike, any a and b on one line explain them as well, and predict their like as well; then the bytes
explain it all. Once sizes differ, the fit tells what a file costs by itself. The fit decides how a and b stand to each
other; how long things really took in all decides the scale, so that bursts and standstills count as they should.
"""

from __future__ import annotations

import math

SMOOTHING_SECONDS = 15.0  # what is so long ago counts 1/e: longer than a burst or a disk's pause, shorter than a coffee
FIRST_SECONDS = 1.0  # no guess before: what fills the buffers at the start is no speed
# How far the fit leans to "a file costs nothing", as if a look at a hundred files had shown it: where few files were
# seen, a stutter between two of them must not be taken for their cost, or a thousand to come would take for ever.
_LEANING = 100.0**2


class Pace:
    """The pace of what moves: bytes a second, and the seconds for what is left."""

    def __init__(self, now: float) -> None:
        """Begin at `now` (seconds of any clock) with nothing moved."""
        self._now = self._began = now
        self._bytes = self._files = 0
        # Sums over the looks, faded: of time, bytes, files, and of their products.
        self._t = self._b = self._f = self._bb = self._bf = self._ff = self._bt = self._ft = 0.0

    def look(self, now: float, moved: int, files: int = 0) -> None:
        """Note that by `now`, `moved` bytes and `files` files have moved in all. What was there already has not."""
        t, b, f = now - self._now, float(moved - self._bytes), float(files - self._files)
        self._now, self._bytes, self._files = now, moved, files
        fade = math.exp(-t / SMOOTHING_SECONDS)
        self._t, self._b, self._f = self._t * fade + t, self._b * fade + b, self._f * fade + f
        self._bb, self._bf, self._ff = self._bb * fade + b * b, self._bf * fade + b * f, self._ff * fade + f * f
        self._bt, self._ft = self._bt * fade + b * t, self._ft * fade + f * t

    @property
    def rate(self) -> float | None:
        """Bytes a second, lately; None if nothing was seen yet."""
        return self._b / self._t if self._t else None

    def left(self, size: int, files: int = 0) -> float | None:
        """Return the seconds that so many bytes in so many files will take; None where nothing tells."""
        if not size and not files:
            return 0.0
        if self._now - self._began < FIRST_SECONDS or (size and not self._bytes):
            return None
        by_byte, by_file = self._costs()
        explained = by_byte * self._b + by_file * self._f
        return (by_byte * size + by_file * files) * self._t / explained if explained > 0 else None

    def _costs(self) -> tuple[float, float]:
        """Return a and b of the fit, neither below 0."""
        ff = self._ff + _LEANING
        determinant = self._bb * ff - self._bf * self._bf
        if determinant > 0:
            by_byte = (self._bt * ff - self._ft * self._bf) / determinant
            by_file = (self._ft * self._bb - self._bt * self._bf) / determinant
            if by_byte >= 0 and by_file >= 0:
                return by_byte, by_file
            if by_byte < 0:  # the larger ones were no slower: only their number counts
                return 0.0, 1.0
        return (1.0, 0.0) if self._bb else (0.0, 1.0)
