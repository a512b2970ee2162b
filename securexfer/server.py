"""The server: listen, admit, authenticate, run a receiver for each connection, shut down cleanly.

One thread accepts and never waits for a peer; each connection has a worker thread that owns its TLS object and
does everything else, the handshake included. What somebody without an account can hold is bounded here: so
many unfinished handshakes in all and from one source, the oldest of the largest source going first, each for
ten seconds; then a login of 256 bytes, which has ten seconds to arrive.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
import select
import socket
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securexfer.errors import (
    BusyError,
    ConfigurationError,
    LoginRefusedError,
    PeerTimeoutError,
    ProtocolError,
    SecurexferError,
)
from securexfer.events import (
    ConnectionClosed,
    ConnectionOpened,
    LimitHit,
    LoginAccepted,
    LoginFailed,
    StoreError,
    TlsFailed,
)
from securexfer.net.connection import Connection, shake_hands
from securexfer.transfer.receiver import Receiver, Session
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.accounts.logins import Logins
    from securexfer.events import Observer
    from securexfer.storage.local import Inbox

PROTOCOLS = (framing.ALPN,)
BACKLOG = 1024  # connections the kernel holds until they are accepted; more than the caps below can use
DESCRIPTOR_PAUSE = 0.2  # seconds without accepting when descriptors or threads have run out
STACK_SIZE = 1 << 20  # bytes for a worker's stack: enough for OpenSSL and a few dozen Python frames
HOUSEKEEPING_SECONDS = 5.0
FORCED_SECONDS = 2.0  # how long workers get to end after their sockets were shut down


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server allows. Seconds, bytes and counts; none of them has a value that means unlimited."""

    handshakes: int = 256  # unfinished ones, in all
    handshakes_per_source: int = 64  # labs sit behind one address translator
    handshake_seconds: float = 10.0
    login_seconds: float = 10.0  # the client's silence; its time in our queue does not count
    sessions: int = 512
    sessions_per_user: int = 64
    largest_file: int = 1 << 40
    grace_seconds: float = 10.0  # for running files, when the server is told to stop


@dataclass(eq=False, slots=True)
class _Peer:
    """One connection, from accept to close. `handshaking` and `user` change under the server's lock."""

    number: int
    address: str
    sock: ssl.SSLSocket
    since: float = field(default_factory=time.monotonic)
    handshaking: bool = True
    evicted: bool = False
    user: str | None = None


