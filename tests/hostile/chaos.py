"""A way between a real client and a real server, and what can happen on it.

One thread carries both directions of a connection. Positions are bytes of the TCP stream of one direction, counted
from the connection's beginning, TLS records and all: the way knows nothing of what it carries.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from hostile.listeners import HOST, Listener, reset

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER = 1 << 16  # so that what a client has sent is not far ahead of what has passed
UP, DOWN = "up", "down"  # towards the server; towards the client
PIECE = 64  # bytes that are repeated, or change places
LINGER_SECONDS = 20  # how long the two ends are listened to after a cut by FIN, so that it is not a reset


class Cut(Exception):  # noqa: N818 - an event on the way, not an error of the test
    """The connection ends here, in both directions: by RST, or by FIN."""

    def __init__(self, *, by_reset: bool) -> None:
        super().__init__()
        self.by_reset = by_reset


class Stream:
    """One direction of a connection."""

    def __init__(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        self.direction = direction
        self.passed = 0
        self.not_before = 0.0  # nothing is taken until then, on the monotonic clock
        self.deaf = False  # what comes is lost
        self.ended = False
        self.source = source
        self._sink = sink

    def put(self, data: bytes) -> None:
        self._sink.sendall(data)

    def end(self) -> None:
        self.ended = True
        self._sink.shutdown(socket.SHUT_WR)


class Way:
    """A way to a server, as transparent as a cable: what comes is carried on, ends and resets as well."""

    def __init__(self, port: int, source: str = "") -> None:
        """Lead to the server at `port`, which sees connections from the address `source`."""
        self._to = port
        self._from = (source, 0) if source else None
        self._closing = threading.Event()
        self._at_a_time = {UP: 65536, DOWN: 65536}
        self.passed = {UP: 0, DOWN: 0}  # bytes in all, of the last connection
        self._listener = Listener(self._carry, buffer=BUFFER)
        self.port = self._listener.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.__exit__()

    def stop(self) -> None:
        """Let nobody else in."""
        self._listener.stop()

    @property
    def used(self) -> int:
        """How many connections came by."""
        return self._listener.count

    def _carry(self, client: socket.socket) -> None:
        with socket.create_connection((HOST, self._to), 30, source_address=self._from) as server:
            streams = [Stream(UP, client, server), Stream(DOWN, server, client)]
            try:
                while not self._closing.is_set() and not all(stream.ended for stream in streams):
                    self._step(streams)
            except Cut as cut:
                if cut.by_reset:
                    reset(client)
                    reset(server)
                else:
                    self._part(client, server)
            except OSError:  # one side reset the connection, so the other one sees that, too
                reset(client)
                reset(server)

    def _step(self, streams: list[Stream]) -> None:
        open_ones = [stream for stream in streams if self._may_pass(stream)]
        ready = select.select([stream.source for stream in open_ones], [], [], 0.02)[0]
        for stream in open_ones:
            if stream.source in ready:
                if data := stream.source.recv(self._at_a_time[stream.direction]):
                    if not stream.deaf:
                        self._pass(stream, data)
                    stream.passed += len(data)
                    self.passed[stream.direction] = stream.passed
                else:
                    stream.end()

    def _part(self, *sockets: socket.socket) -> None:
        """Send FIN to both sides, then read until they have left: closing with input unread would be a reset."""
        left = list(sockets)
        for sock in left:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_SECONDS
        while left and time.monotonic() < deadline and not self._closing.is_set():
            for sock in select.select(left, [], [], 0.1)[0]:
                try:
                    ended = not sock.recv(65536)
                except OSError:
                    ended = True
                if ended:
                    left.remove(sock)

    def _may_pass(self, stream: Stream) -> bool:
        return not stream.ended and stream.not_before <= time.monotonic()

    def _pass(self, stream: Stream, data: bytes) -> None:
        stream.put(data)


class Detour(Way):
    """A way that can be closed in the middle: what a client sends passes until `hold_after` bytes have.

    `release` lets the rest through; the answers always pass. Set `rate` (bytes a second) for a slow way instead.
    """

    def __init__(self, port: int, hold_after: int | None = None, rate: int | None = None, source: str = "") -> None:
        self._hold_after = math.inf if hold_after is None else hold_after
        self._rate = rate
        self._released = threading.Event()
        self.held = threading.Event()
        super().__init__(port, source)
        if rate:
            self._at_a_time[UP] = rate // 20

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._rate = None
        super().__exit__()

    def release(self) -> None:
        self._released.set()

    def _may_pass(self, stream: Stream) -> bool:
        if stream.direction == UP and stream.passed >= self._hold_after:
            self.held.set()
            if not self._released.is_set():
                return False
        return super()._may_pass(stream)

    def _pass(self, stream: Stream, data: bytes) -> None:
        stream.put(data)
        if self._rate and stream.direction == UP:
            # What a late turn has cost is made up for, so that the rate is what it says.
            stream.not_before = max(stream.not_before, time.monotonic() - 0.2) + len(data) / self._rate


# -- what can happen ---------------------------------------------------------------------------------------------
# Each gets the stream and the bytes that have come from the fault's offset on (at least one).


def cut_by_fin(stream: Stream, data: bytes) -> None:
    raise Cut(by_reset=False)


def cut_by_rst(stream: Stream, data: bytes) -> None:
    raise Cut(by_reset=True)


def stall(stream: Stream, data: bytes) -> None:
    """Nothing passes any more, but nothing is closed."""
    stream.not_before = math.inf


def drop(stream: Stream, data: bytes) -> None:
    """One direction is lost: taken, so that whoever sends notices nothing, and thrown away."""
    stream.deaf = True


def delay(stream: Stream, data: bytes) -> None:
    time.sleep(1)
    stream.put(data)


def trickle(stream: Stream, data: bytes) -> None:
    for position in range(PIECE):
        stream.put(data[position : position + 1])
        time.sleep(0.005)
    stream.put(data[PIECE:])


def flip(stream: Stream, data: bytes) -> None:
    stream.put(bytes([data[0] ^ 1 << len(data) % 8]) + data[1:])


def repeat(stream: Stream, data: bytes) -> None:
    stream.put(data[:PIECE] + data)


def swap(stream: Stream, data: bytes) -> None:
    half = min(PIECE, len(data) // 2)
    stream.put(data[half : 2 * half] + data[:half] + data[2 * half :])


@dataclass(frozen=True)
class Fault:
    """Something that happens once, in one direction, when `offset` bytes have passed."""

    happens: Callable[[Stream, bytes], None]
    direction: str
    offset: int

    def __str__(self) -> str:
        return f"{self.happens.__name__} {self.direction} at {self.offset}"


class Chaos(Way):
    """A way on which one thing happens, to the first connection that comes so far."""

    def __init__(self, port: int, fault: Fault, source: str = "") -> None:
        self._fault = fault
        self.struck = threading.Event()
        super().__init__(port, source)

    def _pass(self, stream: Stream, data: bytes) -> None:
        left = self._fault.offset - stream.passed
        if stream.direction != self._fault.direction or self.struck.is_set() or left >= len(data):
            stream.put(data)
            return
        stream.put(data[:left])
        self.struck.set()
        self._fault.happens(stream, data[left:])
