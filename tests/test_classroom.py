"""The classroom's client works as it stands in examples/, and so does every command of the page in Portuguese."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import PASSWORD, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab import Lab, Server

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "examples" / "classroom_client.py"
PAGE = ROOT / "docs" / "pt-BR.md"


def run_client(
    lab: Lab,
    server: Server,
    *files: str | Path,
    host: str = "localhost",
    ca: Path | None = None,
    password: str = PASSWORD,
) -> subprocess.CompletedProcess[str]:
    """Send as ana with the classroom's client, the password on its standard input."""
    return subprocess.run(
        [sys.executable, str(CLIENT), host, str(server.port), str(ca or lab.ca), "ana", *map(str, files)],
        input=password + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )


@pytest.fixture
def ten_files(tmp_path: Path) -> list[Path]:
    """Return the classroom's ten files: one empty, one large, one whose name needs two bytes for a letter."""
    files = [tmp_path / f"arquivo_{number}.txt" for number in range(1, 10)]
    for number, file in enumerate(files, 1):
        file.write_text(f"Conteúdo do arquivo {number}\n", encoding="utf-8")
    files[1].write_bytes(b"")
    files[2].write_bytes(os.urandom(3_000_001))
    accented = tmp_path / "lição 10.txt"
    accented.write_text("ç")
    return [*files, accented]


# -- the client --------------------------------------------------------------------------------------------------


def test_ten_files_arrive(lab: Lab, ten_files: list[Path]) -> None:
    done = run_client(lab, lab.serve(), *ten_files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"stored {file}" for file in ten_files]
    assert lab.stored() == {file.name: file.read_bytes() for file in ten_files}


def test_sending_again_is_a_success_and_other_content_under_the_name_is_not(lab: Lab, ten_files: list[Path]) -> None:
    server = lab.serve()
    assert run_client(lab, server, *ten_files).returncode == 0
    assert run_client(lab, server, *ten_files).returncode == 0
    ten_files[4].write_text("other")
    done = run_client(lab, server, *ten_files)
    assert done.returncode == 1
    refused = [line for line in done.stdout.splitlines() if not line.startswith("stored ")]
    assert refused == [f"NOT STORED {ten_files[4]}"]


def test_a_wrong_password_is_told_and_nothing_is_stored(lab: Lab, ten_files: list[Path]) -> None:
    done = run_client(lab, lab.serve(), *ten_files, password="wrong password")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "login refused\n")
    assert not lab.inbox.joinpath("ana").exists()


def test_T05_with_another_ca_nothing_is_sent(lab: Lab, ten_files: list[Path], tmp_path: Path) -> None:
    from securexfer import certificates

    certificates.initialise(tmp_path / "other", [], force=False)
    server = lab.serve()
    done = run_client(lab, server, *ten_files, ca=tmp_path / "other" / "ca.pem")
    assert done.returncode == 1
    assert done.stderr.startswith("SSLCertVerificationError: ")
    assert done.stdout == ""
    assert server.wait_for("tls.fail")
    assert not server.events("auth.ok")
    assert not server.events("auth.fail")


def test_T06_under_another_name_nothing_is_sent(lab: Lab, ten_files: list[Path]) -> None:
    """127.0.0.2 reaches the server, whose certificate is not for it."""
    server = lab.serve("--host", "127.0.0.2")
    done = run_client(lab, server, *ten_files, host="127.0.0.2")
    assert done.returncode == 1
    assert done.stderr.startswith("SSLCertVerificationError: ")
    assert server.wait_for("tls.fail")
    assert not server.events("auth.fail")


def test_a_name_that_does_not_fit_is_refused_before_connecting_never_cut(lab: Lab, tmp_path: Path) -> None:
    fits, long = tmp_path / ("é" * 64), tmp_path / ("é" * 64 + "x")
    for file in (fits, long):
        file.write_text("content")
    server = lab.serve()
    done = run_client(lab, server, fits, long)
    assert done.returncode == 1
    assert done.stderr == "user, password and names: 1 to 128 bytes each, no NUL, no space at either end\n"
    assert not server.events("conn.open")
    assert run_client(lab, server, fits).returncode == 0
    assert list(lab.stored()) == [fits.name]


def test_a_session_that_ends_early_is_no_success(lab: Lab, ten_files: list[Path]) -> None:
    """A file over the server's limit ends the session; nothing after it has been answered."""
    done = run_client(lab, lab.serve("--largest-file", "1M"), *ten_files)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert set(lab.stored()) <= {file.name for file in ten_files[:2]}


