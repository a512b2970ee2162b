"""Frozen records of what happened, for whoever watches: the log, the progress display, `--json`.

No event ever holds a secret, and text from a peer stands in it as it came: who shows it escapes it. The
`kind` is the word that the log uses for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened."""

    kind: ClassVar[str] = ""
    level: ClassVar[str] = "info"


Observer = Callable[[Event], None]


# -- the server ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerStarted(Event):
    """The server listens."""

    kind: ClassVar[str] = "server.start"
    addresses: tuple[str, ...]
    inbox: str


@dataclass(frozen=True, slots=True)
class ServerStopped(Event):
    """The server has ended; `reason` says whether every session could finish."""

    kind: ClassVar[str] = "server.stop"
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionOpened(Event):
    """Somebody connected."""

    kind: ClassVar[str] = "conn.open"
    connection: int
    address: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed(Event):
    """A connection ended: exactly one for each that was opened."""

    kind: ClassVar[str] = "conn.close"
    connection: int
    address: str
    reason: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TlsFailed(Event):
    """A handshake did not come to an end: reason is version, alpn, timeout, evicted or what TLS said."""

    kind: ClassVar[str] = "tls.fail"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoginAccepted(Event):
    """A user proved who they are; `waited` counts the seconds in the queue and the verification."""

    kind: ClassVar[str] = "auth.ok"
    connection: int
    address: str
    user: str
    waited: float


@dataclass(frozen=True, slots=True)
class LoginFailed(Event):
    """A login was refused; only here it says why (unknown, wrong, disabled, ...)."""

    kind: ClassVar[str] = "auth.fail"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    user: str
    reason: str
    waited: float


@dataclass(frozen=True, slots=True)
class FileStored(Event):
    """A file is durable under its name. Sizes are in bytes, `seconds` from its header to its commit."""

    kind: ClassVar[str] = "file.ok"
    connection: int
    address: str
    user: str
    name: str
    size: int
    sha256: str
    outcome: str
    stored_as: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FileRejected(Event):
    """A file arrived, or was announced, and is not stored."""

    kind: ClassVar[str] = "file.reject"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    user: str
    name: str
    size: int
    sha256: str
    outcome: str
    reason: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FileAborted(Event):
    """The connection ended in the middle of a file; nothing of it is left."""

    kind: ClassVar[str] = "file.abort"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    user: str
    name: str
    size: int
    received: int
    reason: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LimitHit(Event):
    """A limit refused somebody something."""

    kind: ClassVar[str] = "limit.hit"
    level: ClassVar[str] = "warning"
    address: str
    limit: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoreError(Event):
    """Something on the server's side needs its administrator."""

    kind: ClassVar[str] = "store.error"
    level: ClassVar[str] = "error"
    detail: str


@dataclass(frozen=True, slots=True)
class KeyNotice(Event):
    """The server's certificate was renewed, could not be loaded, or is about to end."""

    kind: ClassVar[str] = "key.warn"
    level: ClassVar[str] = "warning"
    detail: str


# -- the client ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retrying(Event):
    """The server is busy; the next try comes in `seconds`."""

    kind: ClassVar[str] = "retry"
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The server proved who it is and accepted the login."""

    kind: ClassVar[str] = "connected"
    user: str
    server: str


@dataclass(frozen=True, slots=True)
class SendingStarted(Event):
    """The file with this index is being sent now."""

    kind: ClassVar[str] = "start"
    index: int


@dataclass(frozen=True, slots=True)
class Sent(Event):
    """So many more bytes of the file with this index are on their way."""

    kind: ClassVar[str] = "progress"
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class FileEnded(Event):
    """What became of the file with this index: the server's word, or why it was not asked."""

    kind: ClassVar[str] = "file"
    index: int
    name: str
    status: str
    size: int
    sha256: str | None
    stored_as: str | None
    reason: str | None
    detail: str | None
