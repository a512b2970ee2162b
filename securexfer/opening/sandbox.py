"""A Python script that a user sent is run here, where it can reach nothing: bubblewrap's namespaces, limits, a filter.

* It is run on exactly the bytes that were verified, from memory that cannot be changed any more.
* It runs as nobody, without network, sees /usr, its own text, /data to read, /out and /tmp to write, and three
  descriptors. What it left in /out comes through a socket: no directory of this machine can be written to from inside.
* Everything that it can use up has a limit: see `Limits`.
* If the sandbox cannot be made, nothing is run. There is no other way to run anything.

The first process in the sandbox is `supervisor`; when that ends, the kernel ends all others in there. It ends if we do,
twice over: bubblewrap has it killed with the thread that started it, and it sees our end of its socket close. So a run
is started and waited for in one thread: `Sandbox.run` returns when nothing of it is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess  # nosec B404 # to run bubblewrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from securexfer.errors import DigestMismatchError, LimitExceededError, SandboxError
from securexfer.opening import interpreters, proving, supervisor
from securexfer.opening.limits import Limits
from securexfer.opening.running import Ran, Running
from securexfer.opening.seccomp import filter_for_this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Read when this is imported: who serves may not be able to read where it is installed.
_SUPERVISOR = Path(supervisor.__file__).read_bytes()
_PROGRAMS = "/usr/bin:/bin:/usr/local/bin"  # where bubblewrap is looked for, whatever our own PATH says
_TMP = "/tmp"  # noqa: S108 - the sandbox has its own  # nosec B108 # the sandbox has its own
_ENVIRONMENT = {"PATH": "/usr/bin", "HOME": _TMP, "LANG": "C.UTF-8"}
_NOBODY = "65534"
_NICE = 10  # what the server does comes first
_PIECE = 65536
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# What every sandbox is, whatever is run in it.
_WALLS = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1"),
    *("--clearenv", "--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox", "--cap-drop", "ALL"),
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
)


class Sandbox:
    """Runs scripts, each in a sandbox of its own; any number of threads may do so at once."""

    def __init__(self, limits: Limits | None = None, python: Path | None = None, spool: Path | None = None) -> None:
        """Use the Python of a virtual environment, or a certain one, instead of the system's (see `interpreters`).

        Files that scripts leave are kept in memory, or in the directory `spool`, where they have no names. Raises
        ConfigurationError if that Python does not work.
        """
        self.limits = limits or Limits()
        self._interpreter = interpreters.find(python)
        self._spool = spool

    def check(self) -> None:
        """Prove that a sandbox holds here, by a script that tries; raise SandboxError, which says how to mend it."""
        with _sealed(proving.SCRIPT) as script:
            ran = self.run(script.fileno(), hashlib.sha256(proving.SCRIPT).digest(), None, lambda: False)
        ran.close()
        proving.judge(ran)

    def run(self, script: int, digest: bytes, data: Path | None, cancelled: Callable[[], bool]) -> Ran:
        """Run what the descriptor `script` holds, if it has that SHA-256, until it ends or has to be ended.

        `data` is a directory of plain files for it to read, and where it works. `cancelled` is asked several times a
        second. Raises DigestMismatchError, LimitExceededError for a script that is too large, and SandboxError if there
        cannot be a sandbox: nothing was run then.
        """
        rules = filter_for_this_machine()
        bubblewrap = _bubblewrap()
        text = _verified(script, digest, self.limits.script)
        try:
            with contextlib.ExitStack() as stack:
                return self._run(stack, bubblewrap, [text, _SUPERVISOR, rules], data, cancelled)
        except OSError as error:
            raise SandboxError(f"no sandbox can be made: {error.strerror}") from error

    def _run(
        self,
        stack: contextlib.ExitStack,
        bubblewrap: str,
        texts: list[bytes],
        data: Path | None,
        cancelled: Callable[[], bool],
    ) -> Ran:
        handed = [stack.enter_context(_sealed(text)) for text in texts]
        results, results_in = map(stack.enter_context, socket.socketpair())
        (output, output_in), (said, said_in), (info, info_in) = (_pipe(stack) for _ in range(3))
        process = subprocess.Popen(  # nosec B603 # a program and arguments of ours
            [bubblewrap, *self._walls(handed, info_in, data), *self._supervised(results_in)],
            stdin=subprocess.DEVNULL,
            stdout=output_in,
            stderr=said_in,
            pass_fds=[*(file.fileno() for file in handed), results_in.fileno(), info_in.fileno()],
            env={},
            cwd="/",
            start_new_session=True,  # an interrupt from a terminal is for us
        )
        running = Running(self.limits, process, self._spool)
        try:
            for end in (results_in, output_in, said_in, info_in):
                end.close()
            running.follow(results.fileno(), output.fileno(), said.fileno(), info.fileno(), cancelled)
        finally:
            running.end()
        return running.outcome()

    def _walls(self, handed: list[BinaryIO], info: BinaryIO, data: Path | None) -> list[str]:
        """Return bubblewrap's own arguments: what can be seen in there, and how."""
        script, inside, rules = (str(file.fileno()) for file in handed)
        return [
            *_WALLS,
            *("--size", str(self.limits.tmp), "--tmpfs", _TMP),
            *("--size", str(self.limits.results), "--tmpfs", "/out"),
            *("--perms", "0444", "--ro-bind-data", script, "/script.py"),
            *("--perms", "0444", "--ro-bind-data", inside, "/supervisor.py"),
            *self._interpreter.shown,
            *(("--ro-bind", str(data.absolute()), "/data") if data else ("--dir", "/data")),
            *("--chdir", "/data", "--remount-ro", "/", "--seccomp", rules, "--info-fd", str(info.fileno()), "--"),
        ]

    def _supervised(self, results: socket.socket) -> list[str]:
        """Return the command that runs in there, with all that the supervisor needs to know."""
        wishes = {
            **asdict(self.limits),
            "socket": results.fileno(),
            # -u: what it wrote is there although it is killed, and in its order.
            "command": [*self._interpreter.command, "-u", "/script.py"],
            "environment": _ENVIRONMENT,
            "nice": _NICE,
        }
        return [str(interpreters.SYSTEM_PYTHON), "-I", "-S", "/supervisor.py", json.dumps(wishes)]


