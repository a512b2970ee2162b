"""What is sent: files and directories with their names there, how far each got, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from securexfer.errors import SecurexferError
    from securexfer.transfer.returned import Opened


@dataclass(slots=True, eq=False)
class Item:
    """One file or directory: where it is, under which name, how far it got (bytes), and what became of it."""

    path: Path | str
    name: str
    size: int = 0
    mtime_ns: int = 0
    executable: bool = False
    identity: tuple[int, int] | None = None  # device and inode of a file found in a directory: only that one is read
    seen: os.stat_result | None = None  # what a file in a directory was when it was found there, until it is offered
    directory: bool = False
    sent: int = 0  # of its bytes, those that the receiver has or that are on their way there
    again: bool = False  # what became of it was told; it is offered once more for those that are opened beside it
    fresh: bool = False  # the receiver has something else of it, and is not to look at that again
    resumed: int = 0  # of them, those that the receiver had from an earlier send
    sha256: str | None = None
    # What the receiver said: stored, renamed, replaced, unchanged; or skipped, where the sender asked for that.
    outcome: str | None = None
    stored_as: str | None = None
    error: SecurexferError | None = None

    @property
    def open(self) -> bool:
        """Whether its fate is still unknown."""
        return self.outcome is None and self.error is None


def top_name(path: Path) -> str:
    """Return the component that names of an argument begin with: its last one as typed; "" for `.`, `..` and `/`."""
    return "" if path.name == ".." else path.name


class Watcher(Protocol):
    """Who is told how a send goes: the progress display and the reports."""

    def connected(self, user: str, server: str) -> None:
        """Hear that the server proved who it is and accepted the login."""

    def retrying(self, why: str, seconds: float) -> None:
        """Hear that the server is busy, or the connection was lost, and when it is tried again."""

    def opening(self, verdict: str) -> None:
        """Hear whether the server opens files after they are stored: one of the words of messages.OPENING."""

    def opened(self, item: Item, opened: Opened) -> None:
        """Hear what came of a file that the server opened, after `ended`."""

    def sent(self, item: Item, count: int) -> None:
        """Hear that `count` bytes more of a file are on their way, or were found to be there: `item` says so already.

        What was found is told by itself, when `sent` is just `resumed`. A negative count takes back what has to be
        sent anew. Called for every piece, so it must be quick.
        """

    def ended(self, item: Item) -> None:
        """Hear, once, what became of a file or directory: the server's word, or what went wrong here.

        Not what keeps all the rest from being sent, too: that is raised, and stands in none of them.
        """
