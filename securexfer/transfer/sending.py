"""One `send` as a whole, over as many connections as it takes: what is left of it, and how it is to be done."""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Self

from securexfer.transfer.digests import DigestCache
from securexfer.transfer.limiting import Limit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from securexfer.transfer.items import Item, Watcher
    from securexfer.transfer.returned import Store
    from securexfer.transfer.wishes import Wishes


class Sending:
    """What is left to send. Used as a context, so that the digests that were computed are kept."""

    def __init__(
        self, items: Iterable[Item], watcher: Watcher, directory: str, wishes: Wishes, results: Store | None = None
    ) -> None:
        """Take the items; those that have an error already are told to the watcher when their turn comes.

        What the server's opening of a file leaves goes to `results`, if it is wanted.
        """
        self.watcher = watcher
        self.directory = directory
        self.wishes = wishes
        self.results = results
        self.limit = Limit(wishes.limit) if wishes.limit else None
        self.send_id = os.urandom(16)
        self.digests = DigestCache()
        self.files = self.bytes = 0  # offered so far
        self.exhausted = False
        self.opened_with: list[Item] = []  # stored so far, where the server opens them once all are
        self._items = iter(items)
        self._again: deque[Item] = deque()

    def following(self) -> Item | None:
        """Return the next file or directory to offer, or None if there is none, for now."""
        if self._again:
            return self._again.popleft()
        if self.exhausted:
            return None
        for item in self._items:
            if item.error:
                self.watcher.ended(item)
            else:
                self.files += not item.directory
                self.bytes += item.size
                return item
        self.exhausted = True
        return None

    @property
    def over(self) -> bool:
        """Whether nothing is left to be offered."""
        return self.exhausted and not self._again

    def take_back(self, items: list[Item]) -> None:
        """Have items offered again, before any others: the connection is lost, or the receiver has something else."""
        for item in items:
            if item.sent:
                self.watcher.sent(item, -item.sent)
            item.sent = item.resumed = 0
            item.seen = None  # it may change until its turn comes again
        self._again.extendleft(reversed(items))

    def offer_all_again(self) -> None:
        """Have everything that was stored offered again: a new connection opens only what came over it."""
        again, self.opened_with = self.opened_with, []
        for item in again:
            item.again, item.outcome = True, None
            item.sent = item.resumed = 0
        self._again.extendleft(reversed(again))

    def known_digest(self, item: Item, seen: os.stat_result | None = None) -> bytes | None:
        """Return the digest of a file that has not changed since it was computed, if it is known and may be used.

        It is looked at, unless it was `seen` a moment ago.
        """
        if self.wishes.rehash:
            return None
        if seen is not None:
            return self.digests.find(seen)
        try:
            found = os.lstat(item.path)
        except OSError:
            return None  # whoever opens it says why
        same = (found.st_size, found.st_mtime_ns) == (item.size, item.mtime_ns) and stat.S_ISREG(found.st_mode)
        if not same or item.identity not in {None, (found.st_dev, found.st_ino)}:
            return None
        return self.digests.find(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.digests.close()
