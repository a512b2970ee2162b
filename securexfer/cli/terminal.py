"""What people read: errors with their next step, notes, and whether anyone is there to read.

Data goes to stdout; everything else goes to stderr. Text from elsewhere is escaped before it is shown.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from securexfer.errors import SecurexferError


def note(text: str = "") -> None:
    """Tell the person at the terminal something that is not the command's data."""
    with contextlib.suppress(OSError):  # a full disk behind stderr is no reason to stop
        print(text, file=sys.stderr, flush=True)


def show_error(error: SecurexferError) -> None:
    """Show an error: what and why on the first line, the next step below it."""
    note(f"securexfer: {error.message}")
    for line in error.hint.splitlines():
        note(f"  {line}")


def is_interactive() -> bool:
    """Whether somebody can answer a prompt."""
    return sys.stdin.isatty()


def width_of(stream: TextIO) -> int:
    """Return how many columns of what somebody sent fit behind the bar of a line (see opening/showing.py)."""
    import shutil

    from securexfer.opening.showing import BAR, LINE, NARROWEST

    if not stream.isatty():
        return LINE
    return max(shutil.get_terminal_size().columns - len(BAR), NARROWEST)
