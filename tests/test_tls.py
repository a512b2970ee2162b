"""The client towards every server that is not the one it wants, and a real server towards what is no client of ours.

Each hostile server counts the application bytes that reached it: before a server has proved who it is, there are none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import lab as lab_module
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hostile.certificates import DAY, Pair, make_ca, make_leaf, signed_with_sha1
from hostile.listeners import HOST, Listener, TlsListener, answer_all, read_all, read_exactly, reset
from lab import PASSWORD, Lab, Server, fresh_source

from securexfer.net.tls import client_context
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ALPN = framing.ALPN
LOGIN = framing.Login("ana", PASSWORD).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    """A lab for the whole module: nothing here changes it."""
    made = Lab(tmp_path_factory.mktemp("tls"), lab_source)
    (made.home / "file").write_bytes(b"x" * 1000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def authority(place: Lab) -> Pair:
    """The CA that the client is given, saved as `ca.pem` in the lab's home."""
    ca = make_ca()
    (place.home / "ca.pem").write_bytes(ca.pem)
    return ca


def send_to(place: Lab, port: int, host: str = HOST, **env: str) -> subprocess.CompletedProcess[str]:
    return place.run(
        "send", place.home / "file", f"ana@{host}:{port}", "--ca", place.home / "ca.pem",
        "--password-file", place.password_file, env=env,
    )  # fmt: skip


# -- the client towards servers that have not proved who they are -------------------------------------------------


def refused(place: Lab, leaf: Pair, tmp_path: Path, says: str, host: str = HOST, **env: str) -> None:
    """Check that `send` leaves a server with this certificate: exit 3, for this reason, without a byte."""
    with TlsListener(leaf.context(tmp_path, ALPN)) as listener:
        result = send_to(place, listener.port, host, **env)
    assert result.returncode == 3, result.stderr
    assert says in result.stderr
    assert listener.received == []
    assert listener.count <= 2  # once, and once to name the names of a wrong certificate; never tried again


def test_the_same_client_sends_to_the_same_server_with_the_right_certificate(
    place: Lab, authority: Pair, tmp_path: Path
) -> None:
    """Without this, the refusals below could have any reason."""
    with TlsListener(make_leaf(authority).context(tmp_path, ALPN), answer_all) as listener:
        result = send_to(place, listener.port)
    assert result.returncode == 0, result.stderr
    assert b"".join(listener.received).startswith(LOGIN)
    assert listener.versions == ["TLSv1.3"]


def test_T05_certificate_from_another_ca(place: Lab, authority: Pair, tmp_path: Path) -> None:
    refused(place, make_leaf(make_ca()), tmp_path, "is not signed by the given CA")


@pytest.mark.parametrize("names", [("other.example",), ("127.0.0.9",), ("localhost.",), ("*",)])
def test_T06_certificate_for_another_name(place: Lab, authority: Pair, tmp_path: Path, names: tuple[str, ...]) -> None:
    refused(place, make_leaf(authority, names), tmp_path, f"is for {names[0]}; not for localhost", host="localhost")


def test_T07_the_common_name_is_no_name(place: Lab, authority: Pair, tmp_path: Path) -> None:
    leaf = make_leaf(authority, (), common_name="localhost")
    refused(place, leaf, tmp_path, "is for no name at all; not for localhost", host="localhost")


def test_T08_an_address_needs_an_address_in_the_certificate(place: Lab, authority: Pair, tmp_path: Path) -> None:
    refused(place, make_leaf(authority, ("localhost",)), tmp_path, f"is for localhost; not for {HOST}")
    with TlsListener(make_leaf(authority, (HOST,)).context(tmp_path, ALPN), answer_all) as listener:
        assert send_to(place, listener.port).returncode == 0


def test_T09_expired_and_not_yet_valid(place: Lab, authority: Pair, tmp_path: Path) -> None:
    expired = make_leaf(authority, not_before=-2 * DAY, not_after=-timedelta(seconds=5))
    refused(place, expired, tmp_path, "has expired")
    refused(place, make_leaf(authority, not_before=DAY), tmp_path, "is not valid yet")


