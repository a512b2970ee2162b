"""What a client of protocol 2 can make a server hold, and for how long: bounded, whatever it says and does not read."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from hostile import speaking
from hostile.oracles import Oracles, settle
from hostile.speaking import ALIVE, FINISH, Speaker, data, eager, offer, put, start, trailer
from lab import PASSWORD, Lab, Server

from securexfer.transfer.groups import GROUP_FILES
from securexfer.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 40_000
MAX_GROWTH = 24 << 10  # KiB of memory, for a session that nobody reads from: its buffers, and a window of small files
CONTENT = bytes(5000)


@pytest.fixture
def hasty(program: Callable[[str], None]) -> None:
    """Make the servers impatient: the constants are minutes together, and what is tested is that they are kept."""
    program(f"""#!{sys.executable}
import sys
from securexfer.net import connection, payload
from securexfer.transfer import patience
payload.RATE_GRACE_SECONDS = 1.0
payload.RATE_WINDOW_SECONDS = 2.0
patience.SECONDS = 4.0
connection.DRAIN_SECONDS = 0.5
sys.argv += "--login-timeout 1.5 --idle-timeout 1.5".split()
from securexfer.cli import main
main()
""")


def begin(speaker: Speaker) -> messages.Accept:
    speaker.say(offer(1, "x", len(CONTENT)))
    accept = speaker.until(messages.Accept)
    assert isinstance(accept, messages.Accept)
    return accept


# What is said at once, and what comes a byte at a time after it.
def slow_login(speaker: Speaker) -> bytes:
    return speaking.authenticate("ana", PASSWORD)


def slow_request(speaker: Speaker) -> bytes:
    slow_login_at_once(speaker)
    return put()


def slow_login_at_once(speaker: Speaker) -> None:
    speaker.say(speaking.authenticate("ana", PASSWORD))
    speaker.until(messages.Welcome)


def at_ready(speaker: Speaker) -> None:
    slow_login_at_once(speaker)
    speaker.say(put())
    speaker.until(messages.Ready)


def slow_offer(speaker: Speaker) -> bytes:
    at_ready(speaker)
    return offer(1, "x", len(CONTENT))


def slow_start(speaker: Speaker) -> bytes:
    at_ready(speaker)
    return start(1, b"", begin(speaker).nonce)


def slow_header_of_payload(speaker: Speaker) -> bytes:
    at_ready(speaker)
    speaker.say(start(1, b"", begin(speaker).nonce))
    return data(1, CONTENT)[:8]


def slow_payload(speaker: Speaker) -> bytes:
    at_ready(speaker)
    speaker.say(start(1, b"", begin(speaker).nonce), data(1, CONTENT)[:8])
    return CONTENT


def slow_trailer(speaker: Speaker) -> bytes:
    at_ready(speaker)
    speaker.say(start(1, b"", begin(speaker).nonce), data(1, CONTENT))
    return trailer(1, CONTENT)


def slow_finish(speaker: Speaker) -> bytes:
    at_ready(speaker)
    return FINISH


PHASES = (
    slow_login,
    slow_request,
    slow_offer,
    slow_start,
    slow_header_of_payload,
    slow_payload,
    slow_trailer,
    slow_finish,
)


@pytest.mark.usefixtures("hasty")
def test_F16_a_trickle_is_ended_in_every_message_and_in_payload(lab: Lab) -> None:
    """1.5 s for a message, however its bytes come, and for payload a rate, in this impatient server."""
    server = lab.serve()

    def drip(begin_slowly: Callable[[Speaker], bytes]) -> tuple[float, list[str]]:
        with speaking.connect(server.port, lab.ca) as speaker:
            slow = begin_slowly(speaker)
            started = time.monotonic()
            for byte in slow:
                if select.select([speaker.tls], [], [], max(0.1, 6 / len(slow)))[0]:
                    break
                speaker.say(bytes([byte]))
            took = time.monotonic() - started
            return took, [message.reason for _, message in speaker.rest()]

    with ThreadPoolExecutor(len(PHASES)) as pool:
        found = dict(zip(PHASES, pool.map(drip, PHASES), strict=True))
    for phase, (took, said) in found.items():
        assert 1 < took < 5.5, (phase.__name__, took)
        assert said in (["TIMEOUT"], [] if phase is slow_login else ["TIMEOUT"]), phase.__name__
    assert {event["reason"] for event in server.events("conn.close")} == {"TIMEOUT"}
    assert {event["reason"] for event in server.events("file.abort")} == {"TIMEOUT"}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("pause", [0.3, 0.0])
def test_F16_signs_of_life_put_the_end_off_for_a_while_only(lab: Lab, pause: float) -> None:
    """Now and then, and without a pause, so that the server always has something to read."""
    server = lab.serve()
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 15 and not server.events("conn.close"):
                speaker.say(ALIVE * (1 if pause else 4096))
                time.sleep(pause)
        took = time.monotonic() - started
    assert server.wait_for("conn.close")["reason"] == "TIMEOUT"
    assert 2.5 < took < 12


def test_F05_F23_answers_that_nobody_reads_cost_the_server_a_bounded_amount_and_end_the_session(lab: Lab) -> None:
    """40 000 small files, nearly all with names that get a long answer; and others are served meanwhile."""
    server = lab.serve("--idle-timeout", "4", watched=True)
    oracles = Oracles(lab, server)
    before = server.status("VmRSS")
    peak, honest = before, False
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD, "127.13.0.1") as speaker:
        speaker.tls.settimeout(15)
        with contextlib.suppress(OSError):
            for first in range(1, MANY, 100):
                said = [
                    eager(number, f"many/{number}" if number % 100 == 0 else "../" + "x" * 1500, b"x")
                    for number in range(first, first + 100)
                ]
                speaker.say(*said)
                peak = max(peak, server.status("VmRSS"))
                if not honest and first > MANY // 10:
                    oracles.honest_transfer()
                    honest = True
                time.sleep(0.005)
        assert honest
        settle(lambda: bool(ends(server)), 30)
        peak = max(peak, server.status("VmRSS"))
    assert ends(server) == ["TIMEOUT"]
    assert len(server.events("file.reject")) < MANY * 3 // 4  # it has not read on while the answers pile up
    assert peak - before < MAX_GROWTH
    oracles.check()


def ends(server: Server) -> list[str]:
    return [event["reason"] for event in server.events("conn.close") if event["address"] == "127.13.0.1"]


def test_F07_what_is_announced_costs_nothing_before_it_comes(lab: Lab) -> None:
    """A window of offers, of 2^40 bytes each, and one of them begun: neither memory nor disk is set aside for them."""
    server = lab.serve("--reserve", "1M", "--quota", "4T", watched=True)
    before = server.status("VmRSS")
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        for number in range(1, 1001):
            speaker.say(offer(number, f"f{number}", 1 << 40))
        answers = [speaker.until(messages.Accept, messages.Refuse) for _ in range(1000)]
        assert answers
        assert server.status("VmRSS") - before < MAX_GROWTH
        stranger.leave_by_reset(speaker.tls)
    assert lab.stored() == {}


def test_what_is_durable_is_answered_for_although_more_keeps_coming(lab: Lab) -> None:
    """Else a client that never pauses fills its window, and stands still until all of that is taken."""
    server = lab.serve()
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        speaker.say(*(eager(number, f"f{number}", b"x") for number in range(1, GROUP_FILES + 1)))
        until = time.monotonic() + 10
        while not select.select([speaker.tls], [], [], 0)[0]:
            assert time.monotonic() < until, "no answer while more came"
            speaker.say(ALIVE * 8192)  # more than the server has read, and so it always has something to read
        assert speaker.until(messages.Committed).outcome == "stored"
