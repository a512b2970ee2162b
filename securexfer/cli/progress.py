"""Progress on a terminal: the file that is under way and the whole, each with its rate and the time it still takes.

A thread looks, a few times a second, how far the transfer has come; the transfer itself never draws, however many
pieces or small files it consists of. Another one counts what there is to send, for as long as that is not known; until
then no share and no time are shown.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column

from securexfer.cli.amounts import amount, clock, number
from securexfer.cli.pace import Pace
from securexfer.errors import SecurexferError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import JustifyMethod

    from securexfer.cli.report import Report
    from securexfer.transfer.items import Item

_DRAW_SECONDS = 0.2  # between two looks
_WORTH = 4096  # bytes; files and directories count as so many more in the share done, for empty ones are work, too
_COUNT_AT_ONCE = 256  # files; the counting rests after as many for as long as they took: sending comes first


class Count(threading.Thread):
    """Counts what there is to send. A daemon: nobody waits for it at the end."""

    def __init__(self, again: Callable[[], Iterable[Item]], over: threading.Event) -> None:
        """Count the items of `again` that can be sent, until `over`."""
        super().__init__(daemon=True)
        self._again = again
        self._over = over
        self.entries = self.size = 0
        self.done = False

    def run(self) -> None:
        """Count; `done` is set at the end, unless a problem comes before, which the sender will meet as well."""
        with contextlib.suppress(SecurexferError, OSError):
            began = time.monotonic()
            for item in self._again():
                if item.error:
                    continue
                self.entries += 1
                self.size += item.size
                if self.entries % _COUNT_AT_ONCE == 0:
                    if self._over.wait(time.monotonic() - began):
                        return
                    began = time.monotonic()
            self.done = True


class Display:
    """Two lines at the bottom of the terminal while `run` runs. Drawn to fit terminals from 40 columns on."""

    def __init__(self, report: Report, again: Callable[[], Iterable[Item]]) -> None:
        """Show how far `report` has come; `again` returns what there is to send anew, to be counted."""
        self._report = report
        self._again = again
        console = Console(stderr=True, highlight=False)
        self._room, columns = _layout(console.width)
        # What is printed meanwhile stands above the progress, unless it goes to a file or a pipe.
        self._progress = Progress(
            *columns, console=console, transient=True, auto_refresh=False, redirect_stdout=sys.stdout.isatty()
        )
        self._file = self._progress.add_task("", visible=False)
        self._whole = self._progress.add_task("Total", total=None)
        self._shown: Item | None = None
        self._moved_before, self._ended_before = report.moved, report.ended_entries
        self._pace = self._file_pace = Pace(time.monotonic())

    def run(self, over: threading.Event) -> None:
        """Draw until it is over, then take the progress away and give the terminal back."""
        count = Count(self._again, over)
        if not self._report.all_seen:
            count.start()
        self._look(count)  # before anything is drawn: the columns show what it finds
        with self._progress:
            while not over.wait(_DRAW_SECONDS):
                self._look(count)
                self._progress.refresh()

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def _look(self, count: Count) -> None:
        now = time.monotonic()
        if (item := self._report.current) is not None:
            self._look_at_file(item, now)
        self._look_at_whole(count, now)

    def _look_at_file(self, item: Item, now: float) -> None:
        size, sent = item.size, min(item.sent, item.size)
        moved = max(sent - item.resumed, 0)
        if item is not self._shown:
            self._shown, self._file_before, self._file_pace = item, moved, Pace(now)
        self._file_pace.look(now, moved - self._file_before)
        resumed = f" (resumed at {100 * item.resumed // size}%)" if 0 < item.resumed <= size else ""
        self._show(
            self._file, _fitting_name(show(item.name), resumed, self._room), sent, size,
            sizes=f"{amount(sent)} of {amount(size)}",
            rate=self._file_pace.rate,
            left=self._file_pace.left(size - sent),
        )  # fmt: skip

    def _look_at_whole(self, count: Count, now: float) -> None:
        report = self._report
        known = report.all_seen or count.done
        entries, size = report.entries, report.size
        if not report.all_seen:  # a tree may also grow after it was counted
            entries, size = max(entries, count.entries), max(size, count.size)
        ended, passed = report.ended_entries, min(report.passed, size)
        self._pace.look(now, report.moved - self._moved_before, ended - self._ended_before)
        more = "" if known else "+"
        words = ["Storing" if known and passed == size and ended < entries else "Total"]
        if entries > 1:
            words.append(f"{words[0]} {number(ended)}/{number(entries)}{more}")
        if unchanged := report.tally.outcomes.get("unchanged"):
            words.append(f"{words[-1]}, {number(unchanged)} unchanged")
        self._show(
            self._whole,
            next((text for text in reversed(words) if len(text) <= self._room), words[0]),
            passed + _WORTH * ended,
            size + _WORTH * entries if known else None,
            sizes=f"{amount(passed)} of {amount(size)}{more}",
            rate=self._pace.rate,
            left=self._pace.left(size - passed, entries - ended) if known else None,
        )

    def _show(
        self,
        line: TaskID,
        text: str,
        done: int,
        total: int | None,
        *,
        sizes: str,
        rate: float | None,
        left: float | None,
    ) -> None:
        self._progress.update(
            line,
            description=text,
            visible=True,
            completed=done,
            total=total,
            share="" if total is None else f"{100 * done // total if total else 100}%",
            sizes=sizes,
            rate="" if rate is None else f"{amount(rate)}/s",
            left=clock(left),
        )


def _fitting_name(name: str, remark: str, room: int) -> str:
    """Return a name with a remark; the name is cut where both have no room, and the remark left out before the name."""
    if cell_len(name) + len(remark) <= room:
        return name + remark
    left = room - len(remark) - 1
    return f"{set_cell_size(name, left)}…{remark}" if remark and left >= _SHORTEST_NAME else name


_NARROW, _WIDE = 60, 120  # columns of a terminal
_PERCENT, _SIZES, _SPEED, _TIME = 4, 21, 11, 7  # columns of ours, as wide as their longest text
_SPARE = 4  # at the right: room for the ^C that a terminal writes, which would else break the line
_SHORTEST_NAME, _SHORTEST_BAR = 8, 10


def _layout(width: int) -> tuple[int, list[ProgressColumn]]:
    """Return the room for the name, and the columns: bar and sizes only where there is room."""
    room = width - _PERCENT - _SPEED - _TIME - len("   ") - _SPARE
    if width < _NARROW:
        name, bar, sizes = max(_SHORTEST_NAME, room), 0, 0
    elif width < _WIDE:
        name = min(36, room - _SHORTEST_BAR - 1)
        bar, sizes = room - name - 1, 0
    else:
        name, sizes = 48, _SIZES
        bar = min(60, room - name - sizes - 2)
    columns: list[ProgressColumn] = [_text("description", name, justify="left")]
    if bar:
        columns.append(BarColumn(bar_width=bar))
    columns.append(_text("fields[share]", _PERCENT, "progress.percentage"))
    if sizes:
        columns.append(_text("fields[sizes]", sizes, "progress.download"))
    columns += [
        _text("fields[rate]", _SPEED, "progress.data.speed"),
        _text("fields[left]", _TIME, "progress.remaining"),
    ]
    return name, columns


def _text(field: str, width: int, style: str = "none", justify: JustifyMethod = "right") -> TextColumn:
    column = Column(width=width, no_wrap=True, justify=justify, overflow="ellipsis")
    return TextColumn(f"{{task.{field}}}", style=style, justify=justify, markup=False, table_column=column)
