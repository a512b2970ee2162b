"""SECURITY.md names, for each promise, tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_[A-Za-z0-9_]+)`", PAGE)))
TESTS = [
    name
    for path in (ROOT / "tests").glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
]


def stands_for(test: str, named: str) -> bool:
    """Whether a test's name begins with this row, or lists it among the rows it holds (`test_A01_A03_...`)."""
    row = named.removeprefix("test_")
    return row in re.findall(r"[A-Z][0-9]{2}", test)


def test_the_page_opens_with_the_table() -> None:
    assert PAGE.index("| promise | held by |") < PAGE.index("## Threat model")
    assert len(NAMED) >= 40


@pytest.mark.parametrize("named", NAMED)
def test_what_is_named_exists(named: str) -> None:
    assert any(stands_for(test, named) for test in TESTS)
