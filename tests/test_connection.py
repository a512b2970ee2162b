"""One TLS connection: both directions full at once, and what wakes whoever waits for input."""

from __future__ import annotations

import fcntl
import hashlib
import socket
import termios
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hostile.certificates import make_ca, make_leaf

from securexfer.net.connection import Connection, shake_hands
from securexfer.net.tls import client_context
from securexfer.wire import messages

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

TOTAL = 300 << 20
PIECE = hashlib.shake_256(b"piece").digest(1 << 20)


class End:
    """One side: sends all, and takes what comes meanwhile."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        shake_hands(sock, time.monotonic() + 20)
        self.connection = Connection(sock)
        self.heard = hashlib.sha256()
        self.count = 0
        self._scratch = memoryview(bytearray(1 << 18))

    def take(self) -> float | None:
        while count := self.connection.try_receive_into(self._scratch):
            self.heard.update(self._scratch[:count])
            self.count += count
        return None

    def run(self) -> None:
        deadline = time.monotonic() + 120
        for _ in range(TOTAL // len(PIECE)):
            self.connection.send(PIECE, deadline, self.take)
        while self.count < TOTAL:
            assert self.connection.has_input(deadline - time.monotonic())
            self.take()


def wrapped(directory: Path, here: socket.socket, there: socket.socket) -> list[ssl.SSLSocket]:
    """Return both ends of a TLS connection, the server's first, before the handshake."""
    ca = make_ca()
    server = make_leaf(ca).context(directory, messages.ALPN)
    options = {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
    return [
        server.wrap_socket(here, server_side=True, **options),
        client_context(ca.pem.decode(), (messages.ALPN,)).wrap_socket(there, server_hostname="127.0.0.1", **options),
    ]


def test_300_MB_pass_each_way_at_once(tmp_path: Path) -> None:
    """Two threads on one TLS object lose bytes at this; one that sends and reads in turn does not."""
    socks = wrapped(tmp_path, *socket.socketpair())
    ends: list[End] = []

    def run(sock: ssl.SSLSocket) -> None:
        end = End(sock)
        end.run()
        ends.append(end)

    threads = [threading.Thread(target=run, args=(sock,)) for sock in socks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
    for sock in socks:
        sock.close()
    expected = hashlib.sha256()
    for _ in range(TOTAL // len(PIECE)):
        expected.update(PIECE)
    assert [end.heard.hexdigest() for end in ends] == [expected.hexdigest()] * 2


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Connection, Connection]]:
    """Return who waits and who sends, connected by TCP: other sockets know no amount that is enough."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    socks = wrapped(tmp_path, here, there)
    with ThreadPoolExecutor() as both:
        list(both.map(lambda sock: shake_hands(sock, time.monotonic() + 20), socks))
    found = Connection(socks[0]), Connection(socks[1])
    assert not found[0].wait(0.2)  # what the client says last of its handshake has been read
    yield found
    for end in found:
        end.close()


def test_less_than_enough_wakes_nobody_and_is_there_all_the_same(ends: tuple[Connection, Connection]) -> None:
    waiting, sending = ends
    sending.send(b"x" * 1000, time.monotonic() + 5)
    assert not waiting.wait(0.3, enough=50_000)
    scratch = memoryview(bytearray(100_000))
    assert waiting.try_receive_into(scratch) == 1000
    sending.send(b"x" * 1000, time.monotonic() + 5)
    assert waiting.wait(5)  # for anything, as before
    assert waiting.try_receive_into(scratch) == 1000


def test_enough_wakes_at_once(ends: tuple[Connection, Connection]) -> None:
    waiting, sending = ends
    sender = threading.Timer(0.2, lambda: sending.send(b"x" * 50_000, time.monotonic() + 5))
    sender.start()
    started = time.monotonic()
    assert waiting.wait(20, enough=50_000)
    assert time.monotonic() - started < 10
    sender.join()


@pytest.mark.parametrize("end", ["goodbye", "cut"])
def test_the_end_wakes_whoever_waits_for_more(ends: tuple[Connection, Connection], end: str) -> None:
    waiting, sending = ends
    if end == "goodbye":
        sending.say_goodbye()
    sending.close()
    started = time.monotonic()
    assert waiting.wait(20, enough=50_000)
    assert time.monotonic() - started < 10


def test_the_end_of_a_session_reads_the_little_that_still_comes(ends: tuple[Connection, Connection]) -> None:
    """Else the system would answer it with a reset, which overtakes what was said last."""
    waiting, sending = ends
    assert not waiting.wait(0.1, enough=50_000)
    ended = threading.Thread(target=waiting.finish)
    ended.start()
    try:
        assert sending.receive_into(memoryview(bytearray(1)), time.monotonic() + 5) == 0  # the goodbye
        sending.send(b"x" * 1000, time.monotonic() + 5)
        time.sleep(0.5)
        assert unread(waiting) == 0
    finally:
        sending.close()
        ended.join(10)


def unread(connection: Connection) -> int:
    """Return how many bytes have arrived that nobody has read, whatever they mean."""
    found = array("i", [0])
    fcntl.ioctl(connection._socket, termios.FIONREAD, found)
    return found[0]
