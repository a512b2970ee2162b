"""docs/PROTOCOL.md, protocol 2: its tables, its limits and its example are those of the code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from securexfer import errors
from securexfer.client import login
from securexfer.names import MAX_NAME_BYTES
from securexfer.net.connection import DRAIN_SECONDS
from securexfer.net.payload import MINIMUM_RATE, RATE_GRACE_SECONDS, RATE_WINDOW_SECONDS
from securexfer.server import Limits
from securexfer.storage import partials
from securexfer.transfer import groups, intake, patience, receiver
from securexfer.transfer.wishes import Wishes
from securexfer.wire import messages
from securexfer.wire.fields import Number, Octets, Text, Word
from securexfer.wire.messages import KINDS, MAX_DATA, UNKNOWN
from securexfer.wire.order import CLIENT, CONNECTION, RECEIVER, SENDER, SERVER, TRANSFER, Conversation

TEXT = (Path(__file__).parent.parent / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")


def section(number: int) -> str:
    return TEXT.partition(f"\n## {number}. ")[2].partition(f"\n## {number + 1}. ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without their heads."""
    lines = re.findall(r"^\| (.+) \|$", text, re.MULTILINE)
    assert lines
    return [line.split(" | ") for line in lines]


# -- messages ---------------------------------------------------------------------------------------------------

DESCRIBED = re.findall(
    r"^### `(\w\w)` (\w+)\n\n(.+?); about (a transfer or the connection|a transfer|the connection)\.(.*?)(?=^### |\Z)",
    section(19),
    re.MULTILINE | re.DOTALL,
)
ABOUT = {"a transfer": True, "the connection": False, "a transfer or the connection": None}


def written(codec: Any) -> str:
    match codec:
        case Number(code, most):
            name = {"B": "u8", "I": "u32", "Q": "u64", "q": "i64"}[code]
            return name if most is None else f"{name}, at most {most}"
        case Octets(size):
            return f"{size} bytes"
        case Word(words):
            return f"word: {', '.join(words)}"
        case Text(most):
            return f"text, at most {most} bytes"
    raise AssertionError(codec)


def test_every_message_is_described_and_no_other() -> None:
    described = {int(kind, 16): (name, ABOUT[about]) for kind, name, _, about, _ in DESCRIBED}
    known = {kind: (layout.message.__name__, layout.about_transfer) for kind, layout in KINDS.items()}
    assert described == known | {messages.DATA: ("Data", True)}
    assert [int(kind, 16) for kind, *_ in DESCRIBED] == sorted(described)


@pytest.mark.parametrize(("kind", "text"), [(int(kind, 16), text) for kind, *_, text in DESCRIBED])
def test_the_fields_of_a_message_are_those_of_the_code(kind: int, text: str) -> None:
    if kind == messages.DATA:
        assert f"{MAX_DATA:,} bytes".replace(",", " ") in text
        return
    hints = get_type_hints(KINDS[kind].message, include_extras=True)
    if not hints:
        assert "It has no body." in text
        return
    fields = {cells[0]: cells[1] for cells in rows(text)[1:]}
    assert list(fields.items()) == [(name, written(hint.__metadata__[0])) for name, hint in hints.items()]


def test_who_says_a_message_is_who_may() -> None:
    said = {name: who for _, name, who, _, _ in DESCRIBED}
    for _, speaker, message in CONNECTION:
        assert speaker in said[message.__name__].lower()
    for _, role, message in TRANSFER:
        if message.__name__ in said:
            assert role in said[message.__name__].lower()


def test_flags_and_unknown_amounts_have_the_values_that_the_page_gives() -> None:
    flags = {"EAGER": messages.EAGER, "FRESH": messages.FRESH}
    flags |= {"DIRECTORY": messages.DIRECTORY, "EXECUTABLE": messages.EXECUTABLE}
    assert ", ".join(f"{value} {name}" for name, value in flags.items()) + ":" in section(19)
    assert UNKNOWN == 2**64 - 1
    assert section(19).count("2^64 - 1") == 4
    assert f"at most {MAX_NAME_BYTES} bytes" in section(19)


# -- order ------------------------------------------------------------------------------------------------------


def table(text: str, left: str, right: str) -> dict[tuple[str, str, str], str]:
    found = {}
    for state, *cells in rows(text):
        for who, cell in zip((left, right), cells, strict=True):
            for message, following in re.findall(r"(\w+) → (\w+)", cell):
                found[state, who, message] = following
    return found


def test_the_tables_of_the_order_are_those_of_the_code() -> None:
    connection, _, transfer = section(20).partition("A transfer begins")
    for text, left, right, known in (
        (connection, CLIENT, SERVER, CONNECTION),
        (transfer, SENDER, RECEIVER, TRANSFER),
    ):
        expected = {(state, who, message.__name__): following for (state, who, message), following in known.items()}
        assert table(text, left, right) == expected


# -- limits, reasons --------------------------------------------------------------------------------------------


def grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def test_the_limits_are_those_of_the_code() -> None:
    limits, idle = Limits(), f"{Limits().idle_seconds:.0f} s"
    rate = f"{patience.RATE // 10**6} MB"
    assert {cells[0]: cells[1] for cells in rows(section(26))[1:]} == {
        "login": f"{limits.login_seconds:.0f} s in all, from the end of the handshake",
        "transfers that are open": f"{receiver.WINDOW} (Ready's window)",
        "an eager file": f"{grouped(intake.EAGER_LIMIT)} bytes (Ready's eager)",
        "payload of a Data": f"{grouped(MAX_DATA)} bytes",
        "size": f"2^{limits.largest_file.bit_length() - 1} bytes (Ready's largest_file), unless the server was told "
        "otherwise",
        "silence of a client that owes something, or has nothing open": idle,
        "the same, with Alive": f"{patience.SECONDS:.0f} s, and one second more for every {rate} of the "
        "largest offset that was accepted",
        f"rate of the content, from {RATE_GRACE_SECONDS:.0f} s after it first had to be waited for": (
            f"{MINIMUM_RATE} bytes/s over the last {RATE_WINDOW_SECONDS:.0f} s"
        ),
        "answers that the client does not read": f"{grouped(receiver.MAX_UNSENT)} bytes, then {idle}",
        "reading on after the end": f"{DRAIN_SECONDS:.0f} s",
    }
    words = " ".join(TEXT.split())
    assert f"say it every {receiver.ALIVE_SECONDS:.0f} s" in words
    assert f"as patient as the server: {Wishes().timeout:.0f} s without a word" in words
    assert f"SHOULD wait at least {login.LOGIN_SECONDS:.0f} s for it" in words
    group = f"{groups.GROUP_FILES} files, {groups.GROUP_BYTES >> 20} MiB, or {groups.GROUP_SECONDS} s"
    assert f"(the server here: {group})" in words
    days = partials.EXPIRY_SECONDS // 86400
    assert f"a plain file of {partials.MIN_SIZE >> 20} MiB or more" in words
    assert f"connection breaks, for {days} days," in words
    assert f"another after {partials.SILENCE_SECONDS:.0f} s without a byte" in words


NEVER_SAID = {"REFUSED", "INTEGRITY", "TRUNCATED", "RETRY", "UNREACHABLE"}  # a client says these to its user by itself


def test_every_reason_that_a_server_can_say_is_there_and_a_client_knows_it() -> None:
    reasons = set()
    found: list[Any] = [errors.RefusedError, errors.LoginRefusedError, errors.IntegrityError, errors.TryAgainError]
    found.append(errors.ProtocolError)
    for kind in found:
        reasons.add(kind.reason)
        found += kind.__subclasses__()
    assert {cells[0] for cells in rows(section(25))[1:]} == reasons - NEVER_SAID
    for reason in reasons - NEVER_SAID:
        assert errors.refusal(reason, "").reason == reason


# -- the example ------------------------------------------------------------------------------------------------


def spoken(text: str) -> list[tuple[str, bytes]]:
    """Return who says which frame in an example."""
    said: list[tuple[str, bytes]] = []
    for speaker, line in re.findall(r"^([<> ]) ((?:[0-9a-f]{2}(?: |$)){1,16})", text, re.MULTILINE):
        if speaker in "<>":
            said.append((speaker, b""))
        said[-1] = said[-1][0], said[-1][1] + bytes.fromhex(line)
    return said


def test_the_example_is_a_conversation_that_says_what_the_page_says() -> None:
    conversation = Conversation()
    heard: list[tuple[str, Any, int]] = []
    for speaker, frame in spoken(section(28)):
        kind, length, transfer = messages.decode_header(frame[:8])
        assert len(frame) == 8 + length
        message: Any = frame[8:] if kind == messages.DATA else messages.decode(kind, frame[8:])
        flags = message.flags if isinstance(message, messages.Offer) else 0
        conversation.note(CLIENT if speaker == ">" else SERVER, messages.kind_of(kind), transfer, flags)
        if isinstance(message, messages.Ready):
            conversation.window = message.window
        heard.append((speaker, message, transfer))
    content, nothing = b"hello\n", hashlib.sha256(b"").digest()
    nonce = next(message.nonce for _, message, _ in heard if isinstance(message, messages.Accept))
    assert heard == [
        (">", messages.Authenticate(0, "ana", "lab password 1", "doc/1"), 0),
        ("<", messages.Welcome(0, "lab1"), 0),
        (">", messages.Put(bytes(range(0xA0, 0xB0)), "default", 0, UNKNOWN, UNKNOWN, "in"), 0),
        ("<", messages.Ready(receiver.WINDOW, intake.EAGER_LIMIT, 1 << 40, UNKNOWN, UNKNOWN, "native", "unasked"), 0),
        (">", messages.Offer(0, 6, 1_700_000_000_000_000_000, "hi.txt"), 1),
        ("<", messages.Accept(0, nonce), 1),
        (">", messages.Start(0, hashlib.sha256(nonce + nothing).digest()), 1),
        (">", content, 1),
        (">", messages.Trailer(hashlib.sha256(content).digest()), 1),
        (">", messages.Offer(messages.EAGER, 0, 1_700_000_000_000_000_000, "../up"), 2),
        (">", messages.Trailer(nothing), 2),
        (">", messages.Totals(2, 6), 0),
        (">", messages.Finish(), 0),
        ("<", messages.Refuse(0, "NAME", "it climbs"), 2),
        ("<", messages.Committed("stored", 0, ""), 1),
        ("<", messages.Summary(1, 6), 0),
    ]
    assert conversation.state == "idle"
    assert not conversation.open
