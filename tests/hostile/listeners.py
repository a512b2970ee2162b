"""Whoever else may answer at a port: listeners in threads, TLS servers with any certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Self

from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"


class Listener:
    """Answers at `port`: each connection is given to `answer` in a thread of its own, and closed afterwards."""

    def __init__(self, answer: Callable[[socket.socket], None], buffer: int | None = None) -> None:
        self.count = 0  # connections so far
        self._answer = answer
        self._socket = socket.create_server((HOST, 0))
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.port: int = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread of the test hangs"

    def stop(self) -> None:
        """Answer nobody from now on."""
        with contextlib.suppress(OSError):  # stopped already
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            thread = threading.Thread(target=self._run, args=(sock,))
            thread.start()
            self._threads.append(thread)

    def _run(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(30)
            self._answer(sock)


class TlsListener(Listener):
    """Answers at `port` with TLS; `received` is every application byte that clients sent until they left.

    `answer` gets the TLS connection and the list that `received` is, to which it appends what it reads; by default
    it refuses the login, should there be one.
    """

    def __init__(
        self, context: ssl.SSLContext, answer: Callable[[ssl.SSLSocket, list[bytes]], None] | None = None
    ) -> None:
        self.received: list[bytes] = []
        self.versions: list[str | None] = []  # one for each handshake that came to its end
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # set by some builds: a cut is no orderly end
        self._context = context
        self._speak = answer or refuse
        super().__init__(self._shake_hands)

    def _shake_hands(self, sock: socket.socket) -> None:
        with self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as connection:
            self.versions.append(connection.version())
            self._speak(connection, self.received)


def refuse(connection: ssl.SSLSocket, received: list[bytes]) -> None:
    """Refuse a login, so that a client that should not have sent one ends soon."""
    if data := connection.recv(65536):
        received.append(data)
        connection.sendall(framing.REFUSED)
        read_all(connection, received)


def read_all(connection: ssl.SSLSocket, received: list[bytes]) -> None:
    while data := connection.recv(65536):
        received.append(data)


def answer_all(connection: ssl.SSLSocket, received: list[bytes]) -> None:
    """Be a server of protocol 1 for one session: everything is accepted, nothing is checked."""
    received.append(read_exactly(connection, framing.LOGIN_SIZE))
    connection.sendall(framing.ACCEPTED)
    (count,) = struct.unpack(">I", read_exactly(connection, framing.COUNT_SIZE))
    for _ in range(count):
        header = framing.FileHeader.decode(read_exactly(connection, framing.HEADER_SIZE))
        received.append(read_exactly(connection, header.size + framing.DIGEST_SIZE))
        connection.sendall(framing.ACCEPTED)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the peer left"
        data += more
    return data


def reset(sock: socket.socket) -> None:
    """End a connection by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
