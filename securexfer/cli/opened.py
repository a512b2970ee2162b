"""What came of files that the server opened, as `send` tells it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from securexfer.amounts import exactly
from securexfer.cli.terminal import width_of
from securexfer.names import show
from securexfer.opening.showing import shown

if TYPE_CHECKING:
    from pathlib import Path

    from securexfer.transfer.returned import Opened

# Why a server opens nothing: the words of messages.OPENING.
NOT_OPENED = {
    "unasked": "this send did not ask for it",
    "off": "its server was started without --open",
    "denied": "this user may not; whoever runs the server can say: securexfer user allow NAME open",
    "unavailable": "its server has no sandbox that works; `securexfer doctor` there says why",
}

_HOW = {
    "shown": "shown",
    "exit": "ran",
    "signal": "ended by a signal",
    "time": "ended: it took too long",
    "cpu": "ended: it took too much processor time",
    "memory": "ended: it took too much memory",
    "output": "ended: it printed too much",
    "cancelled": "ended: the server stopped",
    "failed": "could not be run",
    "busy": "stored, not opened: the server has too much to do",
    "denied": "stored, not opened: this user may not have files opened any more",
    "gone": "stored, not opened",
}
NOT_BEGUN = {"busy", "denied", "gone"}  # of them: nothing was opened


def lines_of(name: str, opened: Opened, directory: Path | None) -> list[str]:
    """Return what to tell a person: how it went, what was printed, what came back to `directory`."""
    said = _HOW.get(opened.how, opened.how)
    if opened.how == "exit":
        said = f"{said}, exit code {opened.code}"
    if opened.seconds:
        said = f"{said}, {opened.seconds:.1f} s"
    lines = [f"{show(name)}: {said}" + (f" ({opened.detail})" if opened.detail else "")]
    lines += shown(opened.output, len(opened.output), width_of(sys.stdout)).lines
    if opened.cut:
        lines.append(f"… cut after {exactly(len(opened.output))}")
    lines += [f"  {show(str(directory / result) if directory else result)}" for result in opened.results]
    return lines


def fields_of(name: str, opened: Opened) -> dict[str, Any]:
    """Return the same for a program; what was printed is not escaped there, but for what is no UTF-8."""
    return {
        "event": "opened",
        "name": name,
        "action": opened.action,
        "how": opened.how,
        "exit_code": opened.code if opened.how == "exit" else None,
        "seconds": opened.seconds,
        "output": opened.output.decode(errors="backslashreplace"),
        "cut": opened.cut,
        "results": list(opened.results),
        "detail": opened.detail,
    }


def not_opened(verdict: str) -> str:
    """Return why nothing comes back, though it was asked for."""
    return f"{NOT_OPENED.get(verdict, verdict)}. What is sent is stored, and nothing comes back."