def test_T09_a_session_outlives_its_certificate(place: Lab, authority: Pair, tmp_path: Path) -> None:
    leaf = make_leaf(authority, not_after=timedelta(seconds=3))

    def answer(connection: ssl.SSLSocket, received: list[bytes]) -> None:
        time.sleep(max(0, leaf.certificate.not_valid_after_utc.timestamp() - time.time()) + 0.5)
        answer_all(connection, received)

    with TlsListener(leaf.context(tmp_path, ALPN), answer) as listener:
        result = send_to(place, listener.port)
    assert result.returncode == 0, result.stderr


def test_T10_self_signed_with_the_right_name(place: Lab, authority: Pair, tmp_path: Path) -> None:
    refused(place, make_leaf(None), tmp_path, "is not signed by the given CA")


@pytest.mark.parametrize("flaw", ["for clients", "a CA itself", "no issuer named", "SHA-1", "RSA-1024"])
def test_T11_certificates_that_are_not_acceptable(place: Lab, authority: Pair, tmp_path: Path, flaw: str) -> None:
    if flaw == "for clients":
        leaf = make_leaf(authority, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    elif flaw == "a CA itself":
        leaf = make_leaf(authority, is_ca=True)
    elif flaw == "no issuer named":  # authorityKeyIdentifier: RFC 5280, section 4.2.1.1
        leaf = make_leaf(authority, key_id=False)
    elif flaw == "SHA-1":
        leaf = signed_with_sha1(make_leaf(authority), authority)
    else:
        leaf = make_leaf(authority, key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - the point
    refused(place, leaf, tmp_path, "is not acceptable")


def test_T11_K08_a_ca_that_may_not_sign_and_a_leaf_that_does(place: Lab, tmp_path: Path, authority: Pair) -> None:
    """Only what says of itself that it may sign certificates can: not a CA without keyCertSign, not a leaf."""
    mute = make_ca(may_sign=False)
    (place.home / "mute.pem").write_bytes(mute.pem)
    with TlsListener(make_leaf(mute).context(tmp_path, ALPN)) as listener:
        result = place.run(
            "send", place.home / "file", f"ana@{HOST}:{listener.port}", "--ca", place.home / "mute.pem",
            "--password-file", place.password_file,
        )  # fmt: skip
    assert result.returncode in {2, 3}, result.stderr
    assert listener.received == []
    middle = make_leaf(authority)
    chain = make_leaf(middle)
    context = chain.context(tmp_path, ALPN)
    both = tmp_path / "chain.pem"
    both.write_bytes(chain.private + chain.pem + middle.pem)
    context.load_cert_chain(both)
    with TlsListener(context) as listener:
        result = send_to(place, listener.port)
    assert result.returncode == 3, result.stderr
    assert listener.received == []


def test_T12_the_environment_gives_no_trust_and_gets_no_keys(place: Lab, authority: Pair, tmp_path: Path) -> None:
    other = make_ca()
    (tmp_path / "theirs.pem").write_bytes(other.pem)
    keys = tmp_path / "keys"
    env = {"SSL_CERT_FILE": str(tmp_path / "theirs.pem"), "SSL_CERT_DIR": str(tmp_path), "SSLKEYLOGFILE": str(keys)}
    refused(place, make_leaf(other), tmp_path, "is not signed by the given CA", **env)
    with TlsListener(make_leaf(authority).context(tmp_path, ALPN), answer_all) as listener:
        assert send_to(place, listener.port, **env).returncode == 0
        assert place.run("trust", f"{HOST}:{listener.port}", "--ca-fingerprint", "0" * 64, env=env).returncode == 3
    assert not keys.exists()


def test_T12_a_server_writes_no_keys_either(place: Lab, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    running = place.serve("--inbox", str(tmp_path / "inbox"), SSLKEYLOGFILE=str(keys))
    assert place.send(running, place.home / "file").returncode == 0
    assert running.stop() == 0
    assert not keys.exists()


def test_T04_a_server_without_tls_13(place: Lab, authority: Pair, tmp_path: Path) -> None:
    context = make_leaf(authority).context(tmp_path, ALPN)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TlsListener(context) as listener:
        result = send_to(place, listener.port)
    assert result.returncode == 3, result.stderr
    assert "but not securexfer" in result.stderr
    assert listener.received == []


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("securexfer/9", "h2")])
def test_T17_a_certified_server_that_speaks_something_else(
    place: Lab, authority: Pair, tmp_path: Path, protocols: tuple[str, ...]
) -> None:
    with TlsListener(make_leaf(authority).context(tmp_path, *protocols)) as listener:
        result = send_to(place, listener.port)
    assert result.returncode == 3, result.stderr
    assert "is certified, but did not agree to speak securexfer/2 or securexfer/1" in result.stderr
    assert listener.received == []
    assert listener.count == 1


NEWER = f"""#!{sys.executable}
from securexfer.client import connecting
connecting.PROTOCOLS = ("securexfer/9",)
from securexfer.cli import main
main()
"""


def test_F14_a_newer_client_and_this_server_part_without_a_byte(
    place: Lab, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client says what it speaks, and that the other side does not; neither falls back to anything."""
    before, logins = len(server.events("tls.fail")), len(server.events("auth.ok"))
    newer = tmp_path / "newer"
    newer.write_text(NEWER)
    newer.chmod(0o700)
    monkeypatch.setattr(lab_module, "SECUREXFER", str(newer))
    result = place.send(server, place.home / "file")
    assert result.returncode == 3
    assert "did not agree to speak securexfer/9" in result.stderr
    assert "securexfer --version" in result.stderr
    assert failures(server, before) == ["alpn"]
    assert len(server.events("auth.ok")) == logins


def test_F14_a_client_of_both_protocols_speaks_the_one_in_common(place: Lab, server: Server) -> None:
    """Which one was chosen is part of the handshake, so nobody in between can choose for them."""
    with open_session(place, server, client(place, ("securexfer/9", ALPN))) as connection:
        assert connection.selected_alpn_protocol() == ALPN
        connection.sendall(LOGIN)
        assert connection.recv(1) == framing.ACCEPTED


# -- the client towards a server that ends too early -----------------------------------------------------------------


def by_fin(connection: ssl.SSLSocket) -> None:
    connection.shutdown(socket.SHUT_WR)
    connection.detach()  # keeps the descriptor open until the client has seen it


def by_close_notify(connection: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        connection.unwrap()


ENDS: dict[str, Callable[[ssl.SSLSocket], None]] = {"T19-fin": by_fin, "T20-rst": reset, "T21-close": by_close_notify}
SIZE = 300_000  # more than a buffer
POINTS = {
    "after the login": framing.COUNT_SIZE,  # any earlier, and a reset could overtake the answer to the login
    "in the name": framing.COUNT_SIZE + 60,
    "in the size": framing.COUNT_SIZE + framing.HEADER_SIZE - 3,
    "in the payload": framing.COUNT_SIZE + framing.HEADER_SIZE + SIZE // 2,
    "in the digest": framing.COUNT_SIZE + framing.HEADER_SIZE + SIZE + 10,
    "before the answer": framing.COUNT_SIZE + framing.HEADER_SIZE + SIZE + framing.DIGEST_SIZE,
}


@pytest.mark.parametrize("way", ENDS)
def test_T19_T20_T21_success_is_only_what_was_acknowledged(
    place: Lab, authority: Pair, tmp_path: Path, way: str
) -> None:
    """However and wherever the server ends a session before its answer: exit 6, nothing called stored."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    for point, size in POINTS.items():

        def answer(connection: ssl.SSLSocket, received: list[bytes], size: int = size) -> None:
            received.append(read_exactly(connection, len(LOGIN)))
            connection.sendall(framing.ACCEPTED)
            received.append(read_exactly(connection, size))
            ENDS[way](connection)

        with TlsListener(make_leaf(authority).context(tmp_path, ALPN), answer) as listener:
            result = place.run(
                "send", source, f"ana@{HOST}:{listener.port}", "--ca", place.home / "ca.pem", "--json",
                "--password-file", place.password_file,
            )  # fmt: skip
        assert result.returncode == 6, (point, result.stderr)
        assert '"stored": 0' in result.stdout.splitlines()[-1], point
        assert "Traceback" not in result.stderr
        assert listener.count == 1, f"tried again after the login was accepted ({point})"


def test_T19_T21_the_client_tells_a_cut_from_an_end_in_order(place: Lab, authority: Pair, tmp_path: Path) -> None:
    """Neither is a success. But only the server itself can end a session in order: a user is told which it was."""
    said = {"T19-fin": "the connection was cut", "T21-close": "the server ended the session before it answered"}
    for way, message in said.items():

        def answer(connection: ssl.SSLSocket, received: list[bytes], way: str = way) -> None:
            received.append(read_exactly(connection, len(LOGIN)))
            connection.sendall(framing.ACCEPTED)
            received.append(read_exactly(connection, framing.COUNT_SIZE + framing.HEADER_SIZE + 1000 + 32))
            ENDS[way](connection)

        with TlsListener(make_leaf(authority).context(tmp_path, ALPN), answer) as listener:
            result = send_to(place, listener.port)
        assert result.returncode == 6, result.stderr
        assert message in result.stderr


def test_an_answer_that_means_nothing_is_an_error(place: Lab, authority: Pair, tmp_path: Path) -> None:
    for accepted, answered in ((b"\x07", b""), (framing.ACCEPTED, b"\x07")):

        def answer(
            connection: ssl.SSLSocket, received: list[bytes], said: tuple[bytes, bytes] = (accepted, answered)
        ) -> None:
            received.append(read_exactly(connection, len(LOGIN)))
            connection.sendall(said[0])
            if said[1]:
                received.append(read_exactly(connection, framing.COUNT_SIZE + framing.HEADER_SIZE + 1000 + 32))
                connection.sendall(said[1])
            read_all(connection, received)

        with TlsListener(make_leaf(authority).context(tmp_path, ALPN), answer) as listener:
            result = send_to(place, listener.port)
        assert result.returncode == 1, result.stderr
        assert "which means nothing" in result.stderr


# -- a real server towards what is no client of ours -----------------------------------------------------------------


@pytest.fixture(scope="module")
def server(place: Lab) -> Iterator[Server]:
    """A server for the rest of the module, which must be as good after it as before."""
    running = place.serve()
    yield running
    check_health(place, running)
    assert running.stop() == 0


def check_health(place: Lab, server: Server) -> None:
    """Check that an honest send works at once, and that the log is whole and keeps the password to itself."""
    started = time.monotonic()
    result = place.send(server, place.home / "file")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 5
    assert set(place.stored()) == {"file"}
    assert server.process.poll() is None
    text = server.log_path.read_text()
    assert PASSWORD not in text
    assert "Traceback" not in text
    assert all(character.isprintable() or character == "\n" for character in text)
    deadline = time.monotonic() + 10
    while sorted(numbers(server, "conn.open")) != sorted(numbers(server, "conn.close")):
        assert time.monotonic() < deadline, "a connection has no end, or two"
        time.sleep(0.05)


def numbers(server: Server, kind: str) -> list[int]:
    return [event["connection"] for event in server.events(kind)]


def failures(server: Server, before: int, count: int = 1) -> list[str]:
    """Return the reasons of the handshakes that failed since there were `before` of them."""
    server.wait_for("tls.fail", before + count)
    return [event["reason"] for event in server.events("tls.fail")[before:]]


def reach(server: Server) -> socket.socket:
    """Connect from an address of its own, so that what failed before is not held against it."""
    return socket.create_connection((HOST, server.port), 15, (fresh_source(), 0))


def client(place: Lab, protocols: tuple[str, ...] = (ALPN,)) -> ssl.SSLContext:
    return client_context(place.ca.read_text(), protocols)


def open_session(place: Lab, server: Server, context: ssl.SSLContext, name: str | None = "localhost") -> ssl.SSLSocket:
    return context.wrap_socket(reach(server), server_hostname=name)


def hello(version: int) -> bytes:
    """Return a ClientHello of this version, 0x0300 (SSLv3) to 0x0303 (TLS 1.2), with one cipher suite of its time."""
    body = struct.pack(">H", version) + bytes(32) + b"\0" + struct.pack(">HHH", 4, 0x002F, 0x00FF) + b"\x01\0"
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return struct.pack(">BHH", 22, max(version, 0x0301) if version > 0x0300 else 0x0300, len(handshake)) + handshake


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0302, 0x0303])
def test_T01_versions_before_tls_13_are_told_so(server: Server, version: int) -> None:
    before = len(server.events("tls.fail"))
    with reach(server) as sock:
        sock.sendall(hello(version))
        alert = sock.recv(100)
    assert alert[0] == 21, alert  # an alert record,
    # Fatal, and protocol_version (RFC 8446, section 6.2), or handshake_failure in SSLv3, which knows no other.
    assert alert[5:] == bytes([2, 40 if version == 0x0300 else 70])
    assert failures(server, before) == ["version"]


