"""What the fuzzer feeds of protocol 2 to a client: a server that says anything at all to a sender of real files."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.speaking import Memory, frames_of
from vectors import speaking as vectors

from securexfer.errors import SecurexferError
from securexfer.net.frames import Frames
from securexfer.transfer.items import Item
from securexfer.transfer.returned import MAX_OUTPUT
from securexfer.transfer.sender import Sender
from securexfer.transfer.sending import Sending
from securexfer.transfer.wishes import Wishes
from securexfer.wire.order import IDLE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from securexfer.transfer.returned import Opened

SIZES = [0, 5, 100, *[7] * 12]  # so many that the last ones may go eagerly
DRY_RUN, AT_ONCE, KNOWN = 1, 2, 4  # bits of a stream's first byte

# What a server says, with every answer there is, so that the fuzzer has all of them to take apart.
ANSWERS = [
    "0 Ready window=9 eager=100",
    "1 Accept",
    "2 Accept offset=5",
    '2 Refuse reason="CHANGED"',
    "3 Accept offset=100",
    "0 Alive",
    "1 Committed outcome=stored",
    '3 Refuse reason="EXISTS"',
    *(f"{number} Accept" for number in range(4, 14)),
    *(f'{number} Committed outcome=renamed stored_as="x"' for number in range(4, 17)),
    "0 Summary",
    '0 Refuse reason="BUSY" retry_after=1',
]
# The same to a client that claims its files.
ANSWERS_TO_CLAIMS = [
    ANSWERS[0],
    "1 Committed outcome=unchanged",
    "2 Accept offset=5",
    '3 Refuse reason="EXISTS"',
    "2 Committed outcome=unchanged",
    *(f"{number} Accept" for number in range(4, 14)),
    *(f"{number} Committed outcome=stored" for number in range(4, 17)),
    "0 Summary",
]


class Client(Memory):
    """The sender's end; what it says is kept, and the next answers come when it listens."""

    def send(
        self, data: memoryview | bytes, _deadline: float, while_waiting: Callable[[], float | None] | None = None
    ) -> None:
        self.said += data
        if while_waiting:
            while_waiting()

    def has_input(self, _seconds: float) -> bool:
        return True


class Silent:
    """A watcher who notices what is told twice."""

    def __init__(self) -> None:
        self.ended_items: set[Item] = set()

    def connected(self, user: str, server: str) -> None: ...

    def retrying(self, why: str, seconds: float) -> None: ...

    def opening(self, verdict: str) -> None: ...

    def opened(self, item: Item, opened: Opened) -> None:
        assert item in self.ended_items
        assert len(opened.output) <= MAX_OUTPUT

    def sent(self, item: Item, _count: int) -> None:
        assert 0 <= item.sent <= item.size

    def ended(self, item: Item) -> None:
        assert item not in self.ended_items
        self.ended_items.add(item)


class Remembered:
    """Digests of files of zeros, which none of them has to be read for."""

    def find(self, found: os.stat_result) -> bytes:
        return hashlib.sha256(bytes(found.st_size)).digest()

    def add(self, _found: os.stat_result, _digest: bytes, _read_began_ns: int) -> None: ...

    def let_go(self) -> None: ...

    def write(self) -> None: ...

    def close(self) -> None: ...


class Senders:
    """Senders of the same few files."""

    def __init__(self, place: Path) -> None:
        self._place = place
        for number, size in enumerate(SIZES):
            (place / str(number)).write_bytes(bytes(size))

    def run(self, data: bytes) -> None:
        """Hold that a sender ends with one of our own errors or with none, whatever the server says.

        And that nothing is told twice of a file, and what it says is a conversation as the tables have it (`Frames`
        would not let it), read by the same rules.
        """
        flags, stream = (data[:1] or b"\0")[0], data[1:]
        connection = Client(stream, 1 << 30 if flags & AT_ONCE else 60)
        frames = Frames(connection, server=False)  # type: ignore[arg-type]  # all of it that is used
        frames.conversation.state = IDLE
        items = [self._item(number, size) for number, size in enumerate(SIZES)]
        items.append(Item(self._place, "directory", directory=True))
        watcher = Silent()
        wishes = Wishes(dry_run=bool(flags & DRY_RUN), rehash=not flags & KNOWN)
        with contextlib.suppress(SecurexferError), Sending(iter(items), watcher, "d", wishes) as sending:
            sending.digests = Remembered()  # type: ignore[assignment]  # all of it that is used
            Sender(frames, sending).run()
        list(frames_of(bytes(connection.said)))

    def _item(self, number: int, size: int) -> Item:
        path = self._place / str(number)
        found = path.stat()
        return Item(path, f"d/{number}", size, found.st_mtime_ns, identity=(found.st_dev, found.st_ino))


def stream_of(answers: Sequence[str]) -> bytes:
    """Return the bytes of these answers."""
    script = "".join(f"say {answer}\n" for answer in answers)
    return vectors.load("answers", f"promise x\n{script}say 0 Alive\nread right\n").stream


def seeds() -> list[bytes]:
    """Return what the fuzzer begins with: the answers up to each of them, for a send and for a dry run."""
    return [
        bytes([flags]) + stream_of(answers[:end])
        for flags in range(8)
        for answers in [ANSWERS_TO_CLAIMS if flags & KNOWN else ANSWERS]
        for end in range(len(answers) + 1)
    ]


@contextlib.contextmanager
def senders() -> Iterator[Senders]:
    """Yield a `Senders` with its files in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="securexfer-fuzz-") as directory:
        yield Senders(Path(directory))
