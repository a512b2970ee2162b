"""The side that takes the bytes, in protocol 1: read, verify, commit, acknowledge; stay in step whatever happens.

A file that cannot be stored still has its bytes read and discarded, so that the next one is found where it
begins. Answers go out in the order of the files. Files that are complete wait in a group, so that many small
ones share the cost of reaching the disk; a group is committed as soon as there is nothing more to read, so
nobody waits for an answer longer than the disk takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from securexfer.errors import (
    DigestMismatchError,
    LimitExceededError,
    PeerTimeoutError,
    SecurexferError,
    ShuttingDownError,
    StorageFailedError,
    TruncatedError,
)
from securexfer.net.payload import PARALLEL_BYTES, Buffer, MinimumRate, Parallel
from securexfer.storage.base import Committed, Description
from securexfer.transfer.groups import GROUP_BYTES, GROUP_DIRECTORIES, GROUP_FILES, GROUP_SECONDS
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.net.connection import Connection
    from securexfer.storage.base import Staging, Storage
    from securexfer.transfer.openings import Openings
    from securexfer.transfer.session import Session

SHORT_COUNT = "SHORT-COUNT"  # the log's word for a session that ended between two files
_STOP_SECONDS = 0.25  # how often a session that waits for its next file looks whether the server stops

# What the connection does to us, as against what is wrong with one file.
_ENDS_SESSION = (TruncatedError, PeerTimeoutError)


@dataclass(slots=True)
class _Arrival:
    """One file from its header to its answer."""

    header: framing.FileHeader
    started: float
    digest: str = ""
    staging: Staging | None = None
    error: SecurexferError | None = None

    @property
    def shown(self) -> str:
        return self.header.field.rstrip(b" ").decode(errors="backslashreplace")


class Receiver:
    """Runs the files of one session, after the login."""

    def __init__(
        self,
        connection: Connection,
        storage: Storage,
        session: Session,
        stopping: Callable[[], bool],
        openings: Openings,
    ) -> None:
        self._connection = connection
        self._storage = storage
        self._session = session
        self._stopping = stopping
        self._openings = openings
        self._group: list[_Arrival] = []
        self._group_bytes = 0
        self._left = 0  # bytes of the current file, trailer included, that have not been read yet
        self._taken = 0  # bytes of its payload that have
        self._rate = MinimumRate(session.minimum_rate)
        self._sink: Callable[[memoryview], None] = _discard
        self._buffer = Buffer(self._drain)

    def run(self) -> None:
        """Receive the count and the files; raise what ended the session early."""
        self._connection.before_wait = self._commit_group
        try:
            deadline = self._idle_deadline()
            self._await_input(deadline)
            count = framing.decode_count(self._connection.receive(framing.COUNT_SIZE, deadline))
            if count > framing.MAX_COUNT:
                self._over_limit("count", f"{count} files were announced; the limit is {framing.MAX_COUNT}")
            for number in range(count):
                self._receive_file(self._receive_header(number, count))
        finally:
            self._connection.before_wait = None
            self._commit_group()
        self._notice_surplus()

    def _notice_surplus(self) -> None:
        """Say so if there is more than was announced, by now. It is thrown away, with all that may come yet."""
        with contextlib.suppress(TruncatedError):
            if self._connection.try_receive_into(memoryview(bytearray(1))):
                self._session.hit("count", "bytes came after the last file that was announced; they were thrown away")

    def _receive_header(self, number: int, count: int) -> framing.FileHeader:
        """Wait for the next file, but not while the server stops: between two files nothing is lost by ending."""
        deadline, begun = self._idle_deadline(), b""
        try:
            self._await_input(deadline)
            begun = self._connection.receive(1, deadline)
            return framing.FileHeader.decode(begun + self._connection.receive(framing.HEADER_SIZE - 1, deadline))
        except _ENDS_SESSION as error:
            missing = framing.FileHeader(b"", 0)
            detail = f"{number} of {count} files came; {error.message}"
            self._abort(_Arrival(missing, time.monotonic()), error.reason if begun else SHORT_COUNT, detail)
            raise

    def _await_input(self, deadline: float) -> None:
        """Wait for more to come, until the deadline; raise ShuttingDownError if the server stops."""
        ready = False
        while not ready and time.monotonic() < deadline:
            if self._stopping():
                raise ShuttingDownError("the server is being shut down")
            ready = self._connection.has_input(_STOP_SECONDS)

    def _receive_file(self, header: framing.FileHeader) -> None:
        arrival = _Arrival(header, time.monotonic())
        size = header.size
        if size > self._session.largest_file:
            arrival.error = LimitExceededError(f"{size} bytes; the largest file here is {self._session.largest_file}")
            self._enqueue(arrival)
            self._commit_group()
            self._over_limit("file size", str(arrival.error))
        self._left = size + framing.DIGEST_SIZE
        self._taken = 0
        self._rate = MinimumRate(self._session.minimum_rate)
        try:
            self._take(arrival)
        except _ENDS_SESSION as error:
            self._abort(arrival, error.reason, error.message)
            raise
        self._enqueue(arrival)

    def _take(self, arrival: _Arrival) -> None:
        """Store one file, or note why not and read over what is left of it, so that the next header is found."""
        try:
            self._store(arrival)
        except _ENDS_SESSION:
            raise
        except SecurexferError as error:
            arrival.error = error
            self._skip()

    def _store(self, arrival: _Arrival) -> None:
        """Take one file's payload and trailer, and leave it sealed; raises what makes it impossible."""
        name = arrival.header.name(self._session.names)
        if arrival.header.size >= PARALLEL_BYTES:
            self._commit_group()  # the answers for those need not wait for this one
        elif any(other.header.field == arrival.header.field for other in self._group):
            self._commit_group()  # what becomes of this one depends on what becomes of that one
        with self._stage(Description(name, arrival.header.size)) as staging:
            digest = hashlib.sha256()

            def sink(held: memoryview) -> None:
                digest.update(held)
                staging.write(held)

            self._move_payload(sink)
            trailer = self._receive_trailer()
            arrival.digest = digest.hexdigest()
            if not hmac.compare_digest(trailer, digest.digest()):
                raise DigestMismatchError("what arrived has another digest than what was sent")
            staging.seal(trailer)
            arrival.staging = staging

    def _stage(self, file: Description) -> Staging:
        try:
            return self._storage.stage(file)
        except StorageFailedError:
            if not self._group:
                raise
            self._commit_group()  # it holds descriptors, and they may be what is lacking
            return self._storage.stage(file)

    def _drain(self, held: memoryview) -> None:
        self._sink(held)

    def _move_payload(self, sink: Callable[[memoryview], None]) -> None:
        """Move the rest of the payload to `sink`; a large one beside the TLS work, in a thread of its own."""
        if self._left < PARALLEL_BYTES:
            self._pump(sink)
            return
        self._buffer.rotating = True
        try:
            with Parallel(sink) as parallel:
                self._pump(parallel.hand_over)
        finally:
            self._buffer.rotating = False

    def _pump(self, sink: Callable[[memoryview], None]) -> None:
        self._sink = sink
        while self._left > framing.DIGEST_SIZE:
            self._buffer.fill_from(self._read_into, self._left - framing.DIGEST_SIZE)
        self._buffer.flush()

    def _receive_trailer(self) -> bytes:
        trailer = self._connection.receive(framing.DIGEST_SIZE, self._idle_deadline())
        self._left = 0
        return trailer

    def _skip(self) -> None:
        self._sink = _discard
        self._buffer.flush()
        if self._left:
            self._pump(_discard)
            self._receive_trailer()

    def _read_into(self, view: memoryview) -> int:
        count = self._connection.try_receive_into(view)
        if count is None:
            self._rate.check(self._taken)
            count = self._connection.receive_into(view, self._idle_deadline())
        if not count:
            raise TruncatedError("the connection ended in the middle of a file")
        self._left -= count
        self._taken += count
        return count

    def _enqueue(self, arrival: _Arrival) -> None:
        self._group.append(arrival)
        self._group_bytes += arrival.header.size
        if (
            len(self._group) >= GROUP_FILES
            or self._group_bytes >= GROUP_BYTES
            or sum(each.header.field.count(b"/") for each in self._group) >= GROUP_DIRECTORIES
            or time.monotonic() - self._group[0].started >= GROUP_SECONDS
        ):
            self._commit_group()

    def _commit_group(self) -> None:
        """Commit what is complete, and answer for every file in the group, in order."""
        group, self._group, self._group_bytes = self._group, [], 0
        if not group:
            return
        stagings = [arrival.staging for arrival in group if arrival.staging]
        results = iter(self._storage.commit(stagings))
        outcomes = [next(results) if arrival.staging else arrival.error for arrival in group]
        # Logged before it is answered: what is stored is in the log also when nobody is left to hear the answer.
        for arrival, outcome in zip(group, outcomes, strict=True):
            self._report(arrival, outcome)
        self._connection.post(
            b"".join(framing.ACCEPTED if isinstance(outcome, Committed) else framing.REFUSED for outcome in outcomes)
        )

    def _report(self, arrival: _Arrival, outcome: Committed | SecurexferError | None) -> None:
        session, size = self._session, arrival.header.size
        if isinstance(outcome, Committed):
            seconds, stored_as = time.monotonic() - arrival.started, str(outcome.stored_as)
            session.stored([(arrival.shown, size, arrival.digest, outcome.outcome, stored_as, seconds)])
            self._openings.takes(arrival.shown, outcome)
        elif outcome:
            session.rejected(arrival.shown, size, arrival.digest, outcome, arrival.started)

    def _abort(self, arrival: _Arrival, reason: str, detail: str) -> None:
        self._session.aborted(arrival.shown, arrival.header.size, self._taken, reason, detail, arrival.started)

    def _idle_deadline(self) -> float:
        return time.monotonic() + self._session.idle_seconds

    def _over_limit(self, limit: str, detail: str) -> NoReturn:
        self._session.hit(limit, detail)
        raise LimitExceededError(detail)


def _discard(_held: memoryview) -> None:
    """Take bytes that nobody will store."""
