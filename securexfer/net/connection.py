"""One TLS socket: exact reads, writes that keep reading, deadlines that no trickle can stretch.

The socket never blocks; `poll` does the waiting. So a deadline is one moment on the monotonic clock for a
whole phase, however many calls it takes, and either side can keep reading while a write waits for room (a
TLS object may be used by one thread only, so that thread must serve both directions).

Errors of `ssl` and `socket` become ours here and nowhere else. An end without close_notify is never mistaken
for an orderly end: the former raises, the latter is a read of zero bytes.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import sys
import time
from typing import TYPE_CHECKING, cast

from securexfer.errors import PeerTimeoutError, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN_SECONDS = 5.0  # how long the end of a session waits for the peer to read what was said last
_DRAIN_SIZE = 65536


class Connection:
    """A TLS connection after its handshake. One thread owns it."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.settimeout(0)
        self._socket = sock
        self._unsent = bytearray()
        self._enough = 1  # bytes that have to be there for the system to call it input
        # Called when a read would have to wait: the moment to do what was put off (commits, answers).
        self.before_wait: Callable[[], None] | None = None

    @property
    def protocol(self) -> str:
        """What was agreed on in the handshake (ALPN)."""
        return self._socket.selected_alpn_protocol() or ""

    def receive(self, size: int, deadline: float) -> bytes:
        """Return exactly `size` bytes; raise TruncatedError at the end of input, PeerTimeoutError at `deadline`."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            count = self.receive_into(view, deadline)
            if not count:
                raise TruncatedError("the connection ended in the middle of a message")
            view = view[count:]
        return bytes(buffer)

    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Put what has arrived into `view`, waiting until `deadline`; return the count, 0 at an orderly end."""
        count = self.try_receive_into(view)
        if count is None and self.before_wait:
            self.before_wait()
        while count is None:
            self._wait_for_input(deadline)
            count = self.try_receive_into(view)
        return count

    def try_receive_into(self, view: memoryview) -> int | None:
        """Put what has arrived into `view` without waiting; return the count, 0 at an orderly end, None for nothing.

        One call takes record after record (16 KiB each) until `view` is full or nothing more is there.
        """
        read = self._socket.read
        size, end = len(view), 0
        try:
            while end < size:
                # With a buffer, `read` returns a count; typeshed only knows the form without one.
                count = cast("int", read(size - end, view[end:]))
                if not count:
                    break
                end += count
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return end or None
        except (OSError, ValueError) as error:
            if not end:  # else what came before counts, and the next call fails the same way
                raise _ended(error) from error
        return end

    def send(
        self, data: memoryview | bytes, deadline: float, while_waiting: Callable[[], float | None] | None = None
    ) -> None:
        """Send all of `data`; raise TruncatedError or PeerTimeoutError.

        When there is no room, `while_waiting` is called once the peer has said something, so that neither side
        waits for the other to read. It may return another deadline.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.write(view) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                # OpenSSL wants the same bytes again, and gets them: `view` has not moved.
                if _wait(self._socket, deadline, reading=while_waiting is not None, writing=True) and while_waiting:
                    deadline = while_waiting() or deadline
            except (OSError, ValueError) as error:
                raise _ended(error) from error

    def has_input(self, seconds: float) -> bool:
        """Whether there is something to read, waiting for it so long at most."""
        if self._socket.pending() or _poll(self._socket, 0, reading=True, writing=False)[1]:
            return True
        if self.before_wait:
            self.before_wait()
        deadline = time.monotonic() + seconds
        try:
            while not _wait(self._socket, deadline, reading=True, writing=bool(self._unsent)):
                self._try_unsent()
        except PeerTimeoutError:
            return False
        return True

    def wait(self, seconds: float, wake: int | None = None, *, enough: int = 1) -> bool:
        """Wait until there is input, or the descriptor `wake` is readable; return whether either came in time.

        Less than `enough` bytes, as they come over the line, need not count as input. What was posted goes out
        meanwhile.
        """
        if sys.platform == "win32":  # only a server has what to be woken by
            return self.has_input(seconds)
        if self._socket.pending():
            return True
        self._wake_at(enough)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if wake is not None:
            poll.register(wake, select.POLLIN)
        found = poll.poll(math.ceil(seconds * 1000))
        self._try_unsent()
        return bool(found)

    @property
    def unsent(self) -> int:
        """Bytes that were posted and that the system has not taken yet."""
        return len(self._unsent)

    def drain(self, deadline: float) -> None:
        """Wait until what was posted has gone out; raise PeerTimeoutError at the deadline. Input stays where it is."""
        while self._unsent:
            _wait(self._socket, deadline, reading=False, writing=True)
            self._try_unsent()

    def peer_left(self) -> bool:
        """Whether the peer has closed its end, as far as can be seen without reading anything."""
        try:
            return not socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def post(self, data: bytes) -> None:
        """Send `data` as soon as there is room, without ever waiting for it: during later reads, or in `finish`."""
        self._unsent += data
        self._try_unsent()

    def linger(self, seconds: float) -> None:
        """Do nothing for so long, unless the connection is cut meanwhile; what the peer says does not count."""
        if sys.platform == "win32":  # only a server does this, and those are for POSIX
            return
        poll = select.poll()
        poll.register(self._socket, 0)  # hang-ups and errors are told unasked
        poll.poll(seconds * 1000)

    def finish(self) -> None:
        """End the session so that nothing said is lost: send the rest, close_notify, then read until the peer is done.

        Closing while input is unread would make the system send a reset, which can overtake the last answers.
        """
        deadline = time.monotonic() + DRAIN_SECONDS
        try:
            while self._unsent:
                _wait(self._socket, deadline, reading=False, writing=True)
                self._try_unsent()
            self._say_close()
            self._socket.shutdown(socket.SHUT_WR)
            self._wake_at(1)
            scratch = memoryview(bytearray(_DRAIN_SIZE))
            while self._raw_receive(scratch, deadline):
                pass
        except (OSError, TruncatedError, PeerTimeoutError):
            return  # the peer has left, or had its time: there is nobody to tell

    def say_goodbye(self) -> None:
        """Say that nothing more will come (close_notify), without waiting for anything."""
        with contextlib.suppress(OSError, ValueError):
            self._say_close()

    def close(self) -> None:
        """Let the socket go, at once."""
        self._socket.close()

    def _try_unsent(self) -> None:
        if not self._unsent:
            return
        try:
            # Retried with at least the same bytes, as OpenSSL asks: the buffer only grows at its end.
            sent = self._socket.write(self._unsent)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except (OSError, ValueError) as error:
            raise _ended(error) from error
        del self._unsent[:sent]

    def _wake_at(self, enough: int) -> None:
        if enough != self._enough:
            with contextlib.suppress(OSError):  # where that is not known, anything wakes us
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, enough)
            self._enough = enough

    def _wait_for_input(self, deadline: float) -> None:
        while not _wait(self._socket, deadline, reading=True, writing=bool(self._unsent)):
            self._try_unsent()

    def _say_close(self) -> None:
        # `unwrap` sends close_notify, then wants the peer's; we do not wait for that.
        try:
            self._socket.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLError:
            return

    def _raw_receive(self, scratch: memoryview, deadline: float) -> int:
        _wait(self._socket, deadline, reading=True, writing=False)
        return socket.socket.recv_into(self._socket, scratch)


def shake_hands(sock: ssl.SSLSocket, deadline: float) -> None:
    """Complete the handshake of a non-blocking socket; raise ssl.SSLError, OSError, or PeerTimeoutError."""
    sock.settimeout(0)
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            _wait(sock, deadline, reading=True, writing=False)
        except ssl.SSLWantWriteError:
            _wait(sock, deadline, reading=False, writing=True)
        else:
            return


def is_cut(error: Exception) -> bool:
    """Whether TLS met the end of the connection without close_notify."""
    # Debian 12's Python, 3.11.2, has a class for it only where OpenSSL is told to take it for an orderly end.
    cut = isinstance(error, ssl.SSLError) and error.reason == "UNEXPECTED_EOF_WHILE_READING"
    return cut or isinstance(error, ssl.SSLEOFError)


def _wait(sock: ssl.SSLSocket, deadline: float, *, reading: bool, writing: bool) -> bool:
    """Wait until the socket is ready; return whether there is input. Raise PeerTimeoutError at the deadline."""
    left = deadline - time.monotonic()
    ready, has_input = _poll(sock, left, reading=reading, writing=writing) if left > 0 else (False, False)
    if not ready:
        raise PeerTimeoutError("the other side said nothing for too long")
    return has_input


def _poll(sock: ssl.SSLSocket, seconds: float, *, reading: bool, writing: bool) -> tuple[bool, bool]:
    """Wait so long at most; return whether the socket is ready for any of it, and whether there is input."""
    if sys.platform == "win32":
        readable, writable, _ = select.select([sock] if reading else [], [sock] if writing else [], [], seconds)
        return bool(readable or writable), bool(readable)
    poll = select.poll()
    poll.register(sock, (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0))
    found = poll.poll(math.ceil(seconds * 1000))
    # An error or a hang-up counts as input: the read that follows says what it is.
    return bool(found), bool(found) and bool(found[0][1] & ~select.POLLOUT)


def _ended(error: Exception) -> TruncatedError:
    """Say in our words how a connection broke."""
    if is_cut(error):
        return TruncatedError("the connection was cut: it ended without a goodbye")
    if isinstance(error, ssl.SSLError):
        return TruncatedError(f"the connection was damaged in transit ({error.reason or 'TLS error'})")
    if isinstance(error, ConnectionResetError):
        return TruncatedError("the other side reset the connection")
    if isinstance(error, BrokenPipeError):
        return TruncatedError("the other side closed the connection")
    if isinstance(error, OSError):
        return TruncatedError(f"the connection broke ({error.strerror or error})")
    return TruncatedError("the connection is closed")
