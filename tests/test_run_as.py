"""`securexfer serve --run-as USER`: what needs root is done as root, all else as USER, and there is no way back."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import lab as lab_module
import pytest
import stranger_client as stranger
from lab import PASSWORD, Lab, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER = "nobody"  # every system has this user, with little of its own
RUN_AS = ("--run-as", USER)
AS_USER = ("setpriv", "--reuid", USER, "--regid", str(pwd.getpwnam(USER).pw_gid), "--clear-groups")
root_only = pytest.mark.root


@pytest.fixture
def place(lab_source: Path) -> Iterator[Lab]:
    """Return a lab that other users can get to, whose home is the service user's; the CA's key is root's."""
    directory = Path(tempfile.mkdtemp(prefix="securexfer-test-"))
    directory.chmod(0o755)
    made = Lab(directory, lab_source)
    shutil.copy2(made.ca, directory / "ca.pem")  # a client's copy
    made.ca = directory / "ca.pem"
    give(made.home)
    os.chown(made.home / "certs/ca.key", 0, 0)
    yield made
    made.close()
    shutil.rmtree(directory)


def ids() -> pwd.struct_passwd:
    return pwd.getpwnam(USER)


def give(path: Path, uid: int | None = None) -> None:
    """Give a tree to the service user, or to another."""
    owner = str(ids().pw_uid if uid is None else uid)
    subprocess.run(["chown", "-hR", f"{owner}:{ids().pw_gid if uid is None else uid}", str(path)], check=True)


def owners(directory: Path) -> dict[str, int]:
    """Return what stands in a home, but for the logs of the tests, and to whom it belongs."""
    return {
        str(path.relative_to(directory)): path.lstat().st_uid
        for path in sorted(directory.rglob("*"))
        if not path.name.startswith("serve-")
    }


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def low_port() -> int:
    for port in range(1023, 500, -1):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port below 1024 is free")


def refused(lab: Lab, *options: str) -> tuple[str, str]:
    """Start a server that must not start; return what it says and the command that mends it."""
    done = lab.run("serve", "--home", lab.home, "--host", "localhost", "--port", "0", *RUN_AS, *options, timeout=20)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    said, *hint = done.stderr[done.stderr.index("securexfer: ") :].splitlines()
    return said, hint[0].strip()


# -- what it becomes -------------------------------------------------------------------------------------------


