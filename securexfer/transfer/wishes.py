"""How a send is wished to be done. Small, because every `send` needs it before anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from securexfer.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


class Wishes(NamedTuple):
    """How to send, as far as the sender can choose."""

    protocol: int | None = None  # None: the newest one that both sides speak
    on_conflict: str | None = None  # refuse, rename, replace, skip; None: what the server does by itself
    retries: int = 5  # after connections that were lost, in a row, without anything stored
    timeout: float = 60.0  # seconds that a server which owes an answer may be silent
    limit: int | None = None  # bytes a second
    rehash: bool = False  # read every file, whatever is remembered of it
    dry_run: bool = False  # ask what would become of the files, and send nothing
    opening: bool = True  # have the server open what it opens, if it does that for this user
    results: Path | None = None  # the directory for what scripts leave there

    def check(self) -> None:
        """Raise UsageError for wishes that cannot be met together."""
        if self.protocol == 1:
            self.check_classroom("--protocol 1 was asked for")

    def check_classroom(self, why: str) -> None:
        """Raise UsageError if protocol 1, which has to be spoken because of `why`, cannot do this."""
        options = {
            "--on-conflict": self.on_conflict,
            "--limit": self.limit,
            "--rehash": self.rehash,
            "--dry-run": self.dry_run,
            "--results": self.results,
        }
        for option, wished in options.items():
            if wished:
                raise UsageError(f"{option} needs protocol 2, and {why}", hint=f"Leave {option} out.")
