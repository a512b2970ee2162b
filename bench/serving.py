"""A server of any kind: where it listens, its programs, and its process from the start to the end of a block."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError, Command, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Network:
    """The server's address, and what is put before a command to run it on the server's host or on the client's."""

    host: str
    at_server: tuple[str, ...] = ()
    at_client: tuple[str, ...] = ()


LOOPBACK = Network(HOST)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its process, and the file that takes what it says."""

    pid: int
    log: Path

    def last_words(self) -> str:
        """Return the end of the log, to go with an error."""
        return "the server's log ends:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def program(name: str) -> str | None:
    """Return where a program is: beside this Python, on PATH, or where Debian puts servers; None if nowhere."""
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin")
    return shutil.which(name, path=os.pathsep.join(places))


def found(name: str) -> str:
    """Return where a program is; raise BenchError if it is not installed."""
    path = program(name)
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path


def free_port() -> int:
    """Return a loopback port that nobody listened on a moment ago."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write(path: Path, text: str) -> Path:
    """Write a file of the set-up and return it."""
    path.write_text(text)
    return path


@contextlib.contextmanager
def serving(command: Command, port: int, log: Path, network: Network = LOOPBACK) -> Iterator[Server]:
    """Run a server on its host until the block ends, and enter the block when it listens on its port."""
    with log.open("wb") as output:
        # A session of its own: Ctrl-C at the terminal is for this program, which stops its servers itself.
        process = subprocess.Popen(
            (*network.at_server, *command.arguments),
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        server = Server(process.pid, log)
        deadline = time.monotonic() + START_SECONDS
        while not _listens(process.pid, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{command.arguments[0]} did not start\n{server.last_words()}")
            time.sleep(0.02)
        yield server
    finally:
        stop(process)


def _listens(pid: int, port: int) -> bool:
    """Return whether somebody listens on this port of IPv4, in the network namespace of the process (proc_net(5))."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        return any(line[3] == "0A" and line[1].endswith(f":{port:04X}") for line in lines)
    return False
