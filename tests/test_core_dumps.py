"""What a crash leaves behind: no core file, and no secret in what Python says about it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lab as lab_module
import pytest
import stranger_client as stranger
from lab import PASSWORD

if TYPE_CHECKING:
    from lab import Lab

TALKATIVE = {"PYTHONDEVMODE": "1", "PYTHONFAULTHANDLER": "1", "SECUREXFER_DEBUG": "1"}
PIPED = Path("/proc/sys/kernel/core_pattern").read_text().startswith("|")  # to a program, which may ignore the limit


@pytest.fixture
def cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have commands started where core files may be as large as they like; return the directory they would be in."""
    directory = tmp_path / "cores"
    directory.mkdir()
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\nulimit -c "$(ulimit -H -c)" && cd {directory} && exec {lab_module.SECUREXFER} "$@"\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(lab_module, "SECUREXFER", str(program))
    return directory


def crash(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Let a process crash; return how it ended: CLD_KILLED, or CLD_DUMPED if its memory was written somewhere."""
    process.send_signal(number)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait(20)
    assert process.returncode == -number
    assert ended
    return ended.si_code


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_O10_A20_a_server_that_crashes_leaves_no_core_and_tells_no_secret(
    lab: Lab, cores: Path, number: signal.Signals
) -> None:
    """With a session in the middle of a file and a login just refused, and everything that may talk switched on."""
    server = lab.serve(**TALKATIVE)
    with contextlib.ExitStack() as stack:
        tls = stack.enter_context(stranger.connect(server.port, str(lab.ca)))
        assert stranger.log_in(tls, "ana", PASSWORD)
        tls.sendall(stranger.count(1) + stranger.file("x", bytes(5000))[:-100])
        wrong = stack.enter_context(stranger.connect(server.port, str(lab.ca)))
        assert not stranger.log_in(wrong, "bruno", PASSWORD[::-1])
        server.wait_for("auth.fail")
        assert crash(server.process, number) == os.CLD_KILLED
    assert not list(cores.iterdir())
    said = server.log_path.read_text()
    assert "Fatal Python error" in said, "which shows that faulthandler spoke"
    assert PASSWORD not in said
    assert PASSWORD[::-1] not in said
    key = (lab.home / "certs/server.key").read_text().splitlines()
    assert not [line for line in key[1:-1] if line in said]


@pytest.mark.ordinary
def test_O10_who_runs_the_server_cannot_look_into_its_memory(lab: Lab) -> None:
    """So neither can any other program of that user; and no crash is handed to a program that keeps dumps."""
    for server, readable in (
        (lab.serve(watched=True, **TALKATIVE), True),
        (lab.serve("--inbox", str(lab.home / "other")), False),
    ):
        looked = subprocess.run(["cat", f"/proc/{server.process.pid}/environ"], capture_output=True, check=False)
        assert (looked.returncode == 0) == readable


@pytest.mark.parametrize("command", ["send", "user"])
def test_O10_a_command_that_has_a_password_leaves_no_core(lab: Lab, cores: Path, command: str) -> None:
    words = {
        "send": ["send", lab.ca, "ana@localhost:9", "--ca", lab.ca, "--password-stdin"],
        "user": ["user", "passwd", "ana", "--home", lab.home, "--password-stdin"],
    }[command]
    with subprocess.Popen(
        [lab_module.SECUREXFER, *map(str, words)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab_module.environment(**TALKATIVE),
    ) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(PASSWORD.encode())  # no line end: it waits for the rest
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while (
            "Max core file size        1                    1 " not in Path(f"/proc/{process.pid}/limits").read_text()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)
        how = crash(process, signal.SIGSEGV)
        assert PIPED or how == os.CLD_KILLED
        assert PASSWORD.encode() not in process.stderr.read()
    assert not list(cores.iterdir())


def test_O10_this_machine_would_have_dumped(tmp_path: Path) -> None:
    """Without what the commands do, the same crash is a dump: the tests above see something."""
    program = 'import os, signal, sys; print("here", flush=True); sys.stdin.read()'
    raised = f"ulimit -c \"$(ulimit -H -c)\" && ulimit -c && exec {sys.executable} -c '{program}'"
    with subprocess.Popen(
        ["sh", "-c", raised], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        limit = process.stdout.readline().strip()
        assert process.stdout.readline() == "here\n"
        how = crash(process, signal.SIGSEGV)
    if limit == "0":
        pytest.skip("nothing may be dumped here, whoever crashes")
    assert how == os.CLD_DUMPED
