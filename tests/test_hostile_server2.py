"""A real `send` in protocol 2 towards a server that is certified and means harm: no false success, hang or crash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from hostile.listeners import HOST, TlsListener
from hostile.server2 import ANSWERS, Session
from lab import PASSWORD, SECUREXFER, Lab, environment

from securexfer.transfer.digests import DigestCache, clock_ns

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

    with DigestCache(tmp_path / "securexfer/digests.db") as digests:
        for path in (place.home / "small", place.home / "large") if expected.claims else ():
            digests.add(path.stat(), hashlib.sha256(path.read_bytes()).digest(), clock_ns() + 10**10)
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
