"""What `securexfer serve` promises as a process: how it starts, ends, reloads, logs, and what nobody can hold of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import lab as lab_module
import pytest
import stranger_client as stranger
from lab import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lab import Lab, Server

STAGING = ".securexfer-staging"
REFUSED = b"\x00"
HEADER = 136  # bytes in front of a file's content
MIB = 1 << 20


@pytest.fixture
def connect(lab: Lab) -> Iterator[Callable[..., stranger.Tls]]:
    """Open a TLS connection to a server; it is closed with the test."""
    with contextlib.ExitStack() as stack:

        def opened(server: Server | int, **options: Any) -> stranger.Tls:
            port = server if isinstance(server, int) else server.port
            return stack.enter_context(stranger.connect(port, str(lab.ca), **options))

        yield opened


@pytest.fixture
def log_in(connect: Callable[..., stranger.Tls]) -> Callable[..., stranger.Tls]:
    """Begin a session that announces so many files."""

    def begin(server: Server | int, files: int, user: str = "ana", **options: Any) -> stranger.Tls:
        tls = connect(server, **options)
        assert stranger.log_in(tls, user, lab_module.PASSWORD)
        tls.sendall(stranger.count(files))
        return tls

    return begin


@pytest.fixture
def hasty(program: Callable[[str], None]) -> None:
    """Make the servers impatient: the constants are minutes together, and what is tested is that they are kept."""
    program(f"""#!{sys.executable}
import sys
from securexfer import identity, server
from securexfer.net import connection, payload
payload.RATE_GRACE_SECONDS = 1.0
payload.RATE_WINDOW_SECONDS = 2.0
identity.CHECK_SECONDS = 0.2
server.HOUSEKEEPING_SECONDS = 0.1
connection.DRAIN_SECONDS = 0.5
sys.argv += "--handshake-timeout 1.5 --login-timeout 1.5 --idle-timeout 1.5".split()
from securexfer.cli import main
main()
""")


def send(tls: stranger.Tls, name: str, content: bytes) -> bytes:
    """Send one file and return its answer."""
    tls.sendall(stranger.file(name, content))
    return stranger.answers(tls, 1)


def begin_file(tls: stranger.Tls, name: str, content: bytes) -> bytes:
    """Send half of a file; return the rest of its bytes."""
    whole = stranger.file(name, content)
    tls.sendall(whole[: HEADER + len(content) // 2])
    return whole[HEADER + len(content) // 2 :]


def ends(tls: socket.socket, seconds: float) -> bool:
    """Whether the connection is ended by the other side, one way or another, within so many seconds."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while (left := deadline - time.monotonic()) > 0:
            tls.settimeout(left)
            try:
                if not tls.recv(4096):
                    return True
            except TimeoutError:
                return False
        return False
    return True


def stops(server: Server, seconds: float) -> int:
    """Return the exit code of a server that has to end within so many seconds."""
    return server.process.wait(seconds)


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # its end took the connection that waited to be accepted along: ask again
        return False
    return False


# -- the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_F24_running_uploads_finish_within_the_grace(
    lab: Lab, log_in: Callable[..., stranger.Tls], number: signal.Signals
) -> None:
    server = lab.serve("--grace", "20")
    sessions = [log_in(server, 2) for _ in range(5)]
    rests = [begin_file(tls, f"{index}", bytes([index]) * MIB) for index, tls in enumerate(sessions)]
    server.process.send_signal(number)
    wait_until(lambda: refuses(server.port))
    for tls, rest in zip(sessions, rests, strict=True):
        tls.sendall(rest)
    for tls in sessions:
        assert stranger.answers(tls, 1) == stranger.ACCEPTED
        tls.sendall(stranger.file("one-more", b"too late"))
        assert stranger.rest(tls) == b"", "the next file is not begun any more"
        tls.close()
    assert stops(server, 10) == 0
    assert lab.stored() == {f"{index}": bytes([index]) * MIB for index in range(5)}
    assert [event["reason"] for event in server.events("server.stop")] == ["done"]
    # Whoever asked whether it still listens may have been let in once more.
    reasons = Counter(event["reason"] for event in server.events("conn.close"))
    assert reasons.pop("SHUTDOWN") == len(sessions)
    assert reasons.keys() <= {"tls"}


