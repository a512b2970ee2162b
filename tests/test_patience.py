"""Deadlines as they are, in real time: who is slow on purpose is ended by them, and who is honestly slow is not.

Everything here takes a minute and more, so all of it happens at the same time, in one test.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import stranger_client as stranger
from hostile import client as kit
from hostile.chaos import Detour
from hostile.oracles import Oracles
from lab import PASSWORD, SECUREXFER, Lab, Server, environment

if TYPE_CHECKING:
    from pathlib import Path

SLOW_LINK = 64 << 10  # bytes a second
# The rate is looked at over a minute, so it has to be longer than that. SECUREXFER_SLOW_LINK=180 for three minutes.
SLOW_SECONDS = int(os.environ.get("SECUREXFER_SLOW_LINK", "75"))
DRIP_SECONDS = 5.0
# When somebody who says a byte every five seconds is ended, in each field: the whole field, or login, or header,
# has its time; content has a grace of half a minute, after which its rate counts.
DEADLINES = {"user": 10, "password": 10, "count": 30, "name": 30, "size": 30, "content": 30, "digest": 30}
LATE_SECONDS = 8  # a drip, and what a busy machine needs


def drip(lab: Lab, server: Server, field: str, source: str) -> float:
    """Say all up to a field at once, and from there on a byte now and then; return the seconds until it was ended."""
    begin, end = kit.field_at(field)
    said = kit.conversation("eva", PASSWORD)
    with stranger.connect(server.port, str(lab.ca), source=source) as tls:
        tls.sendall(said[:begin])
        heard = (begin >= 256) + (begin >= kit.field_at("first file")[1])
        assert stranger.answers(tls, heard) == kit.YES * heard
        started = time.monotonic()
        pause = max(DRIP_SECONDS, 40 / (end - begin))  # a count has four bytes only
        for byte in said[begin:end]:
            if select.select([tls], [], [], pause)[0]:
                break
            tls.sendall(bytes([byte]))
        else:
            raise AssertionError(f"nobody ended a {field} that trickles")
        took = time.monotonic() - started
        assert stranger.rest(tls) == b""
        return took


def start(lab: Lab, path: Path, port: int, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            SECUREXFER, "send", str(path), f"ana@localhost:{port}", "--ca", str(lab.ca),
            "--password-file", str(lab.password_file), "--quiet", *options,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(SECUREXFER_CONFIG=str(lab.config)),
    )  # fmt: skip


def slow_link(lab: Lab, server: Server) -> tuple[int, str, float]:
    """Send through a slow link; return the exit code, what was said, and the seconds it took."""
    path = lab.home / "slow"
    path.write_bytes(os.urandom(SLOW_LINK * SLOW_SECONDS))
    started = time.monotonic()
    with Detour(server.port, rate=SLOW_LINK, source="127.3.0.1") as way, start(lab, path, way.port) as process:
        _, err = process.communicate(timeout=2 * SLOW_SECONDS + 60)
    return process.returncode, err, time.monotonic() - started


def vanish(lab: Lab, server: Server) -> tuple[int, str, float]:
    """Stop a sender in the middle of its file; return its exit code when it goes on, and when it was ended."""
    path = lab.home / "stopped"
    path.write_bytes(os.urandom(32 << 20))
    with (
        Detour(server.port, hold_after=4 << 20, source="127.3.0.2") as way,
        start(lab, path, way.port, "--protocol", "1") as process,  # which does not try again
    ):
        assert way.held.wait(30)
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        deadline = started + 45
        ended = []
        while not ended and time.monotonic() < deadline:
            time.sleep(0.5)
            ended = [event for event in server.events("conn.close") if event["address"] == "127.3.0.2"]
        took = time.monotonic() - started
        way.release()
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert ended, "a sender that has vanished was not ended"
    return process.returncode, ended[0]["reason"], took


def test_F16_F17_T25_deadlines_end_who_is_slow_on_purpose_and_leave_a_slow_link_alone(lab: Lab) -> None:
    server = lab.serve(watched=True)
    oracles = Oracles(lab, server)
    sources = {field: f"127.3.1.{number}" for number, field in enumerate(DEADLINES, 1)}
    with ThreadPoolExecutor(len(DEADLINES) + 2) as pool:
        slow = pool.submit(slow_link, lab, server)
        vanished = pool.submit(vanish, lab, server)
        drips = {field: pool.submit(drip, lab, server, field, source) for field, source in sources.items()}
        took = {field: result.result() for field, result in drips.items()}
        code, reason, seconds = vanished.result()
        assert (code, reason) == (6, "TIMEOUT")
        assert 28 < seconds < 45
        oracles.honest_transfer()  # while the slow one goes on
        code, err, seconds = slow.result()
        assert code == 0, err
        assert seconds > 0.9 * SLOW_SECONDS
        late = {field: took[field] for field in took if not 0 <= took[field] - DEADLINES[field] + 1 <= LATE_SECONDS}
        assert not late
        ends = {event["address"]: event["reason"] for event in server.events("conn.close")}
        assert {ends[source] for source in sources.values()} == {"TIMEOUT"}
        oracles.check({"ana/slow": (lab.home / "slow").read_bytes()})
        assert lab.stored() == {"slow": (lab.home / "slow").read_bytes()}
