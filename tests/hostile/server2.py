"""A server that the CA vouches for, speaks protocol 2, and means harm: too early, too much, twice, or nothing.

Each line of ANSWERS is a session after its handshake, towards a `send` of two files, ``small`` and ``large``. What it
said is stored it has counted; nothing else may be called stored. It is told with which exit code the client has to end.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hostile.speaking import Speaker, raw
from securexfer.wire import messages
from securexfer.wire.messages import UNKNOWN

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from securexfer.wire.messages import Message

FLOOD_SECONDS = 60  # nobody listens to nonsense for longer
ESCAPES = "\x1b]0;owned\x07\x9b31m\u202etxt"


@dataclass
class Session:
    """One connection of a client's, from the server's side."""

    tls: ssl.SSLSocket
    number: int
    stored: set[str] = field(default_factory=set)  # names of whole files that it said are stored
    sizes: dict[int, int] = field(default_factory=dict)  # of what was offered
    names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.speaker = Speaker(self.tls)

    def say(self, message: Message, number: int = 0) -> None:
        if isinstance(message, messages.Committed):
            self.stored.add(self.names.get(number, "?"))
        self.speaker.say(messages.encode(message, number))

    def hear(self, *kinds: type) -> tuple[int, Any]:
        """Return the next message of one of these kinds, with its transfer."""
        while heard := self.speaker.hear():
            number, message = heard
            if isinstance(message, messages.Offer | messages.Claim):
                self.sizes[number], self.names[number] = message.size, message.name
            if isinstance(message, kinds):
                return heard
        raise AssertionError("the client left")

    def login(self) -> None:
        self.hear(messages.Authenticate)
        self.say(messages.Welcome(0, "lab"))

    def ready(self, window: int = 100, eager: int = 1 << 18) -> None:
        self.login()
        self.hear(messages.Put)
        self.say(messages.Ready(window, eager, UNKNOWN, UNKNOWN, UNKNOWN, "native", "unasked"))

    def offered(self, name: str = "small") -> int:
        """Return the number of an offer, or of a claim."""
        while True:
            number, offer = self.hear(messages.Offer, messages.Claim)
            if offer.name == name:
                return number

    def accept(self, number: int, offset: int = 0) -> None:
        self.say(messages.Accept(offset, bytes(16)), number)

    def takes(self, name: str) -> None:
        """Take a file as it should be done."""
        number = next((number for number in self.names if self.names[number] == name), 0) or self.offered(name)
        self.accept(number)
        self.hear(messages.Trailer)
        self.say(messages.Committed("stored", 0, ""), number)

    def wait(self) -> None:
        """Say nothing, until the client leaves."""
        self.tls.settimeout(120)
        while self.tls.recv(1 << 16):
            pass

    def flood(self, frame: bytes, pause: float = 0) -> None:
        """Say the same until the client leaves, or far too long."""
        deadline = time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < deadline:
            self.speaker.say(frame)
            time.sleep(pause)


def _refuse(reason: str, retry_after: int = 0, detail: str = "go away") -> messages.Refuse:
    return messages.Refuse(retry_after, reason, detail)


ALIVE = messages.encode(messages.Alive())
STORED = messages.Committed("stored", 0, "")


# -- the answer to the login -------------------------------------------------------------------------------------


def refuses_the_login(reason: str, retry_after: int = 0) -> Callable[[Session], None]:
    def answer(session: Session) -> None:
        session.hear(messages.Authenticate)
        session.say(_refuse(reason, retry_after))
        session.wait()

    return answer


def answers_the_login_with(frame: bytes) -> Callable[[Session], None]:
    def answer(session: Session) -> None:
        session.hear(messages.Authenticate)
        session.speaker.say(frame)
        session.wait()

    return answer


# -- silence -----------------------------------------------------------------------------------------------------


def is_silent_after(act: Callable[[Session], Any]) -> Callable[[Session], None]:
    def answer(session: Session) -> None:
        act(session)
        session.wait()

    return answer


def accepts(session: Session) -> None:
    session.ready()
    session.accept(session.offered())


def takes_small(session: Session) -> None:
    session.ready()
    session.takes("small")


def takes_both(session: Session) -> None:
    takes_small(session)
    session.takes("large")


def never_reads(session: Session) -> None:
    session.ready()
    session.accept(session.offered("large"))
    time.sleep(15)


# -- lies about files --------------------------------------------------------------------------------------------


def takes_it_all(session: Session) -> None:
    takes_both(session)
    session.hear(messages.Finish)
    session.say(messages.Summary(2, 1))
    session.wait()


def then(*said: tuple[Message, int], of: str = "large") -> Callable[[Session], None]:
    """Take the small file, then say something about the other one: -1 is its number."""

    def answer(session: Session) -> None:
        if session.number > 1:
            session.ready()
            session.wait()
        takes_small(session)
        number = next((n for n in session.names if session.names[n] == of), 0) or session.offered(of)
        for message, about in said:
            stored = set(session.stored)
            session.say(message, number if about < 0 else about)
            session.stored = stored  # nothing that is said here may be believed
        session.wait()

    return answer


def says_of_a_claim(*said: Message) -> Callable[[Session], None]:
    """Answer a claim with what is no answer to it: nothing was sent, so nothing can be stored."""

    def answer(session: Session) -> None:
        session.ready()
        number, _ = session.hear(messages.Claim)
        session.speaker.say(b"".join(messages.encode(message, number) for message in said))
        session.wait()

    return answer


def commits_in_the_middle(session: Session) -> None:
    takes_small(session)
    number = next((n for n in session.names if session.names[n] == "large"), 0) or session.offered("large")
    session.accept(number)
    session.hear(bytes)
    session.speaker.say(messages.encode(STORED, number))
    with contextlib.suppress(OSError, AssertionError):
        session.hear(messages.Trailer)
    session.wait()


def says_it_twice(session: Session) -> None:
    takes_small(session)
    session.say(STORED, next(iter(session.names)))
    session.wait()


def accepts_after_refusing(session: Session) -> None:
    session.ready()
    number = session.offered()
    session.say(_refuse("NAME"), number)
    session.accept(number)
    session.wait()


def refuses_after_accepting(session: Session) -> None:
    """Both at once, so that the client reads them together. It is a server's right."""
    session.ready()
    for name in ("small", "large"):
        number = next((n for n in session.names if session.names[n] == name), 0) or session.offered(name)
        accept = messages.encode(messages.Accept(0, bytes(16)), number)
        session.speaker.say(accept + messages.encode(_refuse("QUOTA"), number))
    session.hear(messages.Finish)
    session.say(messages.Summary(0, 0))
    session.wait()


