"""A server whose clock is set while it runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from hostile.oracles import Oracles
from lab import PASSWORD, Lab

if TYPE_CHECKING:
    from pathlib import Path


def turnable_clock(setting: Path) -> dict[str, str]:
    """Return the variables that make a program take its time of day from a file; what it measures with stays true."""
    said = subprocess.run(
        ["faketime", "-m", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return {
        "LD_PRELOAD": said.stdout.strip(),
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.debian
@pytest.mark.skipif(not shutil.which("faketime"), reason="needs the package faketime")
@pytest.mark.parametrize("jump", ["+1d", "-1d"])
def test_D14_a_clock_that_jumps_by_a_day_ends_no_session_and_no_login(lab: Lab, tmp_path: Path, jump: str) -> None:
    setting = tmp_path / "clock"
    setting.write_text("+0\n")
    server = lab.serve(watched=True, **turnable_clock(setting))
    oracles = Oracles(lab, server)
    whole = stranger.file("under way", bytes(1000))
    login = stranger.login("carla", PASSWORD)
    with (
        stranger.connect(server.port, str(lab.ca), source="127.5.0.1") as sending,
        stranger.connect(server.port, str(lab.ca), source="127.5.0.2") as idle,
        stranger.connect(server.port, str(lab.ca), source="127.5.0.3") as logging_in,
    ):
        for tls, user in ((sending, "ana"), (idle, "davi")):
            assert stranger.log_in(tls, user, PASSWORD)
            tls.sendall(stranger.count(1))
        sending.sendall(whole[:500])
        logging_in.sendall(login[:200])
        setting.write_text(f"{jump}\n")
        time.sleep(2)
        owed = {sending: whole[500:], idle: stranger.file("x", b"x"), logging_in: login[200:] + stranger.count(0)}
        for part in (slice(20), slice(20, None)):  # so that the server waits again, for what it already waited for
            for tls, rest in owed.items():
                tls.sendall(rest[part])
            time.sleep(0.5)
        assert stranger.answers(sending, 1) == stranger.ACCEPTED
        assert stranger.answers(idle, 1) == stranger.ACCEPTED
        assert stranger.answers(logging_in, 1) == stranger.ACCEPTED
    oracles.check({"ana/under way": bytes(1000), "davi/x": b"x"})
    assert {event["reason"] for event in server.events("conn.close")} == {"done"}
    times = [datetime.fromisoformat(event["time"]) for event in server.events()]
    assert abs(times[-1] - times[0]) > timedelta(hours=23), "the clock did not jump"
