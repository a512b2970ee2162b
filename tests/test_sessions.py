"""A session between its files: it ends at once when the server stops, says how many came, holds little open."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import stranger_client as stranger
from lab import PASSWORD

if TYPE_CHECKING:
    from lab import Lab, Server


def session(lab: Lab, server: Server, announced: int) -> stranger.Tls:
    """Return a session in which so many files were announced and one was stored."""
    tls = stranger.connect(server.port, str(lab.ca))
    assert stranger.log_in(tls, "ana", PASSWORD)
    tls.sendall(stranger.count(announced) + stranger.file("first", b"1"))
    assert stranger.answers(tls, 1) == stranger.ACCEPTED
    return tls


def test_F24_a_session_between_two_files_does_not_hold_the_end_up(lab: Lab) -> None:
    server = lab.serve("--grace", "60")
    with session(lab, server, 2) as tls:
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 8  # five of them for a client that does not close
        assert stranger.rest(tls) == b""  # the end came in order
    assert server.events("conn.close")[-1]["reason"] == "SHUTDOWN"


def test_F03_the_log_says_how_many_of_the_announced_files_came(lab: Lab) -> None:
    server = lab.serve()
    with session(lab, server, 3) as tls:
        stranger.leave_in_order(tls)
    aborted = server.wait_for("file.abort")
    assert aborted["reason"] == "SHORT-COUNT"
    assert aborted["detail"].startswith("1 of 3 files came")
    assert set(lab.stored()) == {"first"}


def test_F20_deep_names_hold_few_directories_open(lab: Lab) -> None:
    server = lab.serve(watched=True)
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        files = [(f"{number}/" + "d/" * 55 + "f", b"") for number in range(60)]
        tls.sendall(stranger.count(len(files)))
        most = 0
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        tls.sendall(b"".join(stranger.file(*each) for each in files))
        while len(lab_files := list(lab.inbox.rglob("f"))) < len(files):
            most = max(most, sum(1 for _ in descriptors.iterdir()))
        assert stranger.answers(tls, len(files)) == stranger.ACCEPTED * len(files)
    assert len(lab_files) == len(files)
    assert most < 400
