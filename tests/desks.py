"""A lab whose server opens files, whoever runs the tests: started by root it serves as `nobody`, else as who runs them.

Users may have nothing opened at first, as everywhere; `allow` is said in a test. What users send lies in `files`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import textwrap
from typing import TYPE_CHECKING, Any

from boxes import USER
from lab import SECUREXFER, Lab, Server, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IS_ROOT = os.geteuid() == 0
RUN_AS = ("--run-as", USER) if IS_ROOT else ()

# A script that lasts, and says in the list of this machine's processes that it runs.
LASTS = """
    import subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
    time.sleep({seconds})
    print("it came to its end")
"""


class Desk(Lab):
    """A lab that the user who serves can get to, and who is allowed what."""

    def __init__(self, directory: Path, source: Path) -> None:
        super().__init__(directory, source)
        self.files = directory / "files"
        self.files.mkdir()
        shutil.copy2(self.ca, directory / "ca.pem")  # a client's copy
        self.ca = directory / "ca.pem"
        self.give(self.home)
        if IS_ROOT:
            os.chown(self.home / "certs/ca.key", 0, 0)

    def give(self, path: Path) -> None:
        """Give a tree to who serves."""
        if IS_ROOT:
            subprocess.run(["chown", "-hR", f"{USER}:{pwd.getpwnam(USER).pw_gid}", str(path)], check=True)

    def user(self, word: str, name: str, *more: str) -> None:
        """Run `securexfer user`, as whoever serves may."""
        done = self.run("user", word, name, *more, "--home", self.home)
        assert done.returncode == 0, done.stderr

    def allow(self, *names: str) -> None:
        for name in names:
            self.user("allow", name, "open")

    def serve(self, *options: str, opening: bool = True, **more: Any) -> Server:
        """Start a server that opens files."""
        return super().serve(*RUN_AS, *(["--open"] if opening else []), *options, **more)

    def bundles(self) -> list[str]:
        """Return what is kept of sends for their opening."""
        return sorted(path.name for path in (self.inbox / ".securexfer-staging").glob("opening-*"))

    def stored(self, user: str = "ana") -> dict[str, bytes]:
        """Return what stands in a user's inbox, once nothing is kept for opening any more."""
        wait_until(lambda: not self.bundles())
        return super().stored(user)

    def rules(self, text: str) -> tuple[str, str]:
        """Return the option for a file of rules with this text."""
        path = self.home / "rules.toml"
        path.write_text(text)
        self.give(path)
        return "--open-rules", str(path)

    def file(self, name: str, content: str | bytes) -> Path:
        """Return a file to send."""
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textwrap.dedent(content).encode() if isinstance(content, str) else content)
        return path

    def lasting(self, name: str, mark: str, seconds: float = 60) -> Path:
        """Return a script that lasts, with a process by which it is found (`boxes.running`)."""
        return self.file(name, LASTS.format(mark=mark, seconds=seconds))

    @contextlib.contextmanager
    def sending(
        self, server: Server | int, *arguments: str | Path, user: str = "ana"
    ) -> Iterator[subprocess.Popen[str]]:
        """Hold a `send` that runs meanwhile."""
        port = server if isinstance(server, int) else server.port
        with subprocess.Popen(
            [
                SECUREXFER, "send", *map(str, arguments), f"{user}@localhost:{port}",
                "--ca", str(self.ca), "--password-file", str(self.password_file),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(SECUREXFER_CONFIG=str(self.config)),
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()


def events(done: subprocess.CompletedProcess[str] | str, kind: str = "opened") -> list[dict[str, Any]]:
    """Return what `send --json` told, of one kind."""
    text = done if isinstance(done, str) else done.stdout
    return [entry for entry in map(json.loads, text.splitlines()) if entry["event"] == kind]


def opened(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return what `send --json` told of each file that was opened: once of each."""
    found = events(done)
    assert len({entry["name"] for entry in found}) == len(found), found
    return {entry["name"]: entry for entry in found}


def handled(server: Server) -> list[dict[str, Any]]:
    """Return what the log says of opening."""
    return [event for event in server.events() if event["event"].startswith("handler.")]
