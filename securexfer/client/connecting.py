"""Connect to a server and make sure who it is: nothing is sent before it has proved that, under the CA given.

The errors say apart: refused, no answer, not securexfer, not to be trusted, and why.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from typing import TYPE_CHECKING

from securexfer.errors import (
    BusyError,
    NotSecurexferError,
    PeerTimeoutError,
    SecurexferError,
    UnreachableError,
    UntrustedServerError,
    WrongNameError,
)
from securexfer.names import show
from securexfer.net.connection import Connection, is_cut, shake_hands
from securexfer.profiles import is_authority, pinned
from securexfer.wire import framing, messages

if TYPE_CHECKING:
    from securexfer.client.target import Target

PROTOCOLS = (messages.ALPN, framing.ALPN)  # the preferred one first
CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 60.0  # a server with a full house comes to us late; asking anew would only make it later
_USER_TIMEOUT_MS = 30_000  # unacknowledged data for so long: the peer, or the path to it, is gone

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH, _NOT_YET_VALID, _EXPIRED = 62, 64, 9, 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21, 30}


def protocols(version: int | None) -> tuple[str, ...]:
    """Return what to offer in the handshake: one version, or all that are spoken here."""
    return PROTOCOLS if version is None else (f"securexfer/{version}",)


def connect(target: Target, context: ssl.SSLContext) -> Connection:
    """Return a connection to a server that has proved who it is.

    Raises UnreachableError (refused, no such host, no answer), BusyError (reset), UntrustedServerError,
    WrongNameError or NotSecurexferError; nothing of ours was sent then.
    """
    sock = _reach(target)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        wrapped = context.wrap_socket(
            sock, server_hostname=target.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except OSError as error:  # whoever answered has left already
        sock.close()
        raise _handshake_problem(target, error) from error
    try:
        shake_hands(wrapped, time.monotonic() + HANDSHAKE_SECONDS)
    except (OSError, PeerTimeoutError) as error:
        wrapped.close()
        raise _handshake_problem(target, error) from error
    certificate = wrapped.getpeercert(binary_form=True)
    if certificate and is_authority(certificate):
        wrapped.close()
        raise UntrustedServerError(f"the certificate of {target.address} is not acceptable: it is a CA's own")
    if wrapped.selected_alpn_protocol() not in PROTOCOLS:
        wrapped.close()
        raise NotSecurexferError(
            f"{target.address} is certified, but did not agree to speak {' or '.join(PROTOCOLS)}",
            hint="Compare `securexfer --version` on both machines, and check the port that `securexfer serve` printed.",
        )
    return Connection(wrapped)


def _reach(target: Target) -> socket.socket:
    """Return a TCP connection; raise UnreachableError, or BusyError for a reset."""
    try:
        return socket.create_connection((target.host, target.port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise _unreachable(target, error) from error


def _unreachable(target: Target, error: OSError) -> SecurexferError:
    address = target.address
    if isinstance(error, socket.gaierror):
        return UnreachableError(
            f"{target.host} has no address here: {error.strerror}",
            hint="Check the spelling, or give the machine's address.",
        )
    if isinstance(error, TimeoutError):
        return UnreachableError(
            f"{address} did not answer within {CONNECT_SECONDS:.0f} seconds",
            hint="Is the machine on? Does its firewall let the port through? `securexfer serve` prints its addresses.",
        )
    if isinstance(error, ConnectionRefusedError):
        return UnreachableError(
            f"{address} refused the connection: nothing listens on that port",
            hint="Start `securexfer serve` there, or give the port that it printed: HOST:PORT",
        )
    if isinstance(error, ConnectionResetError):
        return BusyError(f"{address} reset the connection")
    return UnreachableError(f"{address} cannot be reached: {error.strerror or error}")


def _handshake_problem(target: Target, error: OSError | PeerTimeoutError) -> SecurexferError:
    address = target.address
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(target, error)
    if isinstance(error, TimeoutError | PeerTimeoutError):
        return BusyError(
            f"{address} accepts connections but did not answer as securexfer does",
            hint="It has too much to do, or it is not securexfer: check the port that `securexfer serve` printed.",
        )
    if is_cut(error) or isinstance(error, ConnectionError):
        return BusyError(
            f"{address} reset the connection during the handshake",
            hint="It may be busy, or not be securexfer: check the port that `securexfer serve` printed.",
        )
    if isinstance(error, ssl.SSLError):
        return NotSecurexferError(
            f"something answered at {address}, but not securexfer ({error.reason or 'no TLS 1.3'})"
        )
    return UnreachableError(f"{address} cannot be reached: {error.strerror or error}")


def _untrusted(target: Target, error: ssl.SSLCertVerificationError) -> UntrustedServerError:
    address, code = target.address, error.verify_code
    if code in {_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH}:
        names = ", ".join(show(name) for name in _names_shown_by(target)) or "no name at all"
        return WrongNameError(
            f"the certificate of {address} is for {names}; not for {target.host}",
            hint=f"Use one of those names, or on the server: securexfer cert renew --name {target.host}\n"
            "The CA stays the same, so nobody has to trust again.",
        )
    if code in _UNKNOWN_ISSUER:
        return UntrustedServerError(f"the certificate of {address} is not signed by the given CA")
    if code == _EXPIRED:
        return UntrustedServerError(
            f"the certificate of {address} has expired",
            hint="On the server: securexfer cert renew. If it has not, check this machine's clock.",
        )
    if code == _NOT_YET_VALID:
        return UntrustedServerError(
            f"the certificate of {address} is not valid yet", hint="Check the clocks of this machine and of the server."
        )
    return UntrustedServerError(f"the certificate of {address} is not acceptable: {error.verify_message}")


def _names_shown_by(target: Target) -> list[str]:
    """Return the names in the certificate that the server shows, for the message alone: nothing is trusted for it."""
    from securexfer.certificates import names_of

    try:
        return names_of(_shown_certificate(target))
    except (OSError, SecurexferError):
        return []


def fetch_authority(target: Target, fingerprint: str) -> str:
    """Return the CA (PEM) that the server's certificate carries with it, if it has this fingerprint.

    The fingerprint is the proof, not the connection. Whether the server holds a key that this CA certified is
    proved by `connect` with it, which comes next. Raises UntrustedServerError, NotSecurexferError, UnreachableError.
    """
    from securexfer.certificates import embedded_ca

    try:
        leaf = _shown_certificate(target)
    except TimeoutError as error:
        _reach(target).close()  # raises if it was the connecting that took too long
        raise _handshake_problem(target, error) from error
    except ssl.SSLError as error:
        raise _handshake_problem(target, error) from error
    except OSError as error:
        raise _unreachable(target, error) from error
    authority = embedded_ca(leaf)
    if authority is None:
        raise NotSecurexferError(f"something answered at {target.address}, but its certificate is not securexfer's")
    return pinned(ssl.DER_cert_to_PEM_cert(authority), fingerprint)


def _shown_certificate(target: Target) -> bytes:
    """Return the certificate (DER) that whoever answers shows, unverified."""
    os.environ.pop("SSLKEYLOGFILE", None)  # the context that the library makes would write its keys there
    pem = ssl.get_server_certificate((target.host, target.port), timeout=CONNECT_SECONDS)
    return ssl.PEM_cert_to_DER_cert(pem)