@root_only
def test_O03_a_server_binds_a_low_port_as_root_and_is_the_user_from_then_on(place: Lab, tmp_path: Path) -> None:
    port = low_port()
    server = place.serve("--port", str(port), *RUN_AS)
    assert server.port == port
    uid, gid = str(ids().pw_uid), str(ids().pw_gid)
    tasks = [int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()]
    assert len(tasks) >= 2, "the log has a thread of its own"
    for found in map(status, tasks):
        assert found["Uid"] == [uid] * 4
        assert found["Gid"] == [gid] * 4
        assert list(map(int, found["Groups"])) == os.getgrouplist(USER, ids().pw_gid)
        assert {int(found[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb", "CapInh")} == {0}
        assert found["NoNewPrivs"] == ["1"]
    (tmp_path / "x").write_bytes(b"1")
    sent = place.send(server, tmp_path / "x")
    assert sent.returncode == 0, sent.stderr
    assert place.stored() == {"x": b"1"}
    assert set(owners(place.inbox).values()) == {ids().pw_uid}
    assert server.stop() == 0
    assert not server.events("privilege.warn")
    assert "WARNING" not in server.log_path.read_text()


@root_only
def test_O03_the_groups_are_the_users_and_none_of_roots(place: Lab, program: Callable[[str], None]) -> None:
    """Root's own are gone, the user's come: here, in a mount namespace, `nobody` is in the group `games`, too."""
    groups = place.home.parent / "group"
    groups.write_text("root:x:0:\nnogroup:x:65534:\nadm:x:4:root\ngames:x:60:nobody\n")
    program(
        f"#!/bin/sh\nexec unshare -m sh -c 'mount --bind {groups} /etc/group && "
        f'exec setpriv --groups 0,4 {lab_module.SECUREXFER} "$@"\' sh "$@"\n'
    )
    server = place.serve(*RUN_AS)
    assert sorted(status(server.process.pid)["Groups"]) == ["60", str(ids().pw_gid)]


@root_only
@pytest.mark.parametrize(
    ("securebits", "left"),
    [("+no_setuid_fixup,+no_setuid_fixup_locked", "setuid(0) still works"), ("", "")],
)
def test_O03_where_root_could_come_back_nothing_is_served(
    place: Lab, program: Callable[[str], None], securebits: str, left: str
) -> None:
    """With that bit the kernel keeps root's capabilities over a change of user."""
    option = f"--securebits={securebits}" if securebits else ""
    program(f'#!/bin/sh\nexec setpriv {option} {lab_module.SECUREXFER} "$@"\n')
    if not left:
        assert place.serve(*RUN_AS).stop() == 0
        return
    said, _ = refused_by_program(place)
    assert "root's rights could not be given up" in said
    assert left in said
    assert not place.inbox.exists()


def refused_by_program(lab: Lab) -> tuple[str, str]:
    server = Server(lab.home, *RUN_AS, wait=False)
    assert server.process.wait(20) == 2, server.log_path.read_text()
    said, hint = server.log_path.read_text().splitlines()[-2:]
    return said, hint


@root_only
@pytest.mark.parametrize(
    ("kept", "left"), [("cap_setgid", "setgid(0) still works"), ("cap_dac_override", "CapPrm is 0000000000000002")]
)
def test_O03_one_right_that_is_left_is_too_much(
    place: Lab, program: Callable[[str], None], kept: str, left: str
) -> None:
    program(f"""#!{sys.executable}
import ctypes, os, sys
from securexfer import privileges
taken = os.setresuid
def setresuid(*ids):
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: as a library that we use could have done
    taken(*ids)
    bits = 1 << {{"cap_dac_override": 1, "cap_setgid": 6}}["{kept}"]
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)
    assert libc.capset(header, data) == 0
os.setresuid = setresuid
from securexfer.cli import main
main()
""")
    assert left in refused_by_program(place)[0]


@root_only
def test_nothing_is_imported_once_the_server_is_the_user(
    place: Lab, program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may not be able to read this program; and a program that changes under a server is not this server."""
    before = lab_module.SECUREXFER
    program(f"""#!{sys.executable}
import os, sys
from securexfer import privileges
taken = privileges.drop
def drop(user):
    taken(user)
    sys.addaudithook(lambda event, its: os.write(2, f"imported {{its[0]}}\\n".encode()) if event == "import" else None)
privileges.drop = drop
from securexfer.cli import main
main()
""")
    server = place.serve(*RUN_AS)
    monkeypatch.setattr(lab_module, "SECUREXFER", before)
    (tmp_path / "x").write_bytes(b"1")
    assert place.send(server, tmp_path / "x").returncode == 0
    (tmp_path / "x").write_bytes(b"2")
    assert place.send(server, tmp_path / "x").returncode == 5
    place.password_file.write_text("not the password\n")
    assert place.send(server, tmp_path / "x").returncode == 4
    assert place.run("cert", "renew", "--home", place.home).returncode == 0
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("key.warn")
    (place.home / "certs/server.pem").write_text("junk")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("key.warn", 2)
    assert server.stop() == 0
    assert "imported" not in server.log_path.read_text()


# -- who it can become -----------------------------------------------------------------------------------------


@root_only
@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("no-such-user", "there is no user 'no-such-user' on this machine"),
        ("", "there is no user '' on this machine"),
        ("root", "root is root"),
    ],
)
def test_O03_who_is_nobody_or_root_is_refused(place: Lab, user: str, said: str) -> None:
    done = place.run("serve", "--home", place.home, "--port", "0", "--run-as", user)
    assert done.returncode == 2
    assert said.replace("root is root", "--run-as is to get away from root, and root is root") in done.stderr
    assert "useradd --system" in done.stderr
    assert not place.inbox.exists()


@root_only
def test_O03_a_member_of_roots_group_is_refused(place: Lab, program: Callable[[str], None]) -> None:
    groups = place.home.parent / "group"
    groups.write_text("root:x:0:nobody\nnogroup:x:65534:\n")
    program(
        f"#!/bin/sh\nexec unshare -m sh -c 'mount --bind {groups} /etc/group && "
        f'exec {lab_module.SECUREXFER} "$@"\' sh "$@"\n'
    )
    assert "nobody is in its group" in refused_by_program(place)[0]


@pytest.mark.ordinary
def test_O03_only_root_can_become_somebody_else(lab: Lab) -> None:
    done = lab.run("serve", "--home", lab.home, "--port", "0", "--run-as", "nobody")
    assert done.returncode == 2
    assert "only root can become another user" in done.stderr
    assert "sudo securexfer serve --run-as nobody" in done.stderr
    assert lab.serve().stop() == 0, "which is the other half of the hint"


@root_only
def test_O03_a_server_that_stays_root_says_so_loudly_and_runs(lab: Lab, tmp_path: Path) -> None:
    server = lab.serve()
    assert "--run-as USER" in server.wait_for("privilege.warn")["detail"]
    assert "WARNING: serve runs as root" in server.log_path.read_text()
    (tmp_path / "x").write_bytes(b"1")
    assert lab.send(server, tmp_path / "x").returncode == 0


@pytest.mark.ordinary
def test_a_server_of_an_ordinary_user_warns_of_nothing(lab: Lab) -> None:
    server = lab.serve()
    assert server.stop() == 0
    assert "WARNING" not in server.log_path.read_text()
    assert not server.events("privilege.warn")


# -- what goes on working --------------------------------------------------------------------------------------


def shown(lab: Lab, server: Server) -> bytes:
    with stranger.connect(server.port, str(lab.ca)) as tls:
        return tls.getpeercert(binary_form=True) or b""


@root_only
def test_O03_K09_a_certificate_that_root_renews_is_picked_up(place: Lab) -> None:
    """Though the CA's key is root's, and what root makes here is not."""
    server = place.serve(*RUN_AS)
    before = shown(place, server)
    for number in (1, 2):
        renewed = place.run("cert", "renew", "--home", place.home)
        assert renewed.returncode == 0, renewed.stderr
        server.process.send_signal(signal.SIGHUP)
        assert "was reloaded" in server.wait_for("key.warn", number)["detail"]
    assert shown(place, server) != before
    assert {name for name, uid in owners(place.home).items() if uid == 0} == {"certs/ca.key"}
    assert server.stop() == 0
    assert place.serve(*RUN_AS).stop() == 0


@root_only
def test_O03_A19_users_that_root_adds_changes_and_removes_are_in_force_at_once(place: Lab) -> None:
    server = place.serve(*RUN_AS)

    def user(*arguments: str, **options: str) -> None:
        done = place.run("user", *arguments, "--home", place.home, **options)
        assert done.returncode == 0, done.stderr

    def logs_in(password: str) -> bool:
        with stranger.connect(server.port, str(place.ca)) as tls:
            return stranger.log_in(tls, "zoe", password)

    user("add", "zoe", "--password-stdin", input=PASSWORD)
    assert logs_in(PASSWORD)
    user("passwd", "zoe", "--password-stdin", input="another canary 83c1")
    assert not logs_in(PASSWORD)
    assert logs_in("another canary 83c1")
    user("disable", "zoe")
    assert not logs_in("another canary 83c1")
    user("enable", "zoe")
    user("list")
    assert logs_in("another canary 83c1")
    assert {name for name, uid in owners(place.home).items() if uid == 0} == {"certs/ca.key"}


@root_only
def test_A20_root_reads_and_writes_passwords_as_root(place: Lab) -> None:
    """Files of root's with passwords in them are no business of the service user's."""
    mine = place.home.parent / "mine"
    mine.mkdir(mode=0o700)
    (mine / "password").touch(mode=0o600)
    (mine / "password").write_text(PASSWORD)
    added = place.run("user", "add", "zoe", "--home", place.home, "--password-file", mine / "password")
    assert added.returncode == 0, added.stderr
    (mine / "class.csv").write_text("user\nxavier\nyara\n")
    imported = place.run("user", "import", mine / "class.csv", "--home", place.home)
    assert imported.returncode == 0, imported.stderr
    slips = (mine / "class-passphrases.csv").lstat()
    assert (slips.st_uid, slips.st_mode & 0o777) == (0, 0o600)
    (place.home / "own.csv").write_text("user\nulla\n")
    assert place.run("user", "import", place.home / "own.csv", "--home", place.home).returncode == 0
    assert (place.home / "own-passphrases.csv").lstat().st_uid == 0


@root_only
def test_O03_root_sets_up_a_home_of_the_users_from_nothing(place: Lab) -> None:
    """Every command of the page on two machines, typed by root in a directory that is the service user's."""
    shutil.rmtree(place.home)
    subprocess.run(["install", "-d", "-m", "700", "-o", USER, str(place.home)], check=True)
    for command in (["init"], ["user", "add", "ana", "--password-stdin"]):
        done = place.run(*command, cwd=place.home, **({"input": PASSWORD} if "user" in command else {}))
        assert done.returncode == 0, done.stderr
    assert set(owners(place.home).values()) == {ids().pw_uid}
    assert place.run("doctor", cwd=place.home).returncode == 0
    server = place.serve(*RUN_AS)
    warned = server.wait_for("privilege.warn")["detail"]
    assert server.stop() == 0
    assert f"chown root: {place.home}/certs/ca.key" in warned
    subprocess.run(["sh", "-c", warned[warned.index("chown root:") :]], check=True)
    server = place.serve(*RUN_AS)
    assert server.stop() == 0
    assert not server.events("privilege.warn")
    assert set(owners(place.inbox).values()) == {ids().pw_uid}
    assert place.run("cert", "renew", cwd=place.home).returncode == 0
    assert place.run("doctor", cwd=place.home).returncode == 0


@root_only
def test_O03_K05_the_ca_key_is_out_of_the_servers_reach_and_not_needed(place: Lab, tmp_path: Path) -> None:
    server = place.serve(*RUN_AS)
    authority = place.home / "certs/ca.key"
    looked = subprocess.run([*AS_USER, "cat", str(authority)], capture_output=True, text=True, check=False)
    assert looked.returncode != 0
    assert "Permission denied" in looked.stderr
    assert subprocess.run([*AS_USER, "cat", str(authority.with_name("server.key"))], check=False).returncode == 0
    assert server.stop() == 0
    authority.unlink()
    server = place.serve(*RUN_AS)
    (tmp_path / "x").write_bytes(b"1")
    assert place.send(server, tmp_path / "x").returncode == 0


@root_only
def test_O03_root_follows_no_link_that_the_user_plants(place: Lab) -> None:
    """A service that was broken into waits for root's next command. What it leads root to stays as it was."""
    secret = place.home.parent / "secret"
    secret.touch(mode=0o600)
    secret.write_text("root's own")
    before = secret.stat()
    certs = place.home / "certs"
    for path in (certs / "server.old.key", certs / ".lock", place.home / "users.db-wal", place.home / "users.db-shm"):
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
        for command in (["cert", "renew"], ["user", "add", "zoe", "--password-stdin"], ["user", "list"], ["doctor"]):
            done = place.run(*command, "--home", place.home, **({"input": PASSWORD} if "add" in command else {}))
            assert "root's own" not in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
        path.unlink()
        found = secret.stat()
        assert (found.st_uid, found.st_mode, found.st_mtime_ns) == (before.st_uid, before.st_mode, before.st_mtime_ns)
        assert secret.read_text() == "root's own"
    (certs / "server.key").unlink()
    (certs / "server.key").symlink_to(secret)
    done = place.run("cert", "renew", "--home", place.home)
    assert done.returncode == 2
    assert not [path for path in certs.rglob("*") if path.is_file() and b"own" in path.read_bytes() and path != secret
                and not path.is_symlink()]  # fmt: skip


@root_only
def test_O03_root_has_only_the_users_rights_where_the_user_leads_it(place: Lab) -> None:
    """Into a directory of root's, say. A link of root's own making leads it there with all of its rights."""
    theirs = place.home.parent / "roots"
    theirs.mkdir(mode=0o755)
    certs = place.home / "certs"
    shutil.rmtree(certs)
    certs.symlink_to(theirs)
    os.chown(certs, ids().pw_uid, -1, follow_symlinks=False)
    refused = place.run("init", "--home", place.home)
    assert refused.returncode == 2
    assert "Permission denied" in refused.stderr
    assert not list(theirs.iterdir())
    os.chown(certs, 0, 0, follow_symlinks=False)
    assert place.run("init", "--home", place.home).returncode == 0
    assert (theirs / "ca.key").stat().st_uid == 0


# -- what must be mended first ---------------------------------------------------------------------------------


def everything_is_roots(lab: Lab) -> None:
    give(lab.home, 0)
    lab.inbox.mkdir()


def left_by_a_server_of_roots(lab: Lab) -> None:
    (lab.inbox / "ana").mkdir(parents=True)
    give(lab.inbox)
    os.chown(lab.inbox / "ana", 0, 0)


def companion(lab: Lab) -> None:
    (lab.home / "users.db-shm").touch(mode=0o600)


def behind_a_link(lab: Lab) -> None:
    os.chown(lab.home, 0, 0)
    (lab.home.parent / "link").symlink_to(lab.home)
    lab.home = lab.home.parent / "link"


def closed_above(lab: Lab) -> None:
    lab.home.parent.chmod(0o700)


def link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


MENDED: dict[str, tuple[Callable[[Lab], object], str]] = {
    "all is root's": (everything_is_roots, "does not belong to nobody"),
    "the key is root's": (lambda lab: os.chown(lab.home / "certs/server.key", 0, 0), "does not belong to nobody"),
    "certs/ is root's": (lambda lab: os.chown(lab.home / "certs", 0, 0), "does not belong to nobody"),
    "the database is root's": (lambda lab: os.chown(lab.home / "users.db", 0, 0), "does not belong to nobody"),
    "a companion is root's": (companion, "does not belong to nobody"),
    "the home is root's": (lambda lab: os.chown(lab.home, 0, 0), "does not belong to nobody"),
    "a user's inbox is root's": (left_by_a_server_of_roots, "inbox does not belong to nobody"),
    "a closed directory above": (closed_above, "does not let that user in"),
    "the home is root's, behind a link": (behind_a_link, "does not belong to nobody"),
    "others read the key": (lambda lab: (lab.home / "certs/server.key").chmod(0o640), "others can read"),
    "others read the CA's key": (lambda lab: (lab.home / "certs/ca.key").chmod(0o644), "others can read the CA's"),
    "others read the database": (lambda lab: (lab.home / "users.db").chmod(0o604), "others can read"),
    "others change certs/": (lambda lab: (lab.home / "certs").chmod(0o777), "others can change the directory"),
    "others change the home": (lambda lab: lab.home.chmod(0o775), "others can change the directory"),
    "the key is a link": (lambda lab: link(lab.home / "certs/server.key"), "but a link to"),
    "the certificate is a link": (lambda lab: link(lab.home / "certs/server.pem"), "but a link to"),
    "the CA is a link": (lambda lab: link(lab.home / "certs/ca.pem"), "but a link to"),
    "the database is a link": (lambda lab: link(lab.home / "users.db"), "but a link to"),
}


@root_only
@pytest.mark.parametrize("case", MENDED)
def test_O03_K06_A15_what_the_user_could_not_work_with_is_refused_and_the_hint_mends_it(
    place: Lab, case: str, tmp_path: Path
) -> None:
    breaking, message = MENDED[case]
    breaking(place)
    said, hint = refused(place)
    assert message in said
    subprocess.run(["sh", "-c", hint], check=True, cwd="/")
    server = place.serve(*RUN_AS)
    (tmp_path / "x").write_bytes(b"1")
    sent = place.send(server, tmp_path / "x")
    assert sent.returncode == 0, sent.stderr
    assert (place.home / "certs/ca.key").stat().st_uid == 0, "nobody gave that away"


@root_only
def test_O03_a_tree_is_taken_by_a_user_who_cannot_read_what_serves_it(place: Lab, tmp_path: Path) -> None:
    """Whatever the server needs for that, it has imported before it became that user."""
    for name in ("a", "b", "c/d", "c/e/f"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(name.encode())
    (tmp_path / "tree" / "large").write_bytes(bytes(6 << 20))
    server = place.serve(*RUN_AS, "--names", "portable")
    for outcome in ("stored", "unchanged"):
        sent = place.send(server, tmp_path / "tree", "--json")
        assert sent.returncode == 0, sent.stderr
        assert {json.loads(line).get("status", outcome) for line in sent.stdout.splitlines()} == {outcome}
    assert server.events("store.error") == []


@root_only
def test_O03_an_inbox_that_the_user_cannot_make_is_refused_and_the_hint_mends_it(place: Lab) -> None:
    elsewhere = place.home.parent / "data" / "inbox"
    elsewhere.parent.mkdir(mode=0o755)
    said, hint = refused(place, "--inbox", str(elsewhere))
    assert f"nobody cannot make {elsewhere}" in said
    subprocess.run(["sh", "-c", hint], check=True, cwd="/")
    assert place.serve("--inbox", str(elsewhere), *RUN_AS).stop() == 0


@root_only
def test_O03_no_hint_gives_away_a_home_directory(place: Lab, program: Callable[[str], None]) -> None:
    """Here that of another user. What is moved from there as the hint says, and then given, is served."""
    give(place.home, 0)
    people = place.home.parent / "passwd"
    people.write_text(
        f"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nbia:x:70000:0::{place.home}:/x\n"
    )
    securexfer = lab_module.SECUREXFER
    program(
        f'#!/bin/sh\nexec unshare -m sh -c \'mount --bind {people} /etc/passwd && exec {securexfer} "$@"\' sh "$@"\n'
    )
    server = Server(place.home, *RUN_AS, wait=False)
    assert server.process.wait(20) == 2
    said, hint, then = server.log_path.read_text().splitlines()[-3:]
    assert "is not one to give away" in said
    assert "chown" not in hint
    assert "--home /srv/securexfer --run-as nobody" in then
    place.home = place.home.parent / "srv" / "securexfer"
    subprocess.run(["sh", "-c", hint.replace("/srv/securexfer", str(place.home))], check=True)
    place.home.parent.chmod(0o755)  # made by the umask of this test, and /srv is there anywhere else
    subprocess.run(["sh", "-c", refused_by_program(place)[1]], check=True)
    assert place.serve(*RUN_AS).stop() == 0


# -- what another user of the machine gets at ------------------------------------------------------------------

STRANGER = ("setpriv", "--reuid", "daemon", "--regid", "daemon", "--clear-groups")


@root_only
def test_P19_what_is_stored_is_out_of_reach_of_other_users(place: Lab, tmp_path: Path) -> None:
    """Not the system's protection of hard links does it (EPERM), but that the inbox lets nobody in (EACCES)."""
    place.home.chmod(0o755)
    (tmp_path / "x").write_bytes(b"1")
    assert place.send(place.serve(*RUN_AS), tmp_path / "x").returncode == 0
    stored = place.inbox / "ana/x"
    planted = Path(tempfile.mkdtemp(dir=place.home.parent))
    os.chown(planted, pwd.getpwnam("daemon").pw_uid, -1)
    for attempt in (["ln", stored, planted / "y"], ["cat", stored], ["ls", stored.parent], ["ls", place.inbox]):
        done = subprocess.run([*STRANGER, *map(str, attempt)], capture_output=True, text=True, check=False)
        assert done.returncode != 0, attempt
        assert "Permission denied" in done.stderr
    assert stored.stat().st_nlink == 1
    assert stored.stat().st_mode & 0o777 == 0o600


@root_only
def test_O10_another_process_of_the_user_cannot_look_into_the_server(place: Lab) -> None:
    server = place.serve(*RUN_AS)
    with subprocess.Popen([*AS_USER, "sleep", "60"]) as other:
        while not Path(f"/proc/{other.pid}/cmdline").read_bytes().startswith(b"sleep"):  # until then it was root's
            assert other.poll() is None
        for pid, readable in ((other.pid, True), (server.process.pid, False)):
            done = subprocess.run([*AS_USER, "cat", f"/proc/{pid}/environ"], capture_output=True, check=False)
            assert (done.returncode == 0) == readable
        other.kill()
