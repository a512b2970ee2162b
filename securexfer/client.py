"""The client: connect, make sure who the server is, log in, send, and try again where that can help.

Nothing is sent before the server has proved, under the CA given and for the name asked for, who it is. Only
"busy" and "too many failures" are tried again, always towards the same name and the same CA.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import time
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from securexfer.errors import (
    BusyError,
    LoginRefusedError,
    NotSecurexferError,
    PeerTimeoutError,
    ProtocolError,
    SecurexferError,
    SessionEndedError,
    TruncatedError,
    UnreachableError,
    UnsafeNameError,
    UntrustedServerError,
    UsageError,
    WrongNameError,
)
from securexfer.hosts import is_address, parse_name
from securexfer.names import Name, show
from securexfer.net.connection import Connection, is_cut, shake_hands
from securexfer.profiles import address_of, is_authority, pinned
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from securexfer.transfer.items import Item, Watcher

DEFAULT_PORT = 9090
PROTOCOLS = (framing.ALPN,)
CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 60.0  # a server with a full house comes to us late; asking anew would only make it later
LOGIN_SECONDS = 180.0  # 128 logins may stand in front of us in the server's queue, at a quarter of a second each
RETRY_SECONDS = 60.0  # how long a busy server is asked again
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling, each with jitter
_USER_TIMEOUT_MS = 30_000  # unacknowledged data for so long: the peer, or the path to it, is gone

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH, _NOT_YET_VALID, _EXPIRED = 62, 64, 9, 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21, 30}


class Target(NamedTuple):
    """Where to send: ``[USER@]HOST[:PORT][/DIRECTORY]``."""

    user: str | None
    host: str
    port: int
    directory: str

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        return address_of(self.host, self.port)


class Wishes(NamedTuple):
    """How to send, as far as the sender can choose."""

    protocol: int | None = None  # None: the newest one that both sides speak
    on_conflict: str | None = None  # refuse, rename, replace, skip; None: what the server does by itself
    retries: int = 5  # times that a lost connection is made again
    timeout: float = 60.0  # seconds that a server which owes an answer may be silent
    limit: int | None = None  # bytes a second
    rehash: bool = False  # read every file, whatever is remembered of it

    def check_classroom(self, why: str) -> None:
        """Raise UsageError if protocol 1, which has to be spoken because of `why`, cannot do this."""
        options = {"--on-conflict": self.on_conflict, "--limit": self.limit, "--rehash": self.rehash}
        for option, wished in options.items():
            if wished:
                raise UsageError(f"{option} needs protocol 2, and {why}", hint=f"Leave {option} out.")


def parse_target(text: str) -> Target:
    """Return the target that a person typed; raise UsageError that says how to write it."""
    before, slash, directory = text.partition("/")
    user, at, host_port = before.rpartition("@")
    if at and not user:
        raise UsageError(f"{show(text)!r} has no user before the @", hint=_TARGET_HINT)
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", host_port)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    else:
        host, colon, rest = host_port.partition(":")
        port = rest if colon else None
        if ":" in rest:
            hint = f"An IPv6 address goes in brackets: [{host_port}]" if is_address(host_port) else _TARGET_HINT
            raise UsageError(f"{show(host_port)!r} is not HOST or HOST:PORT", hint=hint)
    if port is not None and not re.fullmatch("[0-9]{1,5}", port):
        shown = f"{user}@{host}" if user else host
        path = f"{port}{slash}{directory}".strip("/")
        raise UsageError(
            f"{show(text)!r} has {show(port)!r} where a port belongs"
            if port
            else f"{show(text)!r} has no port after :",
            hint=f"For a directory write {show(shown)}/{show(path)}" if path else f"Write {show(shown)}",
        )
    number = DEFAULT_PORT if port is None else int(port)
    if not 1 <= number <= 65535:
        raise UsageError(f"{number} is not a port", hint="A port is a number from 1 to 65535.")
    return Target(user or None, parse_name(host), number, _parse_directory(directory))


_TARGET_HINT = "Write [USER@]HOST[:PORT][/DIRECTORY], as in ana@lab1 or ana@lab1:9091/results"


def _parse_directory(text: str) -> str:
    text = text.rstrip("/")
    try:
        return str(Name.parse(text)) if text else ""
    except UnsafeNameError as error:
        raise UsageError(
            error.message, hint="DIRECTORY is one below your inbox on the server, as in ana@lab1/results/2026"
        ) from error


def login_name() -> str:
    """Return who is logged in on this machine; raise UsageError where the system does not say."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise UsageError(
            "this machine does not say who you are", hint="Name the user: securexfer send FILE USER@HOST"
        ) from None


