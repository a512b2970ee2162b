"""What runs in the sandbox beside the script: starts it, watches it, and hands out what it left in /out.

It is the first process in there, whom no signal from inside can end or stop, and the only one with a way out: a socket,
which nobody can open by way of /proc. When it ends, the kernel ends everybody in there.

Its text is handed into the sandbox and run by the system's Python, whichever that is: it imports nothing of this
package, and is plain enough for Python 3.9. Nothing here is trusted outside: `results` reads what it says as if the
script had said it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess  # nosec B404 # to run the script, in the sandbox
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# What is said through the socket: one head when the script has ended, an entry for each file with its name and its
# content, and a last entry.
HEAD = struct.Struct("!4sBI")  # MAGIC, how it ended, the exit code or the signal
ENTRY = struct.Struct("!BHQ")  # which kind, how long the name is, how large the file; or with END, what was left out
MAGIC = b"SXO1"
EXIT, SIGNAL, CPU, MEMORY, ENTRIES = range(1, 6)
FILE, END, UNUSABLE = range(1, 4)
TOO_MANY, TOO_LARGE, UNREADABLE = range(1, 4)  # of /out, in place of a size

OUT = b"/out"
WRITABLE = (OUT, b"/tmp")  # nosec B108 # the sandbox has its own
INTERVAL_MS = 50  # between two looks at how much there is
PIECE = 65536


class UnusableError(Exception):
    """What is in /out cannot be handed out. Says why, as one of the numbers above."""


def main() -> None:
    """Run the script, as the command line says, and say what came of it."""
    wishes = json.loads(sys.argv[1])
    out = socket.socket(fileno=wishes["socket"])
    # The kernel keeps signals from inside away from the first process unless it handles them, as Python does this one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    script = subprocess.Popen(  # nosec B603 # what is run is what this is for
        wishes["command"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=wishes["environment"],
        preexec_fn=lambda: confine(wishes),  # noqa: PLW1509 - there are no threads here
    )
    kind, number = watch(script.pid, out, wishes)
    end_all_others()
    out.sendall(HEAD.pack(MAGIC, kind, number))
    try:
        files, left_out = list_files(wishes["files"], wishes["results"], wishes["entries"])
        for path, size in files:
            send(out, path, size)
        out.sendall(ENTRY.pack(END, 0, left_out))
    except UnusableError as error:
        out.sendall(ENTRY.pack(UNUSABLE, 0, error.args[0]))


def confine(wishes: dict[str, Any]) -> None:
    """Limit the process that becomes the script, and with it all that it starts."""
    os.nice(wishes["nice"])
    limits = [
        # After the signal there is a second to say something; the second one cannot be ignored.
        (resource.RLIMIT_CPU, wishes["cpu_seconds"], wishes["cpu_seconds"] + 1),
        (resource.RLIMIT_AS, wishes["address_space"], wishes["address_space"]),
        (resource.RLIMIT_FSIZE, wishes["file_size"], wishes["file_size"]),
        (resource.RLIMIT_NOFILE, wishes["descriptors"], wishes["descriptors"]),
        (resource.RLIMIT_NPROC, wishes["processes"], wishes["processes"]),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        # Not 0: 1 is the value that keeps a dump from a program that takes dumps as well (core(5), format_corename).
        (resource.RLIMIT_CORE, 1, 1),
    ]
    for which, soft, hard in limits:
        most = resource.getrlimit(which)[1]  # which only root can raise
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)  # noqa: PLW2901 - the same limits, lower
        resource.setrlimit(which, (soft, hard))


def watch(pid: int, out: socket.socket, wishes: dict[str, Any]) -> tuple[int, int]:
    """Wait for the script; return how it ended: by itself, by a signal, by a limit that only we hold."""
    waiting = select.poll()
    waiting.register(os.pidfd_open(pid), select.POLLIN)
    waiting.register(out, 0)  # whoever started us is gone: so are we
    looked = time.monotonic()
    while True:
        for descriptor, _ in waiting.poll(INTERVAL_MS):
            if descriptor == out.fileno():
                raise ConnectionError("nobody waits for this any more")
        while True:
            ended, status, usage = os.wait4(-1, os.WNOHANG)
            if ended == pid:
                return how_it_ended(status, usage.ru_utime + usage.ru_stime >= wishes["cpu_seconds"])
            if not ended:
                break
        if time.monotonic() - looked >= INTERVAL_MS / 2000:
            looked = time.monotonic()
            if memory_used() > wishes["memory"]:
                return MEMORY, 0
            if entries_used() > wishes["entries"]:
                return ENTRIES, 0


def how_it_ended(status: int, had_its_time: bool) -> tuple[int, int]:  # noqa: FBT001 - one caller
    """Return how the script ended, and its exit code or the signal."""
    if os.WIFEXITED(status):
        return EXIT, os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and had_its_time):
        return CPU, number
    return SIGNAL, number


def memory_used() -> int:
    """Return how many bytes all processes but this one have in memory; what several share counts for each."""
    pages = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 - done often
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/statm", "rb") as file:  # noqa: PTH123 - done often
                    pages += int(file.read().split()[1])
            except (OSError, IndexError):  # it has ended
                pass
    return pages * resource.getpagesize()


def entries_used() -> int:
    """Return how many files and directories there are in what can be written to: each takes memory, an empty one too.

    The file systems are limited in size, but their inodes are not counted in it (tmpfs(5), nr_inodes).
    """
    used = 0
    for place in WRITABLE:
        found = os.statvfs(place)
        used += found.f_files - found.f_ffree
    return used


def end_all_others() -> None:
    """End every other process, and wait until none is left: whoever had no parent any more has become ours."""
    with contextlib.suppress(ProcessLookupError):  # there is none
        os.kill(-1, signal.SIGKILL)  # all at once: none can fork in between
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


# -- what the script left; nobody else is alive by now, so nothing changes meanwhile ------------------------------


def list_files(most: int, most_bytes: int, most_entries: int) -> tuple[list[tuple[bytes, int]], int]:
    """Return the plain files below /out with their sizes, and how many other things there are but directories."""
    files: list[tuple[bytes, int]] = []
    left_out = seen = total = 0
    directories = [OUT]
    while directories:
        try:
            entries = sorted(os.scandir(directories.pop()), key=lambda entry: entry.name)
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                seen += 1
                if stat.S_ISDIR(found.st_mode):
                    directories.append(entry.path)
                elif stat.S_ISREG(found.st_mode):
                    files.append((entry.path, found.st_size))
                    total += found.st_size
                else:
                    left_out += 1
                if len(files) > most or seen > most_entries:
                    raise UnusableError(TOO_MANY)
                if total > most_bytes:
                    raise UnusableError(TOO_LARGE)
        except OSError:
            raise UnusableError(UNREADABLE) from None
    return files, left_out


def send(out: socket.socket, path: bytes, size: int) -> None:
    """Hand out one file; raise UnusableError before anything of it is said if it cannot be read."""
    name = path[len(OUT) + 1 :]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise UnusableError(UNREADABLE) from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        out.sendall(ENTRY.pack(FILE, len(name), size) + name)
        while size:
            piece = file.read(min(size, PIECE))
            if not piece:
                raise EOFError("a file has become shorter although nobody is left")
            out.sendall(piece)
            size -= len(piece)


if __name__ == "__main__":
    main()