class Server:
    """Accepts connections until it is stopped."""

    def __init__(
        self,
        listeners: list[socket.socket],
        context: Callable[[], ssl.SSLContext],
        logins: Logins,
        inbox: Inbox,
        limits: Limits,
        observe: Observer,
        housekeeping: Callable[[], None],
    ) -> None:
        """Take listening sockets; `context` gives the TLS context for a new connection, `housekeeping` runs often."""
        self._listeners = listeners
        self._context = context
        self._logins = logins
        self._inbox = inbox
        self._limits = limits
        self._observe = observe
        self._housekeeping = housekeeping
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._peers: set[_Peer] = set()
        self._stops = 0
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)

    def stop(self) -> None:
        """Ask the server to stop: once, running files get their grace; twice, at once. Safe in a signal handler."""
        self._stops += 1
        self.wake()

    def wake(self) -> None:
        """Have the housekeeping done now. Safe in a signal handler."""
        with contextlib.suppress(OSError):  # a full pipe wakes as well
            os.write(self._wake_in, b".")

    def run(self) -> bool:
        """Serve until `stop`; return whether every session could finish."""
        threading.stack_size(STACK_SIZE)
        for listener in self._listeners:
            listener.settimeout(0)
        while not self._stops:
            self._accept_ready()
            self._housekeeping()
        return self._shut_down()

    # -- accepting -----------------------------------------------------------------------------------------------

    def _accept_ready(self) -> None:
        poll = select.poll()
        poll.register(self._wake_out, select.POLLIN)
        for listener in self._listeners:
            poll.register(listener, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(HOUSEKEEPING_SECONDS * 1000)}
        if self._wake_out in ready:
            os.read(self._wake_out, 4096)
        for listener in self._listeners:
            if listener.fileno() in ready:
                self._accept_from(listener)

    def _accept_from(self, listener: socket.socket) -> None:
        """Accept what waits there; never wait for a peer."""
        while not self._stops:
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    self._observe(LimitHit("", "descriptors", errno.errorcode[error.errno]))
                    self._pause()
                    return
                continue  # that connection is gone already (ECONNABORTED and the like)
            self._admit(sock, _plain_address(address[0]))

    def _pause(self) -> None:
        poll = select.poll()
        poll.register(self._wake_out, select.POLLIN)
        poll.poll(DESCRIPTOR_PAUSE * 1000)

    def _admit(self, sock: socket.socket, address: str) -> None:
        """Give a connection its worker; make room by evicting the oldest handshake of whoever holds most."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wrapped = self._context().wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except (OSError, ValueError):
            sock.close()
            return
        peer = _Peer(next(self._numbers), address, wrapped)
        with self._lock:
            victim = self._victim(address)
            if victim:
                victim.evicted = True
                _cut(victim.sock)
            self._peers.add(peer)
        if victim:
            self._observe(LimitHit(victim.address, "handshakes", "the oldest unfinished handshake was ended"))
        try:
            threading.Thread(target=self._work, args=(peer,), daemon=True, name=f"peer-{peer.number}").start()
        except RuntimeError as error:
            self._observe(LimitHit(address, "threads", str(error)))
            self._forget(peer)
            self._pause()

    def _victim(self, address: str) -> _Peer | None:
        """Return the handshake to end so that one more from `address` keeps within the caps. Called with the lock."""
        waiting = [peer for peer in self._peers if peer.handshaking and not peer.evicted]
        held = Counter(peer.address for peer in waiting)
        if held[address] >= self._limits.handshakes_per_source:
            source = address
        elif len(waiting) >= self._limits.handshakes:
            source = held.most_common(1)[0][0]
        else:
            return None
        return min((peer for peer in waiting if peer.address == source), key=lambda peer: peer.since)

    # -- one connection, in its worker -----------------------------------------------------------------------------

    def _work(self, peer: _Peer) -> None:
        self._observe(ConnectionOpened(peer.number, peer.address))
        reason, detail = "done", ""
        try:
            connection = self._shake_hands(peer)
            if connection:
                try:
                    self._run_session(peer, connection)
                finally:
                    connection.finish()
            else:
                reason = "tls"
        except SecurexferError as error:
            reason, detail = error.reason, error.message
        except MemoryError:
            reason = "memory"
        except Exception as error:  # noqa: BLE001 - one connection must never take the server down
            reason, detail = "error", f"{type(error).__name__}: {error}"
            self._observe(StoreError(f"connection {peer.number} ended by an error inside securexfer: {detail}"))
        finally:
            self._forget(peer)
            self._observe(ConnectionClosed(peer.number, peer.address, reason, detail, time.monotonic() - peer.since))

    def _shake_hands(self, peer: _Peer) -> Connection | None:
        try:
            shake_hands(peer.sock, peer.since + self._limits.handshake_seconds)
            problem = None if peer.sock.selected_alpn_protocol() in PROTOCOLS else "alpn"
        except PeerTimeoutError:
            problem = "timeout"
        except ssl.SSLError as error:
            problem = _handshake_problem(error)
        except OSError as error:
            problem = errno.errorcode.get(error.errno or 0, "closed")
        with self._lock:
            peer.handshaking = False
        if problem:
            self._observe(TlsFailed(peer.number, peer.address, "evicted" if peer.evicted else problem))
            return None
        return Connection(peer.sock)

    def _run_session(self, peer: _Peer, connection: Connection) -> None:
        raw = connection.receive(framing.LOGIN_SIZE, time.monotonic() + self._limits.login_seconds)
        started = time.monotonic()
        try:
            login: framing.Login | None = framing.Login.decode(raw)
        except ProtocolError:
            login = None
        shown = login.user if login else raw[: framing.TEXT_SIZE].rstrip(b" ").decode(errors="backslashreplace")
        try:
            user = self._logins.check(
                login.user if login else "", login.password if login else None, give_up=connection.peer_left
            ).name
        except LoginRefusedError as error:
            waited = time.monotonic() - started
            self._observe(LoginFailed(peer.number, peer.address, shown, error.detail, waited))
            connection.post(framing.REFUSED)
            raise
        except BusyError as error:
            # Protocol 1 has no word for this: the session ends without an answer, which means "not now".
            self._observe(LimitHit(peer.address, "logins", error.message))
            raise
        self._observe(LoginAccepted(peer.number, peer.address, user, time.monotonic() - started))
        self._enter_session(peer, user)
        connection.post(framing.ACCEPTED)
        rules = self._inbox.rules
        session = Session(peer.number, peer.address, user, self._limits.largest_file, rules.names)
        with contextlib.closing(self._inbox.for_user(user)) as storage:
            Receiver(connection, storage, session, self._observe, lambda: bool(self._stops)).run()

    def _enter_session(self, peer: _Peer, user: str) -> None:
        """Count the peer as a session of `user`; raise BusyError if there are too many."""
        with self._lock:
            users = [other.user for other in self._peers if other.user]
            if len(users) >= self._limits.sessions:
                limit, detail = "sessions", f"{len(users)} sessions are running"
            elif users.count(user) >= self._limits.sessions_per_user:
                limit, detail = "sessions per user", f"{user} has {users.count(user)} sessions running"
            else:
                peer.user = user
                return
        self._observe(LimitHit(peer.address, limit, detail))
        raise BusyError(detail)

    def _forget(self, peer: _Peer) -> None:
        # Closed under the lock, so that nobody cuts a descriptor that already is somebody else's.
        with self._changed:
            self._peers.discard(peer)
            peer.sock.close()
            self._changed.notify_all()

    # -- the end -----------------------------------------------------------------------------------------------

    def _shut_down(self) -> bool:
        """Let running sessions finish within the grace, then end the rest; return whether all could finish."""
        for listener in self._listeners:
            listener.close()
        self._logins.close()
        deadline = time.monotonic() + self._limits.grace_seconds
        with self._changed:
            for peer in self._peers:
                if not peer.user:
                    _cut(peer.sock)
            while self._peers and self._stops < 2 and time.monotonic() < deadline:
                self._changed.wait(0.1)  # short: the second stop comes from a signal handler, which takes no lock
            finished = not any(peer.user for peer in self._peers)
            for peer in self._peers:
                _cut(peer.sock)
            deadline = time.monotonic() + FORCED_SECONDS
            while self._peers and time.monotonic() < deadline:
                self._changed.wait(0.1)
        return finished


def listen(host: str | None, port: int) -> list[socket.socket]:
    """Return listening sockets for a host name or address, or for all interfaces where `host` is None.

    Raises ConfigurationError for a port in use, one that needs root, or a host that is not this machine's.
    """
    try:
        if host is None:
            if socket.has_dualstack_ipv6():
                with contextlib.suppress(OSError):
                    return [
                        socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
                    ]
            return [socket.create_server(("", port), backlog=BACKLOG)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets = []
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
            port = port or sockets[0].getsockname()[1]
        return sockets
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str | None, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} is in use on this machine", hint=f"Choose another: securexfer serve --port {port + 1}"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ConfigurationError(
            f"port {port} needs root", hint="Choose one from 1024 on: securexfer serve --port 9090"
        )
    return ConfigurationError(
        f"cannot listen on {host or 'all interfaces'} port {port}: {error.strerror or error}",
        hint="Give an address of this machine, or leave --host out to listen on all of them.",
    )


def _plain_address(address: str) -> str:
    """Return an address as people write it: an IPv4 peer of a dual-stack socket is an IPv4 peer."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _handshake_problem(error: ssl.SSLError) -> str:
    reason = (error.reason or "closed").lower().replace("_", " ")
    return "version" if reason in {"unsupported protocol", "version too low", "wrong version number"} else reason


def _cut(sock: ssl.SSLSocket) -> None:
    """Make a worker's next read or write end, without touching the TLS object, which is the worker's alone."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
