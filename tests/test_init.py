"""What `securexfer init` promises, run as a user runs it: what it makes, what it refuses, who can read it."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import ENVIRONMENT, needs_strace, run, said, snapshot

from securexfer import certificates
from securexfer.errors import ConfigurationError

FILES = {"ca.pem", "ca.key", "server.pem", "server.key"}


# -- init ----------------------------------------------------------------------------------------------------


def test_K13_init_says_the_fingerprint_the_names_the_end_and_what_to_type_next(tmp_path):
    done = run("securexfer", "init", "--name", "Lab1.example.org", cwd=tmp_path)
    found = certificates.load(tmp_path / "certs")
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "certs" / "ca.pem").read_text())
    assert said(done, "CA fingerprint") == certificates.fingerprint(der)
    assert said(done, "Names").split(", ") == list(found.names)
    assert found.names[:2] == ("lab1.example.org", "localhost")
    assert said(done, "Valid until") == f"{found.not_after:%Y-%m-%d %H:%M} UTC"
    assert done.stdout.endswith("Next:\n  securexfer user add NAME\n  securexfer serve\n")
    assert done.stderr == ""
    assert {path.name for path in (tmp_path / "certs").iterdir()} == FILES | {".lock"}


def test_the_next_commands_go_to_the_same_files(tmp_path):
    home = tmp_path / "my lab"
    done = run("securexfer", "init", "--home", home, "--certs", "keys", cwd=tmp_path)
    quoted = f"securexfer --home '{home}'"
    assert done.stdout.endswith(f"  {quoted} user add NAME\n  {quoted} serve --certs {tmp_path}/keys\n")
    assert certificates.load(tmp_path / "keys")
    done = run("securexfer", "init", "--home", "lab", cwd=tmp_path)
    assert done.stdout.endswith(
        f"  securexfer --home {tmp_path}/lab user add NAME\n  securexfer --home {tmp_path}/lab serve\n"
    )
    assert certificates.load(tmp_path / "lab" / "certs")


def test_K02_a_second_init_is_refused_and_changes_nothing(tmp_path):
    run("securexfer", "init", cwd=tmp_path)
    before = snapshot(tmp_path)
    done = run("securexfer", "init", "--name", "other", cwd=tmp_path, code=2)
    assert "already holds ca.pem, ca.key, server.pem, server.key" in done.stderr
    assert done.stdout == ""
    assert snapshot(tmp_path) == before


def test_K02_force_keeps_a_backup_and_says_what_becomes_invalid(tmp_path):
    first = run("securexfer", "init", cwd=tmp_path)
    old = {name: (tmp_path / "certs" / name).read_bytes() for name in FILES}
    for _ in range(2):
        done = run("securexfer", "init", "--force", cwd=tmp_path)
        assert "every machine that trusted this server has to trust it\nagain" in done.stderr
    assert said(done, "CA fingerprint") != said(first, "CA fingerprint")
    backups = sorted((tmp_path / "certs").glob("backup-*"))
    assert len(backups) == 2
    assert {path.name: path.read_bytes() for path in backups[0].iterdir()} == old
    assert backups[0].stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in backups[0].iterdir()} == {0o600}
    assert str(backups[1]) in done.stderr
    assert certificates.load(tmp_path / "certs").ca_fingerprint == said(done, "CA fingerprint")


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory", "file"])
def test_K04_whatever_stands_where_a_file_should_go_stays(tmp_path, name, kind):
    certs, elsewhere = tmp_path / "certs", tmp_path / "elsewhere"
    certs.mkdir()
    elsewhere.write_text("precious")
    make = {
        "link": lambda path: path.symlink_to(elsewhere),
        "dangling link": lambda path: path.symlink_to(tmp_path / "nowhere"),
        "pipe": os.mkfifo,
        "directory": Path.mkdir,
        "file": lambda path: path.write_text("precious"),
    }[kind]
    make(certs / name)
    before = snapshot(tmp_path)
    with pytest.raises(ConfigurationError, match=f"already holds {name}"):
        certificates.initialise(certs, [], force=False)
    if kind == "file":
        backup = certificates.initialise(certs, [], force=True).backup
        assert (backup / name).read_text() == "precious"
    else:
        with pytest.raises(ConfigurationError, match="is not a plain file"):
            certificates.initialise(certs, [], force=True)
        (certs / ".lock").unlink()
        assert snapshot(tmp_path) == before


def test_K05_init_overwrites_nothing_where_the_ca_key_was_moved_away(tmp_path):
    run("securexfer", "init", cwd=tmp_path)
    (tmp_path / "certs" / "ca.key").rename(tmp_path / "ca.key")
    before = snapshot(tmp_path)
    assert "already holds" in run("securexfer", "init", cwd=tmp_path, code=2).stderr
    done = run("securexfer", "cert", "renew", cwd=tmp_path, code=2)
    assert f"{tmp_path}/certs/ca.key is missing" in done.stderr
    assert f"copy it to {tmp_path}/certs" in done.stderr
    assert snapshot(tmp_path) == before


def test_four_inits_at_once_make_one_ca(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        codes = pool.map(
            lambda _: subprocess.run(
                ["securexfer", "init"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False
            ),
            range(4),
        )
    assert sorted(done.returncode for done in codes) == [0, 2, 2, 2]
    assert certificates.load(tmp_path / "certs")


def test_an_init_waits_for_another_that_has_not_told_what_it_made(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    init = ["securexfer", "init"]
    first = subprocess.Popen(init, cwd=tmp_path, env=ENVIRONMENT, stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    with first, os.fdopen(reading, "rb") as told:
        while not (tmp_path / "certs" / "server.pem").exists():
            time.sleep(0.01)
        with subprocess.Popen(init, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(1)
            assert b"CA fingerprint" in told.read()
            assert first.wait() == 0
            assert "already holds" in second.communicate()[1]
            assert second.returncode == 2


def test_a_clone_that_a_group_may_write_becomes_private_and_a_directory_in_use_does_not(tmp_path):
    certs = tmp_path / "certs"
    for name in ("README.md", "somebody's"):
        certs.mkdir(exist_ok=True)
        (certs / name).touch()
        certs.chmod(0o775)
        if name == "README.md":
            run("securexfer", "init", cwd=tmp_path)
            assert certs.stat().st_mode & 0o777 == 0o700
            shutil.rmtree(certs)
        else:
            done = run("securexfer", "init", cwd=tmp_path, code=2)
            assert f"others can change the directory {certs}" in done.stderr
            run("sh", "-c", done.stderr.splitlines()[1], cwd=tmp_path)
            run("securexfer", "init", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "--name", "*.example.org"], "'*.example.org' is not a host name"),
        (["init", "--certs", "file"], "file: File exists"),
        (["init", "--certs", "file/certs"], "file: File exists"),
        (["init", "--certs", "/proc/nothing"], "/proc/nothing: No such file or directory"),
        (["cert", "show"], "there are no certificates in {}/certs\n  securexfer init\n"),
        (["cert", "show", "--pem"], "there are no certificates in {}/certs\n  securexfer init\n"),
        (["cert", "renew", "--certs", "x y"], "there are no certificates in x y\n  securexfer init --certs 'x y'\n"),
    ],
)
def test_what_cannot_work_is_said_with_exit_code_2(tmp_path, arguments, words):
    (tmp_path / "file").touch()
    assert words.format(tmp_path) in run("securexfer", *arguments, cwd=tmp_path, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- K-01 ----------------------------------------------------------------------------------------------------


@pytest.mark.debian
@needs_strace
def test_K01_no_key_is_ever_readable_by_others(tmp_path):
    """Under umask 000, with every change of a mode slowed down, so that a key made readable first would be seen."""
    seen, done = set(), threading.Event()

    def watch():
        while not done.is_set():
            for root, directories, names in os.walk(tmp_path):
                for name in directories + names:
                    with contextlib.suppress(FileNotFoundError):
                        seen.add((name, oct(os.lstat(Path(root, name)).st_mode & 0o777), Path(root).name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    slow = "inject=?chmod,?fchmod,?fchmodat:delay_enter=50000:delay_exit=50000"
    run("strace", "-o", "/dev/null", "-e", slow, "securexfer", "init", cwd=tmp_path, umask=0)
    done.set()
    watcher.join()
    assert {(name, mode) for name, mode, _ in seen if not name.endswith(".pem")} <= {
        ("certs", "0o700"),
        (".new.partial", "0o700"),
        (".new.ready", "0o700"),
        (".lock", "0o600"),
        ("ca.key", "0o600"),
        ("server.key", "0o600"),
    }
    assert ("ca.key", "0o600", ".new.partial") in seen, "the watcher was too slow to see it being made"


BURGLAR = """
import os, select, sys
opened = set()
while not select.select([sys.stdin], [], [], 0)[0]:
    for root, _, names in os.walk(sys.argv[1]):
        for name in names:
            try:
                os.close(os.open(os.path.join(root, name), os.O_RDONLY))
                opened.add(name)
            except OSError:
                pass
print(*sorted(opened))
"""


@pytest.mark.root
@pytest.mark.debian
@needs_strace
def test_K01_another_user_who_keeps_trying_opens_certificates_but_no_key():
    with tempfile.TemporaryDirectory() as made:  # pytest's own directories are closed to other users
        certs = Path(made, "certs")
        certs.mkdir()
        for directory in (Path(made), certs):
            directory.chmod(0o755)
        command = ["/usr/bin/env", "python3", "-c", BURGLAR, certs]
        with subprocess.Popen(command, user=65534, stdin=-1, stdout=-1, text=True, cwd="/") as burglar:
            slow = "inject=?chmod,?fchmod,?fchmodat:delay_enter=50000:delay_exit=50000"
            run("strace", "-o", "/dev/null", "-e", slow, "securexfer", "init", cwd=made, umask=0)
            time.sleep(0.2)
            assert burglar.communicate("stop", timeout=10)[0] == "ca.pem server.pem\n"


@pytest.mark.parametrize("umask", [0, 0o777])
def test_K01_the_directory_is_private_whatever_the_umask_says(tmp_path, umask):
    run("securexfer", "init", "--certs", "a/b", cwd=tmp_path, umask=umask)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")} == {0o700}
