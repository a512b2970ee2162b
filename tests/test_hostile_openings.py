"""Who means harm around opening: a client that asks for it and misbehaves, and a server that tells what it likes."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boxes
import pytest
from boxes import needs_bubblewrap
from desks import events, handled, opened
from hostile import chaos, speaking
from hostile.chaos import UP, Chaos, Fault, Way
from hostile.listeners import HOST, TlsListener
from hostile.returning import RESULTS, RETURNS
from hostile.server2 import Session
from hostile.speaking import ALIVE, FINISH, Speaker, eager, logged_in, offer
from lab import PASSWORD, SECUREXFER, Lab, environment, wait_until

from securexfer.wire import messages
from securexfer.wire.messages import OPEN, RETURN

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from desks import Desk
    from lab import Server

MAX_PEAK = 160 << 10  # KiB of memory that a client may take, whatever comes
# Runs a command and writes down its peak. (What the tests have in memory would count if they started it themselves.)
WATCHED = """
import os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""
HELLO = "print('hello')\n"
pytestmark = needs_bubblewrap
END_SECONDS = 45


# -- a hostile server ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("hostile-openings"), lab_source)
    (made.home / "x.py").write_text(HELLO)
    yield made
    made.close()


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("case", RETURNS)
def test_whatever_a_server_tells_of_files_stays_within_bounds(
    place: Lab, context2: ssl.SSLContext, tmp_path: Path, case: str
) -> None:
    """It ends in words and soon; what was stored stays stored; nothing is written but where it was asked for."""
    expected = RETURNS[case]
    around, peak = tmp_path / "around", tmp_path / "peak"
    (around / "out").mkdir(parents=True)

    def answer(tls: ssl.SSLSocket, _received: list[bytes]) -> None:
        tls.settimeout(60)
        with contextlib.suppress(OSError):
            expected.answer(Session(tls, 1))

    options = [str(around / "out") if option == "DIR" else option for option in expected.options]
    with TlsListener(context2, answer) as listener:
        started = time.monotonic()
        process = subprocess.Popen(
            [
                sys.executable, "-c", WATCHED, str(peak),
                SECUREXFER, "send", str(place.home / "x.py"), f"ana@{HOST}:{listener.port}",
                "--ca", str(place.home / "ca2.pem"), "--password-file", str(place.password_file),
                "--retries", "0", *options,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=around,
            env=environment(SECUREXFER_CONFIG=str(place.config)),
        )  # fmt: skip
        assert process.stdout
        assert process.stderr
        out, err = process.stdout.read().decode(), process.stderr.read().decode()
        process.wait()
        seconds = time.monotonic() - started
        process.stdout.close()
        process.stderr.close()
    assert "Traceback" not in err
    assert not [character for character in out + err if not character.isprintable() and character != "\n"]
    assert expected.says in err
    assert process.returncode == expected.code, err
    assert ("1 file, " in out) is expected.stored, "it is stored, whatever comes of it"
    if expected.code and expected.stored and "not stored:" not in err and "was not stored" not in err:
        assert "1 of 1 files was stored on" in err
    assert tree(around) == [f"out/{name}" for name in expected.leaves]
    assert int(peak.read_text()) < MAX_PEAK
    assert seconds < END_SECONDS
    assert expected.options == RESULTS or not tree(around)


# -- a hostile client ------------------------------------------------------------------------------------------------


def begun(desk: Desk, server: Server, files: dict[str, str], opening: int = OPEN) -> Speaker:
    """Send files that are to be opened, and say Finish."""
    speaker = logged_in(server.port, desk.ca, "ana", PASSWORD)
    speaker.say(speaking.put(opening=opening))
    assert speaker.until(messages.Ready).opening == "yes"
    for number, (name, text) in enumerate(files.items(), 1):
        speaker.say(eager(number, name, text.encode()))
        assert speaker.until(messages.Committed).opened
    speaker.say(FINISH)
    return speaker


def lasting(desk: Desk, mark: str) -> str:
    return desk.lasting("lasting.py", mark).read_text()


def still_serves(desk: Desk, server: Server) -> None:
    """Check that somebody else is served, and has files opened."""
    desk.allow("bruno")
    with desk.sending(server, desk.file("honest.py", "print('honest')\n"), user="bruno") as sending:
        out, err = sending.communicate(timeout=30)
    assert sending.returncode == 0, err
    assert "│ honest" in out


@pytest.mark.parametrize("in_order", [True, False])
def test_a_client_that_leaves_after_finish_leaves_nothing_running(desk: Desk, in_order: bool) -> None:
    desk.allow("ana")
    server = desk.serve()
    mark = f"mark-of-leaving-{in_order}"
    speaker = begun(desk, server, {"lasting.py": lasting(desk, mark), "x.py": HELLO})
    wait_until(lambda: boxes.running(mark))
    if in_order:
        with contextlib.suppress(OSError):
            speaker.tls.settimeout(0.2)
            speaker.tls.unwrap().close()
    speaker.tls.close()
    wait_until(lambda: not boxes.running(mark), 10)
    server.wait_for("conn.close")
    assert server.wait_for("handler.killed")["how"] == "cancelled"
    still_serves(desk, server)
    assert set(desk.stored()) == {"lasting.py", "x.py"}
    server.wait_for("conn.close", 2)


SAID = {
    "alive": ALIVE,
    "an offer": offer(9, "y", 1),
    "Finish again": FINISH,
    "another Put": speaking.put(opening=OPEN),
    "payload": speaking.data(1, b"x"),
    "noise": b"\xfe" * 4096,
    "what is the server's to say": messages.encode(messages.Opened("run", "exit", 0, 0, 1, ""), 1),
}


@pytest.mark.parametrize("name", SAID)
def test_a_client_that_speaks_while_its_files_are_opened_is_cut_off(desk: Desk, name: str) -> None:
    desk.allow("ana")
    server = desk.serve()
    mark = f"mark-of-speaking-{list(SAID).index(name)}"
    speaker = begun(desk, server, {"lasting.py": lasting(desk, mark)})
    wait_until(lambda: boxes.running(mark))
    speaker.say(SAID[name])
    refused = speaker.until(messages.Refuse)
    assert refused.reason == "PROTO"
    speaker.tls.close()
    wait_until(lambda: not boxes.running(mark), 10)
    assert "Traceback" not in server.log_path.read_text()
    still_serves(desk, server)
    assert set(desk.stored()) == {"lasting.py"}


def test_a_client_that_reads_no_results_holds_no_memory_and_not_for_long(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve("--idle-timeout", "2", watched=True)  # whose descriptors may be looked at
    text = "for n in range(4): open(f'/out/{n}', 'wb').write(bytes(4 << 20))\nprint('x' * 60000)\n"
    before = server.status("VmRSS")
    speaker = begun(desk, server, {f"{number}.py": f"# {number}\n{text}" for number in range(20)}, OPEN | RETURN)
    closed = server.wait_for("conn.close", seconds=40)
    assert closed["reason"] == "TIMEOUT", closed
    assert server.status("VmHWM") - before < (64 + 48) << 10, "a login takes 64 MiB for a moment"
    speaker.tls.close()
    assert set(desk.stored()) == {f"{number}.py" for number in range(20)}
    still_serves(desk, server)
    wait_until(lambda: not unnamed(server), 10)


def unnamed(server: Server) -> list[str]:
    """Return the files without a name that a server holds: results that wait for their sender."""
    found = []
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return [name for name in found if name.endswith("(deleted)") and "/inbox/" in name]


@pytest.mark.parametrize("wanted", [True, False])
def test_what_scripts_leave_is_kept_for_those_alone_who_want_it(desk: Desk, *, wanted: bool) -> None:
    desk.allow("ana")
    server = desk.serve(watched=True)
    first = desk.lasting("first.py", "mark-of-what-is-kept")
    leaving = desk.file("leaving.py", "for name in 'abc': open('/out/' + name, 'w').write(name)\n")
    options = ["--results", str(desk.files / "out")] if wanted else []
    with desk.sending(server, first, leaving, *options) as sending:
        ran = server.wait_for("handler.run", seconds=20)
        assert (ran["name"], ran["results"]) == ("leaving.py", ["a", "b", "c"])
        assert len(unnamed(server)) == (3 if wanted else 0)
        sending.kill()
    wait_until(lambda: not unnamed(server), 10)


# -- more than are opened together ----------------------------------------------------------------------------------

FEW = f"""#!{sys.executable}
from securexfer.wire import messages
messages.MAX_BESIDE = 3
from securexfer.storage import bundle
bundle.MAX_FILES = 3
from securexfer.cli import main
main()
"""
CROWD = "it came with too many others"


def test_of_a_send_of_more_than_ten_thousand_files_none_is_opened(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    for number in range(9_999):
        (desk.files / f"{number:05}").write_bytes(b"")
    desk.file("a.py", HELLO)
    desk.file("00.txt", "one more\n")
    sent = desk.send(server, desk.files, "--json", timeout=300)
    assert sent.returncode == 0, sent.stderr
    assert {name: (entry["how"], entry["detail"]) for name, entry in opened(sent).items()} == {
        "files/00.txt": ("gone", CROWD),
        "files/a.py": ("gone", CROWD),
    }
    assert {(event["name"], event["reason"]) for event in server.events("handler.refused")} == {
        ("files/00.txt", "gone"),
        ("files/a.py", "gone"),
    }


def test_as_many_as_may_be_are_opened_and_of_one_more_none(desk: Desk, program: Callable[[str], None]) -> None:
    desk.allow("ana")
    program(FEW)
    server = desk.serve()
    files = [desk.file(f"{number}.py", HELLO) for number in range(3)]
    sent = desk.send(server, *files)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.count("ran, exit code 0") == 3
    sent = desk.send(server, *files, desk.file("one.csv", "more\n"))
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.count(f": stored, not opened ({CROWD})\n") == 3


def test_nor_if_it_is_one_file_again_and_again(desk: Desk, program: Callable[[str], None]) -> None:
    """Whoever offers one small file without an end makes no list in the server's memory."""
    desk.allow("ana")
    program(FEW)
    server = desk.serve()
    speaker = logged_in(server.port, desk.ca, "ana", PASSWORD)
    speaker.say(speaking.put(opening=OPEN))
    assert speaker.until(messages.Ready).opening == "yes"
    flags = []
    for number in range(1, 6):
        speaker.say(eager(number, "x.txt", b"x"))
        flags.append(speaker.until(messages.Committed).opened)
    assert flags == [1, 1, 1, 0, 0]
    speaker.say(FINISH)
    heard: list[tuple[int, Any]] = []
    while not heard or not isinstance(heard[-1][1], messages.Summary):
        message = speaker.hear()
        assert message
        heard.append(message)
    assert [(number, said.how) for number, said in heard if isinstance(said, messages.Opened)] == [
        (number, "gone") for number in (1, 2, 3)
    ]
    speaker.tls.close()
    assert [event["detail"] for event in handled(server)] == [CROWD] * 5


def test_too_many_files_are_too_many_after_a_cut_as_well(
    desk: Desk, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is offered again in the next connection must not pass for all that there is."""
    desk.allow("ana")
    program(FEW)
    server = desk.serve()
    files = [desk.file(f"{number}.py", f"print({number})\n") for number in range(6)]
    with Way(server.port) as way:
        assert desk.send(way.port, *files, target="/undisturbed").returncode == 0
        length = way.passed[UP]
    with Chaos(server.port, Fault(chaos.cut_by_rst, UP, length - 30)) as way:
        sent = desk.send(way.port, *files, "--json", target="/undisturbex")
        assert (way.struck.is_set(), way.used) == (True, 2)
    assert sent.returncode == 0, sent.stderr
    assert len(events(sent, "file")) == 6
    assert {entry["detail"] for entry in events(sent)} == {CROWD}
    assert not server.events("handler.run")


def test_two_files_by_one_name_are_not_taken_for_each_other(desk: Desk) -> None:
    """Only a client that means harm sends them in one send: what is run is what the log says it is."""
    desk.allow("ana")
    server = desk.serve("--on-conflict", "replace")
    first, second = "print('first')\n", "print('second')\n"
    speaker = logged_in(server.port, desk.ca, "ana", PASSWORD)
    speaker.say(speaking.put(opening=OPEN))
    speaker.until(messages.Ready)
    for number, text in enumerate((first, second), 1):
        speaker.say(eager(number, "x.py", text.encode()))
        speaker.until(messages.Committed)
    speaker.say(FINISH)
    speaker.until(messages.Summary)
    speaker.tls.close()
    for event in server.events("handler.run"):
        text = first if event["shown"] == ["│ first"] else second
        assert event["sha256"] == hashlib.sha256(text.encode()).hexdigest()
