"""What the fuzzer feeds of protocol 2: a stream of frames, and a session with a receiver that stores nothing.

Both read from memory, so that they run thousands of times a second. What is held is in `spoken` and `received`.
"""

from __future__ import annotations

import contextlib
import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from vectors import speaking as vectors

from securexfer.errors import ChangedError, NameTakenError, ProtocolError, SecurexferError, TruncatedError
from securexfer.names import NamePolicy
from securexfer.net.frames import Frames
from securexfer.opening.actions import Opened
from securexfer.storage.base import Committed, Outcome
from securexfer.transfer import intake
from securexfer.transfer.receiver import Receiver
from securexfer.transfer.session import Session
from securexfer.wire import messages
from securexfer.wire.messages import DATA, HEADER_SIZE, MAX_DATA
from securexfer.wire.order import IDLE
from securexfer.workers import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from securexfer.storage.base import Description, Steps

LARGEST_FILE = 8 << 20  # above what is taken by a thread beside, and no more than a few frames
HERE = b"0123"  # what a name with `here` in it has at its beginning
KNOWN = hashlib.sha256(HERE).digest()  # of what a name with `known` in it has
RESUMED = """promise What is here is gone on from, and what is here as a whole is kept.
put
say 1 Offer name="here" size=8
say 1 Start offset=4
say 1 Data "4567"
say 1 Trailer
say 2 Offer name="here/too" size=4
say 2 Start offset=4
say 2 Trailer
say 3 Offer name="taken" size=4
say 3 Abort
say 0 Finish
read right
"""
CLAIMED = """promise What is known is unchanged, and every other claim goes on as an offer.
put
say 1 Claim name="known" size=4 digest=sha256("0123")
say 2 Claim name="here/known" size=4
say 2 Start offset=4
say 2 Trailer
say 3 Claim name="new" size=4
say 3 Start
say 3 Data "4567"
say 3 Trailer
say 4 Claim name="taken" size=4
say 4 Abort
say 5 Claim name="../known" size=4
say 5 Abort
say 6 Claim name="known/too" size=4 digest=sha256("0123")
say 0 Finish
read right
"""
MENDED, SLOWLY = 1, 2  # bits of a stream's first byte


class Memory:
    """A connection whose peer has said everything already; what is said to it is kept."""

    def __init__(self, stream: bytes, piece: int = 1 << 30) -> None:
        self.stream = memoryview(stream)
        self.said = bytearray()
        self.unsent = 0
        self.announced: Callable[[], int] = lambda: 0  # bytes that will come for certain, if the peer keeps its word
        self._piece = piece
        self._pause = False

    def try_receive_into(self, view: memoryview) -> int | None:
        assert len(view)
        self._pause = not self._pause
        if self._pause and self._piece < len(self.stream):
            return None
        count = min(len(view), len(self.stream), self._piece)
        view[:count] = self.stream[:count]
        self.stream = self.stream[count:]
        return count

    def post(self, data: bytes) -> None:
        self.said += data

    def wait(self, _seconds: float, _wake: int | None = None, *, enough: int = 1) -> bool:
        assert enough <= max(1, self.announced()), "more is waited for than there may ever be"
        return True


def spoken(data: bytes) -> None:
    """Hold that any bytes are read as messages that spell them, in an order that is allowed, or are refused.

    And that it makes no difference whether small files, and claims, are taken as a whole where they have arrived so.
    """
    assert _read(data, whole=True) == _read(data, whole=False)


def _read(data: bytes, *, whole: bool) -> tuple[object, ...]:
    """Return how many bytes of a stream were read, how that ended, and what is known then."""
    connection = Memory(data)
    frames = Frames(connection, server=True)  # type: ignore[arg-type]  # all of it that is used
    conversation = frames.conversation
    read, end = 0, ""
    try:
        while True:
            taken = frames.hear_wholes() if whole else []
            for number, flags, size, mtime_ns, name, content, digest in taken:
                frame = messages.encode(messages.Offer(flags, size, mtime_ns, name), number)
                frame += messages.encode_data(number, len(content)) + bytes(content) if content else b""
                frame += messages.encode(messages.Trailer(digest), number)
                assert data[read : read + len(frame)] == frame
                read += len(frame)
                _answer(frames, messages.Trailer(digest), number)
            if taken:
                continue
            heard = (frames.hear_claim() if whole else None) or frames.hear()
            if heard is None:
                frames.fill()
                continue
            number, message = heard
            if isinstance(message, messages.Data):
                assert conversation.moving == number
                assert 0 < message.length <= MAX_DATA
                read += HEADER_SIZE
                while frames.payload:
                    piece = frames.take()
                    read += len(piece)
                    if not piece:
                        frames.fill()
                continue
            frame = messages.encode(message, number)
            assert data[read : read + len(frame)] == frame
            read += len(frame)
            assert len(conversation.open) <= conversation.window
            _answer(frames, message, number)
    except (ProtocolError, TruncatedError) as error:
        end = type(error).__name__
    assert read <= len(data)
    if conversation.moving:  # a whole file is noted at once, others in between
        return conversation.state, end
    return read, end, conversation.state, conversation.open, conversation.last, conversation.owed