def send(
    target: Target,
    context: ssl.SSLContext,
    login: tuple[str, str],
    items: Iterable[Item],
    watcher: Watcher,
    wishes: Wishes,
) -> None:
    """Send `items` as the user and with the password of `login`; what became of each, `watcher` is told.

    `context` is that of `net.tls.client_context`, for PROTOCOLS. A server that ends a session in order, after answering
    for some of the files (as after one that is too large), gets the rest in another session. Raises what kept files
    from being sent that have no error of their own; UsageError, before connecting, for a login that cannot be sent or
    wishes that cannot be met.
    """
    user, password = login
    message = framing.Login(user, unicodedata.normalize("NFC", password)).encode()
    if wishes.protocol == 2:
        raise UsageError("protocol 2 is not spoken by this version", hint="Leave --protocol out.")
    wishes.check_classroom("this version does not speak it")
    sendable = [item for item in items if _suits_classroom(item, watcher)]
    framing.encode_count(len(sendable))
    while True:
        left = [item for item in sendable if item.open]
        if not left:
            return
        for item in left:
            if item.sent:
                taken_back, item.sent = item.sent, 0
                watcher.sent(item, -taken_back)
        connection = _log_in(target, context, user, message, watcher)
        try:
            _run(connection, left, watcher, wishes)
        except SessionEndedError:
            if all(item.open for item in left):
                raise
        finally:
            connection.close()


def _suits_classroom(item: Item, watcher: Watcher) -> bool:
    """Whether protocol 1 can carry it; if not, it has its error, and the watcher knows."""
    try:
        if item.directory:
            from securexfer.transfer.sources import unsendable

            raise unsendable(item.path, stat.S_IFDIR)
        framing.FileHeader.of(item.name, item.size)
    except SecurexferError as error:
        item.error = error
        watcher.ended(item)
        return False
    return True


def _run(connection: Connection, items: Sequence[Item], watcher: Watcher, wishes: Wishes) -> None:
    # Imported here: it is not needed before the login, and the server's verification takes longer than the import.
    from securexfer.transfer.classroom.sender import Sender

    sender = Sender(connection, items, watcher, wishes.timeout)
    try:
        sender.run()
    except KeyboardInterrupt:
        sender.listen()  # what the server has acknowledged by now counts
        raise


def _log_in(target: Target, context: ssl.SSLContext, user: str, message: bytes, watcher: Watcher) -> Connection:
    """Return a connection after an accepted login, trying again while the server is busy."""
    give_up = time.monotonic() + RETRY_SECONDS
    wait = _FIRST_WAIT
    while True:
        try:
            connection = connect(target, context)
            try:
                _authenticate(connection, target, user, message)
            except BaseException:
                connection.close()
                raise
            watcher.connected(user, target.address)
            return connection
        except BusyError as error:
            import secrets

            pause = wait * (0.5 + secrets.SystemRandom().random())
            if time.monotonic() + pause > give_up:
                raise
            watcher.retrying(error.message, pause)
            time.sleep(pause)
            wait = min(wait * 2, _LONGEST_WAIT)


def _authenticate(connection: Connection, target: Target, user: str, message: bytes) -> None:
    try:
        connection.send(message, time.monotonic() + CONNECT_SECONDS)
        answer = connection.receive(1, time.monotonic() + LOGIN_SECONDS)
    except TruncatedError as error:
        raise BusyError(
            f"{target.address} ended the connection without answering the login: "
            "it is busy, or there were too many failed logins"
        ) from error
    if answer == framing.REFUSED:
        raise LoginRefusedError(f"{target.address} refused the login of {show(user)!r}")
    if answer != framing.ACCEPTED:
        raise ProtocolError(f"{target.address} answered the login with {answer[0]:#04x}, which means nothing")


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