def test_F24_what_outlives_the_grace_is_cut_off_and_leaves_nothing(
    lab: Lab, log_in: Callable[..., stranger.Tls]
) -> None:
    server = lab.serve("--grace", "1")
    sessions = [log_in(server, 1) for _ in range(5)]
    for index, tls in enumerate(sessions):
        begin_file(tls, f"{index}", bytes(2 * MIB))
    silent = socket.create_connection(("127.0.0.1", server.port))
    server.wait_for("conn.open", 6)
    server.process.terminate()
    assert stops(server, 5) == 0
    silent.close()
    for tls in sessions:
        with pytest.raises(OSError, match=r"EOF|reset|closed"):
            stranger.rest(tls)
    assert lab.stored() == {}
    assert [event["reason"] for event in server.events("server.stop")] == ["sessions were cut off"]
    assert len(server.events("file.abort")) == 5
    opened, closed = server.events("conn.open"), server.events("conn.close")
    assert sorted(event["connection"] for event in opened) == sorted(event["connection"] for event in closed)


def test_F24_a_second_signal_ends_it_at_once(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    server = lab.serve("--grace", "60")
    begin_file(log_in(server, 1), "x", bytes(2 * MIB))
    server.process.terminate()
    wait_until(lambda: refuses(server.port))
    assert server.process.poll() is None
    started = time.monotonic()
    server.process.terminate()
    assert stops(server, 5) == 0
    assert time.monotonic() - started < 3
    assert lab.stored() == {}


def test_F24_without_sessions_it_ends_at_once(lab: Lab) -> None:
    server = lab.serve("--grace", "60")
    silent = socket.create_connection(("127.0.0.1", server.port))
    server.wait_for("conn.open")
    server.process.terminate()
    assert stops(server, 5) == 0
    silent.close()


def test_F25_other_signals_do_not_touch_running_sessions(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    server = lab.serve()
    tls = log_in(server, 50)
    for number in range(50):
        rest = begin_file(tls, str(number), bytes(100_000))
        for each in (signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            server.process.send_signal(each)
        tls.sendall(rest)
    assert stranger.answers(tls, 50) == stranger.ACCEPTED * 50
    assert len(lab.stored()) == 50


# -- the start -------------------------------------------------------------------------------------------------


def hinted(error: str) -> list[str]:
    """Return the command that an error's hint names, without its first word; its user is zoe."""
    command = error[error.index("securexfer ", error.index("\n")) :].splitlines()[0]
    return shlex.split(command.replace("NAME", "zoe"))[1:]


@pytest.mark.parametrize("from_here", [False, True])
def test_missing_files_are_named_and_the_hints_lead_to_a_server(lab: Lab, tmp_path: Path, from_here: bool) -> None:
    lab.home = tmp_path / "fresh"
    lab.home.mkdir(mode=0o700)
    command: list[str | Path] = ["serve", "--port", "0", *([] if from_here else ["--home", lab.home])]
    options: dict[str, Any] = {"cwd": lab.home} if from_here else {}
    refused = lab.run(*command, **options)
    assert (refused.returncode, str(lab.home) in refused.stderr, "users.db" in refused.stderr) == (2, True, True)
    added = lab.run(*hinted(refused.stderr), "--password-stdin", input=lab_module.PASSWORD, **options)
    assert added.returncode == 0, added.stderr
    refused = lab.run(*command, **options)
    assert (refused.returncode, f"{lab.home}/certs" in refused.stderr) == (2, True)
    made = lab.run(*hinted(refused.stderr), **options)
    assert made.returncode == 0, made.stderr
    assert lab.serve().stop() == 0


def test_a_busy_port_is_said_and_the_hint_leads_to_a_server(lab: Lab) -> None:
    """The port of the hint is free, also when the next one is not, and the command is for the same home."""
    with contextlib.ExitStack() as stack:
        while True:
            busy = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = busy.getsockname()[1]
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port + 1)))
                break
        refused = lab.run("serve", "--home", lab.home, "--host", "127.0.0.1", "--port", str(port))
        assert refused.returncode == 2
        assert f"port {port} is in use" in refused.stderr
        named = int(re.search(r"--port (\d+)", refused.stderr)[1])
        socket.create_server(("127.0.0.1", named)).close()
        assert "--home" in refused.stderr
    assert not (lab.home / "inbox").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "192.0.2.77"], "cannot listen on 192.0.2.77"),
        (["--host", "no-such-host.invalid"], "cannot listen on no-such-host.invalid"),
        (["--group", "no-such-group"], "no group 'no-such-group'"),
        (["--file-mode", "0666"], "others nothing"),
        (["--file-mode", "rw"], "octal"),
        (["--dir-mode", "0500"], "let the owner read and write"),
        (["--quota", "-1"], "not a size"),
        (["--largest-file", "10X"], "not a size"),
        (["--port", "70000"], "65535"),
        (["--grace", "-1"], "0"),
        (["--inbox", "/dev/null"], "cannot be used"),
    ],
)
def test_what_cannot_work_is_refused_with_exit_code_2(lab: Lab, options: list[str], said: str) -> None:
    refused = lab.run("serve", "--home", lab.home, "--port", "0", *options)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr


def test_a_second_server_on_the_inbox_is_refused_and_the_first_goes_on(
    lab: Lab, log_in: Callable[..., stranger.Tls]
) -> None:
    server = lab.serve()
    tls = log_in(server, 1)
    rest = begin_file(tls, "x", bytes(MIB))
    refused = lab.run("serve", "--home", lab.home, "--port", "0")
    assert refused.returncode == 2
    assert "another `securexfer serve` is using the inbox" in refused.stderr
    tls.sendall(rest)
    assert stranger.answers(tls, 1) == stranger.ACCEPTED


def test_P22_modes_are_those_of_the_options_whatever_the_umask(
    lab: Lab, log_in: Callable[..., stranger.Tls], program: Callable[[str], None]
) -> None:
    program(f'#!/bin/sh\numask 000\nexec {lab_module.SECUREXFER} "$@"\n')
    server = lab.serve("--file-mode", "0640", "--dir-mode", "2750")
    assert send(log_in(server, 1), "d/x", b"1") == stranger.ACCEPTED
    for name, mode in (("", 0o2750), ("ana", 0o2750), ("ana/d", 0o2750), ("ana/d/x", 0o640)):
        assert stat.S_IMODE((lab.inbox / name).stat().st_mode) == mode, name


# -- the certificate -------------------------------------------------------------------------------------------


def shown(tls: stranger.Tls) -> bytes:
    return tls.getpeercert(binary_form=True) or b""


def test_K09_a_renewed_certificate_is_shown_at_once_after_SIGHUP_and_sessions_go_on(
    lab: Lab, connect: Callable[..., stranger.Tls], log_in: Callable[..., stranger.Tls]
) -> None:
    server = lab.serve()
    session = log_in(server, 1)
    rest = begin_file(session, "x", bytes(MIB))
    before = shown(session)
    assert shown(connect(server)) == before
    renewed = lab.run("cert", "renew", "--home", lab.home)
    assert renewed.returncode == 0, renewed.stderr
    server.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert shown(connect(server)) != before, "the first connection a second later already shows it"
    session.sendall(rest)
    assert stranger.answers(session, 1) == stranger.ACCEPTED


@pytest.mark.usefixtures("hasty")
def test_K09_a_renewed_certificate_is_picked_up_without_a_signal(
    lab: Lab, connect: Callable[..., stranger.Tls], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = lab.serve()
    before = shown(connect(server))
    monkeypatch.undo()
    assert lab.run("cert", "renew", "--home", lab.home).returncode == 0
    wait_until(lambda: shown(connect(server)) != before)


@pytest.mark.parametrize("what", ["garbage", "other key", "readable key", "gone"])
def test_K09_a_broken_new_pair_keeps_the_old_one_and_says_so(
    lab: Lab, connect: Callable[..., stranger.Tls], what: str
) -> None:
    server = lab.serve()
    before = shown(connect(server))
    certs = lab.home / "certs"
    good = {name: (certs / name).read_bytes() for name in ("server.pem", "server.key")}
    match what:
        case "garbage":
            (certs / "server.pem").write_bytes(b"garbage")
        case "other key":
            (certs / "server.key").write_bytes((certs / "ca.key").read_bytes())
        case "readable key":
            (certs / "server.key").chmod(0o644)
            (certs / "server.key").write_bytes(good["server.key"])
        case "gone":
            (certs / "server.pem").unlink()
    server.process.send_signal(signal.SIGHUP)
    assert "the old one stays in use" in server.wait_for("key.warn", seconds=2)["detail"]
    assert shown(connect(server)) == before
    for name, data in good.items():
        (certs / name).write_bytes(data)
        (certs / name).chmod(0o600)
    assert lab.run("cert", "renew", "--home", lab.home).returncode == 0
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: shown(connect(server)) != before, seconds=2)


needs_faketime = pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")


