"""A server that the CA vouches for, stores what it gets, and then tells too much, too little or wrong things of it.

Each line of RETURNS is what is said of the one file that a `send` brought, `x.py`, after Finish. It is told with what
the client has to say, with its exit code, and with what it was asked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostile.server2 import ESCAPES, Session
from hostile.speaking import data
from securexfer.wire import messages
from securexfer.wire.messages import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = ("--results", "DIR")
RAN = messages.Opened("run", "exit", 0, 0, 1, "")
MIB = 1 << 20


def begin(session: Session, *, opened: int = 1) -> int:
    """Take the file, and say that it is going to be opened; return its number."""
    session.login()
    session.hear(messages.Put)
    session.say(messages.Ready(100, 1 << 18, UNKNOWN, UNKNOWN, UNKNOWN, "native", "yes"))
    number = session.offered("x.py")
    session.accept(number)
    session.hear(messages.Trailer)
    session.say(messages.Committed("stored", opened, ""), number)
    session.hear(messages.Finish)
    return number


def result(name: str, content: bytes, *, size: int | None = None, digest: bytes = b"") -> tuple[messages.Result, bytes]:
    """Return a result; its size and digest are right unless said otherwise."""
    said = messages.Result(len(content) if size is None else size, digest or hashlib.sha256(content).digest(), name)
    return said, content


def tells(
    *results: tuple[messages.Result, bytes], opened: tuple[messages.Opened, ...] = (RAN,), of: int = 0, flag: int = 1
) -> Callable[[Session], None]:
    """Tell these results and what came of the file, or of transfer `of`; then sum up."""

    def answer(session: Session) -> None:
        number = begin(session, opened=flag) + of
        for said, content in results:
            session.say(said, number)
            if content:
                session.speaker.say(data(number, content))
        for each in opened:
            session.say(each, number)
        session.say(messages.Summary(1, 1))
        session.wait()

    return answer


def tells_before_the_file_is_stored(session: Session) -> None:
    session.ready()
    number = session.offered("x.py")
    session.accept(number)
    said, content = result("early", b"early")
    session.speaker.say(messages.encode(said, number), data(number, content))
    session.wait()


def tells_a_million(name: str) -> Callable[[Session], None]:
    def answer(session: Session) -> None:
        number = begin(session)
        said, _ = result(name, b"")
        session.flood(messages.encode(said, number) * 1000)

    return answer


def prints_for_ever(session: Session) -> None:
    number = begin(session)
    session.say(messages.Result(2**63, bytes(32), ""), number)
    session.flood(data(number, bytes(MIB)))


def leaves_in_the_middle(session: Session) -> None:
    number = begin(session)
    session.say(messages.Result(MIB, bytes(32), "half"), number)
    session.speaker.say(data(number, bytes(MIB // 2)))


@dataclass(frozen=True)
class Expected:
    """How `send` has to end: what it says (on standard error), its exit code, and what it leaves in its directory."""

    answer: Callable[[Session], None]
    says: str = ""
    code: int = 1
    options: tuple[str, ...] = RESULTS
    leaves: tuple[str, ...] = ()
    stored: bool = True


GOOD = result("good", b"good")
RETURNS = {
    "all is well": Expected(tells(GOOD, result("d/e", b"x")), "", 0, leaves=("d/e", "good")),
    "escapes": Expected(
        tells(result("", ESCAPES.encode()), GOOD, opened=(messages.Opened("run", "failed", 1, 1, 1, ESCAPES),)),
        "", 0, leaves=("good",),
    ),
    # what nobody asked for
    "a result that was not asked for": Expected(
        tells(GOOD), "sent a result that it was not asked for", 0, options=()
    ),
    "opened though it was not to be": Expected(
        tells(), "opens files that it was not to open", 0, options=("--no-open",)
    ),
    "results though nothing was to be opened": Expected(
        tells(GOOD), "opens files that it was not to open", 0, options=("--no-open",)
    ),
    # names
    **{
        f"the name {name!r}": Expected(tells(result(name, b"evil"), GOOD), "a result was not stored", leaves=("good",))
        for name in ("../evil", "/evil", "a/../../evil", ".", "..", "a//b", "a\nb", "\x1b[31m", "a" * 256, "\u202e")
    },
    # sizes and digests
    "fewer bytes than announced": Expected(tells(result("x", b"abc", size=4)), "bytes of a result did not come"),
    "more bytes than announced": Expected(tells(result("x", b"abc", size=2)), "more came of a result than"),
    "bytes of nothing": Expected(tells(result("x", b"abc", size=0)), "more came of a result than"),
    "another digest": Expected(tells(result("x", b"abc", digest=bytes(32))), "another digest than was announced"),
    "another digest of what was printed": Expected(
        tells(result("", b"abc", digest=bytes(32))), "another digest than was announced"
    ),
    "fewer bytes, and another result": Expected(
        tells(result("x", b"abc", size=4), GOOD), "bytes of a result did not come"
    ),
    # no end
    "it prints for ever": Expected(prints_for_ever, "sends more of one file than may come of it"),
    "a million results without a name": Expected(tells_a_million(""), "sends more of one file than may come of it"),
    "a result of 65 GiB": Expected(
        tells(result("x", b"abc", size=65 << 30)), "sends more of one file than may come of it"
    ),
    # order
    "nothing at all": Expected(tells(opened=()), "did not tell what came of 1 files"),
    "a result and no end": Expected(tells(GOOD, opened=()), ""),
    "twice": Expected(tells(opened=(RAN, RAN)), "which it has not opened"),
    "of what it was not to open": Expected(tells(flag=0), "which it has not opened"),
    "of what was never offered": Expected(tells(of=1), "which it cannot speak of now"),
    "before it is stored": Expected(tells_before_the_file_is_stored, "which it cannot speak of now", stored=False),
    "it leaves in the middle of a result": Expected(leaves_in_the_middle, ""),
}  # fmt: skip
