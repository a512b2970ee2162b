"""Sizes as people write them: one parser for the command line and for files, and the words it reads back."""

from __future__ import annotations

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.amounts import exactly, parse_size
from securexfer.cli import amounts as typed


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("64k", 64_000),
        ("64K", 64_000),
        ("64kB", 64_000),
        ("64Ki", 65_536),
        ("64KiB", 65_536),
        ("500M", 500_000_000),
        ("2G", 2_000_000_000),
        ("1Ti", 1 << 40),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_size_is_digits_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert typed.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        "-1",
        "1.5M",
        "1 k",
        "1m",
        "1ki",
        "1Kib",
        "1P",
        "0x10",
        "\u0661",
        "1\n",
        str(2**63),
        "9" * 30,
        "9" * 9999,
    ],
)
def test_anything_else_is_no_size_and_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 500M, 2G, 64Ki"):
        parse_size(text)
    with pytest.raises(typer.BadParameter, match="write it as 500M, 2G, 64Ki"):
        typed.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(65_536, "64 KiB"), (1 << 24, "16 MiB"), (500_000, "500 kB"), (1234, "1234 B"), (1, "1 B"), (0, "0 B")],
)
def test_a_size_is_told_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert exactly(size) == text


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1))
@example(1 << 62)
@example(10**18)
def test_what_is_told_is_the_size_to_the_byte(size: int) -> None:
    assert parse_size(exactly(size).replace(" ", "")) == size
