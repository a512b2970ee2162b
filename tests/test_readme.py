"""The README says what is so: it is short, shows the real client, and its exit codes are those of the errors."""

from __future__ import annotations

import re
from pathlib import Path

from securexfer import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_client_it_shows_is_the_one_that_is_tested() -> None:
    shown = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown
    assert shown[1] == (ROOT / "examples" / "classroom_client.py").read_text()


def test_the_exit_codes_are_those_of_the_errors() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    given = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.SecurexferError)
    }
    assert table == given | {0}


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_nothing_in_it_is_still_to_be_filled_in() -> None:
    assert re.findall(r"\b(BENCH-TABLE|CLASSROOM-CLIENT|TODO|TBD)\b", README) == []
