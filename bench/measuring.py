"""Run whole processes and read what they cost: wall time, processor time, peak memory. Linux only: it reads /proc.

A client is measured from its start to its end, with every process it starts. A server outlives its clients, so its
cost is what its process tree used meanwhile; a child that ended is in the figures of the parent that waited for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1  # one look costs 1-2 ms; the kernel keeps the peak, so a look only has to come before the end
SETTLE_SECONDS = 10.0  # sshd's children end a few milliseconds after their client; beyond this something hangs
STOP_SECONDS = 10.0


class BenchError(Exception):
    """A run that measured nothing: the message says what went wrong."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run cost: seconds of wall and processor time, bytes of memory; a peak is summed over live processes."""

    seconds: float
    client_cpu: float
    server_cpu: float
    client_peak: int
    server_peak: int


@dataclass(frozen=True, slots=True)
class Command:
    """A program, its arguments and what it reads from standard input."""

    arguments: tuple[str, ...]
    stdin: bytes = b""
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code, the seconds of processor time of it and its children, its stderr."""

    code: int
    cpu: float
    stderr: str

    def checked(self, command: Command) -> float:
        """Return the processor time; raise BenchError with what it said if it failed."""
        if self.code:
            raise BenchError(f"exit code {self.code} from {' '.join(command.arguments)}\n{self.stderr.strip()}")
        return self.cpu


def measure(client: Command, server: int, *, digests: Sequence[Command] = (), watch_memory: bool = True) -> Cost:
    """Run `client` against the process tree of `server` and return what it cost.

    `digests` are two more commands that belong to the job, one for each end: both start when the client has ended, and
    the second one's processor time counts for the server. Raises BenchError if any exit code is not 0.
    """
    resident = set(descendants(server))
    cpu_before = tree_cpu(server)
    reset_peaks(server)
    with watched(server, interval=SAMPLE_SECONDS if watch_memory else None) as peaks:
        started = time.perf_counter()
        with running(client) as process:
            peaks.client = process.pid
            client_cpu = finish(process).checked(client)
        digest_cpu = [0.0, 0.0]
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(running(command)) for command in digests]
            for end, (process, command) in enumerate(zip(both, digests, strict=True)):
                digest_cpu[end] = finish(process).checked(command)
        seconds = time.perf_counter() - started
    deadline = time.monotonic() + SETTLE_SECONDS
    while set(descendants(server)) - resident:
        if time.monotonic() > deadline:
            raise BenchError(f"the server of {client.arguments[0]} still has children {SETTLE_SECONDS:.0f} s after it")
        time.sleep(0.01)
    server_cpu = tree_cpu(server) - cpu_before
    return Cost(seconds, client_cpu + digest_cpu[0], server_cpu + digest_cpu[1], peaks.client_bytes, peaks.server_bytes)


def run(command: Command) -> None:
    """Run a command of the set-up; raise BenchError with what it said if it fails."""
    with running(command) as process:
        finish(process).checked(command)


@contextlib.contextmanager
def running(command: Command) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command with its input written; whatever is left of it and its children at the end is stopped."""
    process = subprocess.Popen(
        command.arguments,
        env=command.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stderr
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(command.stdin)
        yield process
    finally:
        stop(process)
        process.stderr.close()


def finish(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for a process to end by itself."""
    assert process.stderr
    stderr = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime, stderr)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, and its children: asked first, killed if they take longer than STOP_SECONDS."""
    if process.returncode is not None:
        return
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM unwind what runs in the block, once: what clears away is not interrupted in its turn.

    Whatever child is left at the end of the block, because the signal came while it was being started, is stopped.
    """
    both = (signal.SIGINT, signal.SIGTERM)

    def interrupt(_number: int, _frame: object) -> None:
        for number in both:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in both:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for pid in descendants(os.getpid())[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


# -- /proc -------------------------------------------------------------------------------------------------


def descendants(root: int) -> list[int]:
    """Return `root` and every live process under it."""
    children: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        for pid in [int(entry.name) for entry in entries if entry.name.isdigit()]:
            if fields := _stat(pid):
                children.setdefault(int(fields[1]), []).append(pid)
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def tree_cpu(root: int) -> float:
    """Return the seconds of processor time of a process tree, with those of children that have ended."""
    return sum(
        sum(int(field) for field in fields[11:15]) / TICKS  # utime, stime, cutime, cstime: proc(5)
        for pid in descendants(root)
        if (fields := _stat(pid))
    )


def peak_memory(pid: int) -> int:
    """Return the largest resident size that a process had, in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peaks(root: int) -> None:
    """Let the peaks of a process tree start anew from what it holds now."""
    for pid in descendants(root):
        with contextlib.suppress(OSError):  # a process that changed its user: its peak then covers all its runs
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the program's name (state, parent, ...), or nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@dataclass(slots=True)
class Peaks:
    """The largest sums of peak memory seen on each side; `client` is the pid to look under, once there is one."""

    client: int | None = None
    client_bytes: int = 0
    server_bytes: int = 0


@contextlib.contextmanager
def watched(server: int, interval: float | None) -> Iterator[Peaks]:
    """Look at both sides' peak memory every `interval` seconds until the block ends; never if it is None."""
    peaks = Peaks()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(interval):
            peaks.server_bytes = max(peaks.server_bytes, sum(map(peak_memory, descendants(server))))
            if peaks.client:
                peaks.client_bytes = max(peaks.client_bytes, sum(map(peak_memory, descendants(peaks.client))))

    watcher = threading.Thread(target=look)
    try:
        if interval is not None:
            watcher.start()  # within the block: Ctrl-C while it starts must end it, too
        yield peaks
    finally:
        ended.set()
        if watcher.is_alive():
            watcher.join()
