"""`securexfer doctor`: says what is wrong and how to mend it, and the mend works."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab import SECUREXFER, environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab import Lab


def test_a_set_up_that_works_has_nothing_wrong(lab: Lab) -> None:
    found = lab.run("doctor", "--home", lab.home)
    assert found.returncode == 0, found.stdout
    assert "wrong" not in found.stdout
    for subject in ("TLS", "certificate", "users", "inbox", "servers trusted"):
        assert f"ok     {subject}: " in found.stdout
    assert "TLS" in found.stdout
    assert not lab.inbox.exists(), "doctor only looks"


def test_a_machine_without_a_server_is_not_wrong(lab: Lab) -> None:
    found = lab.run("doctor", "--home", lab.config)
    assert found.returncode == 0
    assert "securexfer init" in found.stdout


def test_each_wrong_line_has_a_mend_that_mends(lab: Lab) -> None:
    (lab.home / "certs" / "server.key").chmod(0o644)
    (lab.home / "users.db").chmod(0o640)
    found = lab.run("doctor", "--home", lab.home)
    assert found.returncode == 2
    lines = found.stdout.splitlines()
    mends = [lines[number + 1].strip() for number, line in enumerate(lines) if line.startswith("wrong")]
    assert len(mends) == 2
    for mend in mends:
        words = shlex.split(mend)
        assert words[0] == "chmod"
        assert lab.run("doctor", "--home", lab.home).returncode == 2
        subprocess.run(words, check=True)
    assert lab.run("doctor", "--home", lab.home).returncode == 0


@pytest.mark.debian
@pytest.mark.root
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize(("fault", "said"), [("none", "have no name until"), ("linkat", "are staged by name")])
def test_P21_whether_small_files_need_a_name_in_staging_is_told(
    lab: Lab, tmpfs: Callable[..., Path], fault: str, said: str
) -> None:
    """Both ways to give a name to a file that has none are linkat(2); what is tried before that is link(2)."""
    tmpfs("mode=0700", lab.inbox)
    inject = ["-e", f"trace={fault}", *(["-e", f"inject={fault}:error=ENOENT"] if fault != "none" else [])]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, SECUREXFER, "doctor", "--home", str(lab.home)]
    own = environment(SECUREXFER_CONFIG=str(lab.config))
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    assert said in found.stdout
    assert not list(lab.inbox.iterdir()), "doctor leaves nothing"


@pytest.mark.debian
@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
def test_K12_a_certificate_about_to_end_is_wrong(lab: Lab) -> None:
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    found = lab.run("doctor", "--home", lab.home, env={"LD_PRELOAD": str(library), "FAKETIME": "+70d"})
    assert found.returncode == 2
    assert "cert renew" in found.stdout


def test_an_inbox_that_cannot_hold_a_file_is_wrong(lab: Lab) -> None:
    lab.inbox.symlink_to("/proc")
    found = lab.run("doctor", "--home", lab.home)
    assert found.returncode == 2
    assert "cannot hold received files" in found.stdout


def test_what_the_command_line_says_of_the_home_wins_over_the_environment(lab: Lab) -> None:
    elsewhere = {"SECUREXFER_HOME": str(lab.config)}
    assert "users: 5" in lab.run("doctor", "--home", lab.home, env=elsewhere).stdout
    assert "users: 5" in lab.run("--home", lab.home, "doctor", env=elsewhere).stdout
    assert "users: 5" in lab.run("doctor", env={"SECUREXFER_HOME": str(lab.home)}).stdout
    assert "users: 5" not in lab.run("doctor", env=elsewhere).stdout