def test_T04_a_client_that_speaks_at_most_tls_12(place: Lab, server: Server) -> None:
    before = len(server.events("tls.fail"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(place.ca)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        open_session(place, server, context)
    assert failures(server, before) == ["version"]


SSLYZE = os.environ.get("SSLYZE") or shutil.which("sslyze")


@pytest.mark.debian
@pytest.mark.skipif(not SSLYZE, reason="needs sslyze: on PATH, or its path in the variable SSLYZE")
def test_T02_sslyze_finds_the_server_compliant_with_the_modern_profile(place: Lab, server: Server) -> None:
    assert SSLYZE
    result = subprocess.run(
        [SSLYZE, "--mozilla_config=modern", "--certinfo_ca_file", place.ca, f"localhost:{server.port}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"localhost:{server.port}: OK - Compliant" in result.stdout
    accepted = {line.split()[0] for line in result.stdout.splitlines() if " TLS_" in line and " ECDH" in line}
    assert accepted == {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}


@pytest.mark.debian
@pytest.mark.skipif(not shutil.which("sslscan"), reason="needs sslscan")
def test_T03_sslscan_finds_tls_13_alone_and_nothing_weak(place: Lab, server: Server) -> None:
    """A second scanner, which speaks the old versions itself. (That it does not know the CA is as it should be.)"""
    result = subprocess.run(
        ["sslscan", "--xml=-", f"localhost:{server.port}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = ET.fromstring(result.stdout)  # noqa: S314 - sslscan wrote it
    protocols = {each.get("type", "") + each.get("version", ""): each.get("enabled") for each in found.iter("protocol")}
    assert protocols.pop("tls1.3") == "1"
    assert len(protocols) == 5  # SSL 2 and 3, TLS 1.0 to 1.2
    assert set(protocols.values()) == {"0"}
    ciphers = {(each.get("sslversion"), each.get("cipher")) for each in found.iter("cipher")}
    suites = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")
    assert ciphers == {("TLSv1.3", suite) for suite in suites}
    assert {each.get("strength") for each in found.iter("cipher")} <= {"acceptable", "strong"}
    assert {each.get("name") for each in found.iter("group")} <= {"x25519", "secp256r1 (NIST P-256)", "X25519MLKEM768"}
    assert [each.get("supported") for each in found.iter("renegotiation")] == ["0"]
    assert {each.get("supported", "0") for each in found.iter("compression")} <= {"0"}
    assert {each.get("vulnerable") for each in found.iter("heartbleed")} == {"0"}
    assert {each.findtext("signature-algorithm") for each in found.iter("certificate")} == {"ecdsa-with-SHA256"}
    assert {each.findtext("self-signed") for each in found.iter("certificate")} == {"false"}
    assert {each.findtext("expired") for each in found.iter("certificate")} == {"false"}
    assert {each.get("curve_name") for each in found.iter("pk")} == {"prime256v1"}


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("securexfer/9",)])
def test_T17_clients_of_other_protocols_are_not_listened_to(
    place: Lab, server: Server, protocols: tuple[str, ...]
) -> None:
    before, logins = len(server.events("tls.fail")), len(server.events("auth.ok"))
    context = client(place, protocols or (ALPN,))
    if not protocols:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(place.ca)
    with open_session(place, server, context) as connection, contextlib.suppress(OSError):
        connection.sendall(LOGIN)
        assert connection.recv(1) == b""
    assert failures(server, before) == ["alpn"]
    assert len(server.events("auth.ok")) == logins
    assert not server.events("auth.fail")


def test_T17_T28_the_right_protocol_is_welcome_whatever_name_was_asked_for(place: Lab, server: Server) -> None:
    """The name in the hello (SNI) decides nothing on the server; the client checks the certificate."""
    for name in ("localhost", None, "wrong.example"):
        context = client(place)
        context.check_hostname = False
        with open_session(place, server, context, name) as connection:
            connection.sendall(LOGIN)
            assert connection.recv(1) == framing.ACCEPTED
            connection.sendall(framing.encode_count(0))
            assert connection.recv(1) == b""


def test_T27_every_session_is_a_full_handshake(place: Lab, server: Server) -> None:
    """No ticket is given, so there is nothing to resume and nothing to send early; asking for it changes nothing."""
    context = client(place)
    session = None
    for _ in range(2):
        with context.wrap_socket(reach(server), server_hostname="localhost", session=session) as connection:
            connection.sendall(LOGIN)
            assert connection.recv(1) == framing.ACCEPTED
            connection.sendall(framing.encode_count(0))
            assert connection.recv(1) == b""  # a ticket would have come by now
            assert not connection.session_reused
            session = connection.session
            assert session is None or not session.has_ticket


PLAIN = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a login": LOGIN,
}


@pytest.mark.parametrize("said", PLAIN)
def test_T22_plain_text_is_never_read_as_anything(server: Server, said: str) -> None:
    """CVE-2023-40217: bytes before the handshake, then FIN or RST, must not come out as if they had been in TLS."""
    before = len(server.events("tls.fail"))
    opened = len(server.events("auth.ok"))
    for end in ("fin", "rst", "fin at once"):
        sock = reach(server)
        sock.sendall(PLAIN[said])
        if end == "rst":
            reset(sock)
        elif end == "fin":
            with contextlib.suppress(OSError):  # the server may have left already
                sock.shutdown(socket.SHUT_WR)
                assert PLAIN[said][:5] not in sock.recv(1000)
        sock.close()
    # (One that has left before the handshake began may not even have got a worker.)
    assert "alpn" not in failures(server, before)
    assert len(server.events("auth.ok")) == opened
    assert not server.events("auth.fail")


def test_T23_T24_silence_and_trickles_end_after_ten_seconds_and_hold_nobody_up(place: Lab, server: Server) -> None:
    started = time.monotonic()
    silent = [reach(server) for _ in range(8)]
    trickle = reach(server)
    sources = {sock.getsockname()[0] for sock in [*silent, trickle]}
    message = hello(0x0303)

    def drip() -> None:
        with contextlib.suppress(OSError):
            for byte in message:
                trickle.sendall(bytes([byte]))
                time.sleep(0.25)

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert place.send(server, place.home / "file").returncode == 0
    assert time.monotonic() - started < 5
    for sock in [*silent, trickle]:
        sock.settimeout(15)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        assert 9 <= time.monotonic() - started <= 13  # ten, and what a busy machine needs
        sock.close()
    dripping.join()
    deadline = time.monotonic() + 10
    while len(ended := [event for event in server.events("tls.fail") if event["address"] in sources]) < 9:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [event["reason"] for event in ended] == ["timeout"] * 9


# -- the client towards what does not answer at all ---------------------------------------------------------------


def test_T22_the_client_leaves_what_talks_in_the_clear(place: Lab, authority: Pair) -> None:
    for banner in (b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail ESMTP\r\n"):
        heard: list[bytes] = []

        def answer(sock: socket.socket, said: bytes = banner, heard: list[bytes] = heard) -> None:
            sock.sendall(said)
            while data := sock.recv(65536):
                heard.append(data)

        with Listener(answer) as listener:
            result = send_to(place, listener.port)
        assert result.returncode == 3, result.stderr
        assert f"something answered at {HOST}:{listener.port}, but not securexfer" in result.stderr
        assert PASSWORD.encode() not in b"".join(heard)
        assert listener.count == 1