def refuses_each(reason: str, detail: str = "no") -> Callable[[Session], None]:
    def answer(session: Session) -> None:
        session.ready()
        while True:
            number, said = session.hear(messages.Offer, messages.Claim, messages.Finish)
            if isinstance(said, messages.Finish):
                break
            session.say(_refuse(reason, 0, detail), number)
        session.say(messages.Summary(0, 0))
        session.wait()

    return answer


def stores_under_a_name_with_escapes(session: Session) -> None:
    session.ready()
    for name in ("small", "large"):
        number = next((n for n in session.names if session.names[n] == name), 0) or session.offered(name)
        session.accept(number)
        session.hear(messages.Trailer)
        session.say(messages.Committed("renamed", 0, ESCAPES), number)
    session.hear(messages.Finish)
    session.say(messages.Summary(2, 1))
    session.wait()


# -- the end of the session --------------------------------------------------------------------------------------


def ends_with(reason: str, retry_after: int = 0) -> Callable[[Session], None]:
    """End each session with a word, in the middle of the first file."""

    def answer(session: Session) -> None:
        accepts(session)
        session.say(_refuse(reason, retry_after))
        session.wait()

    return answer


def cuts(session: Session) -> None:
    accepts(session)


def is_alive_for_ever(session: Session) -> None:
    accepts(session)
    session.hear(messages.Trailer)
    session.flood(ALIVE, 0.02)


def is_alive_all_the_time(session: Session) -> None:
    accepts(session)
    session.hear(messages.Trailer)
    session.flood(ALIVE * 8192)


def is_alive_and_never_reads(session: Session) -> None:
    session.ready()
    number = session.offered("large")
    session.accept(number)
    session.flood(ALIVE, 0.02)


@dataclass(frozen=True)
class Expected:
    """How `send` has to end: its exit code, and the most connections that it may make."""

    answer: Callable[[Session], None]
    code: int
    sessions: int = 1
    claims: bool = False  # whether the client knows the digests of both files
    faster: int = 0  # where time has to run for it to end soon
    options: tuple[str, ...] = ("--timeout", "1", "--retries", "1")


