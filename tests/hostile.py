"""Whoever else may answer at a port: listeners in threads, TLS servers with any certificate, a connection held up.

And certificates with one thing wrong with each, which `securexfer init` would never make.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

HOST = "127.0.0.1"
DAY = timedelta(days=1)
BUFFER = 1 << 16  # so that what a client has sent is not far ahead of what has passed


# -- connections -------------------------------------------------------------------------------------------------


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


class Detour:
    """A way to a server that can be closed in the middle: what a client sends passes until `hold_after` bytes have.

    `release` lets the rest through; the answers always pass. Set `rate` (bytes a second) for a slow way instead.
    """

    def __init__(self, port: int, hold_after: int | None = None, rate: int | None = None) -> None:
        self._to = port
        self._hold_after = hold_after
        self._rate = rate
        self._released = threading.Event()
        self.held = threading.Event()
        self._listener = Listener(self._answer, buffer=BUFFER)
        self.port = self._listener.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._rate = None
        self._listener.__exit__()

    def release(self) -> None:
        self._released.set()

    def stop(self) -> None:
        """Let nobody else in."""
        self._listener.stop()

    @property
    def used(self) -> bool:
        """Whether anybody has come by."""
        return bool(self._listener.count)

    def _answer(self, client: socket.socket) -> None:
        with socket.create_connection((HOST, self._to), 30) as server:
            back = threading.Thread(target=self._carry_back, args=(server, client))
            back.start()
            try:
                self._carry_on(client, server)
            finally:
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                back.join()

    def _carry_on(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        while data := client.recv(self._rate // 20 if self._rate else 65536):
            server.sendall(data)
            passed += len(data)
            if self._rate:
                self._released.wait(len(data) / self._rate)
            elif self._hold_after is not None and passed >= self._hold_after:
                self.held.set()
                assert self._released.wait(60)

    @staticmethod
    def _carry_back(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


# -- certificates ------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private(self) -> bytes:
        return bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def context(self, directory: Path, *protocols: str) -> ssl.SSLContext:
        """Return the context of a server that shows this certificate: of any strength, TLS 1.2 and later."""
        path = directory / f"{self.certificate.serial_number}.pem"
        path.write_bytes(self.private + self.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(path)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def make_ca(*, may_sign: bool = True) -> Pair:
    """Make a CA as `securexfer init` does, or one that may not sign certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("a lab's CA")
    usage = _usage(key_cert_sign=may_sign, crl_sign=True)
    builder = (
        _builder(name, name, key, -DAY, 3650 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(
    ca: Pair | None,
    names: Sequence[str] = (HOST,),
    *,
    common_name: str = "a server",
    not_before: timedelta = -DAY,
    not_after: timedelta = 30 * DAY,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    is_ca: bool = False,
    key_id: bool = True,
    key: Any = None,
) -> Pair:
    """Make a server's certificate with what is asked for, signed by `ca` or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name)
    issuer = ca or Pair(None, key)  # type: ignore[arg-type]
    builder = (
        _builder(subject, ca.certificate.subject if ca else subject, key, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_cert_sign=is_ca), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if key_id:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(issuer_id, critical=False)
    if names:
        san = [x509.IPAddress(_address(name)) if _address(name) else x509.DNSName(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    return Pair(builder.sign(issuer.key, hashes.SHA256()), key)


def signed_with_sha1(leaf: Pair, ca: Pair) -> Pair:
    """Return `leaf` with a signature over SHA-1, which no library makes any more: RFC 5280, section 4.1, by hand."""
    with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")  # AlgorithmIdentifier, RFC 5758, section 3.2
    with_sha1 = bytes.fromhex("300906072a8648ce3d0401")
    body = leaf.certificate.tbs_certificate_bytes.replace(with_sha256, with_sha1)[4:]
    tbs = _der(0x30, body)
    signature = ca.key.sign(tbs, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - the point
    return Pair(x509.load_der_x509_certificate(_der(0x30, tbs + with_sha1 + _der(0x03, b"\0" + signature))), leaf.key)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, not_before: timedelta, not_after: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + not_before)
        .not_valid_after(now + not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature, False, False, False, False, key_cert_sign, crl_sign, False, False)


def _address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
