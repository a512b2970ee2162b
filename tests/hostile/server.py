"""A server that the CA vouches for, and that answers too early, too much, nonsense, or nothing.

What can be asked of a client that trusts it: it reports no file as stored that this server did not say is stored,
ends within its deadlines, with the right exit code, in words, and without taking more memory the more it is told.

Each line of ANSWERS is a session after its handshake. It is given a `Session`, which keeps what was said.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostile.listeners import read_exactly, reset
from securexfer.wire import framing

if TYPE_CHECKING:
    import ssl
    import threading
    from collections.abc import Callable

YES, NO = framing.ACCEPTED, framing.REFUSED
FLOOD_SECONDS = 20  # nobody listens to nonsense for longer


@dataclass
class Session:
    """One connection of a client's, from the server's side."""

    tls: ssl.SSLSocket
    number: int
    over: threading.Event  # the client has ended
    names: list[str] = field(default_factory=list)  # of the files whose headers came, in order
    said: bytearray = field(default_factory=bytearray)  # answers for files, in order

    def login(self, answer: bytes = YES) -> None:
        read_exactly(self.tls, framing.LOGIN_SIZE)
        self.tls.sendall(answer)

    def count(self) -> int:
        (count,) = struct.unpack(">I", read_exactly(self.tls, framing.COUNT_SIZE))
        return int(count)

    def file(self) -> None:
        """Take one file."""
        self.part(self.header())

    def header(self) -> int:
        """Take the header of a file; return how many bytes it has still, with its digest."""
        header = framing.FileHeader.decode(read_exactly(self.tls, framing.HEADER_SIZE))
        self.names.append(str(header.name()))
        return header.size + framing.DIGEST_SIZE

    def part(self, size: int) -> None:
        """Take so many bytes."""
        while size:
            data = self.tls.recv(min(size, 1 << 16))
            assert data, "the client left"
            size -= len(data)

    def say(self, answers: bytes) -> None:
        self.said += answers  # before it is sent: the client may be quick
        self.tls.sendall(answers)

    def has_said_stored(self, name: str) -> bool:
        """Whether this file came in this session, and was answered for with yes."""
        if name not in self.names:
            return False
        number = self.names.index(name)
        return bytes(self.said[number : number + 1]) == YES

    def flood(self, piece: bytes) -> None:
        """Say the same until the client leaves, or far too long."""
        deadline = time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < deadline:
            self.say(piece)

    def wait(self) -> None:
        """Say nothing, until the client leaves."""
        self.tls.settimeout(120)
        while self.tls.recv(1 << 16):
            pass


def _to_the_files(session: Session) -> int:
    session.login()
    return session.count()


# -- the answer to the login -------------------------------------------------------------------------------------


def answers_the_login_with_2(session: Session) -> None:
    session.login(b"\x02")
    session.wait()


def answers_the_login_with_junk(session: Session) -> None:
    session.login(b"\xff" + os.urandom(1 << 20))
    session.wait()


def refuses_the_login_and_goes_on_talking(session: Session) -> None:
    session.login(NO)
    session.flood(YES * (1 << 14))


def floods_from_the_login_on(session: Session) -> None:
    session.login()
    session.names.append("small")  # as far as a client can tell, the first of these answers is for its first file
    session.flood(YES * (1 << 14))


def never_answers_the_login(session: Session) -> None:
    session.wait()


def ends_instead_of_answering_the_login(session: Session) -> None:
    read_exactly(session.tls, framing.LOGIN_SIZE)
    session.tls.unwrap()


# -- the answers for files ---------------------------------------------------------------------------------------


def takes_it_all(session: Session) -> None:
    for _ in range(_to_the_files(session)):
        session.file()
        session.say(YES)


def takes_its_time(session: Session) -> None:
    read_exactly(session.tls, framing.LOGIN_SIZE)
    time.sleep(1)
    session.tls.sendall(YES)
    for _ in range(session.count()):
        session.file()
        time.sleep(1)
        session.say(YES)


def says_no_to_each(session: Session) -> None:
    for _ in range(_to_the_files(session)):
        session.file()
        session.say(NO)


def says_yes_to_the_first_alone(session: Session) -> None:
    _to_the_files(session)
    session.file()
    session.say(YES)
    session.file()
    session.say(NO)


def answers_with_2(session: Session) -> None:
    for _ in range(_to_the_files(session)):
        session.file()
        session.say(b"\x02")
    session.wait()


def answers_the_second_with_2(session: Session) -> None:
    _to_the_files(session)
    session.file()
    session.say(YES)
    session.file()
    session.say(b"\x02")
    session.wait()


def answers_more_than_there_are_files(session: Session) -> None:
    takes_it_all(session)
    session.say(NO * 1000 + os.urandom(100_000))


def floods_after_the_last_answer(session: Session) -> None:
    takes_it_all(session)
    session.flood(b"\x02" * (1 << 14))


def answers_for_a_file_that_it_has_not_got(session: Session) -> None:
    """The second one is large: while half of it is on its way, it is said to be stored."""
    _to_the_files(session)
    session.file()
    session.say(YES)
    session.part(session.header() // 2)
    session.say(YES)
    session.part(1 << 20)
    session.wait()


def answers_for_all_when_it_has_one(session: Session) -> None:
    count = _to_the_files(session)
    session.file()
    session.say(YES * count)
    session.wait()


def never_reads(session: Session) -> None:
    session.login()
    session.over.wait(60)


def never_answers(session: Session) -> None:
    for _ in range(_to_the_files(session)):
        session.file()
    session.wait()


# -- the end -----------------------------------------------------------------------------------------------------


def _after_the_first(end: Callable[[Session], None]) -> Callable[[Session], None]:
    """Store the first file; end in the middle of the second one, and so when it comes again in another session."""

    def answer(session: Session) -> None:
        _to_the_files(session)
        if session.number == 1:
            session.file()
            session.say(YES)
        session.part(session.header() // 2)
        end(session)

    return answer


def takes_it_all_and_ends_without_an_answer(session: Session) -> None:
    for _ in range(_to_the_files(session)):
        session.file()
    by_close_notify(session)


def ends_owing_the_last_answer(session: Session) -> None:
    for number in range(_to_the_files(session)):
        session.file()
        if number == 0 and session.number == 1:
            session.say(YES)
    by_close_notify(session)


def by_close_notify(session: Session) -> None:
    with contextlib.suppress(OSError):
        session.tls.unwrap()


def by_fin(session: Session) -> None:
    socket.socket.shutdown(session.tls, socket.SHUT_WR)
    with contextlib.suppress(OSError):
        session.wait()


def by_reset(session: Session) -> None:
    time.sleep(0.5)  # until the client has read what was said: a reset would overtake it
    reset(session.tls)


def by_saying_more_after_close_notify(session: Session) -> None:
    """An answer as if TLS had gone on: what comes after close_notify is nobody's word."""
    with contextlib.suppress(OSError):
        session.tls.setblocking(False)
        session.tls.unwrap()
    plain = session.tls.detach()
    with socket.socket(fileno=plain) as sock, contextlib.suppress(OSError):
        sock.settimeout(5)
        sock.sendall(YES + b"\x17\x03\x03\x00\x12" + os.urandom(18))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass


