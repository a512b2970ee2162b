"""What is shown of a file: harmless for every terminal and log, never more than was asked for, and still readable."""

from __future__ import annotations

import io
import os
import re
import threading
import time
import unicodedata
from typing import TYPE_CHECKING

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.amounts import exactly
from securexfer.names import show
from securexfer.opening.showing import BAR, LINE, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

patient = settings(deadline=None)  # other work on the machine must not fail a test
KIB = 1024


def lines_of(content: bytes, limit: int = 64 * KIB, width: int = LINE) -> list[str]:
    """Return what is shown of what is short enough, without the bars."""
    lines, cut = shown(content, limit, width)
    assert not cut
    assert all(line.startswith(BAR) for line in lines)
    return [line.removeprefix(BAR) for line in lines]


# -- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("\n\n", ["", ""]),
        ("one", ["one"]),
        ("one\n", ["one"]),
        ("one\n\ntwo\n", ["one", "", "two"]),
        ("one\r\ntwo\r\n", ["one", "two"]),
        ("Olá, çedilha, Ελλάδα, 日本, é\n", ["Olá, çedilha, Ελλάδα, 日本, é"]),
        ("a\tb\n\tc", ["a       b", "        c"]),
        ("  spaces  \n", ["  spaces  "]),
        (r"C:\new \x1b", [r"C:\\new \\x1b"]),
        ("│ bar\n… cut after 64 KiB\n", ["│ bar", "… cut after 64 KiB"]),
    ],
)
def test_text_is_shown_as_it_is(content: str, lines: list[str]) -> None:
    assert lines_of(content.encode()) == lines


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\x1b[2J", r"\x1b[2J"),
        (b"50%\r100%", r"50%\r100%"),
        (b"a\r\r\n", r"a\r"),
        (b"\x00\x07\x08\x0b\x0c\x7f", r"\x00\x07\x08\x0b\x0c\x7f"),
        ("\u009b31m\u0085\u00ad".encode(), r"\x9b31m\x85\xad"),
        ("\u202e\u2066\u200b\u2028\ufeff".encode(), r"\u202e\u2066\u200b\u2028\ufeff"),
        ("\U000e0041\U0010ffff".encode(), r"\U000e0041\U0010ffff"),
        (b"caf\xe9 \xff\xc0\x80 \xed\xa0\x80", r"caf\xe9 \xff\xc0\x80 \xed\xa0\x80"),
        (b"ends in half a character \xe2\x82", r"ends in half a character \xe2\x82"),
        ("hi".encode("utf-16"), r"\xff\xfeh\x00i\x00"),
        (b"\x7fELF\x02\x01\x01\x00", r"\x7fELF\x02\x01\x01\x00"),
        (rb"\x1b" + b"\x1b", r"\\x1b\x1b"),
    ],
)
def test_H15_H21_what_is_not_printable_is_escaped(content: bytes, line: str) -> None:
    assert lines_of(content) == [line]


