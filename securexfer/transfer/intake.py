"""One send as its receiver sees it: each file from its offer to the answer.

Small files are taken where they arrive; the content of large ones is hashed and written by a thread beside, groups are
made durable by another, and what is here already is hashed by a third.
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
    StorageFailedError,
    TruncatedError,
)
from securexfer.names import Name, NamePolicy, Parent
from securexfer.storage.base import Description
from securexfer.transfer.answers import Answers
from securexfer.transfer.arrivals import Arrival
from securexfer.transfer.groups import Complete, Groups
from securexfer.wire import messages
from securexfer.wire.messages import DIRECTORY, EAGER, EXECUTABLE, FRESH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from securexfer.net.frames import Frames
    from securexfer.storage.base import Offered, Prefix, Staging, Storage
    from securexfer.transfer.openings import Openings
    from securexfer.transfer.session import Session
    from securexfer.wire.small import Whole
    from securexfer.workers import Job, Worker

EAGER_LIMIT = 256 * 1024  # bytes: what a needless eager file may cost, and no more than one look at the socket brings
INLINE_BYTES = 1 << 20  # what is hashed sooner than a thread for it would have started

# What the connection does to us, as against what is wrong with one file.
_ENDS_SESSION = (TruncatedError, PeerTimeoutError, ProtocolError)


class Intake:
    """The files of one send."""

    def __init__(
        self,
        frames: Frames,
        storage: Storage,
        session: Session,
        directory: str,
        committer: Worker,
        hasher: Worker,
        wait_for: Callable[[Job[Any]], None],
        openings: Openings | None,
    ) -> None:
        """Take files into `directory`, "" for the user's own; `wait_for` returns when a job is done."""
        self._frames = frames
        self._storage = storage
        self._session = session
        self._directory = directory + "/" if directory else ""
        self._hasher = hasher
        self._wait_for = wait_for
        self.openings = openings
        self.answers = Answers(frames, session, self._directory, openings)
        self._arrivals: dict[int, Arrival] = {}  # those whose sender has not said its last word, by number
        self._refused: set[int] = set()  # of others it has not, either; what comes of them is thrown away
        self._directories: list[Complete] = []  # that wait for what was offered before them
        self._parent = Parent()
        self._over = False
        self.groups = Groups(storage, committer, wait_for)
        self.moving: Arrival | None = None  # whose content is on its way, unless it was refused
        self.largest_prefix = 0  # bytes that the sender may have to hash before it can go on

    @property
    def hashing(self) -> bool:
        """Whether something that is here is being hashed."""
        return any(arrival.prefix and not arrival.prefix.done for arrival in self._arrivals.values())

    # -- what the sender says ------------------------------------------------------------------------------------

    def offer(self, number: int, offer: messages.Offer) -> None:
        """Accept or refuse a file, or begin an eager one."""
        name, flags = self._directory + offer.name, offer.flags
        arrival = None
        try:
            file = Description(self._parse(name), offer.size, offer.mtime_ns, flags & EXECUTABLE != 0)
            if flags & DIRECTORY:
                self._directories.append(Complete(number, file, None, "", time.monotonic()))
                self._release_directories()
                return
            self._arrivals[number] = arrival = Arrival(number, file)
            if offer.size > self._session.largest_file:
                raise _too_large(offer.size, self._session.largest_file)
            if flags & EAGER:
                self._begin_eager(arrival)
            else:
                self._consider(arrival, fresh=flags & FRESH != 0)
        except _ENDS_SESSION:
            raise
        except SecurexferError as error:
            if arrival:
                self._refuse(arrival, error)
                return
            self.answers.refuse(number, name, offer.size, "", error, time.monotonic())
            if not flags & DIRECTORY:
                self._refused.add(number)

    def claim(self, number: int, claim: messages.Claim) -> None:
        """Say that a file is unchanged, if it is known to be; if not, it is an offer like any other."""
        started = time.monotonic()
        executable, size, mtime_ns, digest, last = claim
        name = self._directory + last
        try:
            parsed = self._parse(name)
            outcome = self._storage.claimed(Description(parsed, size, mtime_ns, executable != 0), digest)
        except SecurexferError:
            outcome = None  # the offer meets it again
        if outcome is None or size > self._session.largest_file:
            self.offer(number, messages.Offer(EXECUTABLE if executable else 0, size, mtime_ns, last))
            return
        self.answers.unchanged(number, name, size, digest.hex(), outcome, started)

    def take_wholes(self, wholes: Sequence[Whole]) -> None:
        """Take eager files that have arrived whole: what `offer`, `data`, `move` and `trailer` do, in one.

        All of them, also if the session ends meanwhile, as it turns out when others have to be waited for.
        """
        started, ended = time.monotonic(), None
        for whole in wholes:
            try:
                self._take_whole(whole, started)
            except _ENDS_SESSION as error:
                ended, self.answers.over = error, True
        self._release_directories()
        if ended:
            raise ended

    def start(self, number: int, start: messages.Start) -> None:
        """Check the proof of what is here already, and take what comes after it."""
        if number in self._refused:
            return
        arrival = self._arrivals[number]
        offered = arrival.offered
        if offered is None or start.offset not in {0, offered.have}:
            raise ProtocolError(f"{start.offset} is neither the beginning nor what was accepted")
        try:
            digest = self._proved(arrival, offered, start)
            if not (offered.stands and start.offset):
                arrival.offered = None
                arrival.staging = self._staged(lambda: offered.stage(resume=start.offset != 0))
            arrival.begin(digest, start.offset)
            self.moving = arrival
        except _ENDS_SESSION:
            raise
        except SecurexferError as error:
            self._refuse(arrival, error)

    def data(self, number: int, data: messages.Data) -> None:
        """Look whether that much may come."""
        arrival = self._arrivals.get(number)
        if arrival and arrival.received + data.length > arrival.description.size:
            raise ProtocolError(f"more bytes came than the {arrival.description.size} that were offered")

    def move(self) -> int:
        """Take what has arrived of the payload that was announced; return how much."""
        arrival = self.moving
        if arrival is None or arrival.content is None:
            return len(self._frames.take())  # it was refused
        try:
            count = arrival.content.move(self._frames)
        except _ENDS_SESSION:
            raise
        except SecurexferError as error:
            self._refuse(arrival, error)
            return 1
        arrival.received += count
        return count

    def trailer(self, number: int, trailer: messages.Trailer) -> None:
        """Compare the digest; a file that is right is complete."""
        self.moving = None
        arrival = self._arrivals.pop(number, None)
        if arrival is None:
            self._refused.discard(number)
        else:
            try:
                self._complete(arrival, trailer.digest)
            except _ENDS_SESSION:
                self._arrivals[number] = arrival
                raise
            except SecurexferError as error:
                self._refuse(arrival, error)
                self._refused.discard(number)
        self._release_directories()

    def abort(self, number: int, abort: messages.Abort) -> None:
        """Forget a file."""
        arrival = self._arrivals.pop(number, None)
        if arrival:
            self._refuse(arrival, AbortedError(f"the sender broke it off: {abort.reason}"))
        self._refused.discard(number)
        self._release_directories()

    # -- how it is done ------------------------------------------------------------------------------------------

    def _parse(self, name: str) -> Name:
        """Return the safe name, having looked at its directory only if the one before was in another."""
        directory, _, last = name.rpartition("/")
        if directory != self._parent.text or not directory or self._session.names is not NamePolicy.NATIVE:
            parsed = Name.parse(name, self._session.names)
            self._parent = Parent(directory)
            return parsed
        return self._parent.parse(last)

    def _release_directories(self) -> None:
        """Let those directories be made of which everything that was offered before is complete, or refused."""
        if self._directories:
            unfinished = min(next(iter(self._arrivals), self._frames.conversation.last + 1), *self._refused, 1 << 32)
            while self._directories and self._directories[0].number < unfinished:
                self.groups.add(self._directories.pop(0))

    def _begin_eager(self, arrival: Arrival) -> None:
        if arrival.description.size > EAGER_LIMIT:
            raise ProtocolError(f"{arrival.description.size} bytes are more than may be sent eagerly")
        arrival.staging = self._staged(lambda: self._storage.stage(arrival.description))
        arrival.begin(hashlib.sha256(), 0)
        self.moving = arrival

    def _consider(self, arrival: Arrival, *, fresh: bool) -> None:
        arrival.offered = offered = self._storage.offer(arrival.description, fresh=fresh)
        arrival.nonce = os.urandom(16)
        if offered.have > INLINE_BYTES and not offered.known:
            arrival.prefix = self._hasher.do(lambda: offered.prefix(self._check_not_over))
        self.largest_prefix = max(self.largest_prefix, offered.have)
        self.answers.say(messages.Accept(offered.have, arrival.nonce), arrival.number)

    def _check_not_over(self) -> None:
        if self._over:
            raise TruncatedError("the session is over")

    def _take_whole(self, whole: Whole, started: float) -> None:
        number, flags, size, mtime_ns, last, content, digest = whole
        name, largest = self._directory + last, self._session.largest_file
        try:
            file = Description(self._parse(name), size, mtime_ns, flags & EXECUTABLE != 0)
            if size > largest:
                raise _too_large(size, largest)
            if not hmac.compare_digest(digest, hashlib.sha256(content).digest()):
                raise _differs()
            try:
                staging = self._storage.take(file, content, digest)
            except StorageFailedError as error:
                self._make_room(error)
                staging = self._storage.take(file, content, digest)
        except _ENDS_SESSION:
            raise
        except SecurexferError as error:
            self.answers.refuse(number, name, size, digest.hex(), error, started)
        else:
            self.groups.add(Complete(number, file, staging, digest.hex(), started))

    def _staged(self, stage: Callable[[], Staging]) -> Staging:
        try:
            return stage()
        except StorageFailedError as error:
            self._make_room(error)
            return stage()

    def _make_room(self, error: StorageFailedError) -> None:
        """Let the descriptors of the groups go, which may be what a file lacks; raise the error if there are none."""
        if not self.groups.busy:
            raise error
        self.answer_all()

    def _proved(self, arrival: Arrival, offered: Offered, start: messages.Start) -> Prefix:
        """Return the digest of what is here, which the sender has proved to have as well; raise why it is no use."""
        prefix: Prefix = hashlib.sha256()
        if start.offset and arrival.prefix:
            self._wait_for(arrival.prefix)
            prefix = arrival.prefix.result()
        elif start.offset:
            prefix = offered.prefix(self._check_not_over)
        if hmac.compare_digest(start.proof, hashlib.sha256(arrival.nonce + prefix.digest()).digest()):
            return prefix
        if not start.offset:
            raise ChangedError("the proof of nothing is wrong")
        arrival.offered = None
        raise offered.differs()

    def _complete(self, arrival: Arrival, digest: bytes) -> None:
        if arrival.content is None or arrival.received != arrival.description.size:
            raise ProtocolError(f"{arrival.received} bytes came of the {arrival.description.size} that were offered")
        arrival.sha256 = digest.hex()
        content, arrival.content = arrival.content, None
        if not hmac.compare_digest(digest, content.finish()):
            raise _differs()
        if arrival.staging:
            arrival.staging.seal(digest)
            self.groups.add(arrival.complete())
        elif arrival.offered:
            self.answers.tell([(arrival.complete(), arrival.offered.keep())])

    # -- answers -------------------------------------------------------------------------------------------------

    def answer(self, wait: float = 0.0) -> bool:
        """Tell what has become of files; return whether there was anything to say. May wait so long for a group."""
        self.answers.tell(self.groups.collect(wait))
        return self.answers.speak()

    def answer_all(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Commit whatever is complete, and answer for it; call `meanwhile` now and then."""
        self.groups.commit()
        while self.groups.busy:
            self.answer(wait=0.25)
            self.groups.commit()
            meanwhile()
        self.answers.speak()

    def end(self, error: SecurexferError) -> None:
        """Let go of what is unfinished: the session ends with this error."""
        self._over = self.answers.over = True
        self.moving = None
        for arrival in self._arrivals.values():
            arrival.let_go(error)
            self._session.aborted(
                arrival.name, arrival.description.size, arrival.received, error.reason, error.message, arrival.started
            )

    def close(self) -> None:
        """Let the storage go, when all is answered for, or cannot be."""
        with contextlib.ExitStack() as stack:
            if self.openings:
                stack.callback(self.openings.close)
            stack.callback(self._storage.close)
            stack.callback(self.answers.log)
            self.groups.close()

    def _refuse(self, arrival: Arrival, error: SecurexferError) -> None:
        """Say that a file is not stored, and leave nothing of it."""
        self._arrivals.pop(arrival.number, None)
        self._refused.add(arrival.number)
        if arrival is self.moving:
            self.moving = None
        arrival.let_go(error)
        size = arrival.description.size
        self.answers.refuse(arrival.number, arrival.name, size, arrival.sha256, error, arrival.started)


def _too_large(size: int, largest: int) -> LimitExceededError:
    return LimitExceededError(f"{size} bytes; the largest file here is {largest}")


def _differs() -> DigestMismatchError:
    return DigestMismatchError("what arrived has another digest than what was sent")
