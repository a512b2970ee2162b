"""Both protocols as a server speaks them: how a login is read, how it is answered, who takes the files after it."""

from __future__ import annotations

import contextlib
import math
import socket
from typing import TYPE_CHECKING, Protocol

from securexfer import __version__
from securexfer.errors import LoginRefusedError, PolicyRefusedError, ProtocolError, SecurexferError, ThrottledError
from securexfer.net.frames import Frames
from securexfer.storage.base import OnConflict
from securexfer.transfer.classroom.receiver import Receiver as ClassroomReceiver
from securexfer.transfer.receiver import Receiver
from securexfer.wire import framing, messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.net.connection import Connection
    from securexfer.storage.base import Storage
    from securexfer.storage.local import Inbox
    from securexfer.transfer.openings import Openings
    from securexfer.transfer.session import Session


class Speaker(Protocol):
    """One connection after its handshake, in the protocol that was agreed on."""

    def hear_login(self, deadline: float) -> tuple[str, str | None]:
        """Return the user and the password, None for one that cannot be anybody's.

        Raises TruncatedError, PeerTimeoutError, or ProtocolError if what comes is not a login.
        """
        ...

    def accept(self) -> None:
        """Say that the login was good."""
        ...

    def refuse(self, error: SecurexferError) -> None:
        """Say why the session ends before it began, as far as the protocol has words for that."""
        ...

    def receive(self, session: Session, inbox: Inbox, stopping: Callable[[], bool]) -> None:
        """Take files until the client has no more; raise what ended the session early."""
        ...


class Classroom:
    """Protocol 1."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def hear_login(self, deadline: float) -> tuple[str, str | None]:
        """See Speaker.hear_login."""
        raw = self._connection.receive(framing.LOGIN_SIZE, deadline)
        try:
            login = framing.Login.decode(raw)
        except ProtocolError:
            return raw[: framing.TEXT_SIZE].rstrip(b" ").decode(errors="backslashreplace"), None
        return login.user, login.password

    def accept(self) -> None:
        """See Speaker.accept."""
        self._connection.post(framing.ACCEPTED)

    def refuse(self, error: SecurexferError) -> None:
        """See Speaker.refuse. There is no word for "not now": the session just ends."""
        if isinstance(error, LoginRefusedError):
            self._connection.post(framing.REFUSED)

    def receive(self, session: Session, inbox: Inbox, stopping: Callable[[], bool]) -> None:
        """See Speaker.receive."""
        with (
            contextlib.closing(session.open_send(lambda: inbox.new_bundle(session.user))) as openings,
            contextlib.closing(inbox.for_user(session.user, bundle=openings.bundle)) as storage,
        ):
            ClassroomReceiver(self._connection, storage, session, stopping, openings).run()
            openings.open(lambda: False, results=False)  # nobody hears what comes of it, but who looks at the log


class Second:
    """Protocol 2."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._frames = Frames(connection, server=True)

    def hear_login(self, deadline: float) -> tuple[str, str | None]:
        """See Speaker.hear_login. Reads no byte beyond it, and none of one that is too long."""
        header = self._connection.receive(messages.HEADER_SIZE, deadline)
        try:
            kind, length, transfer = messages.decode_header(header)
            self._frames.conversation.note("client", messages.kind_of(kind), transfer)
            login = messages.decode(kind, self._connection.receive(length, deadline))
        except ProtocolError as error:
            self._connection.post(messages.encode(messages.Refuse(0, error.reason, error.message)))
            raise
        if not isinstance(login, messages.Authenticate):
            raise ProtocolError("the first message is no login")  # which the order of messages does not allow
        return login.user, login.secret

    def accept(self) -> None:
        """See Speaker.accept."""
        self._connection.post(self._frames.say(messages.Welcome(0, _name_of_this_machine())))

    def refuse(self, error: SecurexferError) -> None:
        """See Speaker.refuse. Every login that is refused gets the same words, whatever was wrong with it."""
        detail = "" if isinstance(error, LoginRefusedError) else error.hint
        wait = math.ceil(error.seconds) if isinstance(error, ThrottledError) else 0
        self._connection.post(self._frames.say(messages.Refuse(wait, error.reason, detail)))

    def receive(self, session: Session, inbox: Inbox, stopping: Callable[[], bool]) -> None:
        """See Speaker.receive."""

        def storage_for(put: messages.Put) -> tuple[Storage, Openings | None]:
            policy = None if put.on_conflict == "default" else OnConflict(put.on_conflict)
            if policy is not None and policy not in inbox.rules.allowed:
                raise PolicyRefusedError(f"this server does not allow the conflict policy {policy}")
            openings = session.open_send(lambda: inbox.new_bundle(session.user, put.directory)) if put.opening else None
            bundle = openings.bundle if openings else None
            try:
                storage = inbox.for_user(session.user, policy=policy, send_id=put.send_id, bundle=bundle)
            except BaseException:
                if openings:
                    openings.close()
                raise
            return storage, openings

        Receiver(self._frames, storage_for, session, stopping).run()


def _name_of_this_machine() -> str:
    return f"{socket.gethostname()[:40]} securexfer/{__version__}"


# By the name in the handshake; the server's choice is the first that the client has as well.
SPEAKERS: dict[str, Callable[[Connection], Speaker]] = {messages.ALPN: Second, framing.ALPN: Classroom}
