"""What is done with files once they are stored, as the receiver of them sees it; `opening` does it, if anybody does."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, Protocol

from securexfer.wire import messages
from securexfer.wire.order import SERVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from securexfer.net.frames import Frames
    from securexfer.storage.base import Committed
    from securexfer.storage.bundle import Bundle
    from securexfer.workers import Job

_PIECE = 256 * 1024  # bytes that go out at once


class Result(Protocol):
    """A file that a script left."""

    @property
    def name(self) -> str:
        """Its safe name."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    @property
    def digest(self) -> bytes:
        """Its SHA-256."""
        ...

    @property
    def file(self) -> BinaryIO:
        """Where to read it, from the start."""
        ...


class Opened(Protocol):
    """What came of a file; the words are those of messages.Opened."""

    @property
    def action(self) -> str:
        """What was done."""
        ...

    @property
    def how(self) -> str:
        """How that went."""
        ...

    @property
    def code(self) -> int:
        """The exit code, where there is one."""
        ...

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...

    @property
    def detail(self) -> str:
        """What else there is to say, safe to show."""
        ...

    @property
    def output(self) -> bytes:
        """What was shown or printed, as it was: whoever shows it escapes it."""
        ...

    @property
    def cut(self) -> bool:
        """Whether there was more of that."""
        ...

    @property
    def results(self) -> Sequence[Result]:
        """The files that it left."""
        ...

    def close(self) -> None:
        """Let go of the results."""
        ...


class Openings(Protocol):
    """The files of one send that are to be opened."""

    @property
    def verdict(self) -> str:
        """Whether they are: one of the words of messages.OPENING."""
        ...

    @property
    def bundle(self) -> Bundle | None:
        """What keeps the files that are stored, for them."""
        ...

    @property
    def silent(self) -> bool:
        """Whether none is ever taken, and nothing is said about that."""
        ...

    def takes(self, name: str, stored: Committed) -> bool:
        """Whether a file that was just stored is going to be opened; if somebody may expect it, the log says why not.

        `name` is the one that it was offered under, below the directory of the send.
        """
        ...

    def open(self, cancelled: Callable[[], bool], *, results: bool) -> Sequence[Job[Opened]]:
        """Begin to open those that were taken, in their order; `cancelled` is asked by other threads, again and again.

        What they leave is kept only if the `results` are wanted. No result of a job is an exception.
        """
        ...

    def close(self) -> None:
        """Let go of what is kept for them, once those that were begun are done."""
        ...


def told(frames: Frames, number: int, opened: Opened) -> Iterator[bytes]:
    """Yield what tells the sender what came of a file, in pieces to be sent one after the other.

    Raises OSError if a result cannot be read.
    """
    if opened.output:
        digest = hashlib.sha256(opened.output).digest()
        yield frames.say(messages.Result(len(opened.output), digest, ""), number)
        view = memoryview(opened.output)
        for start in range(0, len(view), _PIECE):
            yield _data(frames, number, view[start : start + _PIECE])
    for result in opened.results:
        yield frames.say(messages.Result(result.size, result.digest, result.name), number)
        while piece := result.file.read(_PIECE):
            yield _data(frames, number, piece)
    milliseconds = min(int(opened.seconds * 1000), 2**32 - 1)
    detail = opened.detail.encode()[: messages.MAX_DETAIL].decode(errors="ignore")
    yield frames.say(
        messages.Opened(opened.action, opened.how, int(opened.cut), opened.code, milliseconds, detail), number
    )


def _data(frames: Frames, number: int, piece: memoryview | bytes) -> bytes:
    frames.conversation.note(SERVER, messages.Data, number)
    return messages.encode_data(number, len(piece)) + piece
