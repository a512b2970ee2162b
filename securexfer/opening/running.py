"""One run of a script: what comes out of the sandbox is read as it comes, and it is ended where it has to be."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess  # nosec B404 # what is started elsewhere ends here
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from securexfer.names import show
from securexfer.opening import supervisor
from securexfer.opening.results import Reader, Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from securexfer.opening.limits import Limits

How = Literal["exit", "signal", "time", "cpu", "memory", "output", "cancelled", "failed"]

_PIECE = 65536  # read at once; as much as a pipe holds
_FLOOD = 16  # so many times what is kept of its output ends a script
_COLLECT_SECONDS = 10.0  # for what it left, after it ended in time: memory to memory
_GONE_SECONDS = 2.0  # for the kernel to end all that is in the sandbox
_LOOK_SECONDS = 0.2  # between two questions whether to go on
_SAID_BYTES = 4096  # kept of what bubblewrap and the supervisor say if they fail

_ENDS: dict[int, How] = {
    supervisor.EXIT: "exit",
    supervisor.SIGNAL: "signal",
    supervisor.CPU: "cpu",
    supervisor.MEMORY: "memory",
    supervisor.ENTRIES: "memory",  # of the kernel: each empty file takes some
}


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a script. What it wrote is as it wrote it: whoever shows it escapes it."""

    # It ended by itself ("exit") or by a signal; or was ended for its time, its processor time, memory, output, or
    # because nobody waits for it any more; or something failed that is not the script.
    how: How
    exit_code: int | None  # with "exit"
    seconds: float
    output: bytes  # standard output and error in their order, as far as it is kept
    cut: bool  # whether there was more of it
    results: tuple[Result, ...]
    detail: str  # what there is to say about it, safe to show; often nothing

    def close(self) -> None:
        """Let go of the files."""
        for result in self.results:
            result.file.close()


class Running:
    """A sandbox that has been started, until nothing of it is left."""

    def __init__(self, limits: Limits, process: subprocess.Popen[bytes], spool: Path | None) -> None:
        """Follow bubblewrap's process, which has just been started by this thread."""
        self._limits = limits
        self._process = process
        self._reader = Reader(limits.files, limits.results, spool)
        self._started = time.monotonic()
        self._ended = 0.0  # when the script had ended, by the supervisor's word
        self._why: How | None = None  # why we ended it
        self._first = -1  # a handle to the first process in the sandbox, with which all of them end
        self._gone = True
        self._output = bytearray()
        self._count = 0  # bytes of output in all
        self._flood = 0  # the same, and what was written where only bubblewrap should write
        self._said = bytearray()
        self._info = bytearray()

    def follow(self, results: int, output: int, said: int, info: int, cancelled: Callable[[], bool]) -> None:
        """Read these descriptors until each is at its end, or there is a reason to end it."""
        take = {results: self._take_results, output: self._take_output, said: self._take_said, info: self._take_info}
        waiting = select.poll()
        for descriptor in take:
            waiting.register(descriptor, select.POLLIN)
        asked = self._started
        while take:
            now = time.monotonic()
            if self._is_late(now):
                self._why = "time"
            elif self._flood > self._limits.output * _FLOOD:
                self._why = "output"
            elif now - asked >= _LOOK_SECONDS:
                asked = now
                self._why = "cancelled" if cancelled() else None
            if self._why:
                return
            for descriptor, _ in waiting.poll(_LOOK_SECONDS * 1000):
                piece = os.read(descriptor, _PIECE)
                take[descriptor](piece)
                if not piece:
                    waiting.unregister(descriptor)
                    del take[descriptor]

    def end(self) -> None:
        """End whatever is still there, and wait until it is gone. The same thread that started it has to do this."""
        if self._first >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            # The first process of a namespace is gone when all others in there are (pid_namespaces(7)).
            waiting = select.poll()
            waiting.register(self._first, select.POLLIN)
            self._gone = bool(waiting.poll(_GONE_SECONDS * 1000))
            os.close(self._first)
        else:
            self._process.kill()  # it was still being set up: it takes the others along
        self._process.kill()
        try:
            self._process.wait(_GONE_SECONDS)
        except subprocess.TimeoutExpired:
            self._gone = False

    def outcome(self) -> Ran:
        """Return what came of it, after its end."""
        reader, output = self._reader, bytes(self._output)
        reader.close()
        kind, number = reader.ended or (0, 0)
        how = _ENDS[kind] if reader.ended else self._why or "failed"
        told: list[str] = []
        if how == "signal":
            told.append(_signal(number))
        elif kind == supervisor.ENTRIES:
            told.append(f"more than {self._limits.entries} files and directories")
        elif how == "failed":
            told.append(self._failure())
        if reader.ended and reader.problem:
            told.append(f"nothing of /out was taken: {reader.problem}")
        if reader.left_out:
            told.append(f"left out of /out because it is no plain file: {reader.left_out}")
        if not self._gone:
            told.append(f"processes are still there after {_GONE_SECONDS:.0f} s")
        return Ran(
            how,
            number if how == "exit" else None,
            (self._ended or time.monotonic()) - self._started,
            output,
            self._count > len(output),
            tuple(reader.results),
            "; ".join(told),
        )

    def _is_late(self, now: float) -> bool:
        if self._ended:
            return now > self._ended + _COLLECT_SECONDS
        return now > self._started + self._limits.seconds

    def _take_results(self, piece: bytes) -> None:
        self._reader.feed(piece)
        if self._reader.ended and not self._ended:
            self._ended = time.monotonic()

    def _take_output(self, piece: bytes) -> None:
        self._count += len(piece)
        self._flood += len(piece)
        self._output += piece[: self._limits.output - len(self._output)]

    def _take_said(self, piece: bytes) -> None:
        self._flood += len(piece)
        self._said = (self._said + piece)[-_SAID_BYTES:]

    def _take_info(self, piece: bytes) -> None:
        self._info += piece
        if not piece and self._info:  # bubblewrap's own word, before anything else runs in there
            with contextlib.suppress(ProcessLookupError):
                self._first = os.pidfd_open(json.loads(self._info)["child-pid"])

    def _failure(self) -> str:
        lines = self._said.decode(errors="backslashreplace").strip().splitlines()
        if lines:
            return show(lines[-1])
        code = self._process.returncode
        return "the sandbox was ended from outside" if code < 0 else f"bubblewrap ended with {code}, and said nothing"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"
