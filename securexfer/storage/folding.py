"""Which names a directory holds once case and normal forms are folded, so that two that collide are never made.

Only the `portable` policy asks. A look through a directory of 100 000 files takes 0.2 s, so what was seen is kept
for as long as the directory's mtime says that nobody else changed it. (Somebody who works in there by hand, in the
same few milliseconds, can still make a second name; we make none.)
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from securexfer.names import folded

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NAMES = 200_000  # kept in all: about 40 MiB; the largest directory alone may be more


class FoldedNames:
    """The folded names of an inbox's directories. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, int], tuple[int, dict[str, str]]] = {}
        self._total = 0  # of names in there, or a little more

    @contextlib.contextmanager
    def claim(self, directory: int, name: str) -> Iterator[bool]:
        """Say whether `name` collides with no other; the block makes it, if so, while nobody else makes any."""
        with self._lock:
            names = self._names(directory)
            holder = names.get(folded(name), name)
            # A name that stands there beside one it collides with was made by hand: it is no news.
            if holder != name and not _stands(directory, name):
                yield False
                return
            yield True
            names.setdefault(folded(name), name)
            self._keep(os.fstat(directory), names, added=1)

    def _names(self, directory: int) -> dict[str, str]:
        found = os.fstat(directory)
        changed, names = self._seen.get((found.st_dev, found.st_ino), (None, {}))
        if changed != found.st_mtime_ns:
            with os.scandir(directory) as entries:
                names = {folded(entry.name): entry.name for entry in entries}
            self._keep(found, names, added=len(names))
        return names

    def _keep(self, found: os.stat_result, names: dict[str, str], added: int) -> None:
        self._total += added
        if self._total > MAX_NAMES:
            self._seen.clear()
            self._total = len(names)
        self._seen[found.st_dev, found.st_ino] = (found.st_mtime_ns, names)


def _stands(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
