"""Each oracle is shown what it must not let pass: a state that was spoiled on purpose, near to one that is well."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import stranger_client as stranger
from hostile import oracles as kit
from hostile.oracles import Oracles, Signs
from lab import PASSWORD, Lab, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("oracles"), lab_source)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve(watched=True)


@pytest.fixture(scope="module")
def watching(place: Lab, server: Server) -> Oracles:
    return Oracles(place, server)


@pytest.fixture
def oracles(watching: Oracles) -> Iterator[Oracles]:
    """All is well before; and after, when what was spoiled is mended."""
    watching.check()
    yield watching
    watching.check()


def red(message: str) -> Any:
    """Expect an oracle to say this."""
    return pytest.raises(AssertionError, match=f"^{message}")


def stored(place: Lab, server: Server, name: str, content: bytes) -> None:
    with stranger.connect(server.port, str(place.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        assert stranger.send(tls, [(name, content)]) == [True]


def test_O1_red_when_the_server_takes_too_long(oracles: Oracles, server: Server) -> None:
    with server.paused(), red("O1"):
        oracles.honest_transfer(0.3)


def test_O1_red_when_the_honest_file_is_refused(oracles: Oracles, place: Lab) -> None:
    taken = place.inbox / kit.HONEST / "honest"
    taken.write_bytes(b"other content")
    with red("O1"):
        oracles.honest_transfer()
    taken.unlink()


def leave_in_staging(inbox: Path) -> Path:
    return inbox / kit.STAGING / "7"


def leave_in_an_inbox(inbox: Path) -> Path:
    return inbox / "ana" / "nobody sent this"


def leave_beside_the_inboxes(inbox: Path) -> Path:
    return inbox / "stray"


@pytest.mark.parametrize("where", [leave_in_staging, leave_in_an_inbox, leave_beside_the_inboxes])
def test_O2_red_for_a_file_that_nobody_acknowledged(
    oracles: Oracles, place: Lab, server: Server, where: Callable[[Path], Path]
) -> None:
    stored(place, server, "in the log", b"x")
    oracles.check()
    where(place.inbox).touch()
    with red("O2"):
        oracles.inbox_is_what_was_acknowledged({})
    where(place.inbox).unlink()


def test_O2_red_for_a_directory_of_nobody_s_file(oracles: Oracles, place: Lab, server: Server) -> None:
    stored(place, server, "in the log", b"x")
    (place.inbox / "ana/empty").mkdir()
    with red("O2"):
        oracles.inbox_is_what_was_acknowledged({})
    (place.inbox / "ana/empty").rmdir()


def test_O2_red_when_a_file_is_missing_changed_or_of_another_kind(oracles: Oracles, place: Lab, server: Server) -> None:
    stored(place, server, "kept", b"as it was sent")
    oracles.check({"ana/kept": b"as it was sent"})
    path, aside = place.inbox / "ana/kept", place.home / "aside"
    path.write_bytes(b"as it was sent, and more")
    with red("O2.*not what was acknowledged"):
        oracles.inbox_is_what_was_acknowledged({})
    path.rename(aside)
    with red("O2.*not there"):
        oracles.inbox_is_what_was_acknowledged({})
    aside.write_bytes(b"as it was sent")
    path.symlink_to(aside)
    with red("O2.*plain file"):
        oracles.inbox_is_what_was_acknowledged({})
    path.unlink()
    aside.rename(path)


def test_O2_red_for_an_answer_that_the_log_does_not_know_of(oracles: Oracles) -> None:
    with red("O2"):
        oracles.inbox_is_what_was_acknowledged({"ana/told": b"x"})


def change_content(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_mode(path: Path) -> None:
    path.chmod(0o666)


def change_time(path: Path) -> None:
    path.touch()


def change_links(path: Path) -> None:
    status = path.parent.stat()
    os.link(path, path.parent.parent / "another link")
    os.utime(path.parent, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_attributes(path: Path) -> None:
    try:
        os.setxattr(path, "user.more", b"1")
    except OSError as error:
        pytest.skip(f"this file system has no attributes: {error}")


@pytest.mark.parametrize("change", [change_content, change_mode, change_time, change_links, change_attributes])
def test_O3_red_for_a_change_outside_of_the_inbox(tmp_path: Path, change: Callable[[Path], None]) -> None:
    tree = kit.plant_sentinels(tmp_path / "tree")
    before = kit.snapshot(tree)
    assert kit.snapshot(tree) == before
    change(tree / "secret")
    assert kit.snapshot(tree) != before


def test_O3_red_for_a_new_file_and_for_a_change_of_the_certificates(oracles: Oracles, place: Lab) -> None:
    time_before = oracles.outside.stat().st_mtime_ns
    (oracles.outside / "new").touch()
    with red("O3"):
        oracles.outside_is_unchanged()
    (oracles.outside / "new").unlink()
    os.utime(oracles.outside, ns=(time_before, time_before))
    oracles.outside_is_unchanged()
    mode = place.ca.stat().st_mode
    place.ca.chmod(0o600 if mode & 0o077 else 0o644)
    with red("O3"):
        oracles.outside_is_unchanged()
    place.ca.chmod(mode)


LEAKS = {
    "descriptors": "kept = open('/dev/null')",
    "threads": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "children": "import subprocess; kept = subprocess.Popen('cat', stdin=subprocess.PIPE)",
}


@pytest.mark.parametrize("what", LEAKS)
def test_O4_red_for_a_process_that_holds_one_more(what: str) -> None:
    program = f"input(); {LEAKS[what]}; print('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        before = wait_for_calm(process.pid)
        assert not Signs.of(process.pid).more_than(before)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        more = Signs.of(process.pid).more_than(before)
        assert any(said.startswith(what) for said in more), more
        process.kill()


def wait_for_calm(pid: int) -> Signs:
    """Wait until a process has started, and return how it is then."""
    time.sleep(0.5)
    return Signs.of(pid)


def test_O4_red_while_a_connection_is_held(oracles: Oracles, server: Server, place: Lab) -> None:
    with stranger.connect(server.port, str(place.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        with red("O4"):
            oracles.nothing_is_held(0.3)


def test_O5_red_when_the_peak_was_over_the_bound(oracles: Oracles, monkeypatch: pytest.MonkeyPatch) -> None:
    less = dataclasses.replace(oracles.before, memory=oracles.before.memory - (1 << 30))
    monkeypatch.setattr(oracles, "before", less)
    with red("O5"):
        oracles.memory_is_bounded()


LINE = b'{"time": "2026-01-01T00:00:00.000Z", "level": "info", "event": "conn.open", "connection": 1, "address": "::1"}'
SPOILED = {
    "no JSON": LINE + b"\nsomething went wrong",
    "half a line": LINE[:-5],
    "no event": b'{"user": "ana"}',
    "a traceback": LINE + b"\nTraceback (most recent call last):",
    "an escape": LINE[:-1] + b', "user": "\x1b[31m"}',
    "a C1 control": LINE[:-1] + ', "user": "\x9b31m"}'.encode(),
    "a carriage return": LINE + b"\r",
    "a secret": LINE[:-1] + b', "user": "canary"}',
    "an error inside": LINE[:-1] + b', "reason": "error"}',
}


@pytest.mark.parametrize("what", SPOILED)
def test_O6_red_for_a_log_with(what: str) -> None:
    assert kit.parse_log(LINE, ("canary",))
    with red("O6"):
        kit.parse_log(SPOILED[what], ("canary",))


def test_O6_red_while_a_connection_has_no_end(oracles: Oracles, server: Server, place: Lab) -> None:
    with (
        stranger.connect(server.port, str(place.ca), source="127.0.0.5"),
        red("O6"),
    ):
        oracles.log_is_whole(0.3)


def test_O6_red_for_a_second_end_but_not_where_the_log_left_lines_out(oracles: Oracles) -> None:
    opened = {"event": "conn.open", "connection": -1, "address": "192.0.2.1"}
    closed = {**opened, "event": "conn.close"}
    oracles._note(opened)
    oracles._note(closed)
    with red("O6"):
        oracles._note(closed)
    del oracles._open[-1]
    oracles._note({"event": "log.suppressed", "address": "192.0.2.1"})
    oracles._note(opened)
    oracles._note(closed)
    oracles._note(closed)


def test_O7_red_for_a_server_that_has_died_and_for_another_one(lab: Lab) -> None:
    server = lab.serve(watched=True)
    oracles = Oracles(lab, server)
    oracles.check()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    with red("O7"):
        oracles.same_process()
    other = lab.serve(watched=True)
    oracles._server = other
    with red("O7"):
        oracles.same_process()
