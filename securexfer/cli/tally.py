"""What is sent and what became of it, in numbers: none of them needs a list of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securexfer.cli.amounts import amount, counted, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from securexfer.errors import SecurexferError
    from securexfer.transfer.items import Item
    from securexfer.transfer.tree import LeftOut

MAX_LINES = 100  # about files that failed: more than anybody reads
_LINES_OF_EACH_REASON = 3  # are printed in any case: the hundred may have failed for another one


class Selection:
    """What is to be sent: `items` as they are found, and `again`, which returns the same once more for who counts.

    `left_out` is known when `items` are through; None: nothing can be. `alone`: there is one file, so that an error of
    it is that of the command.
    """

    def __init__(
        self,
        items: Iterable[Item],
        again: Callable[[], Iterable[Item]],
        left_out: LeftOut | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.items = items
        self.again = again
        self.left_out = left_out
        self.alone = alone


class Tally:
    """What became of the files, in numbers. A directory that arrived counts apart, one that failed as a file."""

    def __init__(self) -> None:
        # Files: stored, renamed, replaced, unchanged, skipped; in a dry run offered instead of the first three.
        self.outcomes: dict[str, int] = {}
        self.directories = 0  # acknowledged
        self.offered_size = 0  # bytes of the files that would be sent
        self.size = 0  # bytes of the files acknowledged
        self.unchanged = 0  # of them, those of files that the receiver had
        self.resumed: Item | None = None  # the first that was resumed; of all, the numbers are enough
        self.resumed_files = self.resumed_size = 0
        self.refused = self.failed = 0
        self.codes: set[int] = set()  # exit codes of what failed
        self.first: SecurexferError | None = None

    @property
    def stored(self) -> int:
        """Files acknowledged, whatever the receiver did with them."""
        return sum(self.outcomes.values()) - self.outcomes.get("skipped", 0) - self.outcomes.get("offered", 0)

    @property
    def unsent(self) -> int:
        """Files refused or failed."""
        return self.refused + self.failed

    @property
    def files(self) -> int:
        """All that were told of."""
        return sum(self.outcomes.values()) + self.unsent

    def count(self, item: Item) -> None:
        """Count one more."""
        error = item.error
        if error:
            self.first = self.first or error
            self.codes.add(error.exit_code)
            if error.exit_code == 5:
                self.refused += 1
            else:
                self.failed += 1
        elif item.outcome and item.directory:
            self.directories += item.outcome != "skipped"
        elif item.outcome:
            self.outcomes[item.outcome] = self.outcomes.get(item.outcome, 0) + 1
            if item.outcome == "skipped":
                return
            if item.outcome == "offered":
                self.offered_size += item.size
                return
            self.size += item.size
            if item.outcome == "unchanged":
                self.unchanged += item.size
            elif item.resumed:
                self.resumed = self.resumed or item
                self.resumed_files += 1
                self.resumed_size += item.resumed


class Failures:
    """Tells people of files that failed, a line each, until nobody would read on; and of the rest in numbers."""

    def __init__(self, say: Callable[[str], None], *, all_of_them: bool) -> None:
        """Say each line with `say`; stop after MAX_LINES unless `all_of_them` are wanted."""
        self._say = say
        self._all = all_of_them
        self._lines = 0
        self._silent: dict[str, int] = {}  # by reason: how many were not told of
        self._told: dict[str, int] = {}
        self._hints: set[str] = set()

    def tell(self, error: SecurexferError) -> None:
        """Say what happened to one more file; the hint only once, for a thousand may fail for one reason."""
        told = self._told.get(error.reason, 0)
        if not self._all and self._lines >= MAX_LINES and told >= _LINES_OF_EACH_REASON:
            self._silent[error.reason] = self._silent.get(error.reason, 0) + 1
            return
        self._lines += 1
        self._told[error.reason] = told + 1
        self._say(f"securexfer: {error.message}")
        if error.hint not in self._hints:
            self._hints.add(error.hint)
            self._say(f"  {error.hint}")

    def tell_rest(self) -> None:
        """Say of how many `tell` has said nothing."""
        if self._silent:
            reasons = ", ".join(f"{number(count)} {reason}" for reason, count in self._silent.items())
            self._say(f"securexfer: and {number(sum(self._silent.values()))} more ({reasons})")


def summary_lines(tally: Tally, server: str, seconds: float, *, dry_run: bool) -> list[str]:
    """Return what became of the files that did not fail: what was stored, and below it what was special about that."""
    lines = []
    new = tally.size - tally.unchanged
    moved = new - tally.resumed_size
    if dry_run:
        offered = tally.outcomes.get("offered", 0)
        lines.append(f"{counted(offered, 'file')}, {amount(tally.offered_size)}, would be sent to {server}")
    elif tally.stored or tally.directories:
        rate = f", {amount(moved / seconds)}/s" if seconds > 0 and moved >= 1_000_000 else ""
        what = counted(tally.stored, "file") if tally.stored else counted(tally.directories, "directory")
        lines.append(f"{what}, {amount(tally.size)}, stored and verified on {server} in {seconds:.1f} s{rate}")
    unchanged = tally.outcomes.get("unchanged", 0)
    if unchanged:
        stored = f", {number(tally.stored - unchanged)} stored ({amount(new)})" if tally.stored > unchanged else ""
        lines.append(f"  {counted(unchanged, 'file')} unchanged{stored}")
    special = [outcome for outcome in ("renamed", "replaced", "skipped") if outcome in tally.outcomes]
    lines += [f"  {counted(tally.outcomes[outcome], 'file')} {outcome}" for outcome in special]
    if tally.resumed and tally.resumed_files == 1:
        lines.append(f"  resumed at {amount(tally.resumed.resumed)} of {amount(tally.resumed.size)}")
    elif tally.resumed:
        lines.append(
            f"  {counted(tally.resumed_files, 'file')} resumed: {amount(tally.resumed_size)} were there already"
        )
    return lines


def left_out_lines(left_out: LeftOut | None) -> list[str]:
    """Return what was not even tried, because the command line says so."""
    if not left_out:
        return []
    lines = []
    if left_out.skipped_links:
        lines.append(f"  {counted(left_out.skipped_links, 'symbolic link')} skipped (send them with --symlinks follow)")
    if left_out.excluded:
        lines.append(f"  {number(left_out.excluded)} left out by --exclude")
    return lines
