"""`init` and `cert renew` killed, or failed by the disk, at every change of a file: the files stay one whole set."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import ENVIRONMENT, needs_strace, run, said

from securexfer import certificates, files
from securexfer.errors import ConfigurationError

FILES = {"ca.pem", "ca.key", "server.pem", "server.key"}

CHANGES = "?mkdir,?mkdirat,?chmod,?fchmod,?fchmodat,openat,write,fsync,?rename,?renameat,?renameat2,?link,linkat"
CHANGES += ",?unlink,unlinkat,?rmdir,ftruncate,flock"


def trace(command, cwd):
    """Run the command to its end; return the lines of its trace, each a call that changes a file (or opens one)."""
    run("strace", "-y", "-o", cwd / "trace", "-e", f"trace={CHANGES}", *command, cwd=cwd)
    return (cwd / "trace").read_text().splitlines()


def points_of(command, cwd):
    """Run the command to its end; return each system call it changed a file with, as (call, number)."""
    counts, points = Counter(), []
    for line in trace(command, cwd):
        call = line.partition("(")[0]
        if call.isidentifier():
            counts[call] += 1
            if call != "openat" or "O_CREAT" in line:
                points.append((call, counts[call]))
    return points


def inject(fault, point, command, cwd):
    """Run the command with the fault at the point; return its exit code, -9 if it was killed."""
    call, number = point
    strace = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}"]
    done = subprocess.run(
        [*strace, *map(str, command)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.mark.debian
@needs_strace
def test_what_is_decided_is_on_disk_before_and_what_is_told_after(tmp_path):
    """Against power cuts: files written and synced, with their directory; decided, synced; moved, synced; told."""
    steps = {
        r"write\(\d+<.*/\.new\.partial/": "w",
        r"fsync\(\d+<.*/\.new\.partial/": "f",
        r"fsync\(\d+<.*/\.new\.partial>": "d",
        r"rename.*/\.new\.partial.*/\.new\.ready\"": "D",
        r"fsync\(\d+<.*/certs>": "s",
        r"rename.*/\.new\.ready/": "m",
        r"write\([12]<": "t",
        r"(rmdir|unlinkat).*/\.new\.ready\"": "S",
    }

    def order(*command):
        lines = trace(["securexfer", "init", *command], tmp_path)
        return "".join(letter for line in lines for step, letter in steps.items() if re.match(step, line))

    assert re.fullmatch("s(wfd){4}Dsmmmmst+S", first := order()), first
    assert re.search("Dsmmmmmst+S$", forced := order("--force")), forced


@pytest.mark.debian
@needs_strace
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO"])
def test_a_plain_init_after_one_that_died_at_any_change_of_a_file_makes_it_whole(tmp_path, fault):
    command = ["securexfer", "init"]
    (tmp_path / "clean").mkdir()
    points = points_of(command, tmp_path / "clean")

    def check(point):
        here = tmp_path / f"{point[0]}-{point[1]}"
        here.mkdir()
        code = inject(fault, point, command, here)
        assert code == -signal.SIGKILL or (fault == "error=EIO" and code in {0, 1, 2}), point
        if fault == "signal=KILL":
            again = run(*command, cwd=here)
            assert said(again, "CA fingerprint") == certificates.load(here / "certs").ca_fingerprint, point
        elif code:
            certificates.initialise(here / "certs", [], force=False)
        assert certificates.load(here / "certs")
        assert {path.name for path in (here / "certs").iterdir()} == FILES | {".lock"}, point

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(check, points))) > 25


@pytest.mark.debian
@needs_strace
@pytest.mark.parametrize("command", [["securexfer", "cert", "renew"], ["securexfer", "init", "--force"]])
def test_a_server_starts_with_the_old_or_the_new_set_after_a_change_that_was_killed(tmp_path, command):
    (tmp_path / "clean").mkdir()
    run("securexfer", "init", cwd=tmp_path / "clean")
    shutil.copytree(tmp_path / "clean", tmp_path / "made")
    old = certificates.load(tmp_path / "made" / "certs")
    points = points_of(command, tmp_path / "clean")

    def check(point):
        here = tmp_path / f"{point[0]}-{point[1]}"
        shutil.copytree(tmp_path / "made", here)
        assert inject("signal=KILL", point, command, here) == -signal.SIGKILL, point
        found = certificates.load(here / "certs")
        new = (here / "certs" / "server.key").read_bytes() != (tmp_path / "made" / "certs" / "server.key").read_bytes()
        assert (found.ca_fingerprint == old.ca_fingerprint) is (not new or "renew" in command), point
        assert not files.is_unsettled(here / "certs")
        if new:
            kept = list((here / "certs").glob("**/server.old.key")) + list((here / "certs").glob("backup-*/server.key"))
            assert kept[0].read_bytes() == (tmp_path / "made" / "certs" / "server.key").read_bytes(), point
        return new

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(check, points)) == {False, True}


def test_an_init_that_finishes_another_adds_the_names_it_was_asked_for(tmp_path):
    done = run("securexfer", "init", cwd=tmp_path)
    certs = tmp_path / "certs"
    (certs / ".new.ready").mkdir(mode=0o700)
    for name in ("ca.pem", "server.key"):
        (certs / name).rename(certs / ".new.ready" / name)
    again = run("securexfer", "init", "--name", "lab1.example.org", cwd=tmp_path)
    assert "This finishes what an earlier command had begun" in again.stderr
    assert said(again, "CA fingerprint") == said(done, "CA fingerprint")
    assert said(again, "Names").startswith("lab1.example.org, ")
    assert "lab1.example.org" in certificates.load(certs).names
    run("securexfer", "init", cwd=tmp_path, code=2)


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_files_that_somebody_else_may_have_put_there_are_not_taken_for_our_own(tmp_path, mode):
    certs = tmp_path / "certs"
    certificates.initialise(certs, [], force=False)
    (certs / ".new.ready").mkdir()
    (certs / ".new.ready").chmod(mode)
    (certs / ".new.ready" / "ca.pem").write_text("planted")
    with pytest.raises(ConfigurationError, match="was left by somebody else"):
        certificates.load(certs)
    assert (certs / "ca.pem").read_text() != "planted"
