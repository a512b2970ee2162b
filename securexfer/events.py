"""Frozen records of what happened on a server, for whoever watches: the log, later metrics and a status page.

No event ever holds a secret, and text from a peer stands in it as it came: who shows it escapes it. The
`kind` is the word that the log uses for it. (A client reports to a `Watcher` instead, see transfer/sender.py: a
record for every piece of payload, and the classes of all records at every start, cost more than they are worth there.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class Event:
    """Something happened."""

    kind: ClassVar[str] = ""
    level: ClassVar[str] = "info"


Observer = Callable[[Event], None]


@dataclass(frozen=True)
class ServerStarted(Event):
    """The server listens."""

    kind: ClassVar[str] = "server.start"
    addresses: tuple[str, ...]
    inbox: str


@dataclass(frozen=True)
class ServerStopped(Event):
    """The server has ended; `reason` says whether every session could finish."""

    kind: ClassVar[str] = "server.stop"
    reason: str


@dataclass(frozen=True)
class ConnectionOpened(Event):
    """Somebody connected."""

    kind: ClassVar[str] = "conn.open"
    connection: int
    address: str


@dataclass(frozen=True)
class ConnectionClosed(Event):
    """A connection ended: exactly one for each that was opened."""

    kind: ClassVar[str] = "conn.close"
    connection: int
    address: str
    reason: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class TlsFailed(Event):
    """A handshake did not come to an end: reason is version, alpn, timeout, evicted or what TLS said."""

    kind: ClassVar[str] = "tls.fail"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    reason: str


@dataclass(frozen=True)
class LoginAccepted(Event):
    """A user proved who they are; `waited` counts the seconds in the queue and the verification."""

    kind: ClassVar[str] = "auth.ok"
    connection: int
    address: str
    user: str
    waited: float


@dataclass(frozen=True)
class LoginFailed(Event):
    """A login was refused; only here it says why (unknown, wrong, disabled, ...)."""

    kind: ClassVar[str] = "auth.fail"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    user: str
    reason: str
    waited: float


@dataclass(frozen=True)
class LoginThrottled(Event):
    """A login was not looked at, because too many failed before it; `rule` says which of them count."""

    kind: ClassVar[str] = "auth.throttle"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    user: str
    rule: str


# Name, size in bytes, SHA-256 in hex, outcome, the name it is stored under, seconds from its header to its commit. A
# plain tuple, and one event for all files that were answered for together: of many small ones, each costs a third of
# what it did as an event of its own.
StoredFile = tuple[str, int, str, str, str, float]


@dataclass(frozen=True)
class FilesStored(Event):
    """Files are durable under their names. The log has a line for each."""

    kind: ClassVar[str] = "file.ok"
    connection: int
    address: str
    user: str
    files: Sequence[StoredFile]


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class FileOpened(Event):
    """A stored file was opened, or that was begun. `shown` are lines of what was printed or shown, safe to show.

    `how` it ended, and its `code`, are words of docs/PROTOCOL.md; `seconds` are those that it took.
    """

    kind: ClassVar[str] = "handler.run"
    connection: int
    address: str
    user: str
    name: str
    sha256: str
    action: str
    how: str
    code: int
    seconds: float
    detail: str
    results: tuple[str, ...]
    shown: tuple[str, ...]


@dataclass(frozen=True)
class OpeningKilled(FileOpened):
    """The same, and it had to be ended: for a limit, or because nobody waits for it any more."""

    kind: ClassVar[str] = "handler.killed"
    level: ClassVar[str] = "warning"


@dataclass(frozen=True)
class OpeningRefused(Event):
    """A stored file is not opened, though somebody may expect it: a switch is off, or too much waits."""

    kind: ClassVar[str] = "handler.refused"
    level: ClassVar[str] = "warning"
    connection: int
    address: str
    user: str
    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class LimitHit(Event):
    """A limit refused somebody something; `user` is who was logged in, if anybody was."""

    kind: ClassVar[str] = "limit.hit"
    level: ClassVar[str] = "warning"
    address: str
    limit: str
    detail: str
    user: str = ""


@dataclass(frozen=True)
class StoreError(Event):
    """Something on the server's side needs its administrator."""

    kind: ClassVar[str] = "store.error"
    level: ClassVar[str] = "error"
    detail: str


@dataclass(frozen=True)
class LogDropped(Event):
    """So many lines could not be written, because the log's disk was full or nobody read it."""

    kind: ClassVar[str] = "log.dropped"
    level: ClassVar[str] = "warning"
    lines: int


@dataclass(frozen=True)
class LogSuppressed(Event):
    """So many lines about connections without a login were left out: the counts of each kind, for one address.

    The address is ``*`` for so many `sources` together.
    """

    kind: ClassVar[str] = "log.suppressed"
    level: ClassVar[str] = "warning"
    address: str
    sources: int
    lines: int
    kinds: Mapping[str, int]


@dataclass(frozen=True)
class KeyNotice(Event):
    """The server's certificate was renewed, could not be loaded, or is about to end."""

    kind: ClassVar[str] = "key.warn"
    level: ClassVar[str] = "warning"
    detail: str


@dataclass(frozen=True)
class OpeningNotice(Event):
    """Files are not opened, though the server was told to; `detail` says why, and how to mend it."""

    kind: ClassVar[str] = "handler.warn"
    level: ClassVar[str] = "warning"
    detail: str


@dataclass(frozen=True)
class StorageNotice(Event):
    """Files are stored less safely, or more slowly, than they could be; `detail` says why."""

    kind: ClassVar[str] = "store.warn"
    level: ClassVar[str] = "warning"
    detail: str


@dataclass(frozen=True)
class PrivilegeNotice(Event):
    """The server has rights that it does not need; `detail` says which, and how to take them away."""

    kind: ClassVar[str] = "privilege.warn"
    level: ClassVar[str] = "warning"
    detail: str
