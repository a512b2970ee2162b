"""One TLS connection with both directions full at once: nothing is lost, and neither side waits for the other."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from hostile.certificates import make_ca, make_leaf

from securexfer.net.connection import Connection, shake_hands
from securexfer.net.tls import client_context
from securexfer.wire import messages

if TYPE_CHECKING:
    import ssl
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


def test_300_MB_pass_each_way_at_once(tmp_path: Path) -> None:
    """Two threads on one TLS object lose bytes at this; one that sends and reads in turn does not."""
    ca = make_ca()
    here, there = socket.socketpair()
    server = make_leaf(ca).context(tmp_path, messages.ALPN)
    options = {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
    socks = [
        server.wrap_socket(here, server_side=True, **options),
        client_context(ca.pem.decode(), (messages.ALPN,)).wrap_socket(there, server_hostname="127.0.0.1", **options),
    ]
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
