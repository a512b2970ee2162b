"""The server: listen, admit, authenticate, run a receiver for each connection, shut down cleanly.

One thread accepts and never waits for a peer; each connection has a worker thread that owns its TLS object and
does everything else, the handshake included. What somebody without an account can hold is bounded here: so
many connections that have not handed in a login, in all and from one source, the oldest of the largest source
going first; ten seconds each for the handshake and the login; then a place in the queue of logins, or none.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
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
    LoginRefusedError,
    PeerTimeoutError,
    SecurexferError,
    ShuttingDownError,
    ThrottledError,
)
from securexfer.events import (
    ConnectionClosed,
    ConnectionOpened,
    LimitHit,
    LoginAccepted,
    LoginFailed,
    LoginThrottled,
    StoreError,
    TlsFailed,
)
from securexfer.hosts import source_of
from securexfer.net.connection import Connection, shake_hands
from securexfer.net.listening import plain_address
from securexfer.net.payload import MINIMUM_RATE
from securexfer.opening.opener import Whose
from securexfer.protocols import SPEAKERS
from securexfer.transfer.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.accounts.logins import Logins
    from securexfer.events import Observer
    from securexfer.opening.opener import Opener
    from securexfer.protocols import Speaker
    from securexfer.storage.local import Inbox

ACCEPTS = 64  # from one listener, before the others and the housekeeping have their turn
DESCRIPTOR_PAUSE = 0.2  # seconds without accepting when descriptors or threads have run out
STACK_SIZE = 1 << 20  # bytes for a worker's stack: enough for OpenSSL and a few dozen Python frames
# Before a login that was not looked at hears so: who guesses, or queues, in a loop loops once a second.
TURNED_AWAY_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 5.0
FORCED_SECONDS = 2.0  # how long workers get to end after their sockets were shut down


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server allows. Seconds, bytes and counts; none of them has a value that means unlimited."""

    handshakes: int = 256  # connections without a login, or at their end, in all
    handshakes_per_source: int = 64  # of them; labs sit behind one address translator
    handshake_seconds: float = 10.0
    login_seconds: float = 10.0  # the client's silence; its time in our queue does not count
    sessions: int = 512
    sessions_per_user: int = 64
    idle_seconds: float = 30.0  # a client that owes bytes may be silent this long
    minimum_rate: int = MINIMUM_RATE
    largest_file: int = 1 << 40
    grace_seconds: float = 10.0  # for running files, when the server is told to stop


class _Phase(enum.Enum):
    """How far a connection is. One whose login waits, or was good, is safe from being ended for a newer one."""

    TURNED_AWAY = enum.auto()  # its login was not looked at, and it waits before it hears so
    PROVING = enum.auto()  # handshake, then the bytes of a login
    WAITING = enum.auto()  # for its login to be checked; the queue has a limit of its own
    SESSION = enum.auto()
    ENDING = enum.auto()  # until the peer has read the last answer


# Those that may be ended for a newcomer, in that order.
_LOOSE = (_Phase.TURNED_AWAY, _Phase.PROVING, _Phase.ENDING)


