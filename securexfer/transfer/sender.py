"""The side that has the bytes, in protocol 2: offer, send what is wanted, and wait until it is committed.

Small files are sent with their offers once the receiver has said a few times that it has nothing of them; of all others
the offers go ahead, so that the answer is here when their turn comes. Success is only what the receiver committed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from securexfer.errors import (
    ChangedError,
    NameTakenError,
    PeerTimeoutError,
    ProtocolError,
    SecurexferError,
    SkippedError,
    SourceError,
    TruncatedError,
    refusal,
)
from securexfer.names import show
from securexfer.net.payload import BUFFER_SIZE
from securexfer.transfer.expecting import Expecting
from securexfer.transfer.outflow import Outflow
from securexfer.transfer.returned import Awaited
from securexfer.transfer.sources import SourceFile, read_small
from securexfer.wire import messages
from securexfer.wire.messages import DIRECTORY, EAGER, EXECUTABLE, FRESH, MAX_BESIDE, MAX_DATA, OPEN, RETURN, UNKNOWN
from securexfer.wire.order import ACCEPTED, IDLE

if TYPE_CHECKING:
    import os

    from securexfer.net.frames import Frames
    from securexfer.transfer.items import Item
    from securexfer.transfer.sending import Sending

_PROGRESS_BYTES = 16 << 20  # more than the buffers on the way hold: some of it has arrived
_EAGER_BYTES = BUFFER_SIZE // 2  # whatever the receiver allows: it is read whole, and has to find room with its frames
OPENING_SECONDS = 7200.0  # for one file to be opened, while the server says that it is alive: others may wait before it


class Sender:
    """Sends over one connection, after the login."""

    def __init__(self, frames: Frames, sending: Sending) -> None:
        self._conversation = frames.conversation
        self._sending = sending
        self._wishes = sending.wishes
        self._watcher = sending.watcher
        self._items: dict[int, Item] = {}  # those that are open
        self._accepted: deque[tuple[int, messages.Accept]] = deque()
        self._aborts: deque[int] = deque()  # those that the receiver has refused before our last word
        self._expecting = Expecting()
        self._counted = False
        self._is_ready = False
        self._opens = False
        self._eager_limit = 0
        self._awaited = Awaited(sending.results)
        self._out = Outflow(
            frames, sending.wishes.timeout, sending.limit, self._hear, self._committed, self._awaited.take
        )
        self._prefix_length = len(sending.directory) + 1 if sending.directory else 0

    @property
    def progressed(self) -> bool:
        """Whether this connection was of use: something was answered for, or a good deal was sent."""
        return self._conversation.last > len(self._conversation.open) or self._out.sent >= _PROGRESS_BYTES

    def run(self) -> None:
        """Send everything; raise what ended it. What became of each item stands in it."""
        self._sending.offer_all_again()
        try:
            self._send_once()
            while not self._sending.over:  # the last answers had something sent from its start, after Finish
                self._send_once()
        except (TruncatedError, PeerTimeoutError):
            with contextlib.suppress(TruncatedError):  # it may have said why it ends the session
                self._out.hear()
            raise
        except KeyboardInterrupt:
            with contextlib.suppress(SecurexferError):
                self._out.hear()  # what the receiver has said before counts
            raise
        finally:
            for item in self._items.values():
                item.fresh = False  # of what has come of it by now, it is to go on
                if not item.open:  # known, but the server's answer to it did not come
                    self._watcher.ended(item)
            self._sending.take_back([item for item in self._items.values() if item.open])
            self._awaited.discard()

    def _send_once(self) -> None:
        """Make one request, and send what is left."""
        self._put()
        self._send_all()
        if not self._counted:
            self._count()
        self._out.say(messages.Finish())
        self._out.flush()
        self._sending.digests.write()  # while the server works off what is on the way
        if self._awaited.any:
            self._out.patient = OPENING_SECONDS
        while self._conversation.state != IDLE:
            self._out.listen()
        self._out.patient = 0.0
        self._sending.opened_with.clear()

    def _put(self) -> None:
        sending = self._sending
        self._is_ready = False
        put = messages.Put(
            sending.send_id,
            self._wishes.on_conflict or "default",
            self._opening(),
            UNKNOWN,
            UNKNOWN,
            sending.directory,
        )
        self._out.say(put)
        while not self._is_ready:
            self._out.listen()

    def _opening(self) -> int:
        if not self._wishes.opening or self._wishes.dry_run:
            return 0
        return OPEN | (RETURN if self._sending.results else 0)

    def _send_all(self) -> None:
        while True:
            self._offer()
            self._sending.digests.let_go()
            self._say_aborts()
            if self._accepted:
                self._send_accepted(*self._accepted.popleft())
            elif self._conversation.owed:
                self._out.listen()
            elif not self._aborts and self._sending.over and not (self._opens and self._items):
                return
            elif self._sending.over or len(self._items) >= self._conversation.window:
                # Before files are opened, all have to be stored: an answer may have one of them offered anew.
                self._out.listen()

    def _count(self) -> None:
        self._counted = True
        self._out.say(messages.Totals(self._sending.files, self._sending.bytes))

    # -- offers --------------------------------------------------------------------------------------------------

    def _offer(self, *, between: bool = False) -> None:
        """Offer as much as the window allows; small files with their content, so none `between` that of a large one."""
        sending, window = self._sending, self._conversation.window
        while len(self._items) < window and self._expecting.may_ask:
            if self._accepted and not between:
                return  # content that is wanted goes first
            item = sending.following()
            if item is None:
                if self._sending.over and not self._counted and not between:
                    self._count()
                return
            if not self._goes_eagerly(item):
                self._offer_one(item, between=between)
            elif not between:
                self._send_eagerly(item)
            else:
                sending.take_back([item])
                return

    def _goes_eagerly(self, item: Item) -> bool:
        return (
            self._expecting.new
            and item.size <= self._eager_limit
            and not (item.directory or item.fresh or self._wishes.dry_run)
        )

    def _offer_one(self, item: Item, *, between: bool) -> None:
        seen, item.seen = item.seen, None  # whenever it is asked for again, it may have changed
        if item.directory:
            if not self._wishes.dry_run:
                self._announce(item, DIRECTORY)
        elif self._may_claim(item, seen) and (digest := self._digest_of(item, seen, read=not between)):
            self._claim(item, digest)
        else:
            self._expecting.ask(self._announce(item, FRESH if item.fresh else 0))

    def _may_claim(self, item: Item, seen: os.stat_result | None) -> bool:
        """Whether to look for its digest first. Not of a file that is alone: opening the cache takes longer."""
        return not item.fresh and (seen is not None or self._conversation.last > 0)

    def _digest_of(self, item: Item, seen: os.stat_result | None, *, read: bool) -> bytes | None:
        """Return what is remembered of a file; or a small one's `read` now, where the receiver had those before it.

        What was sent as soon as it was written is not remembered. An offer would read it, too, and take six messages.
        """
        known = self._sending.known_digest(item, seen)
        if known or not (read and self._expecting.there and 0 < item.size <= self._eager_limit):
            return known
        try:
            found, opened_ns, content = read_small(item.path, item.identity, self._eager_limit)
        except SourceError:
            return None  # whoever opens it for its offer says so
        if content is None:
            return None
        digest = hashlib.sha256(content).digest()
        item.size, item.mtime_ns = found.st_size, found.st_mtime_ns
        self._sending.digests.add(found, digest, opened_ns)
        return digest

    def _claim(self, item: Item, digest: bytes) -> None:
        """Offer a file with its digest: where the receiver knows that it has it, nothing else is said."""
        number = self._conversation.last + 1
        self._items[number] = item
        self._expecting.ask(number)
        item.sha256 = digest.hex()
        name = item.name[self._prefix_length :]
        self._out.say_claim(messages.Claim(item.executable, item.size, item.mtime_ns, digest, name), number)

    def _announce(self, item: Item, flags: int) -> int:
        number = self._conversation.last + 1
        self._items[number] = item
        flags |= EXECUTABLE if item.executable else 0
        self._out.say(messages.Offer(flags, item.size, item.mtime_ns, item.name[self._prefix_length :]), number)
        return number

    def _send_eagerly(self, item: Item) -> None:
        """Send a small file with its offer; as it is when it is opened, so nothing was promised before that."""
        item.seen = None
        try:
            found, opened_ns, content = read_small(item.path, item.identity, self._eager_limit)
        except SourceError as error:
            item.error = error
            self._watcher.ended(item)
            return
        if content is None:  # it has grown
            self._expecting.ask(self._announce(item, 0))
            return
        digest = hashlib.sha256(content).digest()
        item.size, item.mtime_ns, item.sha256 = found.st_size, found.st_mtime_ns, digest.hex()
        number = self._conversation.last + 1
        self._items[number] = item
        flags = EAGER | EXECUTABLE if item.executable else EAGER
        self._out.say_whole(number, flags, item.mtime_ns, item.name[self._prefix_length :], content, digest)
        self._sending.digests.add(found, digest, opened_ns)
        item.sent = item.size
        self._watcher.sent(item, item.size)

    # -- content -------------------------------------------------------------------------------------------------

    def _send_accepted(self, number: int, accept: messages.Accept) -> None:
        if self._conversation.open.get(number) != ACCEPTED:  # it was refused meanwhile, and may be closed
            return
        item = self._items[number]
        if accept.offset > item.size:
            raise ProtocolError(f"the server has {accept.offset} of {item.size} bytes of {show(item.name)!r}")
        if self._wishes.dry_run and (accept.offset < item.size or not item.size):
            item.outcome = "offered"
            self._abort(number, "DRY-RUN")
            return
        if accept.offset == item.size and self._prove_by_memory(number, item, accept):
            return
        try:
            source = SourceFile(item.path, item.identity)
        except SourceError as error:
            item.error = error
            self._abort(number, error.reason)
            return
        try:
            if (source.size, source.mtime_ns) != (item.size, item.mtime_ns):
                raise SourceError(f"{show(str(item.path))} changed before it was sent")
            digest = hashlib.sha256()
            if accept.offset:
                self._out.flush()
                source.hash_into(digest, accept.offset, self._out.live)
            self._start(number, item, accept, digest.digest())
            self._send_content(number, item, source, digest, accept.offset)
        except SourceError as error:
            item.error = error
            self._abort(number, error.reason)
        finally:
            source.close()

    def _prove_by_memory(self, number: int, item: Item, accept: messages.Accept) -> bool:
        """Prove that the receiver has all of a file, if its digest is known without reading it; return whether."""
        digest = self._sending.known_digest(item)
        if digest is None:
            return False
        item.sha256 = digest.hex()
        self._start(number, item, accept, digest)
        self._end_with(number, messages.Trailer(digest))
        return True

    def _start(self, number: int, item: Item, accept: messages.Accept, prefix: bytes) -> None:
        """Say Start, with the proof that we have what the receiver has: `prefix` is its digest."""
        self._out.owed = max(self._out.owed, item.size)
        self._out.say(messages.Start(accept.offset, hashlib.sha256(accept.nonce + prefix).digest()), number)
        if accept.offset:
            item.resumed = item.sent = accept.offset
            self._watcher.sent(item, accept.offset)

    def _send_content(self, number: int, item: Item, source: SourceFile, digest: hashlib._Hash, offset: int) -> None:
        """Send what comes after `offset`, and the trailer; an Abort if the receiver or the source do not want to."""
        left = item.size - offset
        while left:
            length = min(left, MAX_DATA)
            self._out.say_data(number, length)
            if not self._send_payload(item, source, digest, length):
                item.error = SourceError(f"{show(str(source.path))} became shorter while it was being sent")
                self._abort(number, item.error.reason)
                return
            left -= length
            if number in self._aborts:
                return
            if left:
                self._offer(between=True)
        try:
            source.check_unchanged()
        except SourceError as error:
            item.error = error
            self._abort(number, error.reason)
            return
        found = digest.digest()
        item.sha256 = found.hex()
        self._sending.digests.add(source.found, found, source.opened_ns)
        self._end_with(number, messages.Trailer(found))

    def _send_payload(self, item: Item, source: SourceFile, digest: hashlib._Hash, length: int) -> bool:
        """Send one frame's payload; with zeros, and False, if the source ends before it."""
        while length:
            filled = self._out.fill_from(source.read_into, length)
            if not filled:
                self._out.fill_up(length)
                return False
            digest.update(filled)
            length -= len(filled)
            item.sent += len(filled)
            self._watcher.sent(item, len(filled))
        return True

    def _abort(self, number: int, reason: str) -> None:
        self._end_with(number, messages.Abort(reason))

    def _end_with(self, number: int, word: messages.Trailer | messages.Abort) -> None:
        """Say our last word about a transfer; it may have been the last of all."""
        self._out.say(word, number)
        if number not in self._conversation.open:
            if number in self._aborts:
                self._aborts.remove(number)
            self._close(number)

    def _say_aborts(self) -> None:
        while self._aborts:
            self._abort(self._aborts[0], "REFUSED")

    # -- what is heard -------------------------------------------------------------------------------------------

    def _hear(self, number: int, message: messages.Message | messages.Data) -> None:
        self._heard[type(message)](self, number, message)

    def _accept(self, number: int, accept: messages.Accept) -> None:
        self._expecting.answered(number)
        if accept.offset:
            self._expecting.note_there()
        else:
            self._expecting.note_new()
        item = self._items[number]
        item.sha256 = None  # what was claimed is to be seen
        if item.error is None:
            self._accepted.append((number, accept))

    def _committed(self, number: int, committed: messages.Committed) -> None:
        outcome, opened, stored_as = committed
        item = self._items[number]
        if outcome == "unchanged":
            self._expecting.note_there()
        if self._expecting.answered(number) and outcome != "unchanged":  # a claim
            raise ProtocolError(f"the server says {outcome} of {show(item.name)!r}, which was not sent")
        item.outcome, item.stored_as = outcome, stored_as or item.name
        if opened:
            if not self._opens:
                raise ProtocolError("the server opens files that it was not to open")
            self._awaited.expect(number, item)
        # One more than may be opened together, so that what is offered again is as much too many.
        if self._opens and not item.directory and len(self._sending.opened_with) <= MAX_BESIDE:
            self._sending.opened_with.append(item)
        del self._items[number]  # what `_close` does of a fate that is known
        self._watcher.ended(item)

    def _refuse(self, number: int, refuse: messages.Refuse) -> None:
        if not number:
            raise refusal(refuse.reason, f"the server ended the session: {show(refuse.detail)}")
        self._expecting.refused(number)
        item = self._items[number]
        error = refusal(refuse.reason, f"the server did not store {show(item.name)!r}: {show(refuse.detail)}")
        if isinstance(error, NameTakenError | SkippedError | ChangedError):
            self._expecting.note_other()
        if isinstance(error, ChangedError) and not item.fresh:
            item.fresh = True
        elif isinstance(error, SkippedError) and self._wishes.on_conflict == "skip":
            item.outcome = "skipped"
        elif item.open:
            item.error = error
        if number in self._conversation.open:
            self._aborts.append(number)
        else:
            self._close(number)

    def _close(self, number: int) -> None:
        """Both sides have said their last word about a transfer."""
        item = self._items.pop(number)
        if item.open:  # it is to be offered anew
            self._sending.take_back([item])
        else:
            self._watcher.ended(item)

    def _become_ready(self, _number: int, ready: messages.Ready) -> None:
        self._conversation.window = ready.window
        self._eager_limit = min(ready.eager, _EAGER_BYTES)
        self._is_ready = True
        self._opens = ready.opening == "yes" and self._opening() != 0
        self._watcher.opening(ready.opening)

    # -- what comes of files that are opened ------------------------------------------------------------------------

    def _result(self, number: int, result: messages.Result) -> None:
        self._awaited.begin(number, result)

    def _opened(self, number: int, opened: messages.Opened) -> None:
        self._watcher.opened(*self._awaited.finish(number, opened))

    def _summary(self, _number: int, _summary: messages.Summary) -> None:
        self._awaited.check_none_left()

    def _ignore(self, _number: int, _message: messages.Alive | messages.Data) -> None:
        """Nothing follows from it but that the server is there; what may come next, the conversation knows."""

    _heard: ClassVar[dict[type, Any]] = {
        messages.Ready: _become_ready,
        messages.Accept: _accept,
        messages.Committed: _committed,
        messages.Refuse: _refuse,
        messages.Result: _result,
        messages.Data: _ignore,
        messages.Opened: _opened,
        messages.Summary: _summary,
        messages.Alive: _ignore,
    }
