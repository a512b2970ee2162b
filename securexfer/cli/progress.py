"""Progress on a terminal: the file that is under way and the whole, each with its rate and the time it still takes.

A thread looks, a few times a second, how far the transfer has come; the transfer itself never draws, however many
pieces or small files it consists of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from securexfer.names import show

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from securexfer.transfer.items import Item

_DRAW_SECONDS = 0.2  # between two looks


class Display:
    """Two lines at the bottom of the terminal while `run` runs. Drawn to fit terminals from 40 columns on."""

    def __init__(self, items: Sequence[Item], current: Callable[[], Item | None]) -> None:
        """Show how far `items` have come; `current` tells which of them was the last to move. They move in order."""
        self._items = items
        self._current = current
        self._total = sum(item.size for item in items if item.open)
        self._counted = 0  # of the first so many items, what was sent is in `_sent`
        self._sent = 0
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(*_columns(console.width), console=console, transient=True, auto_refresh=False)
        self._file = self._progress.add_task("", visible=False)
        self._whole = self._progress.add_task("Total", total=self._total)
        self._shown: Item | None = None

    def run(self, over: threading.Event) -> None:
        """Draw until it is over, then take the progress away and give the terminal back."""
        self._look()
        with self._progress:
            while not over.wait(_DRAW_SECONDS):
                self._look()
                self._progress.refresh()

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def _look(self) -> None:
        item = self._current()
        if item is None:
            return
        if item is not self._shown:
            self._shown = item
            self._progress.reset(self._file, total=item.size, description=show(item.name), visible=True)
        if item.index < self._counted:  # what was left has begun anew in another session
            self._counted = self._sent = 0
        self._sent += sum(before.sent for before in self._items[self._counted : item.index])
        self._counted = item.index
        sent = self._sent + item.sent
        self._progress.update(self._file, completed=item.sent)
        self._progress.update(self._whole, completed=sent, description="Total" if sent < self._total else "Storing")


_NARROW, _WIDE = 60, 120  # columns of a terminal
_PERCENT, _SIZES, _SPEED, _TIME = 4, 16, 11, 7  # columns of ours, as wide as their longest text
_SPARE = 4  # at the right: room for the ^C that a terminal writes, which would else break the line


def _columns(width: int) -> list[ProgressColumn]:
    """Return what fits: the name, the share, rate and time left always; a bar and the sizes where there is room."""
    room = width - _PERCENT - _SPEED - _TIME - len("   ") - _SPARE
    if width < _NARROW:
        name, bar, sizes = max(8, room), 0, 0
    elif width < _WIDE:
        name, bar, sizes = 20, room - 20 - 1, 0
    else:
        name, bar, sizes = 40, min(60, room - 40 - _SIZES - 2), _SIZES
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=_column(name, overflow="ellipsis"))
    ]
    if bar:
        columns.append(BarColumn(bar_width=bar))
    columns.append(TaskProgressColumn(table_column=_column(_PERCENT)))
    if sizes:
        columns.append(DownloadColumn(table_column=_column(sizes, justify="right")))
    columns += [
        TransferSpeedColumn(table_column=_column(_SPEED, justify="right")),
        TimeRemainingColumn(compact=True, table_column=_column(_TIME)),
    ]
    return columns


def _column(width: int, **options: Any) -> Column:
    return Column(width=width, no_wrap=True, **options)
