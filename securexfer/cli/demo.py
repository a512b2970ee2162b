"""`securexfer demo`: the whole thing on this machine, by the installed commands, in a directory that is removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess  # nosec B404 # it starts securexfer itself, without a shell
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Self

import typer
from rich.console import Console
from rich.text import Text

from securexfer.cli.terminal import note
from securexfer.errors import (
    ConfigurationError,
    IntegrityError,
    InterruptedTransferError,
    SecurexferError,
    SourceError,
)
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

USER = "ana"
COUNT = 10  # files made where none are given: as many as the classroom's client sent
_ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
_END_SECONDS = 5.0  # how long a process gets to end in order before it is killed
_POLL_SECONDS = 0.02
_SHOWN_CHARACTERS = 2000  # of a command line: as many as somebody may want to read


def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Files to send, instead of ten made on the spot.")
    ] = None,
) -> None:
    """Show the whole thing on this machine: certificates, a user, a server, a real send, the result."""
    with _Workplace() as place:
        given = [file.absolute() for file in files or []]
        sources = given or _make_files(place.directory)
        password = secrets.token_urlsafe(24).encode() + b"\n"
        place.tell(f"cd {shlex.quote(str(place.directory))}")
        place.run(["init"])
        place.run(["user", "add", USER, "--password-stdin"], password)
        address = place.serve()
        names = [str(file) for file in given] or [file.name for file in sources]
        target = [f"{USER}@{address}", "--password-stdin"]
        # Nobody types ten names that a pattern stands for; nor how soon to give up, as this server does not come back.
        typed = f"send {shlex.join(names) if given else 'arquivo_*.txt'} {shlex.join(target)}"
        place.run(["send", *names, *target, "--retries", "0"], password, typed)
        with place.interruptible():
            _compare(sources, place.directory / "inbox" / USER)
    arrived = "The file arrived as it was" if len(sources) == 1 else f"All {len(sources)} files arrived as they were"
    note()
    print(f"{arrived} sent. The server has ended, and nothing of this demo is left.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


class _Workplace:
    """A temporary directory and the processes started in it: however the block ends, nothing of either is left.

    A signal ends the block only where it says `interruptible`, so never between making something and noting it, nor
    while things are put away. The processes are in sessions of their own: Ctrl-C reaches this one, which ends them.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._interruptible = False
        self._signal: int | None = None
        self._environment = {name: value for name, value in os.environ.items() if name != "SECUREXFER_HOME"}
        self._console = Console(stderr=True, highlight=False)

    def __enter__(self) -> Self:
        # What was ignored stays so: nohup, and the background jobs of a script.
        handled = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._interrupt) for number in handled}
        try:
            self.directory = Path(tempfile.mkdtemp(prefix="securexfer-demo-"))
        except OSError as error:
            raise ConfigurationError(
                f"no temporary directory can be made: {error.strerror}", hint="Set TMPDIR to one that has room."
            ) from error
        # Servers that this user has trusted must not matter here, whatever port we get; and nothing is left elsewhere.
        self._environment["SECUREXFER_CONFIG"] = str(self.directory / "config")
        self._environment["XDG_CACHE_HOME"] = str(self.directory / "cache")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            _end(process)
        self._console.show_cursor()  # a send that was ended cannot give it back
        if self._signal and self._console.is_terminal:
            note()  # whatever was being drawn there, and the ^C behind it, stay lines of their own
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            note(f"{self.directory} could not be removed.")
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal end the block with InterruptedTransferError; one that has come before ends it at once."""
        self._interruptible = True
        try:
            if self._signal:
                self._interrupt(self._signal, None)
            yield
        finally:
            self._interruptible = False

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        if self._interruptible:
            self._interruptible = False
            raise InterruptedTransferError(
                f"the demo was interrupted ({signal.Signals(number).name})",
                hint="Its server has ended, and nothing of it is left.",
            )

    def tell(self, command: str) -> None:
        """Show a command as it would be typed."""
        self._console.print(Text(f"$ {show(command, _SHOWN_CHARACTERS)}", style="bold"), soft_wrap=True)

    def run(self, arguments: Sequence[str], password: bytes | None = None, typed: str | None = None) -> None:
        """Run a command to its end, `password` on its standard input; leave with its exit code if it fails."""
        self.tell(f"securexfer {typed or shlex.join(arguments)}")
        process = self._start(arguments, stdin=subprocess.PIPE if password else subprocess.DEVNULL)
        with self.interruptible():
            process.communicate(password)
        if process.returncode:
            raise _failure(process, arguments[0])
        note()

    def serve(self) -> str:
        """Start a server on a free port of this machine; return its HOST:PORT once it listens there."""
        arguments = ["serve", "--host", "127.0.0.1", "--port", "0"]
        self.tell(f"securexfer {shlex.join(arguments)} &")
        log = self.directory / "serve.log"
        with log.open("wb") as opened:
            process = self._start(arguments, stdin=subprocess.DEVNULL, stderr=opened)
        with self.interruptible():
            while True:
                ended = process.poll() is not None  # asked first, so that its last words are read
                said = log.read_text(encoding="utf-8")
                found = re.search(r"^Listening on (\S+)$", said, re.MULTILINE)
                if found:
                    note(f"{found[0]}\n")
                    return found[1]
                if ended:
                    note(said.rstrip())
                    raise _failure(process, "serve")
                time.sleep(_POLL_SECONDS)

    def _start(
        self, arguments: Sequence[str], *, stdin: int, stderr: BinaryIO | None = None
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # nosec B603 # no shell, and every word is our own or a path of the user
            [*_program(), *arguments],
            stdin=stdin,
            stderr=stderr,
            cwd=self.directory,
            env=self._environment,
            start_new_session=True,
        )
        self._processes.append(process)
        return process


def _program() -> list[str]:
    """Return how to run the installed securexfer: the one beside this Python, else this Python's module."""
    beside = Path(sys.executable).with_name("securexfer")
    return [str(beside)] if os.access(beside, os.X_OK) else [sys.executable, "-m", "securexfer"]


