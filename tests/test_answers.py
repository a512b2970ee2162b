"""What a sender and the log are told of files: in one order, and the log first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from securexfer.errors import NameTakenError, TruncatedError
from securexfer.events import Event, FileRejected, FilesStored
from securexfer.names import Name, NamePolicy
from securexfer.net.frames import Frames
from securexfer.storage.base import Committed, Description, Outcome
from securexfer.transfer.answers import Answers
from securexfer.transfer.groups import Complete
from securexfer.transfer.session import Session
from securexfer.wire import messages
from securexfer.wire.messages import HEADER_SIZE, Refuse, decode, decode_header
from securexfer.wire.order import CLAIMED, COMPLETE, SENDING

if TYPE_CHECKING:
    from collections.abc import Callable


class Everybody:
    """A connection, and the log: what each was told, in the order of both."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.gone = False

    def post(self, data: bytes) -> None:
        if self.gone:
            raise TruncatedError("nobody is there")
        view = memoryview(data)
        while view:
            kind, length, number = decode_header(view[:HEADER_SIZE])
            self.told.append(("sender", (number, decode(kind, view[HEADER_SIZE : HEADER_SIZE + length]))))
            view = view[HEADER_SIZE + length :]

    def observe(self, event: Event) -> None:
        if isinstance(event, FilesStored):
            self.told += [("log", (name, outcome)) for name, _, _, outcome, _, _ in event.files]
        elif isinstance(event, FileRejected):
            self.told.append(("log", (event.name, event.reason)))

    def told_to(self, whom: str) -> list[Any]:
        return [what for who, what in self.told if who == whom]


class Openings:
    """Takes `x.py`, of which the log has to know before anything is said of its opening."""

    verdict = "yes"
    bundle = None

    def __init__(self, everybody: Everybody, *, silent: bool) -> None:
        self.silent = silent
        self._everybody = everybody

    def takes(self, name: str, _stored: Committed) -> bool:
        assert not self.silent
        assert self._everybody.told_to("log")[-1][0] == f"d/{name}"
        return name == "x.py"


def answering(openings: Callable[[Everybody], Any] = lambda _: None, files: int = 9) -> tuple[Answers, Everybody]:
    everybody = Everybody()
    frames = Frames(everybody, server=True)  # type: ignore[arg-type]  # all of it that is used
    frames.conversation.state, frames.conversation.window = SENDING, files
    frames.conversation.open = dict.fromkeys(range(1, files + 1), COMPLETE)
    never: Any = None  # nothing asks this session to open a send
    session = Session(1, "127.0.0.1", "ana", 1 << 40, 30.0, 1024, NamePolicy.NATIVE, everybody.observe, never)
    return Answers(frames, session, "d/", openings(everybody)), everybody


def complete(number: int, name: str, digest: str = "ab" * 32) -> Complete:
    return Complete(number, Description(Name.parse(name), 3), None, digest, time.monotonic())


def stored(file: Complete, outcome: Outcome = Outcome.STORED, name: str = "") -> tuple[Complete, Any]:
    return file, Committed(outcome, Name.parse(name) if name else file.description.name)


def test_the_sender_and_the_log_hear_of_files_in_the_order_in_which_they_were_committed() -> None:
    answers, everybody = answering()
    answers.tell(
        [
            stored(complete(1, "d/a")),
            stored(complete(2, "d/b"), name="d/b"),
            (complete(3, "d/c"), NameTakenError("other content")),
            stored(complete(4, "d/e"), Outcome.RENAMED, "d/e (1)"),
            stored(complete(5, "d/f"), Outcome.UNCHANGED),
            stored(complete(6, "d", "")),
            stored(complete(7, "d/g")),
        ]
    )
    answers.speak()
    assert everybody.told_to("sender") == [
        (1, messages.STORED),
        (2, messages.STORED),
        (3, Refuse(0, "EXISTS", "other content")),
        (4, messages.Committed("renamed", 0, "d/e (1)")),
        (5, messages.UNCHANGED),
        (6, messages.STORED),
        (7, messages.STORED),
    ]
    assert everybody.told_to("log") == [
        ("d/a", "stored"),
        ("d/b", "stored"),
        ("d/c", "EXISTS"),
        ("d/e", "renamed"),
        ("d/f", "unchanged"),
        ("d/g", "stored"),
    ]
    assert (answers.files, answers.bytes) == (5, 15)


@pytest.mark.parametrize("files", [1, 3000])
def test_no_answer_goes_out_before_its_file_is_in_the_log(files: int) -> None:
    answers, everybody = answering(files=files)
    for first in range(1, files + 1, 100):
        answers.tell([stored(complete(number, f"d/{number}")) for number in range(first, min(first + 100, files + 1))])
    answers.speak()
    logged = answered = 0
    for who, _ in everybody.told:
        logged += who == "log"
        answered += who == "sender"
        assert answered <= logged
    assert logged == answered == files


def test_the_log_is_told_what_nobody_is_left_to_hear() -> None:
    answers, everybody = answering()
    everybody.gone = True
    answers.tell([stored(complete(1, "d/a"))])
    with pytest.raises(TruncatedError):
        answers.speak()
    answers.over = True
    answers.tell([stored(complete(2, "d/b"))])
    assert answers.speak()
    assert everybody.told_to("log") == [("d/a", "stored"), ("d/b", "stored")]


def test_the_log_is_told_all_of_a_group_whose_sender_is_gone_in_the_midst_of_it() -> None:
    """Long refusals are more than goes out at once."""
    answers, everybody = answering(files=100)
    everybody.gone = True
    refused = [(complete(number, f"d/{number}"), NameTakenError("x" * 900)) for number in range(1, 60)]
    with pytest.raises(TruncatedError):
        answers.tell([*refused, *(stored(complete(number, f"d/{number}")) for number in range(60, 101))])
    assert len(everybody.told_to("log")) == 100


def test_what_was_to_be_answered_for_is_in_the_log_although_it_never_was() -> None:
    answers, everybody = answering()
    answers.tell([stored(complete(1, "d/a"))])
    assert everybody.told == []
    answers.log()
    answers.log()
    assert everybody.told == [("log", ("d/a", "stored"))]


@pytest.mark.parametrize("silent", [True, False])
def test_files_that_are_opened_are_told_one_by_one_and_silent_openings_are_not_asked(*, silent: bool) -> None:
    answers, everybody = answering(lambda everybody: Openings(everybody, silent=silent))
    answers.tell([stored(complete(1, "d/a")), stored(complete(2, "d/x.py")), stored(complete(3, "d/b"))])
    answers.speak()
    opened = messages.STORED if silent else messages.Committed("stored", 1, "")
    assert [said for _, said in everybody.told_to("sender")] == [messages.STORED, opened, messages.STORED]
    assert answers.awaited == ([] if silent else [2])
    assert [name for name, _ in everybody.told_to("log")] == ["d/a", "d/x.py", "d/b"]


def test_claims_are_answered_and_logged_together_as_well() -> None:
    answers, everybody = answering()
    answers._frames.conversation.open = dict.fromkeys((1, 2), CLAIMED)
    answers._frames.conversation.owed = 2
    for number in (1, 2):
        outcome = Committed(Outcome.UNCHANGED, Name.parse(f"d/{number}"))
        answers.unchanged(number, f"d/{number}", 3, "ab" * 32, outcome, time.monotonic())
    assert everybody.told == []
    answers.speak()
    assert [who for who, _ in everybody.told] == ["log", "log", "sender", "sender"]
    assert [said for _, said in everybody.told_to("sender")] == [messages.UNCHANGED] * 2
