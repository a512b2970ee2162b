"""Send files over as many connections as it takes."""

from __future__ import annotations

import contextlib
import stat
import time
from typing import TYPE_CHECKING

from securexfer.client.login import Login, Wait
from securexfer.errors import (
    NotSecurexferError,
    PeerTimeoutError,
    SecurexferError,
    SessionEndedError,
    ShuttingDownError,
    TruncatedError,
    UnreachableError,
)
from securexfer.wire import framing

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from securexfer.client.login import Line
    from securexfer.client.target import Target
    from securexfer.transfer.items import Item, Watcher
    from securexfer.transfer.sender import Sender
    from securexfer.transfer.sending import Sending
    from securexfer.transfer.wishes import Wishes

# What a new connection may help against. (A busy server has been asked for a minute when the login gives up.)
_LOST = (TruncatedError, PeerTimeoutError, UnreachableError, ShuttingDownError)
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds after a connection that was lost, doubling


def send(
    target: Target,
    context: ssl.SSLContext,
    login: tuple[str, str],
    items: Iterable[Item],
    watcher: Watcher,
    wishes: Wishes,
) -> None:
    """Send `items` as the user and with the password of `login`; what became of each stands in it afterwards.

    `context` is that of `net.tls.client_context`, for the protocols wished for. A connection that is lost is made
    again, to the same name and with the same trust, and what was not stored yet is offered again. Raises what kept
    files from being sent that have no error of their own; UsageError, before connecting, for a login that cannot be
    sent.
    """
    door = Login(target, context, *login, watcher, _prepare)
    line = door.log_in()
    if line.frames is None:
        wishes.check_classroom(f"{target.address} does not speak it")
        _send_in_classroom(door, line, items, watcher, wishes)
    else:
        _send(door, line, items, watcher, target, wishes)


def _prepare() -> tuple[type[Sender], type[Sending]]:
    """Import what is not needed before the login: the server's verification of that takes longer."""
    from securexfer.transfer.sender import Sender
    from securexfer.transfer.sending import Sending

    return Sender, Sending


def _send(
    door: Login, line: Line | None, items: Iterable[Item], watcher: Watcher, target: Target, wishes: Wishes
) -> None:
    sender_class, sending_class = _prepare()
    with contextlib.ExitStack() as stack:
        results = None
        if wishes.results:
            from securexfer.client.results import Results

            results = stack.enter_context(Results(wishes.results))
        sending = stack.enter_context(sending_class(items, watcher, target.directory, wishes, results))
        left, wait = wishes.retries, Wait(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            sender = None
            try:
                line = line or door.log_in()
                if line.frames is None:
                    raise NotSecurexferError("the server spoke protocol 2, and now only protocol 1")
                sender = sender_class(line.frames, sending)
                sender.run()
                line.connection.say_goodbye()
                return
            except _LOST as error:
                if sender and sender.progressed:
                    left, wait = wishes.retries, Wait(_FIRST_WAIT, _LONGEST_WAIT)
                if not left:
                    raise
                left -= 1
                pause = wait.next()
                lost = isinstance(error, TruncatedError)
                watcher.retrying(f"lost {target.address}: {error.message}" if lost else error.message, pause)
            finally:
                if line:
                    line.connection.close()
                line = None
            sending.digests.write()
            time.sleep(pause)


def _send_in_classroom(door: Login, line: Line, items: Iterable[Item], watcher: Watcher, wishes: Wishes) -> None:
    """Send in protocol 1.

    A server that ends a session in order, after answering for some of the files (as after one that is too large), gets
    the rest in another session.
    """
    from securexfer.transfer.classroom.sender import Sender

    with contextlib.ExitStack() as at_once:
        at_once.callback(line.connection.close)
        left = [item for item in items if _suits_classroom(item, watcher)]
        framing.encode_count(len(left))
        if left:
            at_once.pop_all()
    while left:
        sender = Sender(line.connection, left, watcher, wishes.timeout)
        try:
            sender.run()
        except KeyboardInterrupt:
            sender.listen()  # what the server has acknowledged by now counts
            raise
        except SessionEndedError:
            if all(item.open for item in left):
                raise
        finally:
            line.connection.close()
        left = [item for item in left if item.open]
        for item in left:
            if item.sent:
                taken_back, item.sent = item.sent, 0
                watcher.sent(item, -taken_back)
        if left:
            line = door.log_in()


def _suits_classroom(item: Item, watcher: Watcher) -> bool:
    """Whether protocol 1 can carry it; if not, it has its error, and the watcher knows."""
    try:
        if item.directory:
            from securexfer.transfer.sources import unsendable

            raise unsendable(item.path, stat.S_IFDIR)
        if item.open:
            framing.FileHeader.of(item.name, item.size)
            return True
    except SecurexferError as error:
        item.error = error
    watcher.ended(item)
    return False
