"""The server's log: one event a line on stderr, for people on a terminal, as JSON lines otherwise.

Text from a peer is escaped: a line stays a line, and a terminal stays as it was. A thread of its own writes,
from a bounded queue, so that a full disk or a pipe that nobody reads never holds a transfer up; what had to be
dropped is counted and said as soon as there is room.
"""

from __future__ import annotations

import enum
import json
import os
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from securexfer.events import LogDropped
from securexfer.names import show

if TYPE_CHECKING:
    from securexfer.events import Event

QUEUE_LINES = 10_000  # about 3 MiB; at a few lines a file, seconds of the busiest server
CLOSE_SECONDS = 2.0  # how long the end waits for a log that does not take its lines


class LogFormat(enum.StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


class Log:
    """Writes events. `write` may be called from any thread and never waits."""

    def __init__(self, stream: TextIO, log_format: LogFormat) -> None:
        self._stream = stream
        self._render = _as_json if log_format is LogFormat.JSON else _as_text
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="log")
        self._thread.start()

    def write(self, event: Event) -> None:
        """Put an event into the log."""
        try:
            self._queue.put_nowait(self._render(datetime.now(UTC), event))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, for a while at most."""
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._put(line)
            except OSError:  # no room, or nobody reads: transfers go on
                self._dropped += 1
                continue
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                try:
                    self._put(self._render(datetime.now(UTC), LogDropped(dropped)))
                except OSError:
                    self._dropped += dropped

    def _put(self, line: str) -> None:
        """Write a line past Python's buffer, which would keep what could not be written and write it later."""
        data = (line + "\n").encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._stream.fileno(), data) :]


def _as_json(now: datetime, event: Event) -> str:
    values: dict[str, Any] = {
        "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": event.level,
        "event": event.kind,
    }
    values.update(vars(event))
    for name, value in values.items():
        if isinstance(value, float):
            values[name] = round(value, 4)
    return json.dumps(values)  # ASCII only: every control character is escaped


def _as_text(now: datetime, event: Event) -> str:
    words = [
        f"{name}={_plain(value)}" for name, value in vars(event).items() if value not in {"", None} and name != "level"
    ]
    return f"{now.astimezone():%H:%M:%S} {event.level.upper():7} {event.kind:12} {' '.join(words)}"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        return ",".join(_plain(each) for each in value)
    shown = show(str(value))
    return json.dumps(shown, ensure_ascii=False) if " " in shown or '"' in shown or not shown else shown