def faketime(**settings: str) -> dict[str, str]:
    """Return the environment of a server whose wall clock is another than this machine's; its deadlines stay right."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **settings}


@pytest.mark.debian
@needs_faketime
def test_K05_without_the_cas_key_it_serves_and_says_in_good_time_where_to_renew(
    lab: Lab, log_in: Callable[..., stranger.Tls]
) -> None:
    (lab.home / "certs" / "ca.key").unlink()
    server = lab.serve(**faketime(FAKETIME="+70d"))
    assert send(log_in(server, 1), "x", b"1") == stranger.ACCEPTED
    assert "securexfer cert renew where the CA's key is kept" in server.wait_for("key.warn")["detail"]
    found = lab.run("doctor", "--home", lab.home)
    assert (found.returncode, "the CA's key is kept elsewhere; renew needs it" in found.stdout) == (0, True)


@pytest.mark.debian
@needs_faketime
@pytest.mark.usefixtures("hasty")
def test_K12_it_warns_at_each_threshold_once_and_daily_after_the_end(lab: Lab, tmp_path: Path) -> None:
    """The certificate was made today and ends in 89 days; the clock of the running server is moved there."""
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    server = lab.serve(**faketime(FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1"))
    expected: list[str] = []
    for days, said in (
        (58, ""),
        (61, "ends in 27 days"),
        (62, ""),
        (76, "ends in 12 days"),
        (83, "ends in 5 days"),
        (88, "ends today"),
        (90, "has ended"),
        (91, "has ended"),
    ):
        clock.write_text(f"+{days}d")
        if said:
            expected.append(f"the certificate {said}: securexfer cert renew (nobody has to trust again)")
            server.wait_for("key.warn", len(expected))
        time.sleep(1)  # five looks at the certificate, none of which may say it again
        assert [event["detail"] for event in server.events("key.warn")] == expected, days
    assert server.stop() == 0


# -- the log ---------------------------------------------------------------------------------------------------


def raw_file(field: bytes, content: bytes, digest: bytes | None = None) -> bytes:
    """Return a file whose name field and digest may be anything."""
    return field.ljust(128) + struct.pack(">Q", len(content)) + content + (digest or hashlib.sha256(content).digest())


EVIL = "x\x1b]0;title\x07\r\n{fake}\u202e\u2028\x9b31m\U000e0041"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_O01_a_line_of_the_log_stays_a_line_whatever_peers_call_things(
    lab: Lab, connect: Callable[..., stranger.Tls], log_in: Callable[..., stranger.Tls], log_format: str
) -> None:
    server = lab_module.Server(lab.home, "--log-format", log_format, wait=False)
    try:
        wait_until(lambda: "server.start" in server.log_path.read_text())
        port = int(re.search(r"Listening on \S+:(\d+)", server.log_path.read_text())[1])
        tls = connect(port)
        tls.sendall(EVIL.encode().ljust(128) + b"canary-password".ljust(128))
        assert stranger.rest(tls) == REFUSED
        tls.close()
        tls = log_in(port, 3)
        tls.sendall(raw_file(EVIL.encode(), b"1"))
        tls.sendall(raw_file(b"\xff\x80 user=root outcome=stored", b"2"))
        tls.sendall(raw_file(b'plain "quoted" user=root', b"3"))
        assert stranger.rest(tls) == b"\x00\x00\x01"
        tls.close()
    finally:
        server.stop()
    text = server.log_path.read_text()
    lines = text.splitlines()
    assert all(character == "\n" or character.isprintable() for character in text)
    assert "canary" not in text
    body = lines[next(index for index, line in enumerate(lines) if "server.start" in line) :]
    kinds = ["server.start", "conn.open", "auth.fail", "conn.close", "conn.open", "auth.ok"]
    kinds += ["file.reject", "file.reject", "file.ok", "conn.close", "server.stop"]
    if log_format == "json":
        assert sorted(json.loads(line)["event"] for line in body) == sorted(kinds)
        assert [event["user"] for event in server.events("auth.fail")] == [EVIL]
        assert server.events("file.reject")[0]["name"] == EVIL
    else:
        assert sorted(line.split()[2] for line in body) == sorted(kinds)
        rejected = [line for line in body if "file.reject" in line]
        assert all(shlex.split(line).count("user=ana") == 1 for line in rejected)
        assert not any("user=root" in shlex.split(line) for line in body)


def test_an_audit_line_for_every_login_and_every_file(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    """Stored, unchanged, refused, wrong or cut short: the log says who, from where, what, and how it ended."""
    server = lab.serve()
    tls = log_in(server, 4, source="127.0.0.9")
    content = b"results"
    digest = hashlib.sha256(content).hexdigest()
    tls.sendall(stranger.file("x", content) * 2 + raw_file(b"x", b"other") + raw_file(b"y", content, bytes(32)))
    assert stranger.rest(tls) == b"\x01\x01\x00\x00"
    tls.close()
    short = log_in(server, 1, user="bruno", source="127.0.0.9")
    short.sendall(stranger.file("z", bytes(1000))[:300])
    stranger.leave_in_order(short)
    short.close()
    wrong = stranger.connect(server.port, str(lab.ca), source="127.0.0.9")
    with contextlib.closing(wrong):
        assert not stranger.log_in(wrong, "ana", "not the password")
    server.wait_for("conn.close", 3)
    assert server.stop() == 0
    audit = [event for event in server.events() if event["event"].startswith(("auth.", "file."))]
    assert {event["address"] for event in audit} == {"127.0.0.9"}
    assert all(event["time"].endswith("Z") for event in audit)
    assert [(event["event"], event["user"]) for event in audit if event["event"].startswith("auth.")] == [
        ("auth.ok", "ana"),
        ("auth.ok", "bruno"),
        ("auth.fail", "ana"),
    ]
    files = [event for event in audit if event["event"].startswith("file.")]
    assert all(isinstance(event["seconds"], float) and event["seconds"] >= 0 for event in files)
    told = [
        (event["event"], event["user"], event["name"], event["size"], event.get("sha256"), event.get("outcome"))
        for event in files
    ]
    other = hashlib.sha256(b"other").hexdigest()
    assert told[:2] == [
        ("file.ok", "ana", "x", 7, digest, "stored"),
        ("file.ok", "ana", "x", 7, digest, "unchanged"),
    ]
    assert told[2][:4] == ("file.reject", "ana", "x", 5)
    assert told[2][4] in {other, ""}, "no digest was taken of bytes that were read over"
    assert told[3] == ("file.reject", "ana", "y", 7, digest, "refused")
    assert told[4][:4] == ("file.abort", "bruno", "z", 1000)
    assert [event["reason"] for event in files[2:]] == ["EXISTS", "DIGEST", "TRUNCATED"]
    assert files[4]["received"] == 300 - HEADER


def test_a_file_that_was_stored_is_in_the_log_also_when_its_sender_is_gone(
    lab: Lab, log_in: Callable[..., stranger.Tls]
) -> None:
    server = lab.serve()
    for number in range(10):
        tls = log_in(server, 1)
        tls.sendall(stranger.file(str(number), b"1"))
        stranger.leave_by_reset(tls)
    server.wait_for("conn.close", 10)
    assert server.stop() == 0
    assert {event["name"] for event in server.events("file.ok")} == set(lab.stored())


@contextlib.contextmanager
def serving_into(lab: Lab, stderr: int | IO[bytes], port: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that logs there, and end it by force if it has not ended."""
    command = [lab_module.SECUREXFER, "serve", "--home", str(lab.home), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, env=lab_module.environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def port_in(log: Iterable[str]) -> int:
    """Read a log up to the line that says where the server listens."""
    started = next(line for line in log if '"server.start"' in line)
    return int(json.loads(started)["addresses"][0].rpartition(":")[2])


@pytest.fixture
def short_log_queue(program: Callable[[str], None]) -> None:
    """Let the log keep 50 lines for whoever does not read them, not ten thousand."""
    program(f"""#!{sys.executable}
from securexfer.cli import log, main
log.QUEUE_LINES = 50
main()
""")


@pytest.mark.usefixtures("short_log_queue")
@pytest.mark.parametrize("fate", ["is never read again", "is closed"])
def test_D13_a_log_that_takes_nothing_never_holds_a_transfer_up(
    lab: Lab, connect: Callable[..., stranger.Tls], fate: str
) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with serving_into(lab, writer) as process, os.fdopen(reader) as log:
        os.close(writer)
        tls = connect(port_in(log))
        if fate == "is closed":
            log.close()
        assert stranger.log_in(tls, "ana", lab_module.PASSWORD)
        assert all(stranger.send(tls, [(str(number), b"1") for number in range(300)]))
        tls.close()
        process.terminate()
        assert process.wait(10) == 0
    assert len(lab.stored()) == 300


def test_D13_a_log_that_is_read_again_says_how_much_it_left_out(
    lab: Lab, connect: Callable[..., stranger.Tls], tmp_path: Path
) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    first = os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    os.set_blocking(first.fileno(), True)
    with fifo.open("wb") as writer, serving_into(lab, writer) as process:
        tls = connect(port_in(first))
        first.close()
        assert stranger.log_in(tls, "ana", lab_module.PASSWORD)
        tls.sendall(stranger.count(21))
        assert [send(tls, str(number), b"1") for number in range(20)] == [stranger.ACCEPTED] * 20
        with os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as second:
            assert send(tls, "last", b"1") == stranger.ACCEPTED
            tls.close()
            process.terminate()
            assert process.wait(10) == 0
            events = [json.loads(line) for line in second]
    assert "last" in [event.get("name") for event in events]
    dropped = sum(event["lines"] for event in events if event["event"] == "log.dropped")
    told = len([event for event in events if event["event"] != "log.dropped"])
    assert dropped > 0
    assert dropped + told == 25  # conn.open, auth.ok, 21 files, conn.close, server.stop


def test_D13_a_server_whose_log_has_no_room_starts_and_serves(lab: Lab, connect: Callable[..., stranger.Tls]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Path("/dev/full").open("wb") as full, serving_into(lab, full, port) as process:
        wait_until(lambda: process.poll() is not None or not refuses(port))
        tls = connect(port)
        assert stranger.log_in(tls, "ana", lab_module.PASSWORD)
        assert stranger.send(tls, [("x", b"1")]) == [True]
        tls.close()
        process.terminate()
        assert process.wait(10) == 0


# -- what nobody can hold --------------------------------------------------------------------------------------


def silent(server: Server, count: int, stack: contextlib.ExitStack, sources: int = 1) -> list[socket.socket]:
    """Open connections that say nothing, from so many addresses."""
    return [
        stack.enter_context(
            socket.create_connection(
                ("127.0.0.1", server.port), timeout=20, source_address=(f"127.0.1.{1 + number % sources}", 0)
            )
        )
        for number in range(count)
    ]


def honest_transfer(log_in: Callable[..., stranger.Tls], server: Server, name: str = "honest") -> float:
    """Send a file of 1 MiB from an address of its own; return the seconds that it took."""
    started = time.monotonic()
    tls = log_in(server, 1, source="127.0.0.2")
    assert send(tls, name, bytes(MIB)) == stranger.ACCEPTED
    tls.close()
    return time.monotonic() - started


@pytest.mark.parametrize("sources", [1, 150])
def test_F19_silent_connections_lose_to_an_honest_user(
    lab: Lab, log_in: Callable[..., stranger.Tls], sources: int
) -> None:
    server = lab.serve()
    with contextlib.ExitStack() as stack:
        held = silent(server, 300, stack, sources)
        assert honest_transfer(log_in, server) < 2
        assert server.wait_for("limit.hit")["limit"] == "handshakes"
        # Over the cap (64 from one source, 256 in all) the oldest of whoever holds most goes first.
        survivors, youngest = (64, 64) if sources == 1 else (256, 150)
        wait_until(lambda: len(select.select(held, [], [], 0)[0]) >= 300 - survivors)
        ended = select.select(held, [], [], 0)[0]
        assert not set(ended) & set(held[-youngest:])
        assert server.wait_for("tls.fail")["reason"] == "evicted"
    assert lab.stored() == {"honest": bytes(MIB)}


def test_F19_of_many_sources_with_one_connection_each_the_oldest_goes(lab: Lab) -> None:
    """Not the newest: a newcomer that goes first would never come to its login."""
    server = lab.serve("--max-handshakes", "20")
    with contextlib.ExitStack() as stack:
        held = silent(server, 60, stack, 60)
        wait_until(lambda: len(select.select(held, [], [], 0)[0]) >= 40)
        assert select.select(held, [], [], 0)[0] == held[:40]


def test_F19_evictions_are_logged_once_a_second_for_each_source(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    server = lab.serve()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent(server, 300, stack)
        honest_transfer(log_in, server)
    assert server.stop() == 0
    hits = [event for event in server.events("limit.hit") if event["address"] == "127.0.1.1"]
    assert 0 < len(hits) <= 2 + time.monotonic() - started


def test_T23_silent_connections_end_after_ten_seconds_and_never_block_the_others(
    lab: Lab, log_in: Callable[..., stranger.Tls]
) -> None:
    server = lab.serve()
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        held = silent(server, 8, stack, sources=8)
        assert honest_transfer(log_in, server) < 2
        assert all(ends(sock, 15) for sock in held)
        assert 9 < time.monotonic() - started < 11
    server.wait_for("conn.close", 9)
    assert [event["reason"] for event in server.events("tls.fail")] == ["timeout"] * 8


@pytest.mark.usefixtures("hasty")
def test_T23_nobody_waits_for_the_handshakes_of_others(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    """In this impatient server each of them ends after 1.5 s: one after the other, they would be 12 s together."""
    server = lab.serve()
    with contextlib.ExitStack() as stack:
        silent(server, 8, stack)
        assert honest_transfer(log_in, server) < 5


def test_F19_sessions_over_the_limits_are_sent_away(
    lab: Lab, connect: Callable[..., stranger.Tls], log_in: Callable[..., stranger.Tls]
) -> None:
    """Without an answer, which means "not now": the login was right. Who has left makes room for another."""
    server = lab.serve("--max-sessions", "3", "--max-sessions-per-user", "2")

    def sent_away(user: str) -> bool:
        tls = connect(server)
        tls.sendall(stranger.login(user, lab_module.PASSWORD))
        return stranger.answers(tls, 1) == b""

    running = [log_in(server, 1, "ana") for _ in range(2)]
    assert sent_away("ana")
    assert server.wait_for("limit.hit")["limit"] == "sessions per user"
    running.append(log_in(server, 1, "bruno"))
    assert sent_away("carla")
    assert server.wait_for("limit.hit", 2)["limit"] == "sessions"
    for tls in running:
        assert send(tls, str(running.index(tls)), b"x") == stranger.ACCEPTED
        tls.close()
    wait_until(lambda: len(server.events("conn.close")) == 5)
    assert not sent_away("ana")


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_F20_without_descriptors_it_waits_quietly_and_recovers(
    lab: Lab, log_in: Callable[..., stranger.Tls], program: Callable[[str], None]
) -> None:
    program(f'#!/bin/sh\nulimit -n 64\nexec {lab_module.SECUREXFER} "$@"\n')
    server = lab.serve()
    with contextlib.ExitStack() as stack:
        silent(server, 120, stack)
        assert server.wait_for("limit.hit")["limit"] == "descriptors"
        before, started = cpu_seconds(server), time.monotonic()
        time.sleep(3)
        assert cpu_seconds(server) - before < 0.05 * (time.monotonic() - started)
    assert honest_transfer(log_in, server) < 5
    assert lab.stored() == {"honest": bytes(MIB)}
    assert server.stop() == 0


def test_F20_it_ends_in_order_while_descriptors_have_run_out(lab: Lab, program: Callable[[str], None]) -> None:
    program(f'#!/bin/sh\nulimit -n 64\nexec {lab_module.SECUREXFER} "$@"\n')
    server = lab.serve()
    with contextlib.ExitStack() as stack:
        silent(server, 120, stack)
        server.wait_for("limit.hit")
        server.process.terminate()
        assert stops(server, 10) == 0
    assert server.events("server.stop")


LOGIN = stranger.login("ana", lab_module.PASSWORD)
PHASES = {
    "handshake": (b"", b""),
    "login": (b"", LOGIN),
    "count": (LOGIN, stranger.count(1)),
    "header": (LOGIN + stranger.count(1), stranger.file("x", bytes(5000))[:HEADER]),
    "payload": (LOGIN + stranger.count(1) + stranger.file("x", bytes(5000))[:HEADER], bytes(5000)),
    "trailer": (LOGIN + stranger.count(1) + stranger.file("x", bytes(5000))[:-32], bytes(32)),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("phase", PHASES)
def test_F16_a_trickle_is_ended_in_every_phase(
    lab: Lab, connect: Callable[..., stranger.Tls], log_in: Callable[..., stranger.Tls], phase: str
) -> None:
    """A byte now and then keeps nobody's place: 1.5 s for a phase, and for payload a rate, in this impatient server."""
    server = lab.serve()
    before, slow = PHASES[phase]
    with contextlib.ExitStack() as stack:
        if phase == "handshake":
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            slow = b"\x16\x03\x01\x02\x00" + bytes(512)  # the beginning of a ClientHello
        else:
            plain = connect(server)
            plain.sendall(before)
            if before:
                assert stranger.answers(plain, 1) == stranger.ACCEPTED
        started = time.monotonic()
        pause = max(0.1, 3 / len(slow))
        for byte in slow:
            with contextlib.suppress(OSError):
                plain.sendall(bytes([byte]))
            if time.monotonic() - started > 6 or (select.select([plain], [], [], pause)[0] and ends(plain, 0.1)):
                break
        took = time.monotonic() - started
    assert 1 < took < 4, "it was not ended in time" if took > 4 else "it was ended for another reason"
    closed = server.wait_for("conn.close")
    assert (closed["reason"], [event["reason"] for event in server.events("tls.fail")]) == (
        ("tls", ["timeout"]) if phase == "handshake" else ("TIMEOUT", [])
    )
    aborted = {"header": ["TIMEOUT"], "payload": ["TIMEOUT"], "trailer": ["TIMEOUT"]}.get(phase, [])
    assert [event["reason"] for event in server.events("file.abort")] == aborted
    assert honest_transfer(log_in, server) < 2
    assert lab.stored() == {"honest": bytes(MIB)}


@pytest.mark.usefixtures("hasty")
def test_F16_a_sender_above_the_minimum_rate_is_left_alone(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    server = lab.serve()
    tls = log_in(server, 1)
    whole = stranger.file("x", bytes(20_000))
    for start in range(0, len(whole), 500):  # 5 KB/s for 4 s, in a server whose window is 2 s
        tls.sendall(whole[start : start + 500])
        time.sleep(0.1)
    assert stranger.answers(tls, 1) == stranger.ACCEPTED


def test_D16_what_is_announced_is_held_no_longer_than_the_minimum_rate_allows(
    lab: Lab, log_in: Callable[..., stranger.Tls], program: Callable[[str], None]
) -> None:
    """Ten bytes now and then for a file that takes up the whole quota: until it is ended, and not a moment longer."""
    program(f"""#!{sys.executable}
from securexfer.cli import main
from securexfer.net import payload
payload.RATE_GRACE_SECONDS = 1.0
payload.RATE_WINDOW_SECONDS = 2.0
main()
""")
    server = lab.serve("--quota", "1M")
    other, slow = log_in(server, 2), log_in(server, 1)
    slow.sendall(stranger.file("slow", bytes(900_000))[: HEADER + 5000])
    wait_until(lambda: list((lab.inbox / STAGING).iterdir()))
    assert send(other, "beside", bytes(500_000)) == REFUSED
    started = time.monotonic()
    while not server.events("file.abort"):
        assert time.monotonic() - started < 15
        with contextlib.suppress(OSError):
            slow.sendall(bytes(10))
        time.sleep(0.1)
    assert server.events("file.abort")[0]["reason"] == "TIMEOUT"
    assert send(other, "after", bytes(900_000)) == stranger.ACCEPTED
    assert lab.stored() == {"after": bytes(900_000)}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("moment", ["after the login", "in a payload", "between files"])
def test_T25_a_client_that_has_vanished_is_ended_and_its_place_is_free(
    lab: Lab, log_in: Callable[..., stranger.Tls], moment: str
) -> None:
    """The connection stays open, but nothing comes any more: as if the cable had been pulled."""
    server = lab.serve()
    tls = log_in(server, 3)
    whole = stranger.file("x", bytes(MIB))
    tls.sendall(whole if moment == "between files" else whole[: MIB // 2] if moment == "in a payload" else b"")
    started = time.monotonic()
    closed = server.wait_for("conn.close", seconds=6)
    assert 1 < time.monotonic() - started < 5
    assert closed["reason"] == "TIMEOUT"
    aborted = "TIMEOUT" if moment == "in a payload" else "SHORT-COUNT"
    assert [event["reason"] for event in server.events("file.abort")] == [aborted]
    assert lab.stored() == ({"x": bytes(MIB)} if moment == "between files" else {})


def test_F23_memory_does_not_grow_with_the_file(lab: Lab, log_in: Callable[..., stranger.Tls]) -> None:
    size, block = 1 << 30, bytes(MIB)
    with contextlib.ExitStack() as stack:
        options = []
        # In memory where there is room: this is about the process, not about the disk.
        shared = Path("/dev/shm")
        if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 3 * size:
            place = shared / f"securexfer-test-{os.getpid()}"
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            options = ["--inbox", str(place)]
            lab.inbox = place
        server = lab.serve(*options, watched=True)
        honest_transfer(log_in, server)
        tls = log_in(server, 1)
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # forget the peak: a login takes 64 MiB
        before = server.status("VmHWM")
        digest = hashlib.sha256()
        tls.sendall(stranger.field("large") + struct.pack(">Q", size))
        for _ in range(size // len(block)):
            tls.sendall(block)
            digest.update(block)
        tls.sendall(digest.digest())
        assert stranger.answers(tls, 1) == stranger.ACCEPTED
        assert (lab.inbox / "ana/large").stat().st_size == size
        assert server.status("VmHWM") - before < 8 << 10, "KiB"
        server.stop()
