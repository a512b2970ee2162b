"""What `send` tells while it runs and at its end: lines for people, JSON for programs, one error for the exit code."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from securexfer.cli.terminal import note
from securexfer.errors import InterruptedTransferError, PartlyStoredError, SecurexferError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from securexfer.cli.progress import Display
    from securexfer.transfer.items import Item

# Most sends are over before anybody could read a progress bar; drawing one costs more time than they take.
_DISPLAY_AFTER_SECONDS = 0.5
_MAX_NAMES = 10  # of files that were not sent, in a message


class Report:
    """Watches one `send`; used as a context while the transfer runs, so that the terminal is always given back."""

    def __init__(self, items: Sequence[Item], server: str, *, as_json: bool, quiet: bool) -> None:
        self._items = items
        self._server = server
        self._json = as_json
        self._quiet = quiet or as_json
        self._started = time.monotonic()
        self._wanted = not self._quiet and sys.stderr.isatty()
        self._hints: set[str] = set()
        self._current: Item | None = None  # the last file that moved
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

    def connected(self, user: str, server: str) -> None:
        """Say who sends where; the time counts from here, not from the typing of a password."""
        self._started = time.monotonic()
        self._note(f"Sending to {server} as {user}")
        if self._wanted and not self._drawing:
            # Not a daemon: whatever interrupts us, it ends in order and gives the terminal back.
            self._drawing = threading.Thread(target=self._draw)
            self._drawing.start()

    def retrying(self, why: str, seconds: float) -> None:
        """Say that the server is busy."""
        self._note(f"{why}; trying again in {seconds:.1f} s")

    def sent(self, item: Item) -> None:
        """Note how far it has come; the display looks at it when it draws."""
        self._current = item

    def ended(self, item: Item) -> None:
        """Report one file: always as JSON, by a line for people if it failed and is not the only one."""
        if self._json:
            _print_json(_fields(item))
        if item.error and len(self._items) > 1:
            self._say(f"securexfer: {item.error.message}")
            if item.error.hint not in self._hints:  # once: a thousand files may fail for one reason
                self._hints.add(item.error.hint)
                self._say(f"  {item.error.hint}")

    def finish(self, outcome: SecurexferError | None) -> SecurexferError | None:
        """Give the summary; return the error that the exit code comes from, or None if every file was acknowledged."""
        unsent = [item for item in self._items if item.open]
        for item in unsent:
            item.error = outcome or SecurexferError("the file was not sent")
            if self._json:
                _print_json(_fields(item))
        self._summary()
        return self._verdict(outcome, unsent)

    def _verdict(self, outcome: SecurexferError | None, unsent: Sequence[Item]) -> SecurexferError | None:
        stored = sum(item.outcome is not None for item in self._items)
        count = len(self._items)
        if isinstance(outcome, InterruptedTransferError):
            return InterruptedTransferError(
                f"interrupted: {stored} of {count} files {_were(stored)} stored on {self._server}"
            )
        errors = [item.error for item in self._items if item.error]
        if not errors:
            return None
        if unsent and outcome and (stored or len(unsent) < count):
            names = ", ".join(show(item.name) for item in unsent[:_MAX_NAMES])
            note(f"securexfer: {outcome.message}\n  not sent: {names}{' …' if len(unsent) > _MAX_NAMES else ''}")
        if stored:
            return PartlyStoredError(f"{stored} of {count} files {_were(stored)} stored on {self._server}")
        if len({error.exit_code for error in errors}) > 1:
            return SecurexferError("no file was stored, for different reasons", hint="Each is named above.")
        if len(unsent) == count or count == 1:
            return errors[0]
        return type(errors[0])(f"none of the {count} files was stored", hint="Each is named above.")

    def _summary(self) -> None:
        seconds = time.monotonic() - self._started
        stored = [item for item in self._items if item.outcome]
        size = sum(item.size for item in stored)
        refused = sum(1 for item in self._items if item.error and item.error.exit_code == 5)
        if self._json:
            summary: dict[str, Any] = {
                "event": "summary",
                "files": len(self._items),
                "bytes": size,
                "stored": len(stored),
                "refused": refused,
                "failed": len(self._items) - len(stored) - refused,
                "seconds": round(seconds, 3),
            }
            _print_json(summary)
        elif not self._quiet and stored:
            rate = f", {amount(size / seconds)}/s" if seconds > 0 and size >= 1_000_000 else ""
            files = f"{len(stored)} file{'s' if len(stored) != 1 else ''}"
            print(
                f"{files}, {amount(size)}, stored and verified on {self._server} in {seconds:.1f} s{rate}", flush=True
            )

    def _draw(self) -> None:
        """Show the progress, in a thread of its own, once the send has lasted long enough to be watched."""
        if self._over.wait(_DISPLAY_AFTER_SECONDS):
            return
        from securexfer.cli.progress import Display

        self._display = Display(self._items, lambda: self._current)
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


def amount(size: float) -> str:
    """Return a number of bytes in decimal units, as disks and networks are sold: 1.5 MB is 1 500 000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


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
    return {**fields, "detail": error.message} if error else fields


def _print_json(fields: dict[str, Any]) -> None:
    import json  # only for --json: it would be a hundredth of what a small send takes

    print(json.dumps(fields), flush=True)
