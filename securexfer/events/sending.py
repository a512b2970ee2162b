"""What happens on a client while it sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from securexfer.events import Event


@dataclass(frozen=True)
class Retrying(Event):
    """The server is busy; the next try comes in `seconds`."""

    kind: ClassVar[str] = "retry"
    detail: str
    seconds: float


@dataclass(frozen=True)
class Connected(Event):
    """The server proved who it is and accepted the login."""

    kind: ClassVar[str] = "connected"
    user: str
    server: str


@dataclass(frozen=True)
class SendingStarted(Event):
    """The file with this index is being sent now."""

    kind: ClassVar[str] = "start"
    index: int


@dataclass(frozen=True)
class Sent(Event):
    """So many more bytes of the file with this index are on their way."""

    kind: ClassVar[str] = "progress"
    index: int
    count: int


@dataclass(frozen=True)
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
