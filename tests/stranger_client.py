"""A client of protocol 1 by a stranger: written from docs/PROTOCOL.md alone, with nothing but the standard library.

It does what a client should do, and offers the pieces for doing what one should not.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct

ACCEPTED = b"\x01"
Tls = ssl.SSLSocket


def connect(
    port: int,
    ca_file: str,
    host: str = "localhost",
    source: str = "",
    alpn: str = "securexfer/1",
    timeout: float = 30,
) -> Tls:
    """Return a TLS connection to a server that the CA vouches for under this name (sections 2 and 15)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.load_verify_locations(ca_file)
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # set by some builds; see below
    context.set_alpn_protocols([alpn])
    plain = socket.create_connection((host, port), timeout, source_address=(source, 0) if source else None)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # An end without close_notify has to be an error, not an end (section 9).
    return context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False)


# -- what is sent ---------------------------------------------------------------------------------------------


def field(text: str) -> bytes:
    """Return 128 bytes: encoded first, padded after, never cut (section 3)."""
    encoded = text.encode()
    if not 0 < len(encoded) <= 128 or b"\0" in encoded or encoded != encoded.strip(b" "):
        raise ValueError(f"{text!r} does not fit")
    return encoded.ljust(128, b" ")


def login(user: str, password: str) -> bytes:
    return field(user) + field(password)


def count(files: int) -> bytes:
    return struct.pack(">I", files)


def file(name: str, content: bytes) -> bytes:
    return field(name) + struct.pack(">Q", len(content)) + content + hashlib.sha256(content).digest()


# -- what is heard --------------------------------------------------------------------------------------------


def answers(tls: Tls, number: int) -> bytes:
    """Return so many answers, or fewer if the session ends before in order; an end without goodbye raises."""
    heard = b""
    while len(heard) < number and (more := _next(tls, number - len(heard))):
        heard += more
    return heard


def rest(tls: Tls) -> bytes:
    """Return all that comes until the session ends in order (close_notify); any other end raises."""
    heard = b""
    while more := _next(tls, 65536):
        heard += more
    return heard


def _next(tls: Tls, size: int) -> bytes:
    try:
        return tls.recv(size)
    except ssl.SSLZeroReturnError:  # what Python says for close_notify to a side that has sent its own
        return b""


def log_in(tls: Tls, user: str, password: str) -> bool:
    """Log in; return whether it was accepted. A session that ends without an answer raises: try again later."""
    tls.sendall(login(user, password))
    answer = answers(tls, 1)
    if not answer:
        raise ConnectionError("the server is busy")
    return answer == ACCEPTED


def send(tls: Tls, files: list[tuple[str, bytes]]) -> list[bool]:
    """Send files after a login: all of them, then read all answers; return which ones are stored."""
    tls.sendall(count(len(files)))
    for name, content in files:
        tls.sendall(file(name, content))
    return [answer == ACCEPTED[0] for answer in answers(tls, len(files))]


# -- three ways to leave --------------------------------------------------------------------------------------


def leave_in_order(tls: Tls) -> None:
    """Say close_notify, then close the writing side. Reading goes on."""
    try:
        tls.settimeout(0)
        tls.unwrap()
    except (ssl.SSLWantReadError, ssl.SSLError):
        pass  # the server's own close_notify is waited for in `rest`
    socket.socket.shutdown(tls, socket.SHUT_WR)
    tls.settimeout(30)


def leave_without_a_word(tls: Tls) -> None:
    """Close the writing side (FIN) as if the program had ended. Reading goes on."""
    socket.socket.shutdown(tls, socket.SHUT_WR)


def leave_by_reset(tls: Tls) -> None:
    """Let the connection be reset, as a crash or a firewall does."""
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tls.close()