ANSWERS = {
    "takes it all": Expected(takes_it_all, 0),
    # the login
    "AUTH": Expected(refuses_the_login("AUTH"), 4),
    "AUTH with a wait": Expected(refuses_the_login("AUTH", 1), 4),
    "THROTTLED for 136 years": Expected(refuses_the_login("THROTTLED", 2**32 - 1), 75),
    "BUSY": Expected(refuses_the_login("BUSY"), 75, sessions=40, faster=20),
    "SHUTDOWN": Expected(refuses_the_login("SHUTDOWN"), 75, sessions=2),
    "an unknown word": Expected(refuses_the_login("\x1b[31mNONSENSE"), 5),
    "a word for what is ours": Expected(refuses_the_login("INTERRUPTED"), 5),
    "ready instead of welcome": Expected(
        answers_the_login_with(messages.encode(messages.Ready(1, 1, 1, 1, 1, "native", "unasked"))), 1
    ),
    "stored instead of welcome": Expected(answers_the_login_with(messages.encode(STORED, 1)), 1),
    "welcome twice": Expected(answers_the_login_with(messages.encode(messages.Welcome(0, "x")) * 2), 1),
    "one byte of protocol 1": Expected(answers_the_login_with(b"\x01"), 75, sessions=40, faster=60),
    "16 MiB announced": Expected(answers_the_login_with(raw(0x02, 0, length=0xFFFFFF)), 1),
    "noise": Expected(answers_the_login_with(b"\xff" + os.urandom(1 << 20)), 1),
    # silence
    "silent after welcome": Expected(is_silent_after(Session.login), 75, sessions=2),
    "silent after ready": Expected(is_silent_after(Session.ready), 75, sessions=2),
    "silent after an accept": Expected(is_silent_after(accepts), 75, sessions=2),
    "silent after the first": Expected(is_silent_after(takes_small), 7, sessions=4),
    "silent after both": Expected(is_silent_after(takes_both), 0, sessions=9),
    "never reads": Expected(never_reads, 75, sessions=2),
    "a window of 0": Expected(lambda session: (session.ready(window=0), session.wait())[0], 75, sessions=2),
    "alive for ever": Expected(is_alive_for_ever, 75, sessions=2, faster=10),
    "alive all the time": Expected(is_alive_all_the_time, 75, sessions=2, faster=10),
    "alive, and never reads": Expected(is_alive_and_never_reads, 75, sessions=2, faster=10),
    # lies
    "commits before the offer is accepted": Expected(then((STORED, -1)), 7),
    "commits what was never offered": Expected(then((STORED, 99)), 7),
    "commits in the middle": Expected(commits_in_the_middle, 7),
    "commits twice": Expected(says_it_twice, 7),
    "accepts twice": Expected(then((messages.Accept(0, bytes(16)), -1), (messages.Accept(0, bytes(16)), -1)), 7),
    "accepts more than there is": Expected(then((messages.Accept(2**40, bytes(16)), -1)), 7),
    "accepts what was never offered": Expected(then((messages.Accept(0, bytes(16)), 99)), 7),
    "accepts after refusing": Expected(accepts_after_refusing, 1),
    "refuses after accepting": Expected(refuses_after_accepting, 5),
    "sums up too early": Expected(then((messages.Summary(2, 2), 0)), 7),
    "sends what is a sender's": Expected(then((messages.Trailer(bytes(32)), -1)), 7),
    # claims
    "accepts what was claimed, and takes it all": Expected(takes_it_all, 0, claims=True),
    "stores what was only claimed": Expected(says_of_a_claim(STORED), 1, claims=True),
    "renames what was only claimed": Expected(
        says_of_a_claim(messages.Committed("renamed", 0, "other")), 1, claims=True
    ),
    "replaces what was only claimed": Expected(says_of_a_claim(messages.Committed("replaced", 0, "")), 1, claims=True),
    "says unchanged of a claim twice": Expected(
        says_of_a_claim(messages.UNCHANGED, messages.UNCHANGED), 7, claims=True
    ),
    "accepts a claim after committing": Expected(
        says_of_a_claim(messages.UNCHANGED, messages.Accept(0, bytes(16))), 7, claims=True
    ),
    "accepts more than was claimed": Expected(says_of_a_claim(messages.Accept(2**40, bytes(16))), 1, claims=True),
    "silent after a claim": Expected(is_silent_after(says_of_a_claim()), 75, sessions=2, claims=True),
    "CHANGED for each claim": Expected(refuses_each("CHANGED"), 5, claims=True),
    "EXISTS for each claim": Expected(refuses_each("EXISTS"), 5, claims=True),
    # words
    "NAME for each": Expected(refuses_each("NAME", ESCAPES), 5),
    "CHANGED for each": Expected(refuses_each("CHANGED"), 5),
    "DIGEST for each": Expected(refuses_each("DIGEST"), 6),
    "an unknown word for each": Expected(refuses_each("\x1b[31mNONSENSE"), 5),
    "a name with escapes": Expected(stores_under_a_name_with_escapes, 0),
    # the end
    "ends with IO": Expected(ends_with("IO"), 5),
    "ends with AUTH": Expected(ends_with("AUTH"), 4),
    "ends with PROTO": Expected(ends_with("PROTO"), 1),
    "ends with BUSY": Expected(ends_with("BUSY"), 75, sessions=2),
    "ends with SHUTDOWN": Expected(ends_with("SHUTDOWN", 2**32 - 1), 75, sessions=2),
    "ends with TIMEOUT": Expected(ends_with("TIMEOUT"), 75, sessions=2),
    "cuts": Expected(cuts, 6, sessions=2),
    "cuts, without retries": Expected(cuts, 6, options=("--retries", "0")),
}
