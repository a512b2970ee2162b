"""What `send` tells while it runs and at its end: lines for people, JSON for programs, one error for the exit code.

Nothing here grows with the number of files that went well; of those that did not, a hundred are named one by one to
people, and the rest is counted. Programs (`--json`) are told of each.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from securexfer.cli.amounts import counted, number
from securexfer.cli.tally import Failures, Selection, Tally, left_out_lines, summary_lines
from securexfer.cli.terminal import note
from securexfer.errors import InterruptedTransferError, PartlyStoredError, ResultsError, SecurexferError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from securexfer.cli.progress import Display
    from securexfer.transfer.items import Item
    from securexfer.transfer.returned import Opened

# Most sends are over before anybody could read a progress bar; drawing one costs more time than they take.
_DISPLAY_AFTER_SECONDS = 0.5
_MAX_NAMES = 10  # of files that were not sent, in a message


class Report:
    """Watches one `send`; used as a context while the transfer runs, so that the terminal is always given back.

    `follow` hands the items on to whoever sends them and knows from then on what is under way.
    """

    def __init__(
        self,
        server: str,
        selection: Selection,
        *,
        as_json: bool,
        quiet: bool,
        dry_run: bool = False,
        results: Path | None = None,
    ) -> None:
        """Take what is sent, and the directory for what scripts leave there, if that is wanted."""
        self._server = server
        self._results = results
        self._results_problem: SecurexferError | None = None  # why some of it is not here
        self._told_of_opening = False
        self._opens = False  # whether the server has said that it opens what it gets
        self._opened = 0  # files that it has
        self._selection = selection
        self._json = as_json
        self._quiet = quiet or as_json
        self._started = time.monotonic()
        self._wanted = not self._quiet and sys.stderr.isatty()
        self._dry_run = dry_run  # nothing is sent, so there is no progress; what would be is listed
        self._connected = False
        self._under_way: dict[Item, None] = {}
        self._failures = Failures(self._say, all_of_them=as_json)
        # What a display reads.
        self.tally = Tally()
        self.current: Item | None = None  # the last file that moved
        self.entries = self.size = 0  # files and directories handed on by `follow`, and their bytes
        self.all_seen = False  # nothing is to come beside them
        self.ended_entries = 0
        self.passed = 0  # bytes that are sent, or need not be
        self.moved = 0  # bytes that went out
        self._over = threading.Event()
        self._drawing: threading.Thread | None = None
        self._display: Display | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._drawing and self._drawing.ident:  # Ctrl-C may have come before it was started
            self._drawing.join()
        self._display = None

    def follow(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand on what can be sent, and report what cannot."""
        for item in items:
            if not item.open:
                self._report(item)
                continue
            if self._dry_run and item.directory:
                continue  # what the server says of the files in it is what there is to know
            self.entries += 1
            self.size += item.size
            self._under_way[item] = None
            yield item
        self.all_seen = True

    def connected(self, user: str, server: str) -> None:
        """Say who sends where; the time counts from here, not from the typing of a password."""
        if self._connected:  # a connection that was lost is there again
            return
        self._connected = True
        self._started = time.monotonic()
        self._note(f"Sending to {server} as {user}")
        if self._wanted and not self._dry_run:
            # Not a daemon: whatever interrupts us, it ends in order and gives the terminal back.
            self._drawing = threading.Thread(target=self._draw)
            self._drawing.start()

    def retrying(self, why: str, seconds: float) -> None:
        """Say why it takes longer: the server is busy, or the connection was lost."""
        self._note(f"{why}; trying again in {seconds:.1f} s")

    def opening(self, verdict: str) -> None:
        """Say that nothing will come back, if that is what was asked for."""
        self._opens = verdict == "yes"
        if self._results and verdict != "yes" and not self._told_of_opening:
            from securexfer.cli.opened import not_opened

            self._told_of_opening = True
            self._say(f"securexfer: nothing is opened on {self._server}: {not_opened(verdict)}")

    def opened(self, item: Item, opened: Opened) -> None:
        """Report what came of a file that the server opened, with what it printed."""
        from securexfer.cli.opened import NOT_BEGUN, fields_of, lines_of

        self._opened += opened.how not in NOT_BEGUN
        if opened.problem:
            self._results_problem = self._results_problem or opened.problem
            self._failures.tell(opened.problem)
        if self._json:
            _print_json(fields_of(item.name, opened))
        elif not self._quiet:
            print("\n".join(lines_of(item.name, opened, self._results)), flush=True)

    def sent(self, item: Item, count: int) -> None:
        """Note how far it has come; the display looks at it when it draws."""
        if item.again:
            return
        self.current = item
        self.passed += count
        if count > 0 and item.sent != item.resumed:
            self.moved += count

    def ended(self, item: Item) -> None:
        """Report one file: as JSON each, by a line for people if it failed and is not the only one."""
        if item.again:
            return
        if item in self._under_way:
            del self._under_way[item]
            self.ended_entries += 1
            self.passed += item.size - item.sent
        self._report(item)

    def finish(self, outcome: SecurexferError | None) -> SecurexferError | None:
        """Give the summary; return the error that the exit code comes from, or None if every file was acknowledged.

        `outcome` is what ended the send before its end. It is the error of all that was under way.
        """
        unsent = []
        for item in self._under_way:
            if item.open:
                unsent.append(item)
            else:  # the end came before it could be told
                self._report(item)
        if unsent or not self.all_seen:
            outcome = outcome or SecurexferError("the file was not sent")
        # Where files were not sent, it goes without saying that their directories were not, either.
        unsent = [item for item in unsent if not item.directory] or unsent
        for item in unsent:
            item.error = outcome
            self.tally.count(item)
            if self._json:
                _print_json(_fields(item))
        self._summary()
        return self._verdict(outcome, unsent)

    def _report(self, item: Item) -> None:
        self.tally.count(item)
        if self._json and (item.error or not item.directory):
            _print_json(_fields(item))
        elif item.outcome == "offered" and not self._quiet:
            print(show(item.name))
        if item.error and not self._selection.alone:
            self._failures.tell(item.error)

    def _verdict(self, outcome: SecurexferError | None, unsent: list[Item]) -> SecurexferError | None:
        tally, left = self.tally, not self.all_seen
        stored, count = tally.stored, tally.files
        known = f"{number(stored)} of {number(count)} files {_were(stored)} stored on {self._server}"
        open_end = f"{counted(stored, 'file')} {_were(stored)} stored on {self._server}; the rest was not sent"
        said = open_end if left else known
        if isinstance(outcome, InterruptedTransferError):
            return InterruptedTransferError(f"interrupted: {said}")
        if not tally.first and not left:
            return self._results_problem or self._lost_results(known, outcome)
        self._failures.tell_rest()
        if outcome and (stored or tally.unsent > len(unsent)) and (unsent or left):
            names = [show(item.name) for item in unsent[:_MAX_NAMES]]
            more = ["…"] if left or len(unsent) > _MAX_NAMES else []
            note(f"securexfer: {outcome.message}\n  not sent: {' '.join([', '.join(names), *more]).strip()}")
        if stored and not self._dry_run:
            return PartlyStoredError(said)
        if outcome and (left or len(unsent) == count) and tally.unsent == len(unsent):
            return outcome
        if len(tally.codes | ({outcome.exit_code} if outcome else set())) > 1 or not tally.first:
            return SecurexferError("no file was stored, for different reasons", hint="Each is named above.")
        if self._selection.alone:
            return tally.first
        if self._dry_run:
            return type(tally.first)(f"{counted(tally.unsent, 'file')} cannot be sent", hint="Each is named above.")
        subject = "the only file was not stored" if count == 1 else f"none of the {number(count)} files was stored"
        return type(tally.first)(subject, hint="Each is named above.")

    def _lost_results(self, known: str, outcome: SecurexferError | None) -> SecurexferError | None:
        """Say that all is stored, but not all that came of it is here; return that as an error, if it was wanted."""
        if not (outcome and self._opens):
            return None
        lost = f"{known}, but not all that came of opening them is here: {outcome.message}"
        if self._results:
            return ResultsError(
                lost, hint="Send all of it again, to have it opened again. What is stored is not sent twice."
            )
        self._note(f"securexfer: {lost}")
        return None

    def _summary(self) -> None:
        tally, seconds = self.tally, time.monotonic() - self._started
        if self._json:
            summary: dict[str, Any] = {
                "event": "summary",
                "files": tally.files,
                "bytes": tally.size,
                "stored": tally.stored,
                "refused": tally.refused,
                "failed": tally.failed,
                "seconds": round(seconds, 3),
                "unchanged": tally.outcomes.get("unchanged", 0),
                "skipped": tally.outcomes.get("skipped", 0),
                "resumed": tally.resumed_size,
            }
            if self._opens:
                summary["opened"] = self._opened
            if left_out := self._selection.left_out:
                summary |= {"skipped_links": left_out.skipped_links, "excluded": left_out.excluded}
            _print_json(summary)
        elif not self._quiet:
            lines = summary_lines(tally, self._server, seconds, dry_run=self._dry_run)
            lines += left_out_lines(self._selection.left_out)
            if self._opened:
                rest = tally.stored - self._opened
                also = f", {number(rest)} stored, not opened" if rest else ""
                lines.append(f"  {counted(self._opened, 'file')} opened{also}")
            for line in lines:
                print(line, flush=True)

    def _draw(self) -> None:
        """Show the progress, in a thread of its own, once the send has lasted long enough to be watched."""
        if self._over.wait(_DISPLAY_AFTER_SECONDS):
            return
        from securexfer.cli.progress import Display

        self._display = Display(self, self._selection.again)
        self._display.run(self._over)

    def _note(self, text: str) -> None:
        if not self._quiet:
            self._say(text)

    def _say(self, text: str) -> None:
        if self._display:
            self._display.say(text)
        else:
            note(text)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _fields(item: Item) -> dict[str, Any]:
    error = item.error
    fields: dict[str, Any] = {
        "event": "file",
        "name": item.name,
        "status": item.outcome or ("refused" if error and error.exit_code == 5 else "failed"),
        "size": item.size,
        "sha256": item.sha256,
        "stored_as": item.stored_as,
        "reason": error.reason if error else None,
    }
    if error:
        fields["detail"] = error.message
    if item.resumed and item.outcome != "unchanged":
        fields["resumed"] = item.resumed
    return fields


def _print_json(fields: dict[str, Any]) -> None:
    import json  # only for --json: it would be a hundredth of what a small send takes

    print(json.dumps(fields), flush=True)