@pytest.mark.parametrize("arguments", [[], ["localhost", "9090", "ca.pem", "ana"]])
def test_too_few_arguments_show_how_it_is_used(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, str(CLIENT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "HOST PORT CA.pem USER FILE..." in done.stderr


# -- the page ----------------------------------------------------------------------------------------------------

DEMO, SERVE, SEND, TRUST, SEND_AGAIN, SHOW_CA, CLIENT_RUN = (
    "securexfer demo",
    "securexfer init && securexfer user add ana && securexfer serve",
    "securexfer send arquivo_1.txt arquivo_2.txt ana@lab1 --ca-fingerprint FINGERPRINT",
    "securexfer trust lab1 --ca-fingerprint FINGERPRINT",
    "securexfer send arquivo_1.txt arquivo_2.txt ana@lab1",
    "securexfer cert show --pem > ca.pem",
    "python classroom_client.py lab1 9090 ca.pem ana arquivo_1.txt arquivo_2.txt",
)


class Terminal:
    """A shell command on a terminal of its own, typed into as a person does."""

    def __init__(self, command: str, directory: Path, config: Path) -> None:
        self._ours, theirs = os.openpty()
        login = "import os, sys; os.login_tty(0); os.execvp('sh', ['sh', '-c', sys.argv[1]])"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", login, command],
            stdin=theirs,
            cwd=directory,
            env=environment(PATH=path, SECUREXFER_CONFIG=str(config), TERM="xterm", TMPDIR=str(directory)),
        )
        os.close(theirs)
        self.text = ""
        self._seen = 0

    def expect(self, pattern: str, seconds: float = 30) -> str:
        """Wait until what was shown since the last `expect` has the pattern; return its first group, or all of it."""
        deadline = time.monotonic() + seconds
        while not (found := re.compile(pattern).search(self.text, self._seen)):
            assert self._read(deadline), f"no {pattern!r} in:\n{self.text}"
        self._seen = found.end()
        return found[found.lastindex or 0]

    def type(self, text: str) -> None:
        """Type a line, or a control character."""
        os.write(self._ours, text.encode())

    def end(self, seconds: float = 30) -> int:
        """Wait for the command's end; return its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        os.close(self._ours)
        return self._process.wait(seconds)

    def _read(self, deadline: float) -> bool:
        """Take in what is shown; return False once nothing can come any more, or the time is over."""
        if not select.select([self._ours], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            self.text += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # every process on the terminal has ended
            return False
        return True

    def close(self) -> None:
        """End what a failed test left."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # login_tty made it the leader of a session
            self._process.wait()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[str, Path], Terminal]]:
    """Return a function that runs a command of the page in a directory, on a terminal."""
    with contextlib.ExitStack() as stack:

        def opened(command: str, directory: Path) -> Terminal:
            made = Terminal(command, directory, tmp_path / "config")
            stack.callback(made.close)
            return made

        yield opened


def test_the_page_has_these_commands_and_no_others() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert commands == [f"$ {each}" for each in (DEMO, SERVE, SEND, TRUST, SEND_AGAIN, SHOW_CA, CLIENT_RUN)]


def test_the_demo_of_the_page_runs(terminal: Callable[[str, Path], Terminal], tmp_path: Path) -> None:
    assert terminal(DEMO, tmp_path).end() == 0


def test_every_command_of_the_page_does_what_it_says(
    terminal: Callable[[str, Path], Terminal], tmp_path: Path, ten_files: list[Path]
) -> None:
    """Typed as they stand, but for the machine's name, the port (others may have 9090) and the fingerprint."""
    there, here = tmp_path / "lab1", tmp_path / "here"
    for directory in (there, here):
        directory.mkdir()
    for file in (*ten_files[:2], CLIENT):
        shutil.copy(file, here)

    server = terminal(SERVE.replace("serve", "serve --port 0"), there)
    for prompt in ("New password of ana: ", "The same again: "):
        server.expect(prompt)
        server.type(PASSWORD + "\n")
    port = server.expect(r"Listening on \S+:(\d+)")
    fingerprint = server.expect(r"--ca-fingerprint ([0-9a-f]{64})")

    def typed(command: str, *, asks: bool = True) -> Terminal:
        for word, meant in (
            ("FINGERPRINT", fingerprint),
            ("lab1 9090", f"localhost {port}"),
            ("lab1", f"localhost:{port}"),
        ):
            command = command.replace(word, meant)
        shown = terminal(command, here)
        if asks:
            shown.expect("[Pp]assword.*: ")
            shown.type(PASSWORD + "\n")
        return shown

    for command in (SEND, TRUST, SEND_AGAIN):
        shown = typed(command, asks=command is not TRUST)
        assert shown.end() == 0, shown.text
    assert terminal(SHOW_CA, there).end() == 0
    shutil.copy(there / "ca.pem", here)
    shown = typed(CLIENT_RUN)
    assert shown.end() == 0, shown.text
    assert "stored arquivo_1.txt" in shown.text

    for file in ten_files[:2]:
        assert (there / "inbox" / "ana" / file.name).read_bytes() == file.read_bytes()
    server.type("\x03")
    server.end()  # the shell, as its child, by SIGINT
    assert "reason=done" in server.text.splitlines()[-1]
