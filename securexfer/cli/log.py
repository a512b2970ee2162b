"""The server's log on stderr, for people on a terminal, as JSON lines otherwise: a line for each event, or file of one.

Text from a peer is escaped: a line stays a line, and a terminal stays as it was. A thread of its own writes,
from a bounded queue, so that a full disk or a pipe that nobody reads never holds a transfer up; what had to be
dropped is counted and said as soon as there is room. What strangers can cause goes through a floodgate.
"""

from __future__ import annotations

import enum
import functools
import json
import os
import threading
import time
from json.encoder import encode_basestring_ascii as _text
from typing import TYPE_CHECKING, Any, TextIO

from securexfer.cli.floodgate import TELL_SECONDS, Floodgate
from securexfer.events import FilesStored, LogDropped
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from securexfer.events import Event

QUEUE_LINES = 10_000  # about 3 MiB; at a few lines a file, seconds of the busiest server
LONG_LINE = 4096  # characters: more than any line but those with what a script printed
LONG_LINES = 100  # that wait, at most: with the defaults, about 12 MiB
FEW_LINES = 4  # at once are no reason to wait for more
GATHER_SECONDS = 0.005  # for those that come next, where many came
BATCH_LINES = 1000  # written at once: they wait no more, and are not in the list of those that do
CLOSE_SECONDS = 2.0  # how long the end waits for a log that does not take its lines
_OF_A_FILE = ("name", "size", "sha256", "outcome", "stored_as", "seconds")  # what a StoredFile says, in its order


class LogFormat(enum.StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


class Log:
    """Writes events. `write` may be called from any thread and never waits."""

    def __init__(self, stream: TextIO, log_format: LogFormat) -> None:
        self._stream = stream
        self._render = _as_json if log_format is LogFormat.JSON else _as_text
        # Those that wait. It grows at its end, by whoever holds the floodgate's lock, and shrinks at its beginning, by
        # our thread: a queue, which is made for more than that, would cost each line as much as its text does.
        self._lines: list[str] = []
        self._woken = threading.Event()
        self._dropped = 0
        self._closing = threading.Event()
        self._rest = b""  # of a line that was begun when the room ended
        self._floodgate = Floodgate(self._add)
        self._thread = threading.Thread(target=self._run, daemon=True, name="log")
        self._thread.start()

    def write(self, event: Event) -> None:
        """Put an event into the log."""
        self._floodgate.write(event)

    def close(self) -> None:
        """Write what is left, for a while at most."""
        self._floodgate.close()
        self._closing.set()
        self._woken.set()
        self._thread.join(2 * CLOSE_SECONDS)

    def _add(self, moment: float, event: Event) -> None:
        waiting = len(self._lines)
        if waiting >= QUEUE_LINES:
            self._dropped += len(event.files) if isinstance(event, FilesStored) else 1
            return
        # Rendered here: two threads that take turns for that cost each small file more than its line does.
        for line in self._render(moment, event):
            if len(self._lines) >= LONG_LINES and len(line) > LONG_LINE:
                self._dropped += 1
                continue
            self._lines.append(line)
            if len(self._lines) == 1:  # else our thread finds it after those before it
                self._woken.set()

    def _run(self) -> None:
        closing = False
        while not closing or self._lines:
            closing = self._closing.is_set()  # asked first, so that the last lines are written
            if not self._lines and not closing:
                self._woken.wait(TELL_SECONDS)
            self._woken.clear()
            found = self._lines[:BATCH_LINES]
            del self._lines[: len(found)]
            self._put_or_drop(found)
            if len(found) > FEW_LINES:
                # Many files end in a moment; a thread that woke for each would cost them as much as its lines.
                self._closing.wait(GATHER_SECONDS)
            self._floodgate.report()

    def _put_or_drop(self, lines: Sequence[str]) -> None:
        try:
            self._put("\n".join((*lines, "")).encode(errors="backslashreplace"))
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                told = "\n".join((*self._render(time.time(), LogDropped(dropped)), ""))
                try:
                    self._put(told.encode())
                except OSError:
                    self._dropped += dropped - 1  # this line is one of those that were dropped, now
        except OSError:  # no room, or nobody reads: transfers go on
            return

    def _put(self, lines: bytes) -> None:
        """Write lines past Python's buffer, which would keep what could not be written and write it later.

        A line that was begun is different: its end comes before anything else, so that lines stay lines. Raises OSError
        when there is no room; lines that were not begun are counted as dropped.
        """
        try:
            while self._rest:
                self._rest = self._rest[self._write(self._rest) :]
            while lines:
                written = self._write(lines)
                begun = not lines[:written].endswith(b"\n")
                lines = lines[written:]
                if begun:
                    end = lines.index(b"\n") + 1
                    self._rest, lines = lines[:end], lines[end:]
                    while self._rest:
                        self._rest = self._rest[self._write(self._rest) :]
        except OSError:
            lost = lines.count(b"\n")  # first: a call is where another thread may have its turn
            self._dropped += lost
            raise

    def _write(self, data: bytes) -> int:
        return os.write(self._stream.fileno(), data)


def _as_json(moment: float, event: Event) -> list[str]:
    """Return an event as lines of JSON, in ASCII only: every control character is escaped."""
    second = int(moment)
    clock = f"{_second(second)}.{int((moment - second) * 1000):03d}Z"
    begin = f'{{"time": "{clock}", "level": "{event.level}", "event": "{event.kind}"'
    if isinstance(event, FilesStored):
        return _stored(begin, event)
    return [f"{begin}{_fields(vars(event))}}}"]


def _fields(values: Mapping[str, Any]) -> str:
    return "".join(
        f', "{name}": {f"{value:.4f}" if isinstance(value, float) else json.dumps(value)}'
        for name, value in values.items()
    )


def _stored(begin: str, event: FilesStored) -> list[str]:
    """Return what `_fields` makes of each file, in a fifth of the time: there may be very many."""
    user, address = _text(event.user), _text(event.address)
    begin = f'{begin}, "connection": {event.connection}, "address": {address}, "user": {user}, "name": '
    return [
        f'{begin}{_text(name)}, "size": {size}, "sha256": {_text(sha256)}, "outcome": {_text(outcome)}'
        f', "stored_as": {_text(stored_as)}, "seconds": {seconds:.4f}}}'
        for name, size, sha256, outcome, stored_as, seconds in event.files
    ]


def _each(event: Event) -> Iterator[dict[str, Any]]:
    """Yield the fields of each line of an event."""
    values = dict(vars(event))
    if isinstance(event, FilesStored):
        del values["files"]
        for file in event.files:
            yield values | dict(zip(_OF_A_FILE, file, strict=True))
    else:
        yield values


@functools.lru_cache(maxsize=1)  # most lines belong to the second of the line before
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _as_text(moment: float, event: Event) -> list[str]:
    """Return an event as lines for people."""
    clock = time.strftime("%H:%M:%S", time.localtime(moment))
    lines = []
    for values in _each(event):
        shown = values.pop("shown", ())  # lines of their own, below
        words = [f"{name}={_plain(value)}" for name, value in values.items() if value not in ("", None, ())]
        lines.append("\n".join([f"{clock} {event.level.upper():7} {event.kind:12} {' '.join(words)}", *shown]))
    return lines


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        return ",".join(_plain(each) for each in value)
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items())
    shown = show(str(value))
    return json.dumps(shown, ensure_ascii=False) if " " in shown or '"' in shown or not shown else shown
