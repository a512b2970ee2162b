"""The quick start of the README, to the letter, on two machines: namespaces with their own hosts files and homes."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import secrets
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PASSWORD = "seven green boats 41"


def lines_after(marker: str) -> list[str]:
    """Return the commands of the README's fenced block after a marker."""
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, f"README.md has no block marked {marker}"
    return [line for line in found[1].splitlines() if line and not line.startswith("#")]


class Machine:
    """A network namespace with a host name, a hosts file, a home, and a shell command run as a person would type it."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        self.namespace = f"sx-{name}-{os.getpid()}"
        self.name = name
        self.home = directory / name
        self.home.mkdir()
        self.hosts = Path("/etc/netns") / self.namespace / "hosts"
        self.hosts.parent.mkdir(parents=True)
        self.hosts.write_text("127.0.0.1 localhost\n10.83.0.1 lab1\n10.83.0.2 desk2\n")
        self.address = address
        run("ip", "netns", "add", self.namespace)

    def type(self, command: str) -> Terminal:
        """Type a command at this machine's terminal."""
        inside = f"hostname {self.name}; cd {shlex.quote(str(self.home))}; exec {command}"
        return Terminal(
            ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", inside],
            {"HOME": str(self.home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "xterm"},
        )


class Terminal:
    """A command in a pseudo-terminal: what it prints, and what is typed."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)  # noqa: S606
        self.screen = ""

    def expect(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Read until the pattern appears."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.screen)):
            ready, _, _ = select.select([self.terminal], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {pattern!r} in:\n{self.screen}"
            self._read()
        return found

    def answer(self, text: str) -> None:
        """Type a line."""
        os.write(self.terminal, text.encode() + b"\n")

    def wait(self) -> int:
        """Read to the end; return the exit code."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # Linux says EIO when the other side has gone
            data = b""
        self.screen += data.decode(errors="replace")
        return bool(data)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines, one cable."""
    lab1, desk2 = Machine("lab1", "10.83.0.1", tmp_path), Machine("desk2", "10.83.0.2", tmp_path)
    try:
        run(
            "ip", "link", "add", "sx0", "netns", lab1.namespace, "type", "veth", "peer", "sx0", "netns", desk2.namespace
        )
        for machine in (lab1, desk2):
            run("ip", "-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "sx0")
            run("ip", "-n", machine.namespace, "link", "set", "sx0", "up")
            run("ip", "-n", machine.namespace, "link", "set", "lo", "up")
        yield lab1, desk2
    finally:
        for machine in (lab1, desk2):
            run("ip", "netns", "delete", machine.namespace)
            machine.hosts.unlink()
            machine.hosts.parent.rmdir()


@pytest.mark.root
@pytest.mark.debian
def test_from_nothing_to_the_first_verified_file_by_the_readme_to_the_letter(
    machines: tuple[Machine, Machine],
) -> None:
    lab1, desk2 = machines
    assert lines_after("both machines") == [". .venv/bin/activate"]  # here: the tests' own environment, by PATH
    init, add, serve = lines_after("on lab1")
    trust, send = lines_after("on another machine")

    typed = lab1.type(init)
    assert typed.wait() == 0, typed.screen
    typed = lab1.type(add)
    typed.expect(r"(?i)password.*: ")
    typed.answer(PASSWORD)
    typed.expect(r"(?i)again: ")
    typed.answer(PASSWORD)
    assert typed.wait() == 0, typed.screen
    server = lab1.type(serve)
    fingerprint = server.expect(r"trust lab1\S* --ca-fingerprint ([0-9a-f]{64})")[1]

    files = {"report.pdf": secrets.token_bytes(3_000_000), "data.csv": b"a,b\n1,2\n"}
    for name, content in files.items():
        (desk2.home / name).write_bytes(content)
    typed = desk2.type(trust)
    typed.expect("Fingerprint: ")
    typed.answer(fingerprint)
    assert typed.wait() == 0, typed.screen
    typed = desk2.type(send)
    typed.expect(r"(?i)password.*: ")
    typed.answer(PASSWORD)
    assert typed.wait() == 0, typed.screen
    assert "2 files" in typed.screen

    for name, content in files.items():
        stored = (lab1.home / "inbox" / "ana" / name).read_bytes()
        assert hashlib.sha256(stored).digest() == hashlib.sha256(content).digest()
    os.write(server.terminal, b"\x03")  # Ctrl-C, as a person ends it
    assert server.wait() == 0, server.screen
