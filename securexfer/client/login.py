"""The login, in either protocol; tried again for a while when the server is busy, or has seen too many failures."""

from __future__ import annotations

import time
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from securexfer import __version__
from securexfer.client.connecting import CONNECT_SECONDS, connect
from securexfer.errors import (
    BusyError,
    LoginRefusedError,
    ProtocolError,
    SecurexferError,
    ThrottledError,
    TruncatedError,
    refusal,
)
from securexfer.names import show
from securexfer.net.frames import Frames
from securexfer.wire import framing, messages

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from securexfer.client.target import Target
    from securexfer.net.connection import Connection
    from securexfer.transfer.items import Watcher

LOGIN_SECONDS = 180.0  # 128 logins may stand in front of us in the server's queue, at a quarter of a second each
RETRY_SECONDS = 60.0  # how long a busy server is asked again
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling, each with jitter


class Line(NamedTuple):
    """A connection after an accepted login; `frames` are those of protocol 2, None in protocol 1."""

    connection: Connection
    frames: Frames | None


class Login:
    """Logs one user in on one server, as often as it takes."""

    def __init__(
        self,
        target: Target,
        context: ssl.SSLContext,
        user: str,
        password: str,
        watcher: Watcher,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Call `meanwhile` while the server verifies a login of protocol 2.

        Raises UsageError for a user or a password that cannot be sent.
        """
        self._target = target
        self._context = context
        self._user = user
        self._password = unicodedata.normalize("NFC", password)
        self._classroom = framing.Login(user, self._password).encode()
        self._watcher = watcher
        self._meanwhile = meanwhile

    def log_in(self) -> Line:
        """Return a connection after an accepted login, trying again while the server is busy."""
        give_up = time.monotonic() + RETRY_SECONDS
        wait = Wait(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            try:
                return self._try()
            except (BusyError, ThrottledError) as error:
                least = error.seconds if isinstance(error, ThrottledError) else 0.0
                pause = wait.next(least)
                if time.monotonic() + pause > give_up:
                    raise
                self._watcher.retrying(error.message, pause)
                time.sleep(pause)

    def _try(self) -> Line:
        connection = connect(self._target, self._context)
        try:
            frames = None
            if connection.protocol == framing.ALPN:
                self._authenticate_in_classroom(connection)
            else:
                frames = Frames(connection, server=False)
                self._authenticate(connection, frames)
        except TruncatedError as error:
            connection.close()
            raise BusyError(
                f"{self._target.address} ended the connection without answering the login: "
                "it is busy, or there were too many failed logins"
            ) from error
        except BaseException:
            connection.close()
            raise
        self._watcher.connected(self._user, self._target.address)
        return Line(connection, frames)

    def _authenticate_in_classroom(self, connection: Connection) -> None:
        connection.send(self._classroom, time.monotonic() + CONNECT_SECONDS)
        answer = connection.receive(1, time.monotonic() + LOGIN_SECONDS)
        if answer == framing.REFUSED:
            raise self._refused()
        if answer != framing.ACCEPTED:
            raise ProtocolError(f"{self._target.address} answered the login with {answer[0]:#04x}, which means nothing")

    def _authenticate(self, connection: Connection, frames: Frames) -> None:
        login = messages.Authenticate(0, self._user, self._password, f"securexfer/{__version__}")
        connection.send(frames.say(login), time.monotonic() + CONNECT_SECONDS)
        self._meanwhile()
        _, answer = frames.await_message(time.monotonic() + LOGIN_SECONDS)
        if isinstance(answer, messages.Refuse):
            raise self._not_welcome(answer)

    def _not_welcome(self, answer: messages.Refuse) -> SecurexferError:
        error = refusal(answer.reason, f"{self._target.address} refused the session: {show(answer.detail)}")
        if isinstance(error, LoginRefusedError):
            return self._refused()
        if isinstance(error, BusyError):
            return BusyError(f"{self._target.address} is busy")
        if isinstance(error, ThrottledError):
            seconds = float(answer.retry_after)
            wait = f"the next try may be made in {seconds:.0f} s" if seconds else "it does not say for how long"
            return ThrottledError(f"{self._target.address} has seen too many failed logins: {wait}", seconds=seconds)
        return error

    def _refused(self) -> LoginRefusedError:
        return LoginRefusedError(f"{self._target.address} refused the login of {show(self._user)!r}")


class Wait:
    """Waits that grow from the first to the longest, with jitter: many who wait do not come back at the same moment."""

    def __init__(self, first: float, longest: float) -> None:
        self._seconds = first
        self._longest = longest

    def next(self, least: float = 0.0) -> float:
        """Return the seconds to wait now, not much less than `least`."""
        import secrets

        pause = max(self._seconds, least) * (0.5 + secrets.SystemRandom().random())
        self._seconds = min(self._seconds * 2, self._longest)
        return max(pause, least)
