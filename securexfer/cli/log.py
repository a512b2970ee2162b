"""The server's log: one event a line on stderr, for people on a terminal, as JSON lines otherwise.

Text from a peer is escaped: a line stays a line, and a terminal stays as it was. A thread of its own writes,
from a bounded queue, so that a full disk or a pipe that nobody reads never holds a transfer up; what had to be
dropped is counted and said as soon as there is room. What strangers can cause goes through a floodgate.
"""

from __future__ import annotations

import enum
import json
import os
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from securexfer.cli.floodgate import TELL_SECONDS, Floodgate
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
        self._rest = b""  # of a line that was begun when the room ended
        self._floodgate = Floodgate(self._enqueue)
        self._thread = threading.Thread(target=self._run, daemon=True, name="log")
        self._thread.start()

    def write(self, event: Event) -> None:
        """Put an event into the log."""
        self._floodgate.write(event)

    def close(self) -> None:
        """Write what is left, for a while at most."""
        self._floodgate.close()
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _enqueue(self, moment: datetime, event: Event) -> None:
        try:
            self._queue.put_nowait(self._render(moment, event))
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        line: str | None = ""
        while line is not None:
            try:
                line = self._queue.get(timeout=TELL_SECONDS)
            except queue.Empty:
                line = ""
            if line:
                self._put_or_drop(line)
            self._floodgate.report()

    def _put_or_drop(self, line: str) -> None:
        try:
            self._put(line)
        except OSError:  # no room, or nobody reads: transfers go on
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            try:
                self._put(self._render(datetime.now(UTC), LogDropped(dropped)))
            except OSError:
                self._dropped += dropped

    def _put(self, line: str) -> None:
        """Write a line past Python's buffer, which would keep what could not be written and write it later.

        A line that was begun is different: its end comes before anything else, so that lines stay lines.
        """
        self._write_rest()
        whole = self._rest = (line + "\n").encode(errors="backslashreplace")
        try:
            self._write_rest()
        except OSError:
            if len(self._rest) == len(whole):
                self._rest = b""
                raise

    def _write_rest(self) -> None:
        while self._rest:
            self._rest = self._rest[os.write(self._stream.fileno(), self._rest) :]


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
        f"{name}={_plain(value)}" for name, value in vars(event).items() if value not in ("", None) and name != "level"
    ]
    return f"{now.astimezone():%H:%M:%S} {event.level.upper():7} {event.kind:12} {' '.join(words)}"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        return ",".join(_plain(each) for each in value)
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items())
    shown = show(str(value))
    return json.dumps(shown, ensure_ascii=False) if " " in shown or '"' in shown or not shown else shown
