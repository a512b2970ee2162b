"""The side that takes the bytes, in protocol 2: accept or refuse, receive, verify, commit, acknowledge.

Its owner reads and writes the connection and takes the bytes of small files; hashing and writing large ones, making
groups durable, and hashing what is here already is done by threads beside it, so that it never waits for the disk without
answering. What it may hold is bounded: so many open transfers, so many bytes of answers that nobody reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import time
from typing import TYPE_CHECKING, Any

from securexfer.errors import (
    AbortedError,
    ChangedError,
    DigestMismatchError,
    LimitExceededError,
    PeerTimeoutError,
    ProtocolError,
    SecurexferError,
    ShuttingDownError,
    StorageFailedError,
    TruncatedError,
)
from securexfer.names import Name
from securexfer.net.payload import PARALLEL_BYTES, Buffer, MinimumRate, Parallel
from securexfer.storage.base import Committed as Stored
from securexfer.storage.base import Description
from securexfer.transfer.arrivals import Arrival, Group
from securexfer.transfer.worker import Bell, Worker
from securexfer.wire import messages
from securexfer.wire.messages import DIRECTORY, EAGER, EXECUTABLE, FRESH, UNKNOWN
from securexfer.wire.order import IDLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.net.frames import Frames
    from securexfer.storage.base import Staging, Storage
    from securexfer.transfer.session import Session

WINDOW = 2048  # transfers open at a time: at 50 ms there and back, 40 000 files a second; about 2 MiB
EAGER_LIMIT = 256 * 1024  # bytes: what a needless eager file may cost, and no more than one look at the socket brings
MAX_UNSENT = 256 * 1024  # bytes of answers that wait for the client to read; then it is not read from any more
ALIVE_SECONDS = 5.0  # between two signs of life while the other side waits for us
# A sender that hashes what we have, or looks for its files, says Alive; so long, and longer for more bytes.
PATIENCE_SECONDS = 60.0
PATIENCE_RATE = 20_000_000  # bytes a second that a slow disk still reads
INLINE_BYTES = 1 << 20  # what is hashed sooner than a thread for it would have started
_LOOK_SECONDS = 0.25  # how often a session that waits looks whether the server stops


class Receiver:
    """Runs one session after its login: one send after another, until the client leaves."""

    def __init__(
        self,
        frames: Frames,
        open_storage: Callable[[messages.Put], Storage],
        session: Session,
        stopping: Callable[[], bool],
    ) -> None:
        """Take the connection; `open_storage` gives what a Put asks for, or raises why not."""
        self._frames = frames
        self._connection = frames.connection
        self._conversation = frames.conversation
        self._open_storage = open_storage
        self._session = session
        self._stopping = stopping
        self._bell = Bell()
        self._committer = Worker(self._bell)
        self._hasher = Worker(self._bell)
        self._storage: Storage | None = None
        self._group: Group | None = None
        self._directory = ""
        self._arrivals: dict[int, Arrival] = {}  # those whose sender has not said its last word
        self._directories: list[Arrival] = []  # offered, and waiting for what was offered before them
        self._files = self._bytes = 0
        self._moving: Arrival | None = None
        self._rate: MinimumRate | None = None
        self._buffer: Buffer | None = None
        self._parallel: Parallel | None = None
        self._last_heard = self._last_said = time.monotonic()
        self._deadline = self._last_heard + session.idle_seconds
        self._patience = PATIENCE_SECONDS
        self._over = False

    def run(self) -> None:
        """Receive until the client leaves; raise what ended the session early, when that was said."""
        problem: SecurexferError | None = None
        try:
            self._receive()
        except SecurexferError as error:
            problem = error
            raise
        finally:
            self._end(problem)

    def _receive(self) -> None:
        frames, idle = self._frames, self._session.idle_seconds
        while True:
            if frames.payload:
                if self._move():
                    self._deadline = time.monotonic() + idle
                    continue
            elif heard := frames.hear():
                number, message = heard
                if type(message) is not messages.Alive:
                    self._last_heard = now = time.monotonic()
                    self._deadline = now + idle
                _HANDLERS[type(message)](self, number, message)
                continue
            try:
                if not self._read():
                    self._wait()
            except TruncatedError:
                if frames.in_order and self._conversation.state == IDLE:
                    return
                raise

    def _read(self) -> bool:
        """Read what has arrived, if anything has."""
        if self._parallel and self._frames.payload:
            return False  # it goes past the buffer of the frames
        return self._frames.fill(sparing=self._parallel is not None)

    # -- waiting -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Use the time in which there is nothing to read: commit, answer, give a sign of life; then wait for input."""
        if self._group:
            self._group.commit_if_idle()
            self._answer(self._group.collect())
        self._relieve()
        if self._stopping() and not self._moving:
            raise ShuttingDownError("the server is being shut down")
        now = time.monotonic()
        if self._moving and self._frames.payload:
            self._rate = self._rate or MinimumRate(self._session.minimum_rate)
            self._rate.check(self._moving.received)
        if now >= self._deadline and not self._owes():
            raise PeerTimeoutError("the client said nothing for too long")
        self._bell.hush()
        if not self._group or not self._group.collectable:
            self._connection.wait(_LOOK_SECONDS, self._bell.descriptor)
        self._live()

    def _owes(self) -> bool:
        """Whether it is we who have something to do, and the client waits for it."""
        return bool(self._group and self._group.busy and not self._conversation.owed)

    def _live(self) -> None:
        """Give a sign of life, if somebody waits for us and we have been silent for long."""
        now = time.monotonic()
        if now - self._last_said >= ALIVE_SECONDS and self._group and (self._group.busy or self._hashing()):
            self._say(messages.Alive())

    def _hashing(self) -> bool:
        return any(arrival.prefix and not arrival.prefix.done for arrival in self._arrivals.values())

    def _relieve(self) -> None:
        """Do not read more while a client that does not read lets the answers pile up."""
        if self._connection.unsent > MAX_UNSENT:
            self._connection.drain(time.monotonic() + self._session.idle_seconds)

    def _say(self, message: messages.Message, transfer: int = 0) -> None:
        self._connection.post(self._frames.say(message, transfer))
        self._last_said = time.monotonic()

    # -- the request ---------------------------------------------------------------------------------------------

    def _put(self, _number: int, put: messages.Put) -> None:
        self._storage = self._open_storage(put)
        self._group = Group(self._storage, self._committer)
        self._directory = str(Name.parse(put.directory, self._session.names)) + "/" if put.directory else ""
        self._files = self._bytes = 0
        bytes_left, files_left = self._storage.room()
        self._conversation.window = WINDOW
        self._say(
            messages.Ready(
                WINDOW,
                EAGER_LIMIT,
                self._session.largest_file,
                UNKNOWN if bytes_left is None else bytes_left,
                UNKNOWN if files_left is None else files_left,
                self._session.names.value,
            )
        )

    def _totals(self, _number: int, _totals: messages.Totals) -> None:
        """Nothing depends on it here: each offer is looked at by itself."""

    def _alive(self, _number: int, _alive: messages.Alive) -> None:
        now = time.monotonic()
        self._deadline = min(now + self._session.idle_seconds, max(self._deadline, self._last_heard + self._patience))

    def _finish(self, _number: int, _finish: messages.Finish) -> None:
        assert self._group
        assert self._storage
        self._group.commit()
        while self._group.busy:
            self._answer(self._group.collect(wait=_LOOK_SECONDS))
            self._group.commit()  # directories may have waited for what was just answered for
            self._live()
            self._relieve()
        self._say(messages.Summary(self._files, self._bytes))
        self._storage.close()
        self._storage = self._group = None

    # -- a transfer ----------------------------------------------------------------------------------------------

    def _offer(self, number: int, offer: messages.Offer) -> None:
        if self._stopping() and not self._moving:
            raise ShuttingDownError("the server is being shut down")
        arrival = Arrival(number, self._directory + offer.name, offer.size)
        self._arrivals[number] = arrival
        self._patience = PATIENCE_SECONDS
        if offer.flags & EAGER:
            self._moving, self._rate = arrival, None
        try:
            name = Name.parse(arrival.name, self._session.names)
            arrival.description = Description(name, offer.size, offer.mtime_ns, bool(offer.flags & EXECUTABLE))
            if offer.flags & DIRECTORY:
                self._await_contents(arrival)
            elif offer.flags & EAGER:
                self._begin_eager(arrival)
            else:
                self._consider(arrival, fresh=bool(offer.flags & FRESH))
        except SecurexferError as error:
            self._refuse(arrival, error)

    def _await_contents(self, arrival: Arrival) -> None:
        """Make a directory once everything that was offered before it is in the group, or done."""
        del self._arrivals[arrival.number]
        arrival.directory = True
        self._directories.append(arrival)
        self._release_directories()

    def _release_directories(self) -> None:
        if not self._directories or not self._group:
            return
        unfinished = next(iter(self._arrivals), None)
        while self._directories and (unfinished is None or self._directories[0].number < unfinished):
            self._group.add(self._directories.pop(0))

    def _begin_eager(self, arrival: Arrival) -> None:
        if arrival.size > EAGER_LIMIT:
            raise ProtocolError(f"{arrival.size} bytes are more than may be sent eagerly")
        assert self._storage
        assert arrival.description
        storage, description = self._storage, arrival.description
        self._check_size(arrival)
        arrival.staging = self._staged(lambda: storage.stage(description))
        arrival.digest = hashlib.sha256()

    def _consider(self, arrival: Arrival, *, fresh: bool) -> None:
        assert self._storage
        assert arrival.description
        self._check_size(arrival)
        arrival.offered = offered = self._storage.offer(arrival.description, fresh=fresh)
        arrival.nonce = os.urandom(16)
        if offered.have > INLINE_BYTES and not offered.known:
            arrival.prefix = self._hasher.do(lambda: offered.prefix(self._check_not_over))
        self._patience = max(self._patience, PATIENCE_SECONDS + offered.have / PATIENCE_RATE)
        self._say(messages.Accept(offered.have, arrival.nonce), arrival.number)

    def _check_size(self, arrival: Arrival) -> None:
        if arrival.size > self._session.largest_file:
            problem = f"{arrival.size} bytes; the largest file here is {self._session.largest_file}"
            self._session.hit("file size", problem)
            raise LimitExceededError(problem)

    def _check_not_over(self) -> None:
        if self._over:
            raise ShuttingDownError("the session is over")

    def _staged(self, stage: Callable[[], Staging]) -> Staging:
        """Stage a file, a second time if descriptors may be what is lacking: the files of the group hold some."""
        assert self._group
        try:
            return stage()
        except StorageFailedError:
            if not self._group.busy:
                raise
            self._group.commit()
            while self._group.busy:
                self._answer(self._group.collect(wait=_LOOK_SECONDS))
            return stage()

    def _start(self, number: int, start: messages.Start) -> None:
        arrival = self._arrivals[number]
        self._moving, self._rate = arrival, None
        if arrival.refused:
            return
        offered = arrival.offered
        assert offered
        if start.offset not in {0, offered.have}:
            raise ProtocolError(f"{start.offset} is neither the beginning nor what was accepted")
        try:
            arrival.digest = self._proved(arrival, start)
            arrival.received = start.offset
            if offered.stands and start.offset:
                return  # all of it is here: the trailer is next
            resume = bool(start.offset)
            arrival.offered = None
            arrival.staging = self._staged(lambda: offered.stage(resume=resume))
        except SecurexferError as error:
            self._refuse(arrival, error)
            return
        if arrival.size - arrival.received >= PARALLEL_BYTES:
            self._widen(arrival)

    def _proved(self, arrival: Arrival, start: messages.Start) -> hashlib._Hash:
        """Return the digest of what is here, which the sender has proved to have as well; raise why it is no use."""
        assert arrival.offered
        prefix = hashlib.sha256()
        if start.offset:
            job = arrival.prefix
            while job and not job.wait(_LOOK_SECONDS):
                self._live()
            prefix = job.result() if job else arrival.offered.prefix(self._check_not_over)
        if hmac.compare_digest(start.proof, hashlib.sha256(arrival.nonce + prefix.digest()).digest()):
            return prefix
        if not start.offset:
            raise ChangedError("the proof that nothing was skipped is wrong")
        offered, arrival.offered = arrival.offered, None
        raise offered.differs()

    def _widen(self, arrival: Arrival) -> None:
        """Have a large file hashed and written beside the TLS work."""
        sink = _sink(arrival)
        self._buffer = self._buffer or Buffer(self._drain)
        self._buffer.rotating = True
        self._parallel = Parallel(sink)
        self._parallel.__enter__()

    def _drain(self, held: memoryview) -> None:
        if self._parallel:
            self._parallel.hand_over(held)

    def _narrow(self, error: BaseException | None = None) -> None:
        """End what `_widen` began: wait for the work, and raise what went wrong in it, unless there is an error."""
        if not self._parallel:
            return
        parallel = self._parallel
        try:
            assert self._buffer
            if error is None:
                self._buffer.flush()
            else:
                self._buffer.clear()
        except SecurexferError as raised:
            error = raised
            self._buffer.clear()
            raise
        finally:
            self._parallel = None
            parallel.__exit__(type(error) if error else None, error, None)

    def _data(self, number: int, data: messages.Data) -> None:
        arrival = self._arrivals[number]
        if not arrival.refused and arrival.received + data.length > arrival.size:
            raise ProtocolError(f"more bytes came than the {arrival.size} that were offered")

    def _move(self) -> bool:
        """Pass on what has arrived of the payload; return whether there was anything."""
        arrival, frames = self._moving, self._frames
        assert arrival
        try:
            if self._parallel and self._buffer:
                count = len(self._buffer.fill_from(frames.read_into, frames.payload))
            else:
                piece = frames.take()
                count = len(piece)
                if count and not arrival.refused:
                    assert arrival.digest
                    assert arrival.staging
                    arrival.digest.update(piece)
                    arrival.staging.write(piece)
        except (TruncatedError, PeerTimeoutError):
            raise
        except SecurexferError as error:
            self._refuse(arrival, error)
            return True
        arrival.received += count
        return bool(count)

    def _trailer(self, number: int, trailer: messages.Trailer) -> None:
        arrival = self._arrivals.pop(number)
        self._moving = None
        if not arrival.refused:
            if arrival.received != arrival.size:
                raise ProtocolError(f"{arrival.received} bytes came of the {arrival.size} that were offered")
            try:
                self._narrow()
                assert arrival.digest
                if not hmac.compare_digest(trailer.digest, arrival.digest.digest()):
                    raise DigestMismatchError("what arrived has another digest than what was sent")
                if arrival.staging:
                    arrival.staging.seal(trailer.digest)
                arrival.sha256 = trailer.digest.hex()
                assert self._group
                self._group.add(arrival)
            except SecurexferError as error:
                self._refuse(arrival, error)
        self._release_directories()

    def _abort(self, number: int, abort: messages.Abort) -> None:
        arrival = self._arrivals.pop(number)
        if arrival is self._moving:
            self._moving = None
        if not arrival.refused:
            self._refuse(arrival, AbortedError(f"the sender broke it off: {abort.reason}"))
        self._release_directories()

    # -- answers -------------------------------------------------------------------------------------------------

    def _refuse(self, arrival: Arrival, error: SecurexferError) -> None:
        """Say that a file is not stored, and leave nothing of it."""
        arrival.refused = True
        if arrival is self._moving:
            self._narrow(error)
        self._let_go(arrival, error)
        self._session.rejected(arrival.name, arrival.size, arrival.sha256, error, arrival.started)
        self._say(messages.Refuse(0, error.reason, _cut(error.message)), arrival.number)

    def _let_go(self, arrival: Arrival, error: BaseException) -> None:
        """Give back what a file holds; what came of it is kept if it was the connection that ended."""
        if arrival.staging:
            arrival.staging.__exit__(type(error), error, None)
        elif arrival.offered:
            arrival.offered.drop()
        arrival.staging = arrival.offered = None

    def _answer(self, outcomes: list[tuple[Arrival, Stored | SecurexferError]]) -> None:
        """Tell what became of files: the log first, so that it is there also when nobody is left to hear it."""
        said: list[bytes] = []
        for arrival, outcome in outcomes:
            if isinstance(outcome, Stored):
                if not arrival.directory:
                    self._files += 1
                    self._bytes += arrival.size
                    self._session.stored(arrival.name, arrival.size, arrival.sha256, outcome, arrival.started)
                stored_as = str(outcome.stored_as)
                word = messages.Committed(outcome.outcome.value, 0, "" if stored_as == arrival.name else stored_as)
                said.append(self._frames.say(word, arrival.number))
            else:
                self._session.rejected(arrival.name, arrival.size, arrival.sha256, outcome, arrival.started)
                refusal = messages.Refuse(0, outcome.reason, _cut(outcome.message))
                said.append(self._frames.say(refusal, arrival.number))
        if said:
            self._connection.post(b"".join(said))
            self._last_said = time.monotonic()
            self._deadline = self._last_said + self._session.idle_seconds

    # -- the end -------------------------------------------------------------------------------------------------

    def _end(self, problem: SecurexferError | None) -> None:
        """Let go of what is unfinished, answer for what is complete, and say why it is over."""
        self._over = True
        error = problem or ShuttingDownError("an error inside securexfer")
        with contextlib.suppress(SecurexferError):
            self._narrow(error)
        for arrival in self._arrivals.values():
            if not arrival.refused:
                received = arrival.received
                self._let_go(arrival, error)
                self._session.aborted(
                    arrival.name, arrival.size, received, error.reason, error.message, arrival.started
                )
        try:
            with contextlib.suppress(TruncatedError, PeerTimeoutError):
                if self._group:
                    self._group.commit()
                    while self._group.busy:
                        self._answer(self._group.collect(wait=_LOOK_SECONDS))
                if problem and not isinstance(problem, TruncatedError):
                    self._say(messages.Refuse(0, problem.reason, _cut(problem.message)))
        finally:
            self._committer.close()
            self._hasher.close()
            self._bell.close()
            if self._storage:
                self._storage.close()


def _sink(arrival: Arrival) -> Callable[[memoryview], None]:
    digest, staging = arrival.digest, arrival.staging
    assert digest
    assert staging

    def sink(held: memoryview) -> None:
        digest.update(held)
        staging.write(held)

    return sink


def _cut(detail: str) -> str:
    """Return a detail that fits; it is for people, so a long one may lose its end."""
    return detail.encode()[: messages.MAX_DETAIL].decode(errors="ignore")


_HANDLERS: dict[type, Callable[[Receiver, int, Any], None]] = {
    messages.Put: Receiver._put,
    messages.Totals: Receiver._totals,
    messages.Offer: Receiver._offer,
    messages.Start: Receiver._start,
    messages.Data: Receiver._data,
    messages.Trailer: Receiver._trailer,
    messages.Abort: Receiver._abort,
    messages.Finish: Receiver._finish,
    messages.Alive: Receiver._alive,
}
