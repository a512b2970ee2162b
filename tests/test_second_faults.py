"""`send` in protocol 2 when something happens: cut, killed, shut down, taken over. It goes on from where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hostile import chaos
from hostile.certificates import make_ca, make_leaf
from hostile.chaos import UP, Chaos, Fault
from hostile.listeners import TlsListener
from hostile.oracles import settle
from lab import SECUREXFER, Lab, Server, environment

from securexfer.wire import messages

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
SIZE = 48 * MIB
STAGING = ".securexfer-staging"


def start(lab: Lab, port: int, path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            SECUREXFER, "send", str(path), f"ana@localhost:{port}", "--ca", str(lab.ca),
            "--password-file", str(lab.password_file), "--json", *options,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(SECUREXFER_CONFIG=str(lab.config), XDG_CACHE_HOME=str(lab.home / "cache")),
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    out, err = process.communicate(timeout=90)
    assert "Traceback" not in err
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def visible(lab: Lab) -> list[str]:
    place = lab.inbox / "ana"
    return sorted(str(path.relative_to(place)) for path in place.rglob("*")) if place.exists() else []


def partial(lab: Lab) -> int:
    """Return how many bytes of files that came in part there are."""
    place = lab.inbox / STAGING
    return sum(path.stat().st_size for path in place.iterdir()) if place.exists() else 0


@pytest.fixture
def large(lab: Lab) -> Path:
    path = lab.home / "large"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("cut", [chaos.cut_by_rst, chaos.cut_by_fin])
def test_C04_T19_T20_a_send_that_is_cut_goes_on_from_what_is_there(lab: Lab, large: Path, cut: Any) -> None:
    server = lab.serve()
    with Chaos(server.port, Fault(cut, UP, SIZE // 2)) as way:
        code, (entry, _), err = ended(start(lab, way.port, large))
        assert way.used == 2
    assert code == 0, err
    assert entry["status"] == "stored"
    assert entry["resumed"] > SIZE // 4
    assert lab.stored() == {"large": large.read_bytes()}


def test_C04_a_file_that_takes_the_place_of_another_goes_on_as_well(lab: Lab, large: Path) -> None:
    """Of the same size, so that the server has to be told twice that it has something else."""
    server = lab.serve()
    (lab.inbox / "ana").mkdir(mode=0o700)
    (lab.inbox / "ana/large").write_bytes(bytes(SIZE))
    with Chaos(server.port, Fault(chaos.cut_by_rst, UP, SIZE // 2)) as way:
        code, (entry, _), err = ended(start(lab, way.port, large, "--on-conflict", "replace"))
        assert way.used == 2
    assert code == 0, err
    assert entry["status"] == "replaced"
    assert entry["resumed"] > SIZE // 4
    assert lab.stored() == {"large": large.read_bytes()}


def test_C04_without_retries_a_cut_is_the_end_and_the_next_send_goes_on(lab: Lab, large: Path) -> None:
    server = lab.serve()
    with Chaos(server.port, Fault(chaos.cut_by_rst, UP, SIZE // 2)) as way:
        code, (entry, _), _ = ended(start(lab, way.port, large, "--retries", "0"))
        assert way.used == 1
    assert (code, entry["status"]) == (6, "failed")
    assert visible(lab) == []
    settle(lambda: bool(server.events("file.abort")), 10)
    assert partial(lab) > SIZE // 4
    settle(lambda: False, 5.5)  # until the partial file is nobody's
    code, (entry, _), err = ended(start(lab, server.port, large))
    assert code == 0, err
    assert entry["resumed"] > SIZE // 4
    assert lab.stored() == {"large": large.read_bytes()}


def test_C04_T05_who_answers_at_the_next_try_has_to_be_the_same(lab: Lab, large: Path) -> None:
    """Another CA's server behind the same port: not a byte is sent to it, and it is not tried again."""
    server = lab.serve()
    context = make_leaf(make_ca()).context(lab.home, messages.ALPN)
    with (
        TlsListener(context) as impostor,
        Chaos(server.port, Fault(chaos.cut_by_rst, UP, SIZE // 2)) as way,
    ):
        sending = start(lab, way.port, large)
        assert way.struck.wait(30)
        way._to = impostor.port
        code, (entry, _), err = ended(sending)
        assert impostor.received == []
        assert impostor.count == 1
    assert code == 3, err
    assert "is not signed by the given CA" in entry["detail"]
    assert visible(lab) == []


# -- shutdown ----------------------------------------------------------------------------------------------------


def serve_at(lab: Lab, port: int, *options: str) -> Server:
    return lab.serve("--port", str(port), *options)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.mark.parametrize("grace", ["20", "0.5"])
def test_F24_a_file_under_way_is_finished_or_kept_and_the_send_ends_at_the_next_server(
    lab: Lab, large: Path, grace: str
) -> None:
    """With time enough the file is stored before the server ends; without, its beginning is there for the next one."""
    port = free_port()
    tree = lab.home / "tree"
    tree.mkdir()
    shutil.move(large, tree / "large")
    (tree / "small").write_bytes(b"small")
    server = serve_at(lab, port, "--grace", grace)
    sending = start(lab, port, tree, "--limit", "16M", "--retries", "10")
    settle(lambda: partial(lab) > 8 * MIB, 30)
    assert visible(lab) in ([], ["tree"], ["tree", "tree/small"])
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    if grace == "20":
        assert (lab.inbox / "ana/tree/large").stat().st_size == SIZE
        assert "SHUTDOWN" in {event["reason"] for event in server.events("conn.close")} | {"SHUTDOWN"}
    else:
        assert not (lab.inbox / "ana/tree/large").exists()
        assert 8 * MIB < partial(lab) < SIZE
    serve_at(lab, port)
    code, entries, err = ended(sending)
    assert code == 0, err
    found = {entry["name"]: entry for entry in entries if entry["event"] == "file"}
    assert found["tree/large"]["status"] in {"stored", "unchanged"}
    assert (found["tree/large"].get("resumed", 0) > 8 * MIB) is (grace != "20")
    assert set(visible(lab)) == {"tree", "tree/large", "tree/small"}
    assert lab.stored()["tree/large"] == (tree / "large").read_bytes()


# -- kill -9 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["client", "server", "both"])
def test_D12_F24_after_a_kill_in_the_middle_the_next_send_ends_stored_and_sends_little_twice(
    lab: Lab, large: Path, victim: str
) -> None:
    """tests/kill.py does this many times, at random moments; here it is once for each side."""
    port = free_port()
    server = serve_at(lab, port)
    sending = start(lab, port, large, "--limit", "24M", "--retries", "0")
    settle(lambda: partial(lab) > SIZE // 2, 30)
    if victim != "server":
        sending.kill()
    if victim != "client":
        server.process.kill()
        server.process.wait()
    sending.communicate(timeout=60)
    assert visible(lab) == []
    was_there = partial(lab)
    assert was_there > SIZE // 2
    if victim != "client":
        server = serve_at(lab, port)
    settle(lambda: False, 5.5)  # until the partial file is nobody's
    code, (entry, _), err = ended(start(lab, port, large))
    assert code == 0, err
    assert entry["resumed"] >= was_there - 0.05 * SIZE
    assert lab.stored() == {"large": large.read_bytes()}
