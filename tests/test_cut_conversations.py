"""Protocol 2 cut at every message and inside it, in three ways, by a client: what was not complete leaves nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import stranger_client as stranger
from hostile import speaking
from hostile.oracles import STAGING, settle
from hostile.site import Site
from hostile.speaking import FINISH, Speaker, data, eager, offer, put, start, trailer
from lab import PASSWORD, Lab

from securexfer.storage.partials import file_of
from securexfer.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAYS = (stranger.leave_in_order, stranger.leave_without_a_word, stranger.leave_by_reset)
KINDS = ("plain", "eager", "directory", "resumed")
CASES = {f"{kind}, {way.__name__}": (kind, way) for kind in KINDS for way in WAYS}
SMALL = b"content " * 1000
LARGE = os.urandom(2 << 20)
HERE = 3 << 19  # bytes of the large one, before it is resumed
AWAITED = {0: messages.Welcome, 1: messages.Ready}  # after so many messages


class Cut:
    """One kind of conversation: its messages, and which of them makes the file complete."""

    def __init__(self, kind: str, user: str) -> None:
        """Begin with a login and a request; a message that depends on an Accept is made when that is here."""
        self.name = "d/file" if kind == "directory" else "file"
        self.content = content = LARGE if kind == "resumed" else SMALL
        self.awaited: dict[int, type] = dict(AWAITED)
        self.messages: list[bytes | Callable[[messages.Accept], bytes]] = [
            speaking.authenticate(user, PASSWORD),
            put(),
        ]
        if kind in {"eager", "directory"}:
            self.messages += speaking.frames([eager(1, self.name, content)])
        else:
            self.awaited[2] = messages.Accept
            self.messages += [
                offer(1, self.name, len(content)),
                lambda accept: start(1, content[: accept.offset], accept.nonce),
                lambda accept: data(1, content[accept.offset : (accept.offset + len(content)) // 2]),
                lambda accept: data(1, content[(accept.offset + len(content)) // 2 :]),
                trailer(1, content),
            ]
        self.complete = len(self.messages)  # with so many messages
        self.messages += [speaking.directory(2, "d"), FINISH] if kind == "directory" else [FINISH]

    def talk(self, speaker: Speaker, whole: int, *, part: bool) -> None:
        """Say so many messages and hear what has to come before the next; then half of that one, if `part`."""
        accept: Any = None
        for number, message in enumerate(self.messages[: whole + part]):
            frame = message if isinstance(message, bytes) else message(accept)
            if number == whole:
                frame = frame[: len(frame) // 2]
            speaker.say(frame)
            if number < whole and number in self.awaited:
                accept = speaker.until(self.awaited[number])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Site]:
    lab = Lab(tmp_path_factory.mktemp("cuts"), lab_source)
    yield Site(lab, list(CASES), "127.12")
    lab.close()


def partial_size(site: Site, user: str) -> int:
    path = site.lab.inbox / STAGING / file_of(user, "file")
    return path.stat().st_size if path.exists() else 0


def leave_a_part(site: Site, case: str) -> None:
    """Have the beginning of a large file lie on the server."""
    user, closed = site.user(case), len(site.logged("conn.close", case))
    with speaking.ready(site.server.port, site.lab.ca, user, PASSWORD, site.source(case)) as speaker:
        speaker.say(offer(1, "file", len(LARGE)))
        accept = speaker.until(messages.Accept)
        speaker.say(start(1, b"", accept.nonce), data(1, LARGE[:HERE]))
    settle(lambda: len(site.logged("conn.close", case)) > closed, 15)
    assert partial_size(site, user) == HERE


@pytest.mark.parametrize("case", CASES)
def test_T19_T20_T21_F08_a_client_that_leaves_at_any_message_or_inside_it_leaves_nothing_visible(
    site: Site, case: str
) -> None:
    """Of a large file the beginning stays, where no name leads, for whoever resumes it. Oracles hold at the end."""
    kind, leave = CASES[case]
    user = site.user(case)
    cut = Cut(kind, user)
    path = site.lab.inbox / user / cut.name
    points = [(whole, part) for whole in range(len(cut.messages)) for part in (False, True)]
    for whole, part in [*points, (len(cut.messages), False)]:
        if kind == "resumed" and not partial_size(site, user):
            leave_a_part(site, case)
        closed = len(site.logged("conn.close", case))
        with speaking.connect(site.server.port, site.lab.ca, site.source(case)) as speaker:
            cut.talk(speaker, whole, part=part)
            leave(speaker.tls)
            settle(lambda: len(site.logged("conn.close", case)) > closed, 15)  # noqa: B023 - used at once
        event = site.logged("conn.close", case)[-1]
        orderly = (whole, part) == (1, False) or whole >= cut.complete
        assert event["reason"] in ({"TRUNCATED", "done"} if orderly else {"TRUNCATED"}), (whole, part, event)
        if whole < cut.complete:
            assert not path.parent.exists() or not list(path.parent.iterdir()), (whole, part)
            assert partial_size(site, user) >= (HERE if kind == "resumed" else 0), (whole, part)
        elif path.exists():  # all of it has come, whether or not the reset overtook it
            assert path.read_bytes() == cut.content
            path.unlink()
        elif leave is not stranger.leave_by_reset:
            raise AssertionError(f"complete and not stored: {whole, part}")
        if kind == "directory" and path.parent.exists():
            path.parent.rmdir()
    site.oracles.log_is_whole()
    site.oracles.ledger.pop(f"{user}/{cut.name}", None)  # which was taken away again
    site.oracles.partials += partial_size(site, user) > 0
    site.oracles.check()
