"""Two hosts on this machine and a long line between them: network namespaces, joined by a relay that delays and loses.

The relay is this file, run as a process of its own. It makes both namespaces, holds them by descriptors and moves
packets between a TUN device in each. It ends with whoever started it, and then nothing of them is left but what still
runs inside. The devices have an MTU of 1500, and TCP segmentation offload: Linux hands over up to 64 KiB at once, with
the size of the packets it stands for. They are counted, lost and limited as those packets; what was lost is cut out.
Only IPv4. Needs root, /dev/net/tun, `ip` and `nsenter`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import math
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError, stop
from serving import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

SUBNET, NEAR, FAR = (
    "10.84.0.0/24",
    "10.84.0.1",
    "10.84.0.2",
)  # the client's address and the server's; nobody outside can see them
MTU = 1500

# From linux/if_tun.h, linux/virtio_net.h and linux/sched.h.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
VIRTIO = struct.Struct("=BBHHHH")  # flags, kind of segmentation, header length, segment size, two places of a checksum
GSO_NONE, GSO_TCPV4 = 0, 1
CLONE_NEWNET = 0x40000000

LARGEST = VIRTIO.size + 65535
READ_AHEAD = 64  # packets taken from one device before the other side and what is due get their turn
# The kernel's own defaults (tcp(7)), so that a line is the same one on machines that are tuned in different ways.
CONGESTION_CONTROL = "cubic"
SETTINGS = {
    "net/ipv4/tcp_rmem": "4096 131072 6291456",
    "net/ipv4/tcp_wmem": "4096 16384 4194304",
    "net/ipv6/conf/all/disable_ipv6": "1",
}
DEVICE_QUEUE = 10_000  # packets; Linux's 500 are too few for what TCP sends at once over a long line
FIN_AND_PUSH = 0x09


@dataclass(frozen=True, slots=True)
class Line:
    """What a line is like, the same both ways."""

    rtt: float = 0.0  # seconds there and back, at least
    loss: float = 0.0  # the share of packets that are lost, by a random generator seeded with `seed`
    rate: int | None = None  # bytes a second, IP headers included; None: as fast as the relay can
    queue: int = 1 << 20  # bytes that may wait for the rate; a packet that finds no room is dropped
    seed: int = 1


@dataclass(slots=True)
class Counts:
    """What one direction did, in packets of at most MTU."""

    packets: int = 0  # that came to the line
    lost: int = 0  # by chance
    dropped: int = 0  # because the queue was full


# -- for who uses it -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WideArea:
    """A line that is up."""

    network: Network
    relay: subprocess.Popen[str]

    def counts(self) -> tuple[Counts, Counts]:
        """Return what went from the client to the server so far, and what went back."""
        assert self.relay.stdin
        assert self.relay.stdout
        print(file=self.relay.stdin, flush=True)
        there, back = json.loads(self.relay.stdout.readline())
        return Counts(**there), Counts(**back)


@contextlib.contextmanager
def wide_area(line: Line) -> Iterator[WideArea]:
    """Put up two hosts with this line between them until the block ends; raise BenchError where that cannot be done."""
    relay = subprocess.Popen(
        [sys.executable, __file__, json.dumps(asdict(line))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C at the terminal is for who started it
    )
    assert relay.stdin
    assert relay.stdout
    assert relay.stderr
    try:
        ready = relay.stdout.readline()
        if not ready:
            raise BenchError(f"no wide area network can be made here: {relay.stderr.read().strip()}")
        near, far = (("nsenter", f"--net=/proc/{relay.pid}/fd/{fd}") for fd in json.loads(ready))
        yield WideArea(Network(FAR, at_server=far, at_client=near), relay)
    finally:
        stop(relay)
        for end in (relay.stdin, relay.stdout, relay.stderr):
            end.close()


# -- the relay -------------------------------------------------------------------------------------------------


class Direction:
    """Packets from one device to the other: each is due once the line has had time for it, in the order they came."""

    def __init__(self, source: int, sink: int, line: Line, name: str) -> None:
        self.source = source
        self.counts = Counts()
        self._sink = sink
        self._line = line
        self._random = random.Random(f"{line.seed} {name}")
        self._before_loss = self._gap()
        self._free_at = 0.0  # when the last byte that came will have left the queue
        self._on_the_way: deque[tuple[float, bytes]] = deque()

    def due(self) -> float:
        """Return when the next packet has to go out."""
        return self._on_the_way[0][0] if self._on_the_way else math.inf

    def take(self, now: float) -> None:
        """Read what waits in the source, as far as READ_AHEAD."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(READ_AHEAD):
                self._pass_on(os.read(self.source, LARGEST), now)

    def give(self, now: float) -> None:
        """Write what is due."""
        while self._on_the_way and self._on_the_way[0][0] <= now:
            os.write(self._sink, self._on_the_way.popleft()[1])

    def _pass_on(self, packet: bytes, now: float) -> None:
        shape = Shape.of(packet)
        self.counts.packets += shape.count
        taken = shape.count
        if self._line.rate:
            self._free_at = max(self._free_at, now)
            room = self._line.queue - (self._free_at - now) * self._line.rate
            taken = min(taken, max(0, int(room // (shape.headers + shape.segment))))
            self.counts.dropped += shape.count - taken
            self._free_at += taken * (shape.headers + shape.segment) / self._line.rate
            now = self._free_at
        for first, end in self._survivors(taken):
            whole = end - first == shape.count
            self._on_the_way.append((now + self._line.rtt / 2, packet if whole else shape.part(packet, first, end)))

    def _survivors(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield which of `count` packets in a row are not lost, as runs: the first, and the one after the last."""
        first = 0
        while self._before_loss < count - first:
            lost = first + int(self._before_loss)
            self.counts.lost += 1
            if lost > first:
                yield first, lost
            first = lost + 1
            self._before_loss = self._gap()
        self._before_loss -= count - first
        if first < count:
            yield first, count

    def _gap(self) -> float:
        """Return how many packets pass before the next one is lost: geometrically distributed."""
        if not self._line.loss:
            return math.inf
        return math.log(1 - self._random.random()) // math.log(1 - self._line.loss)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many packets one read stands for, and how long: headers, and content each (the last has less)."""

    count: int
    headers: int
    segment: int

    @classmethod
    def of(cls, packet: bytes) -> Shape:
        """Look at a packet as the device gives it, its virtio header in front."""
        _, kind, _, segment, _, _ = VIRTIO.unpack_from(packet)
        if kind == GSO_NONE:
            return cls(1, 0, len(packet) - VIRTIO.size)
        tcp = _tcp_at(packet)
        headers = tcp - VIRTIO.size + 4 * (packet[tcp + 12] >> 4)
        return cls(math.ceil((len(packet) - VIRTIO.size - headers) / segment), headers, segment)

    def part(self, packet: bytes, first: int, end: int) -> bytes:
        """Return the packets from `first` to before `end` of what stands for several, in the same form."""
        start, tcp = VIRTIO.size + self.headers, _tcp_at(packet)
        content = packet[start + first * self.segment : start + end * self.segment]
        made = bytearray(packet[:start])
        flags, _, *places = VIRTIO.unpack_from(packet)
        kind, segment = (GSO_TCPV4, self.segment) if end - first > 1 else (GSO_NONE, 0)
        VIRTIO.pack_into(made, 0, flags, kind, places[0], segment, *places[2:])
        struct.pack_into("!H", made, VIRTIO.size + 2, self.headers + len(content))
        struct.pack_into("!H", made, VIRTIO.size + 10, 0)
        struct.pack_into("!H", made, VIRTIO.size + 10, 0xFFFF ^ _sum(made[VIRTIO.size : tcp]))
        (sequence,) = struct.unpack_from("!I", made, tcp + 4)
        struct.pack_into("!I", made, tcp + 4, (sequence + first * self.segment) & 0xFFFFFFFF)
        if end < self.count:
            made[tcp + 13] &= ~FIN_AND_PUSH
        # A checksum that is left to the device holds the sum of what TCP adds from the IP header (RFC 9293, 3.1).
        length = len(made) - tcp + len(content)
        struct.pack_into("!H", made, tcp + 16, _sum(made[VIRTIO.size + 12 : tcp][:8] + struct.pack("!HH", 6, length)))
        return bytes(made) + content


def _tcp_at(packet: bytes) -> int:
    return VIRTIO.size + 4 * (packet[VIRTIO.size] & 0x0F)


def _sum(data: bytes) -> int:
    """Return the ones' complement sum of 16-bit words (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def make_host(address: str) -> tuple[int, int]:
    """Move into a network namespace that nobody else is in; return it, and the device that is its only way out."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"wan", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    for name, value in SETTINGS.items():
        Path("/proc/sys", name).write_text(value)
    for arguments in (
        ("address", "add", f"{address}/24", "dev", "wan"),
        ("link", "set", "wan", "mtu", str(MTU), "txqueuelen", str(DEVICE_QUEUE), "up"),
        ("link", "set", "lo", "up"),
        ("route", "replace", SUBNET, "dev", "wan", "congctl", CONGESTION_CONTROL),
    ):
        subprocess.run(["ip", *arguments], check=True)
    return os.open("/proc/self/ns/net", os.O_RDONLY), device


def relay(line: Line) -> None:
    """Make the hosts, say where they are, and move packets until stdin ends; a line there asks for counts."""
    (near, near_device), (far, far_device) = make_host(NEAR), make_host(FAR)
    there = Direction(near_device, far_device, line, "there")
    back = Direction(far_device, near_device, line, "back")
    print(json.dumps([near, far]), flush=True)
    asked = sys.stdin.fileno()
    while True:
        wait = min(there.due(), back.due()) - time.monotonic()
        ready, _, _ = select.select([near_device, far_device, asked], [], [], None if wait > 1e6 else max(wait, 0))
        now = time.monotonic()
        for direction in (there, back):
            if direction.source in ready:
                direction.take(now)
            direction.give(now)
        if asked in ready:
            if not os.read(asked, 1):
                return
            print(json.dumps([asdict(there.counts), asdict(back.counts)]), flush=True)


if __name__ == "__main__":
    relay(Line(**json.loads(sys.argv[1])))
