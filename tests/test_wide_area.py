"""The long line of benchmarks and tests is as long, as lossy and as narrow as was asked for, and leaves nothing."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(
    not Path("/dev/net/tun").exists() or not shutil.which("ip") or not shutil.which("nsenter"),
    reason="needs Linux with /dev/net/tun, and the programs ip and nsenter",
)

PORT = 5002
LISTEN = f"""
import hashlib, socket, time
listener = socket.create_server(("", {PORT}))
print(flush=True)
connection, _ = listener.accept()
"""
ECHO = LISTEN + "while got := connection.recv(100): connection.sendall(got)"
DIGEST = LISTEN + "print(hashlib.file_digest(connection.makefile('rb'), 'sha256').hexdigest())"
SO_RCVBUFFORCE = 33  # socket(7); not in Python's socket module
COUNT = f"""
import socket
taken, received = socket.socket(type=socket.SOCK_DGRAM), 0
taken.bind(("", {PORT}))
taken.setsockopt(socket.SOL_SOCKET, {SO_RCVBUFFORCE}, 1 << 24)
print(flush=True)
try:
    while taken.recv(2000):
        received += 1
        taken.settimeout(1)
except TimeoutError:
    print(received)
"""

CONNECT = f"""
import hashlib, os, socket, sys, time
connection = socket.create_connection((sys.argv[1], {PORT}), 30)
"""
ROUND_TRIPS = (
    CONNECT
    + """
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for _ in range(10):
    started = time.monotonic()
    connection.sendall(b"x")
    connection.recv(1)
    print(time.monotonic() - started)
"""
)
CONTENT = (
    CONNECT
    + """
content, started = os.urandom(int(sys.argv[2])), time.monotonic()
connection.sendall(content)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(hashlib.sha256(content).hexdigest(), time.monotonic() - started)
"""
)
DATAGRAMS = f"""
import socket, sys, time
with socket.socket(type=socket.SOCK_DGRAM) as sending:
    for number in range(int(sys.argv[2])):
        sending.sendto(bytes(1000), (sys.argv[1], {PORT}))
        if number % 50 == 0: time.sleep(0.001)
"""


class Ends:
    """A program at the far end that waits, and one at the near end that talks to it."""

    def __init__(self, wan: Any) -> None:
        self.wan = wan

    def run(self, far: str, near: str, *arguments: object) -> tuple[str, str]:
        """Return what both print."""
        network = self.wan.network
        with subprocess.Popen(
            [*network.at_server, sys.executable, "-c", far], stdout=subprocess.PIPE, text=True
        ) as waiting:
            assert waiting.stdout
            waiting.stdout.readline()
            talking = [*network.at_client, sys.executable, "-c", near, network.host, *map(str, arguments)]
            said = subprocess.run(talking, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
            return waiting.stdout.read(), said


@pytest.fixture
def line(bench_module: Callable[[str], Any]) -> Iterator[Callable[..., Ends]]:
    """Put up a line with these options; it goes with the test."""
    wide_area = bench_module("wide_area")
    with contextlib.ExitStack() as stack:
        yield lambda **options: Ends(stack.enter_context(wide_area.wide_area(wide_area.Line(**options))))


@pytest.mark.root
@pytest.mark.debian
@pytest.mark.parametrize("rtt", [0.0, 0.04])
def test_a_round_trip_takes_as_long_as_was_asked_for(line: Callable[..., Ends], rtt: float) -> None:
    _, said = line(rtt=rtt).run(ECHO, ROUND_TRIPS)
    least = min(map(float, said.split()))
    assert rtt <= least < rtt + 0.02


@pytest.mark.root
@pytest.mark.debian
def test_the_share_that_was_asked_for_is_lost_and_counted_and_a_seed_gives_it_again(
    line: Callable[..., Ends],
) -> None:
    lost = []
    for seed in (7, 7, 8):
        ends = line(loss=0.1, seed=seed)
        received, _ = ends.run(COUNT, DATAGRAMS, 2000)
        there, back = ends.wan.counts()
        assert there.packets == 2000 == int(received) + there.lost
        assert back.packets == there.dropped == 0
        lost.append(there.lost)
    assert all(140 <= each <= 260 for each in lost), "a tenth of 2000, give or take four standard deviations"
    assert lost[0] == lost[1] != lost[2]


@pytest.mark.root
@pytest.mark.debian
def test_content_survives_losses_that_are_cut_out_of_what_linux_hands_over_at_once(line: Callable[..., Ends]) -> None:
    ends = line(loss=0.02, rtt=0.001)
    digest, said = ends.run(DIGEST, CONTENT, 5_000_000)
    assert digest.strip() == said.split()[0]
    there, _ = ends.wan.counts()
    assert there.lost > 20
    assert there.packets >= 5_000_000 / (1500 - 40) + there.lost, "what was lost was sent once more"


@pytest.mark.root
@pytest.mark.debian
@pytest.mark.parametrize("queue", [20_000, 10_000_000])
def test_a_rate_holds_and_content_survives_a_full_queue(line: Callable[..., Ends], queue: int) -> None:
    ends = line(rate=2_000_000, queue=queue)
    digest, said = ends.run(DIGEST, CONTENT, 2_000_000)
    sent, seconds = said.split()
    assert digest.strip() == sent
    assert float(seconds) >= 0.9
    there, _ = ends.wan.counts()
    assert (there.dropped > 0) == (queue < 2_000_000)
    assert there.lost == 0


@pytest.mark.root
@pytest.mark.debian
def test_a_line_goes_with_who_put_it_up_even_if_they_are_killed(bench_module: Callable[[str], Any]) -> None:
    wide_area = bench_module("wide_area")
    script = (
        f"import sys, time; sys.path.insert(0, {str(Path(wide_area.__file__).parent)!r})\n"
        "from wide_area import Line, wide_area\n"
        "with wide_area(Line()) as wan: print(wan.relay.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        relay = Path("/proc", owner.stdout.readline().strip())
        assert relay.name.isdigit()
        assert relay.exists()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while relay.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not relay.exists()


@pytest.mark.ordinary
def test_without_root_the_reason_is_said(bench_module: Callable[[str], Any]) -> None:
    wide_area, measuring = bench_module("wide_area"), bench_module("measuring")
    with pytest.raises(measuring.BenchError, match="no wide area network can be made here"):
        wide_area.wide_area(wide_area.Line()).__enter__()