def _answer(frames: Frames, message: messages.Message, number: int) -> None:
    """Say what a server would, so that the client may go on: every third file is refused."""
    match message:
        case messages.Authenticate():
            frames.say(messages.Welcome(0, ""))
        case messages.Put():
            frames.conversation.window = 3
            frames.say(messages.Ready(3, 0, 0, 0, 0, "native", "unasked"))
        case messages.Offer(flags) if not flags & (messages.DIRECTORY | messages.EAGER):
            frames.say(messages.Refuse(0, "NAME", "") if number % 3 == 0 else messages.Accept(0, bytes(16)), number)
        case messages.Claim() if number % 3 == 1:
            frames.say_unchanged(number)
        case messages.Claim():
            frames.say(messages.Refuse(0, "NAME", "") if number % 3 == 0 else messages.Accept(0, bytes(16)), number)
        case messages.Offer(messages.EAGER) if number % 3 == 0:
            frames.say(messages.Refuse(0, "NAME", ""), number)
        case messages.Trailer() if number % 3 == 0 and number in frames.conversation.open:
            frames.say(messages.Refuse(0, "NAME", ""), number)
        case messages.Offer(messages.DIRECTORY) | messages.Trailer() if number in frames.conversation.open:
            frames.say(messages.Committed("stored", 0, ""), number)
        case messages.Abort() if number in frames.conversation.open:
            frames.say(messages.Refuse(0, "ABORTED", ""), number)
        case messages.Finish() if not frames.conversation.open:
            frames.say(messages.Summary(0, 0))


# -- a receiver -------------------------------------------------------------------------------------------------


class Nowhere:
    """A storage that forgets what it is given, and notices what may not be done with it."""

    quick = True

    def __init__(self) -> None:
        self.held = 0  # offered or staged, and not let go yet
        self.committed = 0
        self.closed = False

    def offer(self, file: Description, *, fresh: bool) -> Kept:
        name = str(file.name)
        if "taken" in name:
            raise NameTakenError("taken")
        return Kept(self, file, min(len(HERE), file.size) if "here" in name and not fresh else 0)

    def claimed(self, file: Description, digest: bytes) -> Committed | None:
        return Committed(Outcome.UNCHANGED, file.name) if "known" in str(file.name) and digest == KNOWN else None

    def stage(self, file: Description) -> Kept:
        return self.offer(file, fresh=True)

    def take(self, file: Description, content: memoryview, digest: bytes) -> Kept:
        kept = self.stage(file)
        kept.write(content)
        kept.seal(digest)
        return kept

    def commit_in_steps(self, group: Sequence[Kept]) -> Steps:
        yield lambda: None
        return [kept.commit() for kept in group]

    def room(self) -> tuple[int | None, int | None]:
        return None, 7

    def make_directories(self, group: Sequence[Description]) -> Steps:
        yield lambda: None
        return [Committed(Outcome.STORED, file.name) for file in group]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Kept:
    """A file that was offered, and its staging; it may be let go once, in one way."""

    known = False

    def __init__(self, storage: Nowhere, file: Description, have: int) -> None:
        storage.held += 1
        self._storage = storage
        self._file = file
        self.have = have
        self.stands = bool(have) and have == file.size
        self._written = 0
        self._digest = hashlib.sha256()
        self._sealed = self._gone = False

    def prefix(self, tick: Callable[[], None]) -> Any:
        tick()
        return hashlib.sha256(HERE[: self.have])

    def keep(self) -> Committed:
        assert self.stands
        self.drop()
        return Committed(Outcome.UNCHANGED, self._file.name)

    def differs(self) -> SecurexferError:
        self.drop()
        return ChangedError("other content")

    def stage(self, *, resume: bool) -> Kept:
        if resume:
            self._digest.update(HERE[: self.have])
            self._written = self.have
        return self

    def drop(self) -> None:
        assert not self._gone
        self._gone = True
        self._storage.held -= 1

    def write(self, data: memoryview) -> None:
        assert not self._gone
        self._digest.update(data)
        self._written += len(data)
        assert self._written <= self._file.size

    def seal(self, digest: bytes) -> None:
        assert self._digest.digest() == digest
        assert self._written == self._file.size
        self._sealed = True

    def commit(self) -> Committed:
        assert self._sealed
        self.drop()
        self._storage.committed += 1
        return Committed(Outcome.STORED, self._file.name)

    def __exit__(self, *_: object) -> None:
        self.drop()


