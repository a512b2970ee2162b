"""examples/send_one.py, written from docs/PROTOCOL.md alone, against a running server."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from lab import PASSWORD, Lab, Server, fresh_source
from vectors.speaking import Step

from securexfer.storage import partials

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).parent.parent / "examples" / "send_one.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[tuple[Lab, Server]]:
    """Return a lab and its server, for all tests together."""
    lab = Lab(tmp_path_factory.mktemp("example"), lab_source)
    server = lab.serve("--largest-file", "4M")
    yield lab, server
    lab.close()
    assert "Traceback" not in server.log_path.read_text()


def send(
    place: tuple[Lab, Server], path: Path, *more: str, password: str = PASSWORD, user: str = "ana"
) -> subprocess.CompletedProcess[str]:
    lab, server = place
    return subprocess.run(
        [sys.executable, str(PROGRAM), "localhost", str(server.port), str(lab.ca), user, str(path), *more],
        input=f"{password}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_example_is_short_and_knows_the_standard_library_alone() -> None:
    source = PROGRAM.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 150
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (3 << 20) + 7])
def test_a_file_is_stored_with_its_time_and_its_x_bit(place: tuple[Lab, Server], tmp_path: Path, size: int) -> None:
    path = tmp_path / f"{size}.dat"
    path.write_bytes(os.urandom(size))
    path.chmod(0o700 if size else 0o600)
    os.utime(path, ns=(0, 1_234_567_890_987_654_321))
    done = send(place, path, "runs/first")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"stored '{size}.dat', 0 of {size} bytes were there\n"
    stored = place[0].inbox / "ana" / "runs" / "first" / path.name
    assert stored.read_bytes() == path.read_bytes()
    assert stored.stat().st_mtime_ns == 1_234_567_890_987_654_321
    assert stored.stat().st_mode & 0o777 == (0o700 if size else 0o600)

    again = send(place, path, "runs/first")
    assert again.stdout == f"unchanged '{size}.dat', {size} of {size} bytes were there\n"


def begun(place: tuple[Lab, Server], name: str, content: bytes, mtime_ns: int, sent: int) -> None:
    """Send the beginning of a file, and lose the connection."""
    lab, server = place
    with stranger.connect(server.port, str(lab.ca), source=fresh_source(), alpn="securexfer/2") as tls:

        def say(message: str, transfer: int = 0, payload: bytes = b"", **fields: object) -> None:
            tls.sendall(Step(heard=False, message=message, transfer=transfer, fields=fields, payload=payload).frame({}))

        def hear() -> bytes:
            return stranger.answers(tls, int.from_bytes(stranger.answers(tls, 4)[1:], "big") + 4)[4:]

        say("Authenticate", user="ana", secret=PASSWORD)
        hear()
        say("Put", send_id=os.urandom(16))
        hear()
        say("Offer", 1, name=name, size=len(content), mtime_ns=mtime_ns)
        nonce = hear()[8:]
        say("Start", 1, proof=hashlib.sha256(nonce + hashlib.sha256(b"").digest()).digest())
        for start in range(0, sent, 1 << 19):
            say("Data", 1, content[start : min(start + (1 << 19), sent)])
        staging = lab.inbox / ".securexfer-staging"
        deadline = time.monotonic() + 10
        while sum(path.stat().st_size for path in staging.iterdir()) < sent and time.monotonic() < deadline:
            time.sleep(0.02)
    server.wait_for("file.abort", len(server.events("file.abort")) or 1)
    time.sleep(0.1)


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_was_broken_off_is_gone_on_with_if_the_beginning_is_the_same(
    place: tuple[Lab, Server], tmp_path: Path, same: bool
) -> None:
    content = os.urandom(3 << 20)
    path = tmp_path / f"broken-off-{same}"
    path.write_bytes(content)
    other = content if same else bytes([content[0] ^ 1]) + content[1:]
    sent = (2 << 20) + 11
    begun(place, path.name, other, path.stat().st_mtime_ns, sent)
    assert not (place[0].inbox / "ana" / path.name).exists()

    done = send(place, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"stored '{path.name}', {sent if same else 0} of {3 << 20} bytes were there\n"
    assert (place[0].inbox / "ana" / path.name).read_bytes() == content
    assert sent > partials.MIN_SIZE


def test_a_refusal_is_told_with_its_reason_and_the_session_ends_in_order(
    place: tuple[Lab, Server], tmp_path: Path
) -> None:
    path = tmp_path / "taken"
    path.write_bytes(b"mine")
    assert send(place, path).returncode == 0
    for content, reason in ((b"yours", "EXISTS"), (b"ours", "EXISTS"), (bytes((4 << 20) + 1), "LIMIT")):
        path.write_bytes(content)
        done = send(place, path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"refused: {reason} " in done.stderr
        closed = place[1].events("conn.close")[-1]
        assert closed["reason"] == "done", closed
    assert (place[0].inbox / "ana" / "taken").read_bytes() == b"mine"


def test_a_login_or_a_directory_that_is_refused_is_told(place: tuple[Lab, Server], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    done = send(place, path, password="not the password")
    assert (done.returncode, done.stdout) == (1, "")
    assert "refused: AUTH " in done.stderr
    done = send(place, path, "../elsewhere")
    assert "refused: NAME " in done.stderr
    assert "Traceback" not in done.stderr
    assert send(place, tmp_path / "missing").returncode == 1
