"""What comes out of the sandbox is read as if the script had said it: it is right to the letter, or nothing is used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securexfer.opening import supervisor
from securexfer.opening.results import Reader
from securexfer.opening.supervisor import END, ENTRY, FILE, HEAD, MAGIC, UNUSABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEADED = HEAD.pack(MAGIC, supervisor.EXIT, 0)
OVER = ENTRY.pack(END, 0, 0)


def file(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return ENTRY.pack(FILE, len(name), len(content) if size is None else size) + name + content


def read(said: bytes, step: int = 1 << 20, most: int = 3, most_bytes: int = 100, spool: Path | None = None) -> Reader:
    reader = Reader(most, most_bytes, spool)
    for start in range(0, len(said), step):
        reader.feed(said[start : start + step])
    reader.close()
    return reader


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_is_right_is_taken_in_whatever_pieces_it_comes(step: int) -> None:
    said = HEADED + file(b"a/b", b"x" * 60) + file(b"1", b"1") + file(b"empty", b"") + ENTRY.pack(END, 0, 5)
    reader = read(said, step)
    assert (reader.problem, reader.left_out, reader.ended) == ("", 5, (supervisor.EXIT, 0))
    assert [(each.name, each.size, each.file.read()) for each in reader.results] == [
        ("a/b", 60, b"x" * 60),
        ("1", 1, b"1"),
        ("empty", 0, b""),
    ]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"", "ends too early"),
        (HEADED, "ends too early"),
        (HEAD.pack(b"SXO2", 1, 0) + OVER, "does not begin"),
        (HEAD.pack(MAGIC, 0, 0) + OVER, "does not begin"),
        (HEAD.pack(MAGIC, 99, 0) + OVER, "does not begin"),
        (HEAD.pack(MAGIC, 1, 256) + OVER, "does not begin"),
        (HEADED + file(b"a", b"1"), "ends too early"),
        (HEADED + file(b"a", b"1", 2), "ends too early"),
        (HEADED + file(b"a", b"", 1), "ends too early"),
        (HEADED + file(b"a", b"1")[:-2], "ends too early"),
        (HEADED + OVER + b"x", "after the end"),
        (HEADED + OVER + OVER, "after the end"),
        (HEADED + file(b"", b"1") + OVER, "a name of 0 bytes"),
        (HEADED + file(b"x" * 4097, b"1") + OVER, "a name of 4097 bytes"),
        (HEADED + file(b"../x", b"1") + OVER, "'..'"),
        (HEADED + file(b"/etc/passwd", b"1") + OVER, "absolute"),
        (HEADED + file(b"a//b", b"1") + OVER, "empty component"),
        (HEADED + file(b"a\nb", b"1") + OVER, "U+000A"),
        (HEADED + file(b"a\0b", b"1") + OVER, "U+0000"),
        (HEADED + file(b"\xff", b"1") + OVER, "UTF-8"),
        (HEADED + file(b".securexfer-staging/x", b"1") + OVER, "reserved"),
        (HEADED + file(b"a", b"1") * 2 + OVER, "a name twice"),
        (HEADED + file(b"a/b", b"1") + file(b"a", b"1") + OVER, "a file and a directory"),
        (HEADED + file(b"a", b"1") + file(b"a/b/c", b"1") + OVER, "a file and a directory"),
        (HEADED + b"".join(file(b"%d" % number, b"") for number in range(4)) + OVER, "too many"),
        (HEADED + file(b"a", b"x" * 101) + OVER, "too large"),
        (HEADED + file(b"a", b"x" * 60) + file(b"b", b"x" * 41) + OVER, "too large"),
        (HEADED + file(b"a", b"", 2**64 - 1), "too large"),
        (HEADED + ENTRY.pack(0, 0, 0), "no entry"),
        (HEADED + ENTRY.pack(99, 0, 0), "no entry"),
        (HEADED + ENTRY.pack(END, 1, 0), "no entry"),
        (HEADED + ENTRY.pack(UNUSABLE, 0, 99), "no entry"),
        (HEADED + ENTRY.pack(UNUSABLE, 0, supervisor.TOO_MANY), "too many"),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_is_wrong_is_not_used_at_all(said: bytes, problem: str, step: int) -> None:
    whole = said.replace(HEADED, HEADED + file(b"first", b"1"), 1) if problem != "too many" else said
    reader = read(whole, step)
    assert problem in reader.problem
    assert reader.problem.isprintable()
    assert reader.results == []


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 50))
def test_nothing_that_is_said_is_an_error_of_ours(said: bytes, headed: bool, step: int) -> None:
    reader = read(HEADED * headed + said, step)
    assert not reader.problem or reader.results == []


def test_files_of_a_spool_have_no_names(tmp_path: Path) -> None:
    reader = read(HEADED + file(b"a", b"1") + file(b"b", b"2") + OVER, spool=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert [os.fstat(each.file.fileno()).st_nlink for each in reader.results] == [0, 0]
    for each in reader.results:
        each.file.close()


def test_a_spool_that_cannot_be_written_to_is_no_error_of_ours(tmp_path: Path) -> None:
    reader = read(HEADED + file(b"a", b"1") + OVER, spool=tmp_path / "nothing")
    assert (reader.problem, reader.results) == ("no room for it: No such file or directory", [])


@pytest.mark.root
def test_a_spool_that_is_full_is_no_error_of_ours(tmpfs: Callable[[str], Path]) -> None:
    said = HEADED + file(b"a", b"1") + file(b"b", b"x" * 100_000) + OVER
    reader = read(said, most_bytes=200_000, spool=tmpfs("size=64k"))
    assert (reader.problem, reader.results) == ("no room for it: No space left on device", [])
