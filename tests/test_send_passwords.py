"""How a password gets into `send`, and that it is seen nowhere on its way."""

from __future__ import annotations

import os
import subprocess
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile.chaos import Detour
from lab import PASSWORD, SECUREXFER, Lab, Server, environment
from terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSED, DECOMPOSED = "caf\u00e9 com a\u00e7\u00facar", "cafe\u0301 com ac\u0327u\u0301car"
LONGEST = "x" * 126 + "\u00e9"  # 128 bytes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("passwords"), lab_source)
    (made.home / "file").write_bytes(b"what is sent")
    for user, password in (("zoe", COMPOSED), ("max", LONGEST)):
        added = made.run("user", "add", user, "--password-stdin", "--home", made.home, input=password + "\n")
        assert added.returncode == 0, added.stderr
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve()


def send(
    place: Lab, server: Server, *options: str | Path, user: str = "ana", **more: Any
) -> subprocess.CompletedProcess[str]:
    return place.run(
        "send", place.home / "file", f"{user}@localhost:{server.port}", "--ca", place.ca, *options, timeout=20, **more
    )


def test_password_stdin_is_its_first_line(place: Lab, server: Server) -> None:
    for typed in (PASSWORD, PASSWORD + "\n", PASSWORD + "\r\n", PASSWORD + "\nmore\n"):
        assert send(place, server, "--password-stdin", input=typed).returncode == 0


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "the password does not fit protocol 1: at most 128 bytes of UTF-8"),
        ("x" * 129, "at most 128 bytes of UTF-8"),
        (LONGEST + "x", "at most 128 bytes of UTF-8"),
        ("x" * 5000, "at most 128 bytes of UTF-8"),
        (" leading", "no space at the start or the end"),
        ("trailing ", "no space at the start or the end"),
        ("nul\0l", "no NUL"),
    ],
)
def test_A04_a_password_that_cannot_be_sent_whole_is_refused_here(
    place: Lab, server: Server, typed: str, says: str
) -> None:
    """Exit 2, before connecting: a cut password would be another."""
    before = len(server.events("conn.open"))
    result = send(place, server, "--password-stdin", input=typed + "\n", user="max")
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert typed not in result.stderr or not typed
    assert len(server.events("conn.open")) == before


def test_A04_a_password_of_128_bytes_works(place: Lab, server: Server) -> None:
    assert len(LONGEST.encode()) == 128
    result = send(place, server, "--password-stdin", input=LONGEST, user="max")
    assert result.returncode == 0, result.stderr
    assert send(place, server, "--password-stdin", input=LONGEST[:-1], user="max").returncode == 4


@pytest.mark.parametrize(
    ("user", "typed"), [("zoe", COMPOSED), ("zoe", DECOMPOSED), ("max", unicodedata.normalize("NFD", LONGEST))]
)
def test_A06_accents_are_the_same_however_a_keyboard_composes_them(
    place: Lab, server: Server, user: str, typed: str
) -> None:
    """Also where only the composed form has 128 bytes."""
    result = send(place, server, "--password-stdin", input=typed, user=user)
    assert result.returncode == 0, result.stderr


def test_a_password_that_is_not_utf8_is_told(place: Lab, server: Server) -> None:
    result = subprocess.run(
        [SECUREXFER, "send", place.home / "file", f"ana@localhost:{server.port}", "--ca", place.ca, "--password-stdin"],
        input=b"caf\xe9\n", capture_output=True, timeout=20, check=False, env=environment(),
    )  # fmt: skip
    assert result.returncode == 2
    assert b"the password in standard input is not UTF-8" in result.stderr


@pytest.mark.parametrize(("mode", "deed"), [(0o644, "read"), (0o640, "read"), (0o606, "change"), (0o620, "change")])
def test_A20_a_password_file_that_others_can_see_is_refused(
    place: Lab, server: Server, tmp_path: Path, mode: int, deed: str
) -> None:
    """And the command that is hinted mends it."""
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(mode)
    result = send(place, server, "--password-file", file)
    assert result.returncode == 2
    first, hint = result.stderr.splitlines()[-2:]
    assert f"others can {deed} the password file {file}" in first
    subprocess.run(hint.split(), check=True)
    assert send(place, server, "--password-file", file).returncode == 0


def test_a_password_file_that_is_none_is_named(place: Lab, server: Server, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place.password_file)
    for path in (tmp_path / "missing", tmp_path, link):
        result = send(place, server, "--password-file", path)
        assert result.returncode == 2, result.stderr
        assert f"the password file {path} " in result.stderr
    both = send(place, server, "--password-file", place.password_file, "--password-stdin", input=PASSWORD)
    assert both.returncode == 2


