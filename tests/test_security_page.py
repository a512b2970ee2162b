"""SECURITY.md names, for each promise, tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab import Lab

from securexfer.accounts.guessing import FREE_FAILURES, KNOWN_FACTOR, LONGEST_WAIT, GuessLimits, wait_after
from securexfer.accounts.logins import WAITING
from securexfer.cli.floodgate import ALL_LINES, ALL_RATE, SOURCE_LINES
from securexfer.server import Limits
from securexfer.storage import syncing
from securexfer.storage.syncing import MANY, PATIENCE_SECONDS, REST_SECONDS

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


def test_O09_the_page_opens_with_the_promises_and_says_the_rest() -> None:
    parts = (
        "## Promises",
        "| promise | held by |",
        "## Threat model",
        "## Not promised",
        "## Known limits",
        "## By platform",
    )
    found = [PAGE.index(part) for part in (*parts, "## Reporting")]
    assert found == sorted(found)
    assert len(NAMED) >= 90
    assert "three working days" in PAGE


def test_O09_what_synced_is_has_the_numbers_of_the_code() -> None:
    assert (MANY, syncing._LINUX) == (8, (5, 8))  # "eight", "Linux 5.8"
    assert "In a group of eight and more, on ext4 or XFS (Linux 5.8 and" in PAGE
    assert f"if it takes more than {PATIENCE_SECONDS} s" in PAGE
    assert REST_SECONDS == 60  # "a minute"


def test_O09_the_numbers_on_the_page_are_those_of_the_code() -> None:
    limits, guesses = Limits(), GuessLimits()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE))
    first = rows["connections without a login, in all / from one source"]
    assert first.startswith(f"{limits.handshakes} / {limits.handshakes_per_source};")
    assert rows["handshake; login (the client's silence)"].startswith(
        f"{limits.handshake_seconds:.0f} s; {limits.login_seconds:.0f} s"
    )
    assert rows["logins verified at once / waiting"].startswith(f"one a core / {WAITING};")
    assert (
        rows["failures in a row before the first wait; the waits"]
        == f"{FREE_FAILURES}; 1, 2, 4 ... {LONGEST_WAIT:.0f} s"
    )
    assert rows["failures in a row, of strangers to an account"].startswith(f"{guesses.failures},")
    a_minute = rows["failures a minute of one source, over accounts to which it is a stranger / that know it"]
    assert a_minute == f"{guesses.source_failures} / {guesses.source_failures * KNOWN_FACTOR}"
    assert rows["sessions, in all / of one user"] == f"{limits.sessions} / {limits.sessions_per_user}"
    assert rows["silence in a session; slowest rate after 30 s"].startswith(f"{limits.idle_seconds:.0f} s; 1 KiB/s")
    assert limits.minimum_rate == 1024
    assert rows["lines of the log about connections without a login"].startswith(
        f"{SOURCE_LINES}, then one a second of one source; {ALL_LINES}, then {ALL_RATE:.0f} a second in all"
    )
    day, tries, now = 24 * 60 * 60, FREE_FAILURES, 0.0
    while (now := now + wait_after(tries)) <= day:
        tries += 1
    assert f"From an address that the account\n  knows: at most {tries}." in PAGE
    for most, where in ((guesses.source_failures, "a stranger"), (guesses.source_failures * KNOWN_FACTOR, "known")):
        spoken = f"{most * day // 60 // 2 + most // 2:,}".replace(",", " ")
        assert f"{spoken} where it is {where}" in PAGE


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
