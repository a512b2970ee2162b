"""`securexfer demo` shows the truth, ends as its `send` ends, and leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab import SECUREXFER, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the demo's processes in /proc")

DOCS = Path(__file__).parent.parent / "docs"
LARGE = 1 << 27  # bytes, a hole: the send takes so long that a test finds it under way
MADE = [f"arquivo_{number}.txt" for number in range(1, 11)]
ON_A_TERMINAL = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"


class Demo:
    """A demo started in `directory`; its temporary home is in `temporary` there."""

    def __init__(
        self,
        directory: Path,
        *files: str | Path,
        program: tuple[str, ...] = (SECUREXFER,),
        more: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.temporary = directory / "temporary"
        self.temporary.mkdir(parents=True)
        own = {"TMPDIR": str(self.temporary), "SECUREXFER_CONFIG": str(directory / "config")}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(
            [*program, "demo", *map(str, files)],
            cwd=directory,
            env=environment(**own, **more or {}),
            **{**streams, **options},
        )

    def end(self, seconds: float = 60) -> tuple[int, str, str]:
        """Return the exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.decode(), err.decode()

    def running(self, command: str = "") -> list[int]:
        """Return the processes whose directory is the demo's home, all or those of one command.

        Where a server is, only root can see. That of a demo that still runs is known by its parent.
        """
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = process.joinpath("cmdline").read_bytes().split(b"\0")
                if arguments == [b""] or (command and command.encode() not in arguments):
                    continue  # it has ended, or is another
                if f"\nPPid:\t{self.process.pid}\n" in process.joinpath("status").read_text() or str(
                    process.joinpath("cwd").readlink()
                ).startswith(str(self.temporary)):
                    found.append(int(process.name))
        return found

    def wait_for(self, command: str) -> int:
        """Return the process that runs a command, waiting for it."""
        return int(self.wait_until(lambda: self.running(command))[0])

    def wait_until(self, asked: Callable[[], Any]) -> Any:
        """Return what is asked for once it is there."""
        deadline = time.monotonic() + 30
        while not (found := asked()):
            assert self.process.poll() is None, "the demo has ended"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return found

    def sleep_over(self, command: str, asked: Callable[[], Any]) -> None:
        """Put the demo itself to sleep in the middle of a command, when `asked` says so; wait for the command's end."""
        self.wait_until(asked)
        process = self.wait_for(command)
        self.process.send_signal(signal.SIGSTOP)
        self.wait_until(lambda: process not in self.running())

    def inbox(self) -> Path:
        """Return the inbox of the demo's server."""
        return next(self.temporary.glob("securexfer-demo-*")) / "inbox"

    def reads(self, file: Path) -> bool:
        """Whether the demo itself has a file open."""
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.readlink() == file:
                    return True
        return False

    def staged(self) -> list[Path]:
        """Return the large files that are arriving; the server's own trial at its start is none."""
        return list(self.temporary.glob("*/inbox/.securexfer-staging/partial-*"))

    def close(self) -> None:
        """End what a failed test left."""
        for process in [self.process.pid, *self.running()] if self.process.poll() is None else self.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Return a function that starts a demo; afterwards nothing of it may be left."""
    started: list[Demo] = []

    def started_here(*files: str | Path, directory: Path = tmp_path, **options: Any) -> Demo:
        started.append(Demo(directory, *files, **options))
        return started[-1]

    yield started_here
    left = [(demo.running(), list(demo.temporary.iterdir())) for demo in started]
    for demo in started:
        demo.close()
    assert all(each == ([], []) for each in left), f"left behind: {left}"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    with file.open("wb") as opened:
        opened.truncate(LARGE)
    return file


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# -- what it shows -----------------------------------------------------------------------------------------------


def test_ten_files_arrive_as_they_were_sent_and_every_command_is_shown(start: Callable[..., Demo]) -> None:
    started = time.monotonic()
    code, out, err = start().end()
    assert code == 0, err
    assert time.monotonic() - started < 10  # three on two idle cores
    made = {name: f"Conteúdo do arquivo {number}\n".encode() for number, name in enumerate(MADE, 1)}
    compared = [line for line in out.splitlines() if line.startswith(("same", "DIFFERENT"))]
    assert compared == [f"same  {hashlib.sha256(content).hexdigest()}  {name}" for name, content in made.items()]
    assert out.endswith(
        "All 10 files arrived as they were sent. The server has ended, and nothing of this demo is left.\n"
    )
    commands = [re.sub(r":\d+", ":PORT", line) for line in err.splitlines() if line.startswith("$ ")]
    assert commands[0].startswith("$ cd /")
    assert commands[1:] == [
        "$ securexfer init",
        "$ securexfer user add ana --password-stdin",
        "$ securexfer serve --host 127.0.0.1 --port 0 &",
        "$ securexfer send arquivo_*.txt ana@127.0.0.1:PORT --password-stdin",
    ]
    assert "10 files, 231 B, stored and verified on 127.0.0.1:" in out


def test_given_files_are_sent_and_what_the_user_has_is_left_alone(start: Callable[..., Demo], tmp_path: Path) -> None:
    """Names count from the user's directory; neither the user's home of a server nor the saved servers matter."""
    (tmp_path / "two words.txt").write_text("with a space")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "empty").touch()
    code, out, err = start("two words.txt", "below/empty", more={"SECUREXFER_HOME": str(tmp_path / "home")}).end()
    assert code == 0, err
    assert f"same  {sha256(tmp_path / 'two words.txt')}  two words.txt\n" in out
    assert f"same  {hashlib.sha256().hexdigest()}  empty\n" in out
    assert f"$ securexfer send '{tmp_path}/two words.txt' {tmp_path}/below/empty ana@127.0.0.1:" in err
    assert sorted(tmp_path.iterdir()) == [tmp_path / name for name in ("below", "temporary", "two words.txt")]


def test_without_a_securexfer_beside_python_its_module_is_run(start: Callable[..., Demo], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    packages = next(bare.glob("lib/python*/site-packages"))
    (packages / "all.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
    demo = start(program=(str(bare / "bin" / "python"), "-m", "securexfer"))
    server = demo.wait_for("serve")
    arguments = Path(f"/proc/{server}/cmdline").read_bytes().split(b"\0")
    assert arguments[:3] == [str(bare / "bin" / "python").encode(), b"-m", b"securexfer"]
    assert demo.end()[0] == 0


def test_the_picture_of_the_demo_shows_what_it_shows_now(tmp_path: Path) -> None:
    """docs/picture.py makes it from a real run. It is small, and fetches nothing."""
    made, kept = tmp_path / "made.svg", DOCS / "demo.svg"
    subprocess.run([sys.executable, DOCS / "picture.py", made], env=environment(TMPDIR=str(tmp_path)), check=True)
    shown = ["".join(re.findall(r"<text[^>]*>(.*?)</text>", each.read_text(), re.DOTALL)) for each in (made, kept)]
    assert len(shown[0]) > 1000
    assert shown[0] == shown[1], "make it again: python docs/picture.py"
    assert kept.stat().st_size < 60_000
    assert not re.search(r"url\((?!#)|href|<script|<image", kept.read_text())


# -- how it fails ------------------------------------------------------------------------------------------------


def test_a_stored_file_that_changed_or_vanished_is_told_and_ends_with_6(
    start: Callable[..., Demo], tmp_path: Path, large: Path
) -> None:
    """The demo sleeps from the middle of the send until the test has changed what arrived."""
    changed, vanished = tmp_path / "changed", tmp_path / "vanished"
    for file in (changed, vanished):
        file.write_bytes(file.name.encode() * 1000)
    demo = start(changed, vanished, large)
    demo.sleep_over("send", demo.staged)
    stored = demo.inbox() / "ana"
    with (stored / "changed").open("r+b") as opened:
        opened.write(b"C")
    other = sha256(stored / "changed")
    (stored / "vanished").unlink()
    demo.process.send_signal(signal.SIGCONT)
    code, out, err = demo.end()
    assert code == 6, err
    assert f"same  {sha256(large)}  large.bin\n" in out
    assert f"DIFFERENT  changed: sent {sha256(changed)}, arrived {other}\n" in out
    assert f"DIFFERENT  vanished: sent {sha256(vanished)}, arrived (No such file or directory)\n" in out
    assert "securexfer: 2 of 3 files did not arrive as they were sent\n" in err
    assert "All" not in out


def test_a_server_killed_while_it_receives_gives_the_sends_own_code(start: Callable[..., Demo], large: Path) -> None:
    demo = start(large)
    demo.wait_until(demo.staged)
    os.kill(demo.wait_for("serve"), signal.SIGKILL)
    code, out, err = demo.end()
    assert code == 6, err  # truncated, as `send` calls it
    assert "securexfer: " in err
    assert "same" not in out


def test_a_send_that_is_killed_is_no_success(start: Callable[..., Demo], large: Path) -> None:
    demo = start(large)
    demo.wait_until(demo.staged)
    os.kill(demo.wait_for("send"), signal.SIGKILL)
    code, out, err = demo.end()
    assert code == 1
    assert "securexfer: securexfer send was ended by SIGKILL\n" in err
    assert "same" not in out


def test_a_server_that_does_not_start_says_why_and_gives_its_code(start: Callable[..., Demo]) -> None:
    """The demo sleeps while the user is added, and finds a key that others can read when it goes on."""
    demo = start()
    demo.sleep_over("user", lambda: list(demo.temporary.glob("*/users.db")))
    key = demo.inbox().parent / "certs" / "server.key"
    key.chmod(0o644)
    demo.process.send_signal(signal.SIGCONT)
    code, _, err = demo.end()
    assert code == 2
    assert "$ securexfer serve" in err
    assert "securexfer: others can read" in err
    assert f"chmod 600 {key}" in err
    assert "$ securexfer send" not in err


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        (["one", "below/one"], 2, "would both be stored as one"),
        (["one", "missing"], 7, "missing cannot be sent: No such file or directory"),
    ],
)
def test_files_that_cannot_be_sent_end_with_the_sends_own_error(
    start: Callable[..., Demo], tmp_path: Path, files: list[str], code: int, said: str
) -> None:
    (tmp_path / "below").mkdir()
    for name in ("one", "below/one"):
        (tmp_path / name).write_text(name)
    ended, out, err = start(*files).end()
    assert ended == code
    assert said in err
    assert "Traceback" not in err
    assert "same" not in out


def test_without_a_place_for_temporary_files_it_says_so(tmp_path: Path) -> None:
    """No file may grow here, so no directory is of use to `tempfile`."""
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$0" demo', SECUREXFER],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("securexfer: no temporary directory can be made: ")
    assert "TMPDIR" in done.stderr


# -- how it is interrupted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("init", signal.SIGINT),
        ("user", signal.SIGTERM),
        ("serve", signal.SIGINT),
        ("send", signal.SIGHUP),
        ("send", signal.SIGTERM),
    ],
)
def test_a_signal_at_any_moment_ends_everything(
    start: Callable[..., Demo], large: Path, moment: str, number: signal.Signals
) -> None:
    demo = start(large)
    demo.wait_for(moment)
    demo.process.send_signal(number)
    code, out, err = demo.end()
    assert code == 130, err
    assert f"securexfer: the demo was interrupted ({number.name})\n" in err
    assert "Traceback" not in err
    assert "same" not in out


def test_a_signal_during_the_comparison_ends_it(start: Callable[..., Demo], large: Path) -> None:
    """What arrived becomes 64 GiB while the demo sleeps: it would take a minute to compare."""
    demo = start(large)
    demo.sleep_over("send", demo.staged)
    stored = demo.inbox() / "ana" / "large.bin"
    with stored.open("wb") as opened:
        opened.truncate(1 << 36)
    demo.process.send_signal(signal.SIGCONT)
    demo.wait_until(lambda: demo.reads(stored))
    demo.process.send_signal(signal.SIGTERM)
    assert demo.end()[0] == 130


def test_signals_while_it_cleans_up_do_not_disturb_it(start: Callable[..., Demo], large: Path) -> None:
    """The server sleeps, so it must be killed after a while; more signals come in that while."""
    demo = start(large)
    demo.wait_until(demo.staged)
    os.kill(demo.wait_for("serve"), signal.SIGSTOP)
    demo.process.send_signal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        time.sleep(0.3)
        demo.process.send_signal(number)
    code, _, err = demo.end()
    assert code == 130
    assert "Traceback" not in err


def test_what_is_ignored_stays_ignored(start: Callable[..., Demo], large: Path) -> None:
    """Under nohup the end of the terminal is not the end of the demo."""
    demo = start(large, program=("nohup", SECUREXFER))
    demo.wait_until(demo.staged)
    demo.process.send_signal(signal.SIGHUP)
    code, out, _ = demo.end()
    assert code == 0
    assert f"same  {sha256(large)}  large.bin\n" in out


def test_ctrl_c_on_a_terminal_gives_the_terminal_back(start: Callable[..., Demo], large: Path) -> None:
    """The progress hides the cursor; whatever is typed next must be seen again."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    with large.open("r+b") as opened:
        opened.truncate(1 << 33)  # progress is shown after half a second
    terminal = (sys.executable, "-c", ON_A_TERMINAL, SECUREXFER)
    demo = start(large, program=terminal, stdin=theirs, stdout=theirs, stderr=theirs, more={"TERM": "xterm"})
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # the last process on the terminal has ended
            break
        if b"MB/s" in seen and b"\x03" not in seen:
            os.write(ours, b"\x03")
            seen += b"\x03"
    os.close(ours)
    assert demo.process.wait(10) == 130
    text = seen.decode()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") > 0
    assert "\r\nsecurexfer: the demo was interrupted (SIGINT)\r\n" in text
    assert "Traceback" not in text


def test_what_it_read_of_somebodys_files_is_not_remembered(start: Callable[..., Demo], tmp_path: Path) -> None:
    file, cache = tmp_path / "measured", tmp_path / "cache"
    file.write_bytes(b"x" * 1000)
    time.sleep(2.1)  # what has changed more lately is not remembered anyway
    code, _, err = start(file, more={"XDG_CACHE_HOME": str(cache)}).end()
    assert code == 0, err
    assert not cache.exists()


def test_a_reader_who_leaves_early_leaves_nothing_behind(start: Callable[..., Demo]) -> None:
    reading, writing = os.pipe()
    demo = start(stdout=writing)
    os.close(writing)
    os.close(reading)
    demo.process.wait(60)
    assert demo.process.returncode == 1
