"""Send files over as many connections as it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from securexfer.client.login import Login, Wait
from securexfer.errors import NotSecurexferError, SessionEndedError, TruncatedError, TryAgainError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    from securexfer.client.login import Line
    from securexfer.client.target import Target
    from securexfer.transfer.items import Item, Watcher
    from securexfer.transfer.sending import Wishes

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
    again, to the same name and with the same trust, and what was not stored yet is offered again. Raises what kept files from
    being sent that have no error of their own; UsageError, before connecting, for a login that cannot be sent.
    """
    door = Login(target, context, *login, watcher)
    line = door.log_in()
    if line.frames is None:
        _send_in_classroom(door, line, [item for item in items if item.open], watcher)
    else:
        _send(door, line, items, watcher, target.directory, wishes)


def _send(
    door: Login, line: Line | None, items: Iterable[Item], watcher: Watcher, directory: str, wishes: Wishes
) -> None:
    # Imported here: it is not needed before the login, and the server's verification takes longer than the import.
    from securexfer.transfer.sender import Sender
    from securexfer.transfer.sending import Sending

    with Sending(items, watcher, directory, wishes) as sending:
        left, wait = wishes.retries, Wait(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            sender = None
            try:
                line = line or door.log_in()
                if line.frames is None:
                    raise NotSecurexferError("the server spoke protocol 2, and now only protocol 1")
                sender = Sender(line.frames, sending)
                sender.run()
                return
            except (TryAgainError, TruncatedError) as error:
                if sender and sender.progressed:
                    left, wait = wishes.retries, Wait(_FIRST_WAIT, _LONGEST_WAIT)
                if not left:
                    raise
                left -= 1
                pause = wait.next()
                watcher.retrying(error.message, pause)
            finally:
                if line:
                    line.connection.close()
                line = None
            time.sleep(pause)


def _send_in_classroom(door: Login, line: Line, items: Sequence[Item], watcher: Watcher) -> None:
    """Send in protocol 1.

    A server that ends a session in order, after answering for some of the files (as after one that is too large), gets
    the rest in another session.
    """
    from securexfer.transfer.classroom.sender import Sender

    while True:
        sender = Sender(line.connection, items, watcher)
        try:
            sender.run()
            return
        except KeyboardInterrupt:
            sender.listen()  # what the server has acknowledged by now counts
            raise
        except SessionEndedError:
            left = [item for item in items if item.open]
            if len(left) == len(items):
                raise
        finally:
            line.connection.close()
        if not left:
            return
        items = left
        for item in items:
            item.sent = 0
        line = door.log_in()