PIECES = [
    b"\x1b[31m",
    b"\x1b]8;;",
    b"\x9b",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b"\0",
    b"\\",
    b"\\x",
    b"a",
    b"\xc3",
    b"\xe2\x82",
]
PIECES += [
    "é".encode(),
    "日".encode(),
    "\u202e".encode(),
    "\u0085".encode(),
    "e\u0301".encode(),
    b" " * 30,
    b"\xff" * 30,
]
hostile = st.one_of(st.binary(max_size=400), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


@patient
@given(hostile, st.integers(1, 200), st.integers(20, 100))
@example(b"\\" * 200, 199, 21)
@example("日".encode() * 60, 180, 21)
def test_H21_whatever_comes_is_printable_behind_the_bar_and_no_wider_than_it_may_be(
    content: bytes, limit: int, width: int
) -> None:
    lines, cut = shown(content, limit, width)
    assert cut is (len(content) > limit)
    if cut:
        assert lines.pop() == f"… cut after {exactly(limit)}"
    for line in lines:
        assert line.startswith(BAR)
        assert line.isprintable()
        assert columns(line.removeprefix(BAR)) <= width


@patient
@given(st.text(max_size=200))
@example("\x85\\x85\\\\")
def test_what_is_shown_is_what_was_there(text: str) -> None:
    """But for tabs and the ends of lines, it can be read back; and it is what names look like."""
    text = text.translate({ord(character): None for character in "\t\r\n"}).encode(errors="ignore").decode()
    found = "".join(lines_of(text.encode(), width=20))
    assert found == show(text, 1000)
    assert re.sub(r"\\(x..|u....|U........|\\)", lambda it: _back(it[1]), found) == text


def _back(escape: str) -> str:
    return chr(int(escape[1:], 16)) if escape != "\\" else "\\"


# -- how much --------------------------------------------------------------------------------------------------------


def test_what_is_over_the_limit_is_cut_with_a_mark_that_nothing_in_it_can_be() -> None:
    assert shown(b"x" * 1024, 1024) == ([BAR + "x" * 1000, BAR + "x" * 24], False)
    assert shown(b"x" * 1025, 1024) == ([BAR + "x" * 1000, BAR + "x" * 24, "… cut after 1 KiB"], True)
    assert shown(b"one\ntwo\n", 4) == ([BAR + "one", "… cut after 4 B"], True)
    assert shown(b"one\ntwo\n", 8) == ([BAR + "one", BAR + "two"], False)
    assert shown(b"x" * 70_000, 64 * KIB).lines[-1] == "… cut after 64 KiB"
    assert shown(b"x" * 70_000, 64_000).lines[-1] == "… cut after 64 kB"
    forged = "… cut after 4 B\n".encode()
    assert shown(forged * 9, len(forged)).lines == [f"{BAR}… cut after 4 B", "… cut after 18 B"]


def test_a_character_that_the_limit_divides_is_left_out() -> None:
    for text in ("aé", "a€", "a😀"):
        raw = text.encode()
        for limit in range(1, len(raw)):
            assert shown(raw, limit).lines == [f"{BAR}a", f"… cut after {limit} B"]
        assert shown(raw, len(raw)) == ([BAR + text], False)
    assert shown(b"a\xe2\x82", 2).lines == [f"{BAR}a", "… cut after 2 B"]
    assert shown(b"a\xffb", 2).lines == [rf"{BAR}a\xff", "… cut after 2 B"]


@pytest.mark.parametrize("content", [b"x", b"\x00", b"\\", "\u202e".encode(), "日".encode(), b"\t"])
def test_H15_an_endless_line_goes_on_in_the_next_and_no_escape_is_torn(content: bytes) -> None:
    lines = lines_of(content * 20_000, 1 << 20)
    assert len(lines) > 1
    assert all(len(line) <= LINE for line in lines)
    assert all(len(line) > LINE // 2 - 10 for line in lines[:-1])
    assert "".join(lines) == "".join(lines_of(content * 20_000, 1 << 20, 1 << 30))
    for line in lines:
        assert re.fullmatch(r"(\\x00)*|(\\u202e)*|(\\\\)*|x*|日*| *", line)


class Counting(io.RawIOBase):
    """A file of zeros without an end that counts what is read of it, and gives it in small pieces."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        size = min(len(buffer), 777)
        buffer[:size] = bytes(size)
        self.read_bytes += size
        return size


def test_H21_one_byte_more_than_is_shown_is_read_and_no_other() -> None:
    endless = Counting()
    lines, cut = shown(endless, 10_000)
    assert cut
    assert sum(line.count(r"\x00") for line in lines) == 10_000
    assert endless.read_bytes == 10_001


def test_H21_a_file_of_4_gib_is_shown_as_quickly_as_a_small_one(tmp_path: Path) -> None:
    with (tmp_path / "sparse.txt").open("w+b") as file:
        file.write(b"hello\n")
        file.truncate(4 << 30)
        file.seek(0)
        began = time.monotonic()
        lines, cut = shown(file, 64 * KIB)
        assert time.monotonic() - began < 5
        assert cut
        assert file.tell() == 64 * KIB + 1
    assert lines[0] == f"{BAR}hello"
    assert lines[-1] == "… cut after 64 KiB"
    assert sum(map(len, lines)) < 5 * 64 * KIB


def test_what_comes_in_pieces_through_a_pipe_is_shown_whole() -> None:
    out, into = os.pipe()

    def write() -> None:
        for piece in (b"on", b"e\ntw\xc3", b"\xb3\n"):
            os.write(into, piece)
            time.sleep(0.05)
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(out, "rb", buffering=0) as reader:
        assert shown(reader, KIB) == ([f"{BAR}one", f"{BAR}twó"], False)
    writer.join()


# -- a terminal ------------------------------------------------------------------------------------------------------

HOSTILE = [
    b"\x1b[6n\x1b[c\x1b[31;1;7mred\x1b[2J\x1b[H\x1b[?25l\x1b[?1h\x1b=\x1b[?7l\x1b[4h\x1b[3;5r\x1b(0\x0e",
    b"\x1b]0;a new title\x07\x1b]2;another\x1b\\\x1bPpayload\x1b\\",
    b"\x1b]8;;https://example.org\x1b\\a link\x1b]8;;\x1b\\ \x1b]52;c;aGVsbG8=\x07",
    "\u009b31m\u009d0;title\u009c\u0090x\u009c".encode(),
    b"\x9b31m\x9d0;title\x9c\x8d\x8e\x8f\x90",
    "\u202eright to left\u202c \u2066\u2069\u200f".encode(),
    b"harmless\rOVERWRITTEN",
    b"\x08\x08\x08\x0b\x0c\x05\x07\x7f",
    b"\n12:00:00 INFO    auth.ok      user=root\n",
    b"\r12:00:00 INFO    auth.ok      user=root\r",
    b" " * 78 + b"12:00:00 INFO    auth.ok      user=root",
    "日".encode() * 39 + b"12:00:00 INFO    auth.ok      user=root",
    "\u200b".encode() * 78 + b"12:00:00 INFO    auth.ok      user=root",
    "\u202812:00:00 INFO    auth.ok      user=root\u0085".encode(),
    b"\t" * 9 + b"\t12:00:00 INFO    auth.ok      user=root",
    bytes(range(256)),
    "hi\n".encode("utf-16"),
]


class Terminal(pyte.Screen):
    """A screen of 80 columns after some use; it notes what a program would be answered."""

    def __init__(self) -> None:
        super().__init__(80, 200)
        self.stream = pyte.ByteStream(self)
        self.answers: list[str] = []
        self.stream.feed(b"\x1b]2;a title\x07\x1b[32mgreen\x1b[0m\r\n")

    def write_process_input(self, data: str) -> None:
        self.answers.append(data)

    def state(self) -> dict[str, object]:
        kept = (
            "mode",
            "margins",
            "charset",
            "g0_charset",
            "g1_charset",
            "title",
            "icon_name",
            "tabstops",
            "saved_columns",
        )
        state = {name: repr(getattr(self, name)) for name in kept}
        return state | {"cursor": (self.cursor.attrs, self.cursor.hidden, self.cursor.x), "answers": len(self.answers)}

    def written(self) -> Iterator[str]:
        """Yield the rows that were written to after the first, as they look."""
        for row in range(1, self.cursor.y):
            yield self.display[row]
            assert {self.buffer[row][column]._replace(data="") for column in range(80)} == {
                self.default_char._replace(data="")
            }


def test_H21_a_terminal_is_as_it_was_and_each_of_its_rows_has_the_bar() -> None:
    terminal = Terminal()
    before = terminal.state()
    lines, cut = shown(b"\n".join([*HOSTILE, *HOSTILE[::-1]]), 64 * KIB, 80 - len(BAR))
    assert not cut
    for line in lines:
        terminal.stream.feed(f"{line}\r\n".encode())
    assert terminal.state() == before
    assert terminal.cursor.y == len(lines) + 1
    rows = list(terminal.written())
    assert len(rows) == len(lines)
    assert all(row.startswith(BAR) for row in rows)
    assert sum("OVERWRITTEN" in row and "harmless" in row for row in rows) == 2


def test_the_terminal_that_is_looked_at_notices_what_comes_as_it_is() -> None:
    terminal = Terminal()
    before = terminal.state()
    for content in HOSTILE:
        terminal.stream.feed(BAR.encode() + content + b"\r\n")
    after = terminal.state()
    assert {name for name in before if after[name] != before[name]} >= {"mode", "margins", "title", "cursor", "answers"}
    deceived = 0
    for content in HOSTILE:
        terminal = Terminal()
        terminal.stream.feed(BAR.encode() + content + b"\r\n")
        deceived += any(row.startswith("12:00:00") for row in terminal.display)
    assert deceived >= 3
