"""A real `send` in protocol 1 towards a server that is certified and means harm: no false success, hang or crash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile.listeners import HOST, Listener, TlsListener
from hostile.server import ANSWERS, Session
from lab import PASSWORD, SECUREXFER, Lab, environment

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

LARGE = 24 << 20  # more than the buffers on the way hold: its end is not sent before its middle was read
MAX_MEMORY = 100 << 10  # KiB; Python, TLS and the buffers of a `send` take about half
END_SECONDS = 30  # of the slowest, with time running faster where there is a deadline to wait for


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("hostile-server"), lab_source)
    (made.home / "small").write_bytes(b"small")
    (made.home / "large").write_bytes(os.urandom(LARGE))
    yield made
    made.close()


class Sent:
    """A `send` of a small file and a large one, to its end: what it said, with which exit code, and what it took."""

    def __init__(self, place: Lab, port: int, faster: int = 0) -> None:
        before = ["faketime", "-f", f"+0 x{faster}"] if faster else []
        out, err = place.home / "out", place.home / "err"
        started = time.monotonic()
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [
                    *before, SECUREXFER, "send", str(place.home / "small"), str(place.home / "large"),
                    f"ana@{HOST}:{port}", "--ca", str(place.home / "ca.pem"),
                    "--password-file", str(place.password_file), "--json", "--protocol", "1",
                ],
                stdin=subprocess.DEVNULL, stdout=to_out, stderr=to_err,
                env=environment(SECUREXFER_CONFIG=str(place.config)),
            )  # fmt: skip
            self.memory = 0  # the most that was seen, in KiB
            while process.poll() is None and time.monotonic() - started < 60:
                status = Path(f"/proc/{process.pid}/status").read_text()
                self.memory = max(self.memory, *map(int, re.findall(r"VmHWM:\s+(\d+)", status)), 0)
                time.sleep(0.02)
            process.kill()
        self.code = process.wait()
        self.seconds = time.monotonic() - started
        self.out, self.err = out.read_text(), err.read_text()

    @property
    def files(self) -> list[dict[str, Any]]:
        return [entry for entry in map(json.loads, self.out.splitlines()) if entry["event"] == "file"]

    def check(self, sessions: list[Session]) -> None:
        """No success but what was said, one word for each file, nothing that nobody can read, and not for ever."""
        assert [entry["name"] for entry in self.files] == ["small", "large"]
        for entry in self.files:
            if entry["status"] == "stored":
                told = any(session.has_said_stored(entry["name"]) for session in sessions)
                assert told, f"nobody said that {entry['name']} is stored"
        assert (self.code == 0) is all(entry["status"] == "stored" for entry in self.files)
        assert "Traceback" not in self.err
        assert PASSWORD not in self.out + self.err
        assert self.seconds < END_SECONDS
        assert 0 < self.memory < MAX_MEMORY


def faster(case: str) -> Any:
    """Mark a case for which time has to run faster."""
    missing = pytest.mark.skipif(not shutil.which("faketime"), reason="needs the package faketime")
    return pytest.param(case, marks=[pytest.mark.debian, missing] if ANSWERS[case].faster else [])


@pytest.mark.parametrize("case", [faster(case) for case in ANSWERS])
def test_T19_T21_C01_success_is_only_what_the_server_said_for_that_file(
    place: Lab, context: ssl.SSLContext, case: str
) -> None:
    expected = ANSWERS[case]
    sessions: list[Session] = []
    over = threading.Event()

    def answer(tls: ssl.SSLSocket, _received: list[bytes]) -> None:
        sessions.append(Session(tls, len(sessions) + 1, over))
        expected.answer(sessions[-1])

    with TlsListener(context, answer) as listener:
        sent = Sent(place, listener.port, expected.faster)
        over.set()
    sent.check(sessions)
    assert sent.code == expected.code, sent.err
    if expected.code == 7:
        assert [entry["status"] == "stored" for entry in sent.files] == [True, False]
    # Once more for what was left when one had ended; a busy server is asked for a minute.
    assert len(sessions) <= (20 if expected.code == 75 else 2)


def alert(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"\x15\x03\x03\x00\x02\x01\x00" * 1000)  # close_notify, as a warning, for ever


def records_of_nothing(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"\x17\x03\x03\x00\x00" * 1000)


def a_handshake_without_end(sock: socket.socket) -> None:
    sock.sendall(b"\x16\x03\x03\x40\x00\x0b\xff\xff\xff" + bytes(0x3FFC))
    while True:
        sock.sendall(b"\x16\x03\x03\x40\x00" + bytes(0x4000))


def noise(sock: socket.socket) -> None:
    while True:
        sock.sendall(os.urandom(1 << 16))


@pytest.mark.parametrize("flood", [alert, records_of_nothing, a_handshake_without_end, noise])
def test_T22_a_flood_instead_of_a_handshake_is_left_at_once(place: Lab, context: ssl.SSLContext, flood: Any) -> None:
    with Listener(flood) as listener:
        sent = Sent(place, listener.port)
        assert listener.count == 1
    sent.check([])
    assert sent.code == 3, sent.err
