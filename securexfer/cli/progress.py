"""Progress on a terminal: the file that is under way and the whole, each with its rate and the time it still takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

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
    from collections.abc import Sequence

    from securexfer.transfer.sender import Item

_UPDATE_SECONDS = 0.1  # a terminal shows no more, and many small files would spend their time drawing


class Display:
    """Two lines at the bottom of the terminal, from `start` to `stop`. Drawn to fit terminals from 40 columns on."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._total = sum(item.size for item in items if item.open)
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(*_columns(console.width), console=console, expand=console.width < _WIDE)
        self._file = self._progress.add_task("", total=None)
        self._whole = self._progress.add_task("Total", total=self._total)
        self._current = -1
        self._next = 0.0

    def start(self) -> None:
        """Take the terminal."""
        self._progress.start()

    def update(self, item: Item) -> None:
        """Show that a file has come further."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _UPDATE_SECONDS
        if item.index != self._current:
            self._current = item.index
            self._progress.reset(self._file, total=item.size, description=show(item.name))
        self._progress.update(self._file, completed=item.sent)
        sent = sum(item.sent for item in self._items)
        self._progress.update(self._whole, completed=sent)
        if sent >= self._total:
            self._progress.update(self._whole, description="Storing")

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        self._progress.console.print(text, markup=False)

    def stop(self) -> None:
        """Take the progress away and give the terminal back."""
        self._progress.stop()


_NARROW, _WIDE = 60, 120


def _columns(width: int) -> list[ProgressColumn]:
    """Return what fits: the name, the share, rate and time left always; a bar and the sizes where there is room."""
    name = max(8, width - 30) if width < _NARROW else 20 if width < _WIDE else 50
    columns: list[ProgressColumn] = [
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", width=name)
        ),
    ]
    if width >= _NARROW:
        columns.append(BarColumn(bar_width=None if width < _WIDE else 60))
    columns.append(TaskProgressColumn(table_column=Column(no_wrap=True, width=4)))
    if width >= _WIDE:
        columns.append(DownloadColumn(table_column=Column(no_wrap=True)))
    columns += [
        TransferSpeedColumn(table_column=Column(no_wrap=True, justify="right", width=10)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, width=7)),
    ]
    return columns
