"""A lab in a temporary directory for tests: a home with certificates and users, a real `serve`, a real `send`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECUREXFER = str(Path(sys.executable).with_name("securexfer"))
PASSWORD = "correct horse 7 canary-5f2e"  # must never be seen in a log or an argument list
# A server that can be traced, and whose descriptors can be counted, by who started it: otherwise by root alone.
WATCHED = "from securexfer import cli, dumps; dumps.forbid_dumps = dumps.forbid_core_files; cli.main()"
USERS = ("ana", "bruno", "carla", "davi", "eva")


_SOURCES = itertools.count()


def fresh_source() -> str:
    """Return a loopback address that no other test connects from: what a server holds against one is not its own."""
    number = next(_SOURCES)
    return f"127.{64 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a plain user: none of our settings, no colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SECUREXFER_", "SSL"))}
    return {**kept, "NO_COLOR": "1", **more}


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until it is so; fail if that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Server:
    """A running `securexfer serve`."""

    def __init__(
        self,
        home: Path,
        *options: str,
        wait: bool = True,
        watched: bool = False,
        log_path: Path | None = None,
        **more: str,
    ) -> None:
        self.log_path = log_path or home / f"serve-{time.monotonic_ns()}.log"
        program = [sys.executable, "-c", WATCHED] if watched else [SECUREXFER]
        with self.log_path.open("ab") as log:  # as a log is opened that others rotate
            self.process = subprocess.Popen(
                [*program, "serve", "--home", str(home), "--host", "localhost", "--port", "0", *options],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment(**more),
            )
        self.port = 0
        if wait:
            self.port = int(self.wait_for("server.start")["addresses"][0].rpartition(":")[2])

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the log's events, all or those of one kind."""
        whole, _, _being_written = self.log_path.read_text().rpartition("\n")
        found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [event for event in found if kind in {None, event["event"]}]

    def wait_for(self, kind: str, count: int = 1, seconds: float = 20.0) -> dict[str, Any]:
        """Return the `count`th event of a kind, waiting for it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.events(kind)
            if len(found) >= count:
                return found[count - 1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {kind} in the log:\n{self.log_path.read_text()}")

    def status(self, field: str) -> int:
        """Return a number from /proc/PID/status: VmHWM and VmRSS are in KiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(field + ":")).split()[1])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the server do nothing for a while, so that what it does comes after what a test does meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        states = Path(f"/proc/{self.process.pid}/task")
        while any(path.read_text().rpartition(") ")[2][0] != "T" for path in states.glob("*/stat")):
            time.sleep(0.01)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """End the server in order, or by force; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Lab:
    """A home with certificates and users, the servers started in it, and a client that trusts it."""

    def __init__(self, directory: Path, source: Path) -> None:
        self.home = directory / "home"
        subprocess.run(["cp", "-a", str(source), str(self.home)], check=True)
        self.inbox = self.home / "inbox"
        self.ca = self.home / "certs" / "ca.pem"
        self.config = directory / "config"
        self.password_file = directory / "password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(PASSWORD + "\n")
        self._stack = contextlib.ExitStack()

    def serve(self, *options: str, **more: Any) -> Server:
        """Start a server on a free loopback port; it ends with the test."""
        server = Server(self.home, *options, **more)
        self._stack.callback(server.stop)
        return server

    def run(self, *arguments: str | Path, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `securexfer` with these arguments."""
        more = options.pop("env", {})
        return subprocess.run(
            [SECUREXFER, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=options.pop("stdin", None if "input" in options else subprocess.DEVNULL),
            env=environment(SECUREXFER_CONFIG=str(self.config), **more),
            check=False,
            **options,
        )

    def send(
        self, server: Server | int, *arguments: str | Path, target: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Send as ana, trusting the lab's CA; `target` is what follows the port (``/DIRECTORY``)."""
        port = server if isinstance(server, int) else server.port
        return self.run(
            "send",
            *arguments,
            f"ana@localhost:{port}{target}",
            "--ca",
            self.ca,
            "--password-file",
            self.password_file,
            **options,
        )

    def stored(self, user: str = "ana") -> dict[str, bytes]:
        """Return what stands in a user's inbox: name and content. Anything but a plain file fails."""
        found = {}
        root = self.inbox / user
        for path in sorted(root.rglob("*")):
            if not path.is_dir():
                assert path.is_file(), f"{path} is not a plain file"
                assert not path.is_symlink(), f"{path} is a link"
                found[str(path.relative_to(root))] = path.read_bytes()
        staging = self.inbox / ".securexfer-staging"
        assert not staging.exists() or not list(staging.iterdir()), "a staged file was left behind"
        return found

    def close(self) -> None:
        """End every server."""
        self._stack.close()
