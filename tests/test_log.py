"""The log of a running server under attack: its size, its lines, and what happens when it cannot be written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import stranger_client as stranger
from lab import PASSWORD, SECUREXFER, Lab, wait_until
from terminals import Terminal

from securexfer import events
from securexfer.cli import floodgate, log
from securexfer.storage.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tmpfs = Callable[[str], Path]

# An escape that sets a title, a line's end, something that looks like JSON and like a field of ours, a right-to-left
# override, a line separator, a C1 escape, a tag.
EVIL = 'x\x1b]0;title\x07\r\n{"event":"auth.ok"} user=root\u202e\u2028\x9b31m\U000e0041'


# -- how much ----------------------------------------------------------------------------------------------------


def fail(port: int, source: str) -> None:
    """Connect, say what is not TLS, and wait until the server has ended the connection."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 30, (source, 0)) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while sock.recv(4096):
            pass


def flood(port: int, sources: list[str]) -> None:
    """Let a connection fail from each of these addresses, eight at a time."""

    def some(first: int) -> None:
        for source in sources[first::8]:
            fail(port, source)

    threads = [threading.Thread(target=some, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


FLOODS = {
    "one source": (["127.0.3.1"] * 2500, 10, floodgate.SOURCE_RATE),
    "many sources": ([f"127.1.{n // 250}.{n % 250 + 1}" for n in range(2500)], floodgate.ALL_LINES, floodgate.ALL_RATE),
}


REPORT = floodgate.TOLD_SOURCES + 1  # lines that say what was left out, whatever the rate


@pytest.mark.parametrize("sources", FLOODS)
def test_O02_thousands_of_failing_connections_are_few_lines_and_hide_no_session(lab: Lab, sources: str) -> None:
    addresses, at_first, rate = FLOODS[sources]
    server = lab.serve()
    started = time.monotonic()
    flooding = threading.Thread(target=flood, args=(server.port, addresses))
    flooding.start()
    while flooding.is_alive() or len(server.events("auth.ok")) < 3:
        with stranger.connect(server.port, str(lab.ca), source=addresses[0]) as tls:
            assert stranger.log_in(tls, "ana", PASSWORD)
            assert stranger.send(tls, [("same", b"x")]) == [True]
    flooding.join()
    assert server.stop() == 0
    seconds = time.monotonic() - started

    sessions = {event["connection"]: Counter[str]() for event in server.events("auth.ok")}
    of_strangers: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for event in server.events():
        if event.get("connection") in sessions:
            sessions[event["connection"]][event["event"]] += 1
        elif event["event"] == "log.suppressed":
            told.update(event["kinds"])
            assert event["lines"] == sum(event["kinds"].values())
        elif "connection" in event:
            of_strangers[event["event"]] += 1
    assert all(lines == {"conn.open": 1, "auth.ok": 1, "file.ok": 1, "conn.close": 1} for lines in sessions.values())
    reports = seconds // floodgate.TELL_SECONDS + 1
    told_lines = len(server.events("log.suppressed"))
    assert 0 < of_strangers.total() + told_lines <= at_first + rate * seconds + reports * REPORT
    for kind in ("conn.open", "tls.fail", "conn.close"):
        assert of_strangers[kind] + told[kind] == len(addresses), kind


def test_O02_while_it_floods_the_log_says_so_every_few_seconds(lab: Lab) -> None:
    server = lab.serve()
    flood(server.port, ["127.0.3.2"] * 50)
    said = server.wait_for("log.suppressed", seconds=2 * floodgate.TELL_SECONDS)
    assert said["address"] == "127.0.3.2"
    assert said["lines"] == sum(said["kinds"].values()) >= 3 * 46


# -- lines -------------------------------------------------------------------------------------------------------


def kinds_of_event(base: type[events.Event] = events.Event) -> list[type[events.Event]]:
    return [kind for each in base.__subclasses__() for kind in [each, *kinds_of_event(each)]]


def evil(kind: type[events.Event]) -> Any:
    """Return an event that is hostile in each of its fields that hold text; but for what is safe to show by then."""
    values = {
        "str": EVIL,
        "tuple[str, ...]": (EVIL, EVIL),
        "int": 7,
        "float": 0.5,
        "Mapping[str, int]": {"conn.open": 7},
        "Sequence[StoredFile]": [(EVIL, 7, EVIL, EVIL, EVIL, 0.5)],
    }
    fields = {field.name: values[str(field.type)] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**fields | ({"shown": ("│ one", "│ two")} if "shown" in fields else {}))


def check_lines(text: str, count: int) -> None:
    """Check that there are so many lines, and nothing in them that a terminal or a reader takes for more."""
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == count
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("kind", kinds_of_event())
def test_O01_every_field_of_every_event_is_escaped(kind: type[events.Event]) -> None:
    """In JSON to ASCII alone; as text so that nothing in a field looks like a field."""
    event = evil(kind)
    (as_json,) = log._as_json(time.time(), event)
    assert as_json.isascii()
    assert as_json.isprintable()
    assert json.loads(as_json)["event"] == kind.kind
    (as_text,) = log._as_text(time.time(), event)
    if hasattr(event, "shown"):
        as_text, *shown = as_text.split("\n")  # lines of their own, which whoever makes the event sees to
        assert shown == [*event.shown]
    assert as_text.isprintable()
    words = shlex.split(as_text)
    assert words[2] == kind.kind
    fields = {field.name for field in dataclasses.fields(event)} | {*log._OF_A_FILE}  # type: ignore[arg-type]
    assert [word.partition("=")[0] for word in words[3:] if word.partition("=")[0] not in fields] == []
    assert "user=root" not in words


def test_the_lines_of_stored_files_are_made_as_all_others_are() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(events.Event):
        """One of them, as an event of its own."""

        kind = "file.ok"
        connection: int
        address: str
        user: str
        name: str
        size: int
        sha256: str
        outcome: str
        stored_as: str
        seconds: float

    whose = (7, "192.0.2.1", "ana")
    files = [
        (name, 3, "ab" * 32, Outcome.RENAMED, stored_as, 0.123456)
        for name in ("d/x", f"d/{EVIL}", "d/é")
        for stored_as in ("d/x", f"d/{EVIL}", "d/x (1)", "d/é")
    ]
    for render in (log._as_json, log._as_text):
        lines = render(1.5, events.FilesStored(*whose, files))
        assert lines == [line for file in files for line in render(1.5, Other(*whose, *file))]


@pytest.mark.parametrize("together", [1, 128])
def test_long_lines_that_wait_are_bounded_one_by_one_and_together(together: int) -> None:
    """Of a log that nobody reads."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        made = log.Log(stream, log.LogFormat.JSON)
        file = ("é" * 1000, 1, "ab" * 32, "stored", "é" * 1000, 0.1)  # 12 000 characters, escaped
        for _ in range(20 * log.LONG_LINES // together):
            made.write(events.FilesStored(1, "192.0.2.1", "ana", [file] * together))
        assert len(made._lines) <= log.LONG_LINES
        assert made._dropped > 0
        os.close(reading)  # from now on each write fails
        made.close()


def attack(lab: Lab, port: int) -> None:
    """Say something hostile wherever a client says anything: the hello, the login, the names of files."""
    with stranger.connect(port, str(lab.ca), alpn="securexfer/1\x1b]0;t\x07\r\n") as tls, contextlib.suppress(OSError):
        tls.sendall(b"x")
        stranger.rest(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # so that any name may be asked for
    context.load_verify_locations(lab.ca)
    context.set_alpn_protocols(["securexfer/1"])
    for user, password in ((EVIL, b"\x1b[31m\xff\r\n"), ("ana\0x", PASSWORD.encode())):
        plain = socket.create_connection(("127.0.0.1", port), 30, ("127.0.0.3", 0))
        with context.wrap_socket(plain, server_hostname="lab\x1b[31m\r\n\x07", suppress_ragged_eofs=False) as tls:
            tls.sendall(user.encode().ljust(128) + password.ljust(128))
            assert stranger.rest(tls) == b"\x00"
    with stranger.connect(port, str(lab.ca), source="127.0.0.4") as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        tls.sendall(stranger.count(4) + stranger.file(EVIL, b"1") + stranger.file("fine", b"2"))
        tls.sendall(stranger.file("fine", b"other") + stranger.file(EVIL, bytes(500))[:300])
        assert stranger.answers(tls, 3) == b"\x00\x01\x00"
        stranger.leave_without_a_word(tls)
        with contextlib.suppress(OSError):
            stranger.rest(tls)


WARNED = int(os.geteuid() == 0)  # a server that stays root has a line about that before its start
ATTACK_LINES = 3 * 3 + 7  # three connections that fail; an opening, a login, four files and a close
ATTACK_LINES += 2  # the server's own start and stop


def test_A03_O01_whatever_a_client_says_a_line_of_the_log_stays_a_line(lab: Lab) -> None:
    server = lab.serve()
    attack(lab, server.port)
    assert server.stop() == 0
    text = server.log_path.read_text()
    check_lines(text[text.index("{") :], ATTACK_LINES + WARNED)
    assert len(server.events()) == ATTACK_LINES + WARNED
    assert {event["user"] for event in server.events("auth.fail")} == {EVIL, "ana\0x"}
    assert '"ana\\u0000x"' in text
    assert {event["name"] for event in [*server.events("file.reject"), *server.events("file.abort")]} == {EVIL, "fine"}


def test_O01_a_terminal_that_shows_the_log_stays_as_it_was(lab: Lab) -> None:
    command = [SECUREXFER, "serve", "--home", lab.home, "--host", "127.0.0.1", "--port", "0"]
    with Terminal(*command, columns=300, rows=60, NO_COLOR="1") as terminal:
        terminal.wait_for("server.start")
        found = re.search(rb"Listening on \S+:(\d+)", terminal.raw)
        assert found
        attack(lab, int(found[1]))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.finish() == 0
        terminal.check_restored()
        text = terminal.raw.decode().replace("\r\n", "\n")
        start = text.index("server.start")
        check_lines(text[text.rindex("\n", 0, start) + 1 :], ATTACK_LINES)
        assert not any("user=root" in shlex.split(line) for line in text.splitlines())


# -- where it cannot be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["deleted", "moved", "emptied"])
def test_D13_a_log_that_is_deleted_or_rotated_stops_nothing(lab: Lab, fate: str) -> None:
    """Whoever moves it finds all lines there; whoever empties it (copytruncate) finds whole lines from then on."""
    server = lab.serve()
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        tls.sendall(stranger.count(2) + stranger.file("before", b"1"))
        assert stranger.answers(tls, 1) == b"\x01"
        server.wait_for("file.ok")
        moved = server.log_path.with_name("rotated.log")
        if fate == "deleted":
            server.log_path.unlink()
        elif fate == "moved":
            server.log_path.rename(moved)
        else:
            os.truncate(server.log_path, 0)
        tls.sendall(stranger.file("after", b"2"))
        assert stranger.rest(tls) == b"\x01"
    assert server.stop() == 0
    assert lab.stored() == {"before": b"1", "after": b"2"}
    if fate == "deleted":
        assert not server.log_path.exists()
    else:
        path = moved if fate == "moved" else server.log_path
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
        assert [line["event"] for line in lines[-3:]] == ["file.ok", "conn.close", "server.stop"]
        assert len(lines) == (7 + WARNED if fate == "moved" else 3)
        assert path.read_bytes()[:1] in {b"L", b"{"}, "a hole, or the end of a line"


@pytest.mark.root
def test_D13_a_full_disk_drops_lines_and_never_breaks_one(lab: Lab, tmpfs: Tmpfs) -> None:
    """Where the room ends within a line, that line is ended first when there is room again; the rest was counted."""
    disk = tmpfs("size=64k")
    server = lab.serve(log_path=disk / "log")
    filler = disk / "filler"
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as other:
            while other.write(bytes(4096)):
                pass
        files = [(str(number), b"1") for number in range(100)]
        tls.sendall(stranger.count(len(files) + 1) + b"".join(stranger.file(*each) for each in files))
        assert stranger.answers(tls, len(files)) == b"\x01" * len(files)
        wait_until(lambda: not server.log_path.read_bytes().endswith(b"\n"))  # the disk is full within a line
        time.sleep(0.5)  # for the lines after it, which are written in several batches: there is no room for them
        filler.unlink()
        tls.sendall(stranger.file("last", b"1"))
        assert stranger.rest(tls) == b"\x01"
    assert server.stop() == 0
    assert len(lab.stored()) == len(files) + 1
    text = server.log_path.read_text()
    lines = [json.loads(line) for line in text[text.index("{") :].splitlines()]
    dropped = sum(line["lines"] for line in lines if line["event"] == "log.dropped")
    told = [line["event"] for line in lines if line["event"] != "log.dropped"]
    assert dropped > 50
    assert dropped + len(told) == 6 + WARNED + len(files)  # start, open, login, the last file, close, stop
