"""A real `send` in protocol 2 towards a server that is certified and means harm: no false success, hang or crash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fuzz.sending import Silent
from hostile.listeners import HOST, TlsListener
from hostile.server2 import ANSWERS, Session
from lab import PASSWORD, SECUREXFER, Lab, environment

from securexfer import client
from securexfer.client import sending
from securexfer.errors import LoginRefusedError
from securexfer.net.tls import client_context
from securexfer.transfer import digests, expecting
from securexfer.transfer.digests import DigestCache, clock_ns
from securexfer.transfer.items import Item
from securexfer.transfer.wishes import Wishes
from securexfer.wire import messages

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 24 << 20  # more than the buffers on the way hold: its end is not sent before its middle was read
END_SECONDS = 45  # of the slowest, with time running faster where there is a deadline to wait for


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("hostile-server2"), lab_source)
    (made.home / "small").write_bytes(b"small")
    (made.home / "large").write_bytes(os.urandom(LARGE))
    yield made
    made.close()


def faster(case: str) -> Any:
    """Mark a case for which time has to run faster."""
    missing = pytest.mark.skipif(not shutil.which("faketime"), reason="needs the package faketime")
    return pytest.param(case, marks=[pytest.mark.debian, missing] if ANSWERS[case].faster else [])


@pytest.mark.parametrize("case", [faster(case) for case in ANSWERS])
def test_T19_T21_C01_C04_success_is_only_what_the_server_committed(
    place: Lab, context2: ssl.SSLContext, tmp_path: Path, case: str
) -> None:
    """It ends in words and soon, after no more tries than it was allowed, with the exit code that it should."""
    expected = ANSWERS[case]
    sessions: list[Session] = []

    def answer(tls: ssl.SSLSocket, _received: list[bytes]) -> None:
        tls.settimeout(60)
        sessions.append(session := Session(tls, len(sessions) + 1))
        expected.answer(session)

    with DigestCache(tmp_path / "securexfer/digests.db") as cache:
        for path in (place.home / "small", place.home / "large") if expected.claims else ():
            cache.add(path.stat(), hashlib.sha256(path.read_bytes()).digest(), clock_ns() + 10**10)
    before = ["faketime", "-f", f"+0 x{expected.faster}"] if expected.faster else []
    with TlsListener(context2, answer) as listener:
        started = time.monotonic()
        sent = subprocess.run(
            [
                *before, SECUREXFER, "send", str(place.home / "small"), str(place.home / "large"),
                f"ana@{HOST}:{listener.port}", "--ca", str(place.home / "ca2.pem"),
                "--password-file", str(place.password_file), "--json", *expected.options,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
            env=environment(SECUREXFER_CONFIG=str(place.config), XDG_CACHE_HOME=str(tmp_path)),
        )  # fmt: skip
        seconds = time.monotonic() - started
    out, err = sent.stdout.decode(), sent.stderr.decode()
    assert "Traceback" not in err
    assert PASSWORD not in out + err
    assert not [character for character in out + err if not character.isprintable() and character != "\n"]
    assert sent.returncode == expected.code, err
    files = {entry["name"]: entry for entry in map(json.loads, out.splitlines()) if entry["event"] == "file"}
    assert set(files) <= {"small", "large"}
    told = set().union(*(session.stored for session in sessions))
    stored = {name for name, entry in files.items() if entry["status"] in {"stored", "renamed"}}
    assert stored <= told
    assert (sent.returncode == 0) is (stored == {"small", "large"})
    assert len(sessions) <= expected.sessions
    assert seconds < END_SECONDS


def send(place: Lab, port: int, *paths: Path) -> list[Item]:
    """Send files from this process; return them."""
    items = [Item(path, path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    trusted = client_context((place.home / "ca2.pem").read_text(), client.PROTOCOLS)
    client.send(client.parse_target(f"{HOST}:{port}"), trusted, ("ana", PASSWORD), items, Silent(), Wishes())
    return items


def test_a_sender_makes_ready_while_its_login_is_verified(
    place: Lab, context2: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = threading.Event()
    monkeypatch.setattr(sending, "_prepare", ready.set)

    def answer(tls: ssl.SSLSocket, _received: list[bytes]) -> None:
        session = Session(tls, 1)
        session.hear(messages.Authenticate)
        assert ready.wait(20)
        session.say(messages.Refuse(0, "AUTH", ""))

    with TlsListener(context2, answer) as listener, pytest.raises(LoginRefusedError):
        send(place, listener.port, place.home / "small")
    assert ready.is_set()


def test_what_was_read_is_remembered_before_a_lost_connection_is_waited_for(
    place: Lab, context2: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And until the next one, nobody is kept from writing there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    found: list[int] = []

    def answer(tls: ssl.SSLSocket, _received: list[bytes]) -> None:
        session = Session(tls, len(found) + 1)
        if found:
            with contextlib.closing(sqlite3.connect(tmp_path / "securexfer/digests.db", timeout=0)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
                found.append(connection.execute("SELECT count(*) FROM digests").fetchone()[0])
        found.append(0)
        session.ready()
        session.takes("small" if found == [0] else "large")
        if found != [0]:
            session.say(messages.Summary(1, LARGE))

    with TlsListener(context2, answer) as listener:
        items = send(place, listener.port, place.home / "small", place.home / "large")
    assert found == [0, 1, 0]
    assert [item.outcome for item in items] == ["stored", "stored"]


def test_however_large_an_eager_file_may_be_only_small_ones_are_read_whole(
    place: Lab, context2: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that allows 4 GiB does not have the client hold that much; what is not small is offered first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(expecting, "FIRST_OFFERS", 1)
    sizes = {f"{number:02}": 1 for number in range(20)} | {"20": 256 << 10, "21": 257 << 10, "22": 3 << 20, "23": 1}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    eager: dict[str, bool] = {}

    def answer(tls: ssl.SSLSocket, _received: list[bytes]) -> None:
        session = Session(tls, 1)
        session.ready(eager=2**32 - 1)
        said: Any = None
        while not isinstance(said, messages.Finish):
            number, said = session.hear(messages.Offer, messages.Trailer, messages.Finish)
            if isinstance(said, messages.Trailer):
                session.say(messages.Committed("stored", 0, ""), number)
            elif isinstance(said, messages.Offer):
                eager[said.name] = bool(said.flags & messages.EAGER)
                if not eager[said.name]:
                    session.accept(number)
        session.say(messages.Summary(len(sizes), sum(sizes.values())))

    with TlsListener(context2, answer) as listener:
        items = send(place, listener.port, *(tmp_path / name for name in sizes))
    assert [item.outcome for item in items] == ["stored"] * len(sizes)
    # Before eight answers came, 15 files can have been offered.
    assert [name for name in sizes if int(name) >= 15 and not eager[name]] == ["21", "22"]
