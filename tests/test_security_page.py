"""SECURITY.md names, for each promise, tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab import Lab

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


def test_K11_a_stolen_server_key_is_good_until_a_new_ca_as_the_page_says(lab: Lab, tmp_path: Path) -> None:
    """There is no revocation: what the page tells to do instead makes the old pair worthless."""
    said = re.sub(r"\s+", " ", PAGE)
    assert "There is no revocation: a stolen server key is good until its certificate ends" in said
    assert "`securexfer init --force` and a new fingerprint for everybody" in said
    (tmp_path / "thief").mkdir()
    thief = Lab(tmp_path / "thief", lab.home)
    try:
        impostor = thief.serve()
        (tmp_path / "x").write_text("x")
        assert lab.send(impostor, tmp_path / "x").returncode == 0
        assert lab.run("init", "--force", "--home", lab.home).returncode == 0
        refused = lab.send(impostor, tmp_path / "x")
        assert refused.returncode == 3
        assert "is not signed by the given CA" in refused.stderr
        assert len(impostor.events("auth.ok")) == 1
        assert lab.send(lab.serve(), tmp_path / "x").returncode == 0
    finally:
        thief.close()


@pytest.mark.parametrize("named", NAMED)
def test_what_is_named_exists(named: str) -> None:
    assert any(stands_for(test, named) for test in TESTS)
