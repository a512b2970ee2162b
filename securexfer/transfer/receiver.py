"""The side that takes the bytes, in protocol 2: one session after its login, one send after another.

The thread that runs it owns the connection; it reads, answers, and gives signs of life. It never waits for the disk
without doing that. What a session may hold is bounded: so many open transfers, so many bytes of answers that nobody
reads; and so is how long it waits: a client that owes us something may be silent for `idle_seconds`, or say Alive for a
while longer, and content must come at a minimum rate.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

from securexfer.errors import PeerTimeoutError, ProtocolError, SecurexferError, ShuttingDownError, TruncatedError
from securexfer.names import Name
from securexfer.net.payload import MinimumRate
from securexfer.transfer.answers import refusal_of
from securexfer.transfer.intake import EAGER_LIMIT, Intake
from securexfer.transfer.openings import told
from securexfer.transfer.patience import ALIVE_SECONDS, patience
from securexfer.wire import messages
from securexfer.wire.messages import EAGER, RETURN, UNKNOWN
from securexfer.wire.order import IDLE
from securexfer.workers import Bell, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from securexfer.net.frames import Frames
    from securexfer.storage.base import Storage
    from securexfer.transfer.openings import Openings
    from securexfer.transfer.session import Session
    from securexfer.workers import Job

WINDOW = 2048  # transfers open at a time: at 50 ms there and back, 40 000 files a second; about 2 MiB
MAX_UNSENT = 256 * 1024  # bytes of answers that wait for the client to read; then it is not read from any more
# Content that comes more slowly than it is taken is taken so much at a time: waking for each TLS record of 16 KiB cost
# a third more processor time, and took that from a sender on the same core.
_MUCH = 128 * 1024
_LOOK_SECONDS = 0.25  # how often a session that waits looks whether the server stops


class Receiver:
    """Runs one session until the client leaves."""

    def __init__(
        self,
        frames: Frames,
        open_storage: Callable[[messages.Put], tuple[Storage, Openings | None]],
        session: Session,
        stopping: Callable[[], bool],
    ) -> None:
        """Take the connection; `open_storage` gives what a Put asks for, or raises why not."""
        self._frames = frames
        self._connection = frames.connection
        self._open_storage = open_storage
        self._session = session
        self._stopping = stopping
        self._bell = Bell()
        self._committer = Worker(self._bell)
        self._hasher = Worker(self._bell)
        self._intake: Intake | None = None
        self._opening = False  # whether files of it are being opened
        self._ending = False  # whether the session is over, but for what has arrived
        self._returns = False  # whether the sender wants what comes of that
        self._rate: MinimumRate | None = None  # of the content that is on its way, once it had to be waited for
        self._taken = 0  # bytes of that content
        self._last_heard = self._last_said = time.monotonic()
        self._deadline = self._last_heard + session.idle_seconds

    def run(self) -> None:
        """Receive until the client leaves; raise what ended the session early, when that was said."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._bell.close)
            stack.callback(self._hasher.close)
            stack.callback(self._committer.close)
            try:
                self._receive()
            except SecurexferError as error:
                self._end(error)
                raise
            except BaseException:
                self._end(ShuttingDownError("an error inside securexfer"))
                raise

    def _receive(self) -> None:
        frames, idle = self._frames, self._session.idle_seconds
        while True:
            if self._intake and self._intake.groups.collectable:
                self._answer(self._intake)  # although more has come: the client's window is not endless
            if frames.payload and self._intake:
                if count := self._intake.move():
                    self._taken += count
                    self._deadline = time.monotonic() + idle
                    continue
            elif self._intake and self._take_small(self._intake):
                self._last_heard = now = time.monotonic()
                self._deadline = now + idle
                continue
            elif heard := frames.hear():
                number, message = heard
                kind = type(message)
                if kind is not messages.Alive:
                    self._last_heard = now = time.monotonic()
                    self._deadline = now + idle
                self._heard[kind](self, number, message)
                continue
            try:
                if not self._read():
                    self._wait()
            except TruncatedError:
                if frames.conversation.state == IDLE and frames.nothing_begun:
                    return
                raise

    def _read(self) -> bool:
        """Read what has arrived, if anything has. Content of a large file is left for who takes it."""
        large = self._intake is not None and self._intake.moving is not None and self._intake.moving.large
        return not (large and self._frames.payload) and self._frames.fill(sparing=large)

    # -- waiting -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Use the time in which there is nothing to read: commit and answer. Then wait for input."""
        intake = self._intake
        if intake:
            intake.groups.commit_if_idle()
            self._answer(intake)
        self._relieve()
        self._check_not_stopping()
        if self._frames.conversation.moving:
            self._rate = self._rate or MinimumRate(self._session.minimum_rate)
            self._rate.check(self._taken)
        self._check_deadline(time.monotonic())
        self._bell.hush()
        if not (intake and intake.groups.collectable):  # its bell may have rung just before it was hushed
            enough = _MUCH if self._frames.payload >= 2 * _MUCH else 1
            self._connection.wait(_LOOK_SECONDS, self._bell.descriptor, enough=enough)
        self._live()

    def _check_not_stopping(self) -> None:
        """Raise ShuttingDownError if the server stops, unless that would break off a file."""
        if self._stopping() and not (self._intake and self._intake.moving):
            raise ShuttingDownError("the server is being shut down")

    def _check_deadline(self, now: float) -> None:
        if now >= self._deadline and not self._owes():
            raise PeerTimeoutError("the client said nothing for too long")

    def _owes(self) -> bool:
        """Whether it is we who have something to do, and the client waits for it."""
        return bool(self._intake and self._intake.groups.busy and not self._frames.conversation.owed)

    def _live(self) -> None:
        """Give a sign of life, if the client waits for us and we have been silent for long."""
        intake = self._intake
        if intake and intake.answers.speak():
            self._spoke()
        if (
            time.monotonic() - self._last_said >= ALIVE_SECONDS
            and intake
            and (intake.groups.busy or intake.hashing or self._opening)
        ):
            self._say(messages.Alive())
        self._relieve()

    def _relieve(self) -> None:
        """Do not read more while a client that does not read lets the answers pile up."""
        if self._connection.unsent > MAX_UNSENT:
            self._connection.drain(time.monotonic() + self._session.idle_seconds)

    def _wait_for(self, job: Job[Any]) -> None:
        """Wait for something, and answer meanwhile for what is done."""
        while not job.wait(_LOOK_SECONDS):
            if self._intake and not self._ending:  # else there may be nobody
                self._answer(self._intake)
                self._live()

    def _say(self, message: messages.Message) -> None:
        if self._intake:
            self._intake.answers.speak()  # what was said before goes out before
        self._connection.post(self._frames.say(message))
        self._last_said = time.monotonic()

    def _answer(self, intake: Intake) -> None:
        if intake.answer():
            self._spoke()

    def _spoke(self) -> None:
        """Note that answers were given: from now on it is the client's turn."""
        self._last_said = time.monotonic()
        self._deadline = self._last_said + self._session.idle_seconds

    # -- what the client says --------------------------------------------------------------------------------------

    def _put(self, _number: int, put: messages.Put) -> None:
        directory = str(Name.parse(put.directory, self._session.names)) if put.directory else ""
        storage, openings = self._open_storage(put)
        self._intake = Intake(
            self._frames, storage, self._session, directory, self._committer, self._hasher, self._wait_for, openings
        )
        self._returns = put.opening & RETURN != 0
        bytes_left, files_left = storage.room()
        self._frames.conversation.window = WINDOW
        self._say(
            messages.Ready(
                WINDOW,
                EAGER_LIMIT,
                self._session.largest_file,
                UNKNOWN if bytes_left is None else bytes_left,
                UNKNOWN if files_left is None else files_left,
                self._session.names.value,
                openings.verdict if openings else "unasked",
            )
        )

    def _take_small(self, intake: Intake) -> bool:
        """Take small files and claims that have arrived whole, a buffer of them at most; return whether there was any.

        Also whether there is more now of one that was here in part: message by message it costs three times as much.
        """
        wholes = self._frames.hear_wholes()
        claim = None if wholes else self._frames.hear_claim()
        if not (wholes or claim):
            return self._frames.fill_whole()
        self._check_not_stopping()
        if wholes:
            intake.take_wholes(wholes)
        while claim:
            intake.claim(*claim)
            claim = self._frames.hear_claim()
        self._relieve()
        return True

    def _offer(self, number: int, offer: messages.Offer) -> None:
        self._check_not_stopping()
        if offer.flags & EAGER:
            self._rate, self._taken = None, 0
        self._taking().offer(number, offer)
        self._relieve()

    def _claim(self, number: int, claim: messages.Claim) -> None:
        self._check_not_stopping()
        self._taking().claim(number, claim)
        self._relieve()

    def _totals(self, _number: int, _totals: messages.Totals) -> None:
        """Nothing depends on it: each offer is looked at by itself."""

    def _alive(self, _number: int, _alive: messages.Alive) -> None:
        """Wait a little longer, not for ever."""
        now = time.monotonic()  # whoever says nothing else, and without a pause, never makes us wait
        self._check_deadline(now)
        patient_until = self._last_heard + patience(self._taking().largest_prefix)
        self._deadline = min(now + self._session.idle_seconds, max(self._deadline, patient_until))

    def _finish(self, _number: int, _finish: messages.Finish) -> None:
        intake = self._taking()
        intake.answer_all(self._live)
        answers = intake.answers
        if intake.openings and answers.awaited:
            self._open(intake.openings, answers.awaited)
        self._say(messages.Summary(answers.files, answers.bytes))
        intake.close()
        self._intake = None

    def _open(self, openings: Openings, numbers: Sequence[int]) -> None:
        """Have what was stored opened, and tell the client what came of each, in order."""
        self._opening, over = True, threading.Event()
        jobs = openings.open(over.is_set, results=self._returns)
        try:
            for number, job in zip(numbers, jobs, strict=True):
                while not job.wait(_LOOK_SECONDS):
                    if self._stopping():
                        over.set()  # each says then that it was cancelled
                    self._live()
                    if self._frames.fill():
                        self._frames.hear()  # raises: there is nothing that a client may say now
                with contextlib.closing(job.result()) as opened:
                    for piece in told(self._frames, number, opened):
                        self._connection.post(piece)
                        self._relieve()
                self._last_said = time.monotonic()
        finally:
            over.set()
            self._opening = False
            for job in jobs:
                if job.done:  # others see to it themselves
                    job.result().close()

    def _taking(self) -> Intake:
        if self._intake is None:
            raise ProtocolError("there is no send")  # which the order of messages does not allow
        return self._intake

    def _start(self, number: int, start: messages.Start) -> None:
        self._rate, self._taken = None, 0
        self._taking().start(number, start)

    def _data(self, number: int, data: messages.Data) -> None:
        self._taking().data(number, data)

    def _trailer(self, number: int, trailer: messages.Trailer) -> None:
        self._taking().trailer(number, trailer)

    def _abort(self, number: int, abort: messages.Abort) -> None:
        self._taking().abort(number, abort)

    _heard: ClassVar[dict[type, Any]] = {
        messages.Put: _put,
        messages.Totals: _totals,
        messages.Offer: _offer,
        messages.Claim: _claim,
        messages.Start: _start,
        messages.Data: _data,
        messages.Trailer: _trailer,
        messages.Abort: _abort,
        messages.Finish: _finish,
        messages.Alive: _alive,
    }

    # -- the end -------------------------------------------------------------------------------------------------

    def _end(self, problem: SecurexferError) -> None:
        """Let go of what is unfinished, answer for what is complete, and say why it is over."""
        intake, self._ending = self._intake, True
        with contextlib.suppress(TruncatedError, PeerTimeoutError):
            if intake:
                try:
                    intake.end(problem)
                    intake.answer_all()
                finally:
                    intake.close()
            if not isinstance(problem, TruncatedError):
                self._say(refusal_of(problem))