def _failure(process: subprocess.Popen[bytes], command: str) -> Exception:
    """Return what leaves with the exit code of a command that failed; it has said why, unless a signal ended it."""
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return SecurexferError(f"securexfer {command} was ended by {name}", hint="Run the demo again.")
    return typer.Exit(process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process if it still runs: in order, else by force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _make_files(directory: Path) -> list[Path]:
    files = [directory / f"arquivo_{number}.txt" for number in range(1, COUNT + 1)]
    for number, file in enumerate(files, 1):
        file.write_text(f"Conteúdo do arquivo {number}\n", encoding="utf-8")
    return files


def _compare(sources: Sequence[Path], stored: Path) -> None:
    """Print, for each file, whether what is stored has the source's SHA-256; raise IntegrityError if one has not."""
    note("SHA-256 of what arrived, beside what was sent:")
    console = Console(highlight=False)
    different = 0
    for source in sources:
        try:
            sent = _digest(source)
        except OSError as error:
            raise SourceError(f"{show(str(source))} cannot be compared: {error.strerror}") from error
        try:
            arrived = _digest(stored / source.name)
        except OSError as error:
            arrived = f"({error.strerror})"
        if arrived == sent:
            console.print(Text.assemble(("same", "green"), f"  {sent}  {show(source.name)}"), soft_wrap=True)
        else:
            different += 1
            told = f"  {show(source.name)}: sent {sent}, arrived {arrived}"
            console.print(Text.assemble(("DIFFERENT", "bold red"), told), soft_wrap=True)
    if different:
        raise IntegrityError(
            f"{different} of {len(sources)} files did not arrive as they were sent",
            hint="Run the demo again. If it happens again, test this machine's memory and disk.",
        )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
