"""Files on their way in: what is known of each, and where the content of the one that moves goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securexfer.errors import ProtocolError, SecurexferError
from securexfer.net.payload import PARALLEL_BYTES, Buffer, Parallel
from securexfer.transfer.groups import Complete

if TYPE_CHECKING:
    from securexfer.net.frames import Frames
    from securexfer.storage.base import Description, Offered, Prefix, Staging
    from securexfer.workers import Job


@dataclass(slots=True, eq=False)
class Arrival:
    """One file from its offer to its last byte."""

    number: int
    description: Description
    offered: Offered | None = None  # what was accepted of it, until it is staged
    nonce: bytes = b""
    prefix: Job[Prefix] | None = None  # of what is here of it, if that takes long
    staging: Staging | None = None
    content: Content | None = None
    received: int = 0  # bytes of it, those that were here included
    sha256: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def large(self) -> bool:
        """Whether its content is on its way, and better not mixed with messages in one buffer."""
        return isinstance(self.content, Wide)

    @property
    def name(self) -> str:
        """Its name below the user's directory, as it was offered."""
        return str(self.description.name)

    def begin(self, digest: Prefix, received: int) -> None:
        """Take content from now on; `digest` is that of the bytes that are here already."""
        self.received = received
        if self.staging is None:
            self.content = Content(digest)
        elif self.description.size - received < PARALLEL_BYTES:
            self.content = Narrow(digest, self.staging)
        else:
            self.content = Wide(digest, self.staging)

    def complete(self) -> Complete:
        """Return what is known of it once all of it has arrived."""
        return Complete(self.number, self.description, self.staging, self.sha256, self.started)

    def let_go(self, error: BaseException) -> None:
        """Give back what it holds; what came of it is kept only if it was the connection that ended."""
        if self.content:
            self.content.stop(error)
        if self.staging:
            self.staging.__exit__(type(error), error, None)
        elif self.offered:
            self.offered.drop()


class Content:
    """Where the content of a file goes; of one that is here already, nothing comes."""

    def __init__(self, digest: Prefix) -> None:
        """Take the digest of what is here already."""
        self._digest = digest

    def move(self, frames: Frames) -> int:
        """Take what has arrived of the payload that was announced; return how much that was.

        Raises what keeps it from being stored, and TruncatedError if the connection ends.
        """
        raise ProtocolError(f"{frames.payload} bytes came of a file that is here already")

    def finish(self) -> bytes:
        """Return SHA-256 of the whole file, once all of it was taken and written; raise what went wrong."""
        return self._digest.digest()

    def stop(self, error: BaseException) -> None:
        """Take no more, because of this error."""


class Narrow(Content):
    """Of a small file: hashed and written from where it has arrived."""

    def __init__(self, digest: Prefix, staging: Staging) -> None:
        super().__init__(digest)
        self._staging = staging

    def move(self, frames: Frames) -> int:
        """See Content.move."""
        piece = frames.take()
        if piece:
            self._digest.update(piece)
            self._staging.write(piece)
        return len(piece)


class Wide(Content):
    """Of a large file: hashed and written beside the TLS work, in large pieces."""

    def __init__(self, digest: Prefix, staging: Staging) -> None:
        super().__init__(digest)
        self._staging = staging
        self._parallel = Parallel(self._sink)
        self._buffer = Buffer(self._parallel.hand_over)
        self._buffer.rotating = True
        self._parallel.__enter__()

    def move(self, frames: Frames) -> int:
        """See Content.move."""
        return len(self._buffer.fill_from(frames.read_into, frames.payload))

    def finish(self) -> bytes:
        """See Content.finish."""
        try:
            self._buffer.flush()
        except SecurexferError as error:
            self.stop(error)
            raise
        self._parallel.__exit__(None, None, None)
        return self._digest.digest()

    def stop(self, error: BaseException) -> None:
        """See Content.stop."""
        self._parallel.__exit__(type(error), error, None)

    def _sink(self, held: memoryview) -> None:
        self._digest.update(held)
        self._staging.write(held)