def _bubblewrap() -> str:
    """Return where bubblewrap is; raise SandboxError if it is not, or if we are root."""
    if os.geteuid() == 0:
        raise SandboxError("handlers need a non-root user", hint="Start it so: securexfer serve --run-as USER")
    found = shutil.which("bwrap", path=_PROGRAMS)
    if found is None:
        raise SandboxError("bubblewrap, which makes the sandbox, is not installed", hint="apt install bubblewrap")
    return found


@contextlib.contextmanager
def _sealed(content: bytes) -> Iterator[BinaryIO]:
    """Hold `content` in memory that nobody can change any more, ready to be read from its start."""
    with os.fdopen(os.memfd_create("securexfer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        file.seek(0)
        yield file


def _pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """Return where to read a new pipe and where to write it; both are closed with the stack, or before."""
    reading, writing = os.pipe()
    return (
        stack.enter_context(os.fdopen(reading, "rb", buffering=0)),
        stack.enter_context(os.fdopen(writing, "wb", buffering=0)),
    )


def _verified(script: int, digest: bytes, most: int) -> bytes:
    """Return what a descriptor holds, from its start; raise if that is too much, or has another SHA-256."""
    pieces, size = [], 0
    while piece := os.pread(script, _PIECE, size):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise LimitExceededError(f"the script is larger than {most} bytes")
    text = b"".join(pieces)
    if not hmac.compare_digest(hashlib.sha256(text).digest(), digest):
        raise DigestMismatchError("the script is not what was verified")
    return text