class Everything:
    """Opens every file, at once: each has said something."""

    verdict = "yes"
    bundle = None
    silent = False

    def __init__(self) -> None:
        self._taken = 0

    def takes(self, _name: str, _stored: Committed) -> bool:
        self._taken += 1
        return True

    def open(self, _cancelled: Callable[[], bool], *, results: bool) -> list[Job[Opened]]:  # noqa: ARG002 - there are none
        jobs = [Job(lambda: Opened("run", "exit", output=b"done")) for _ in range(self._taken)]
        for job in jobs:
            job.run()
        return jobs

    def close(self) -> None: ...


def received(data: bytes) -> None:
    """Hold that a session ends with one of our own errors or with none, whatever a client says after its login.

    And that nothing stays held, that nothing is committed but what was proved, and that all that is said is a
    conversation as the tables have it. The first byte says whether digests and proofs are made right, which no fuzzer
    finds out by itself, and whether the bytes come a few at a time.
    """
    flags, stream = (data[:1] or b"\0")[0], data[1:]
    stream = mended(stream) if flags & MENDED else stream
    connection = Memory(stream, 100 if flags & SLOWLY else 1 << 30)
    frames = Frames(connection, server=True)  # type: ignore[arg-type]  # all of it that is used
    connection.announced = lambda: frames.payload
    frames.conversation.state = IDLE
    storages: list[Nowhere] = []

    def open_storage(put: messages.Put) -> Any:
        storages.append(Nowhere())
        return storages[-1], Everything() if put.opening else None

    session = Session(
        1, "127.0.0.1", "ana", LARGEST_FILE, 30.0, 1024, NamePolicy.NATIVE, lambda _: None, lambda _: Everything()
    )
    with contextlib.suppress(SecurexferError):
        Receiver(frames, open_storage, session, lambda: False).run()
    assert all(storage.closed and not storage.held for storage in storages)
    said = list(frames_of(bytes(connection.said)))
    stored = [message for message, _ in said if isinstance(message, messages.Committed) and message.outcome == "stored"]
    assert sum(storage.committed for storage in storages) <= len(stored)
    about = [(number, type(message)) for message, number in said if number]
    assert len(about) == len(set(about)), "the same was said twice of a file"


def frames_of(stream: bytes) -> Iterator[tuple[messages.Message, int]]:
    """Yield the messages of one side, but for Data; they are as they would be encoded."""
    while stream:
        kind, length, number = messages.decode_header(stream[:HEADER_SIZE])
        if kind == DATA:
            stream = stream[HEADER_SIZE + length :]
            continue
        message = messages.decode(kind, stream[HEADER_SIZE : HEADER_SIZE + length])
        assert messages.encode(message, number) == stream[: HEADER_SIZE + length]
        yield message, number
        stream = stream[HEADER_SIZE + length :]


def mended(stream: bytes) -> bytes:
    """Return a stream with the digest in each Trailer, and the proof in each Start, made right."""
    made, place = bytearray(stream), 0
    digests: dict[bytes, Any] = {}
    while place + HEADER_SIZE <= len(made):
        kind, length = made[place], int.from_bytes(made[place + 1 : place + 4], "big")
        number, body = bytes(made[place + 4 : place + 8]), place + HEADER_SIZE
        place = body + length
        if place > len(made):
            break
        if kind == DATA:
            digests.setdefault(number, hashlib.sha256()).update(made[body:place])
        elif kind == 0x22 and length == 40:
            digests[number] = prefix = hashlib.sha256(HERE[: int.from_bytes(made[body : body + 8], "big")])
            made[body + 8 : place] = hashlib.sha256(bytes(16) + prefix.digest()).digest()
        elif kind == 0x24 and length == 32:
            made[body:place] = digests.pop(number, hashlib.sha256()).digest()
    return bytes(made)


@contextlib.contextmanager
def without_chance() -> Iterator[None]:
    """Let every nonce be zeros, so that a stream that was right once is right again."""
    with mock.patch.object(intake, "os", SimpleNamespace(urandom=bytes)):
        yield


def seeds() -> dict[str, list[bytes]]:
    """Return what each target begins with: the vectors; for a receiver without the login."""
    scenarios = vectors.load_all()
    after_login = [
        b"".join(step.frame({}) for step in scenario.steps if not step.heard and step.message != "Authenticate")
        for scenario in scenarios
    ]
    after_login += [vectors.load("resumed", RESUMED).stream, vectors.load("claimed", CLAIMED).stream]
    return {
        "spoken": [scenario.stream for scenario in scenarios],
        "received": [bytes([flags]) + stream for flags in (0, MENDED, MENDED | SLOWLY) for stream in after_login],
    }