@dataclass(frozen=True)
class Expected:
    """How `send` of two files has to end: its exit code; `faster` where time has to run for it to end soon."""

    answer: Callable[[Session], None]
    code: int
    faster: int = 0


ANSWERS = {
    "takes it all": Expected(takes_it_all, 0),
    "takes its time": Expected(takes_its_time, 0),
    "answers the login with 2": Expected(answers_the_login_with_2, 1),
    "answers the login with junk": Expected(answers_the_login_with_junk, 1),
    "refuses the login and goes on talking": Expected(refuses_the_login_and_goes_on_talking, 4),
    "floods from the login on": Expected(floods_from_the_login_on, 7),
    "never answers the login": Expected(never_answers_the_login, 75, faster=60),
    "ends instead of answering the login": Expected(ends_instead_of_answering_the_login, 75, faster=20),
    "says no to each": Expected(says_no_to_each, 5),
    "says yes to the first alone": Expected(says_yes_to_the_first_alone, 7),
    "answers with 2": Expected(answers_with_2, 1),
    "answers the second with 2": Expected(answers_the_second_with_2, 7),
    "answers more than there are files": Expected(answers_more_than_there_are_files, 0),
    "floods after the last answer": Expected(floods_after_the_last_answer, 0),
    "answers for a file that it has not got": Expected(answers_for_a_file_that_it_has_not_got, 7),
    "answers for all when it has one": Expected(answers_for_all_when_it_has_one, 7),
    "never reads": Expected(never_reads, 75, faster=60),
    "never answers": Expected(never_answers, 75, faster=60),
    "takes it all and ends without an answer": Expected(takes_it_all_and_ends_without_an_answer, 6),
    "ends owing the last answer": Expected(ends_owing_the_last_answer, 7),
    "ends by close_notify": Expected(_after_the_first(by_close_notify), 7),
    "ends by FIN": Expected(_after_the_first(by_fin), 7),
    "ends by RST": Expected(_after_the_first(by_reset), 7),
    "talks on after close_notify": Expected(_after_the_first(by_saying_more_after_close_notify), 7),
}