def test_A22_without_a_terminal_nobody_is_asked(place: Lab, server: Server) -> None:
    """Exit 2 at once, whatever stdin is: nothing, a pipe that stays open, a file."""
    reader, writer = os.pipe()
    with Path(os.devnull).open() as nothing, (place.home / "file").open() as file:
        for stdin in (nothing, reader, file):
            result = send(place, server, stdin=stdin)
            assert result.returncode == 2
            assert "a password is needed, and standard input is not a terminal" in result.stderr
            assert "Add --password-stdin or --password-file FILE." in result.stderr
    os.close(reader)
    os.close(writer)


def test_A22_a_prompt_names_user_and_host_and_shows_nothing(place: Lab, server: Server) -> None:
    command = [SECUREXFER, "send", place.home / "file", f"ana@localhost:{server.port}", "--ca", place.ca]
    with Terminal(*command, columns=120) as terminal:
        terminal.wait_for("Password of ana on localhost: ")
        terminal.type(PASSWORD + "\n")
        assert terminal.finish() == 0, terminal.shown
        assert PASSWORD.encode() not in terminal.raw
        terminal.check_restored()
    for key, code in (("\x03", 130), ("\x04", 2)):
        with Terminal(*command) as terminal:
            terminal.wait_for("Password of ana on localhost: ")
            terminal.type(key)
            assert terminal.finish() == code
            terminal.check_restored()


def test_a_login_that_was_not_needed_is_not_asked_for(place: Lab, server: Server, tmp_path: Path) -> None:
    result = send_only(place, server, tmp_path / "missing")
    assert result.returncode == 1
    assert "No such file or directory" in result.stderr
    assert "password" not in result.stderr


def send_only(place: Lab, server: Server, path: Path) -> subprocess.CompletedProcess[str]:
    return place.run("send", path, f"ana@localhost:{server.port}", "--ca", place.ca)


def test_A20_there_is_no_option_for_a_password(place: Lab, server: Server) -> None:
    """A habit of other tools must fail, and not tell the whole terminal."""
    typed = "typed where all can see"
    for option in (["--password", typed], [f"--password={typed}"], ["-p", typed]):
        result = send(place, server, *option)
        assert result.returncode == 2
        assert typed not in result.stdout + result.stderr


def test_A21_a_password_in_the_environment_is_not_used(place: Lab, server: Server) -> None:
    """Every child of a shell would have it, and so would whoever reads /proc: there is no such thing here."""
    names = [f"{prefix}PASSWORD{suffix}" for prefix in ("SECUREXFER_", "SECUREXFER_SEND_") for suffix in ("", "_FILE")]
    right = {name: str(place.password_file) if name.endswith("FILE") else PASSWORD for name in names}
    right |= {"SECUREXFER_PASSWORD_STDIN": "1", "SECUREXFER_SEND_PASSWORD_STDIN": "1"}
    result = send(place, server, env=right)
    assert result.returncode == 2
    assert "a password is needed" in result.stderr
    assert send(place, server, "--password-stdin", input="the wrong one", env=right).returncode == 4
    wrong = dict.fromkeys(right, "the wrong one")
    assert send(place, server, "--password-stdin", input=PASSWORD, env=wrong).returncode == 0
    added = place.run("user", "add", "somebody-new", "--home", place.home, env=right)
    assert added.returncode == 2
    assert "a password is needed" in added.stderr


def test_A20_the_password_is_in_no_argument_no_environment_no_output_and_no_log(
    place: Lab, server: Server, tmp_path: Path
) -> None:
    """Looked for in every process that can be seen while a transfer runs, with everything that may talk switched on."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    env = environment(SECUREXFER_DEBUG="1", PYTHONFAULTHANDLER="1", PYTHONDEVMODE="1", SECUREXFER_CONFIG=str(tmp_path))
    with (
        Detour(server.port, hold_after=4 << 20) as way,
        subprocess.Popen(
            [SECUREXFER, "send", large, f"ana@localhost:{way.port}", "--ca", place.ca, "--password-stdin"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        ) as sending,
    ):  # fmt: skip
        assert sending.stdin
        sending.stdin.write(PASSWORD.encode() + b"\n")
        sending.stdin.flush()
        assert way.held.wait(30)
        seen = exposed(sending.pid)
        way.release()
        out, err = sending.communicate(timeout=60)
    assert sending.returncode == 0, err
    assert seen > 2
    for text in (out, err, server.log_path.read_bytes()):
        assert PASSWORD.encode() not in text
    wrong = send(place, server, "--password-stdin", input=PASSWORD[:-1])
    assert wrong.returncode == 4
    assert PASSWORD[:-1] not in wrong.stderr
    assert PASSWORD[:-1] not in server.log_path.read_text()


def exposed(pid: int) -> int:
    """Check that no process shows the password; return how many could be looked at."""
    looked = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        for what in ("cmdline", "environ"):
            try:
                text = (process / what).read_bytes()
            except OSError:  # gone, or somebody else's
                continue
            looked += 1
            if b"securexfer" in text or int(process.name) == pid:
                assert PASSWORD.encode() not in text, (process, what)
    return looked