@dataclass(eq=False, slots=True)
class _Peer:
    """One connection, from accept to close. `phase`, its time and `evicted` change under the server's lock."""

    number: int
    address: str
    source: str
    sock: ssl.SSLSocket
    since: float = field(default_factory=time.monotonic)
    phase: _Phase = _Phase.PROVING
    phase_since: float = field(default_factory=time.monotonic)
    evicted: bool = False
    user: str = ""


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
        opener: Opener,
    ) -> None:
        """Take listening sockets; `context` gives the TLS context for a new connection, `housekeeping` runs often."""
        self._listeners = listeners
        self._context = context
        self._logins = logins
        self._inbox = inbox
        self._limits = limits
        self._observe = observe
        self._housekeeping = housekeeping
        self._opener = opener
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
        """Accept some of what waits there; never wait for a peer."""
        for _ in range(ACCEPTS):
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
            self._admit(sock, plain_address(address[0]))

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
        except (OSError, ValueError, MemoryError):
            sock.close()
            return
        peer = _Peer(next(self._numbers), address, source_of(address), wrapped)
        with self._lock:
            victim = self._victim(peer.source)
            if victim:
                victim.evicted = True
                _cut(victim.sock)
            self._peers.add(peer)
        if victim:
            detail = "the oldest connection without a login was ended"
            self._observe(LimitHit(victim.address, "handshakes", detail))
        try:
            threading.Thread(target=self._work, args=(peer,), daemon=True, name=f"peer-{peer.number}").start()
        except (RuntimeError, MemoryError) as error:
            self._observe(LimitHit(address, "threads", str(error)))
            self._forget(peer)
            self._pause()

    def _victim(self, newcomer: str) -> _Peer | None:
        """Return the handshake to end so that one more from a source keeps within the caps. Called with the lock."""
        holders = [peer for peer in self._peers if peer.phase in _LOOSE and not peer.evicted]
        held = Counter(peer.source for peer in holders)
        if held[newcomer] >= self._limits.handshakes_per_source:
            candidates = [peer for peer in holders if peer.source == newcomer]
        elif len(holders) >= self._limits.handshakes:
            most = max(held.values())  # of several that hold as many, the oldest goes, or it would be the newest of all
            candidates = [peer for peer in holders if held[peer.source] == most]
        else:
            return None
        return min(candidates, key=lambda peer: (_LOOSE.index(peer.phase), peer.phase_since))

    # -- one connection, in its worker -----------------------------------------------------------------------------

    def _work(self, peer: _Peer) -> None:
        self._observe(ConnectionOpened(peer.number, peer.address))
        reason, detail = "done", ""
        try:
            connection = self._shake_hands(peer)
            if connection:
                try:
                    self._run_session(peer, SPEAKERS[connection.protocol](connection), connection)
                finally:
                    self._enter(peer, _Phase.ENDING)
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
            problem = None if peer.sock.selected_alpn_protocol() in SPEAKERS else "alpn"
        except PeerTimeoutError:
            problem = "timeout"
        except ssl.SSLError as error:
            problem = _handshake_problem(error)
        except OSError as error:
            problem = errno.errorcode.get(error.errno or 0, "closed")
        if problem:
            self._observe(TlsFailed(peer.number, peer.address, "evicted" if peer.evicted else problem))
            return None
        return Connection(peer.sock)

    def _run_session(self, peer: _Peer, speaker: Speaker, connection: Connection) -> None:
        shown, password = speaker.hear_login(time.monotonic() + self._limits.login_seconds)
        started = time.monotonic()
        self._enter(peer, _Phase.WAITING)
        try:
            user = self._logins.check(shown, password, peer.source, give_up=connection.peer_left).name
        except LoginRefusedError as error:
            waited = time.monotonic() - started
            self._observe(LoginFailed(peer.number, peer.address, shown, error.detail, waited))
            speaker.refuse(error)
            raise
        except ThrottledError as error:
            self._observe(LoginThrottled(peer.number, peer.address, shown, error.message))
            self._turn_away(peer, connection)
            speaker.refuse(error)
            raise
        except BusyError as error:
            self._observe(LimitHit(peer.address, "logins", error.message))
            self._turn_away(peer, connection)
            speaker.refuse(error)
            raise
        except ShuttingDownError as error:
            speaker.refuse(error)
            raise
        self._observe(LoginAccepted(peer.number, peer.address, user, time.monotonic() - started))
        try:
            self._enter_session(peer, user)
        except BusyError as error:
            speaker.refuse(error)
            raise
        speaker.accept()
        limits = self._limits
        session = Session(
            peer.number,
            peer.address,
            user,
            limits.largest_file,
            limits.idle_seconds,
            limits.minimum_rate,
            self._inbox.rules.names,
            self._observe,
            functools.partial(self._opener.for_send, Whose(peer.number, peer.address, user)),
        )
        speaker.receive(session, self._inbox, lambda: bool(self._stops))

    def _turn_away(self, peer: _Peer, connection: Connection) -> None:
        """Let whoever had no look at its login wait, in a place that anybody else may have, before it hears so."""
        self._enter(peer, _Phase.TURNED_AWAY)
        connection.linger(TURNED_AWAY_SECONDS)

    def _enter_session(self, peer: _Peer, user: str) -> None:
        """Count the peer as a session of `user`; raise BusyError if there are too many."""
        with self._lock:
            users = [other.user for other in self._peers if other.phase is _Phase.SESSION]
            if len(users) >= self._limits.sessions:
                limit, detail = "sessions", f"{len(users)} sessions are running"
            elif users.count(user) >= self._limits.sessions_per_user:
                limit, detail = "sessions per user", f"{user} has {users.count(user)} sessions running"
            else:
                peer.user, peer.phase = user, _Phase.SESSION
                return
        self._observe(LimitHit(peer.address, limit, detail, user))
        raise BusyError(detail)

    def _enter(self, peer: _Peer, phase: _Phase) -> None:
        with self._lock:
            peer.phase, peer.phase_since = phase, time.monotonic()

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
                if peer.phase is _Phase.PROVING:
                    _cut(peer.sock)
            while self._peers and self._stops < 2 and time.monotonic() < deadline:
                self._changed.wait(0.1)  # short: the second stop comes from a signal handler, which takes no lock
            finished = not any(peer.phase is _Phase.SESSION for peer in self._peers)
            for peer in self._peers:
                _cut(peer.sock)
            deadline = time.monotonic() + FORCED_SECONDS
            while self._peers and time.monotonic() < deadline:
                self._changed.wait(0.1)
        return finished


def _handshake_problem(error: ssl.SSLError) -> str:
    reason = (error.reason or "closed").lower().replace("_", " ")
    return "version" if reason in {"unsupported protocol", "version too low", "wrong version number"} else reason


def _cut(sock: ssl.SSLSocket) -> None:
    """Make a worker's next read or write end, without touching the TLS object, which is the worker's alone."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
