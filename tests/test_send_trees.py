"""`send` of a whole tree: what stands there afterwards is the tree, and what stood there is not sent again."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from hostile.chaos import UP, Way

from securexfer.transfer.digests import DigestCache, clock_ns

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from lab import Lab

FRAME = 1 << 20  # the most content that is said at once: between two of these, other files are offered


def test_directories_that_end_while_a_large_file_is_sent_wait_for_it(lab: Lab, tmp_path: Path) -> None:
    """More of them than are offered ahead, each with a file of more than one frame."""
    tree = tmp_path / "tree"
    for number in range(80):
        directory = tree / f"{number:02}"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(bytes([number]) * (FRAME + 1))
    result = lab.send(lab.serve(), tree)
    assert result.returncode == 0, result.stderr
    stored = lab.stored()
    assert len(stored) == 80
    for number in range(80):
        assert stored[f"tree/{number:02}/file"] == bytes([number]) * (FRAME + 1)
        ours, theirs = tree / f"{number:02}", lab.inbox / "ana" / "tree" / f"{number:02}"
        assert theirs.stat().st_mtime_ns == ours.stat().st_mtime_ns


def test_nothing_of_what_is_there_is_sent_again(lab: Lab, tmp_path: Path) -> None:
    """Counted on the way: fewer bytes for each file than any content would have."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / str(number)).write_bytes(os.urandom(4096))
    server = lab.serve()
    with Way(server.port) as way:
        assert lab.send(way.port, tree).returncode == 0
        assert way.passed[UP] > 300 * 4096
        again = lab.send(way.port, tree)
        assert again.returncode == 0, again.stderr
        assert "300 files unchanged" in again.stdout
        assert way.passed[UP] < 300 * 200
    assert {event["outcome"] for event in server.events("file.ok")[300:]} == {"unchanged"}


def test_a_byte_that_was_altered_on_the_server_is_noticed(lab: Lab, tmp_path: Path) -> None:
    """With its size and mtime as they were: it is refused, or sent again, as the policy says."""
    path = tmp_path / "x"
    path.write_bytes(b"what was measured")
    server = lab.serve()
    assert lab.send(server, path).returncode == 0
    there = lab.inbox / "ana/x"
    before = there.stat()
    there.write_bytes(b"what was altered!")
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lab.send(server, path).returncode == 5
    assert lab.stored() == {"x": b"what was altered!"}
    assert lab.send(server, path, "--on-conflict", "replace").returncode == 0
    assert lab.stored() == {"x": b"what was measured"}


def test_rehash_reads_what_is_remembered(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the memory is wrong, which the server notices; reading the file puts it right for the next send."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "x"
    path.write_bytes(b"x" * 1000)
    long_ago = time.time_ns() - 10**11
    server = lab.serve()
    assert lab.send(server, path).returncode == 0
    with DigestCache() as digests:
        os.utime(path, ns=(long_ago, long_ago))
        digests.add(path.stat(), b"wrong" + bytes(27), clock_ns() + 10**11)
    assert lab.send(server, path).returncode == 5
    result = lab.send(server, path, "--rehash", "--json")
    assert json.loads(result.stdout.splitlines()[0])["status"] == "unchanged", result.stderr


def test_a_limit_is_kept(lab: Lab, tmp_path: Path) -> None:
    """Three megabytes at one a second, in one file and in many small ones."""
    server = lab.serve()
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(1_500_000))
    small.mkdir()
    for number in range(100):
        (small / str(number)).write_bytes(bytes(15_000))
    result = lab.send(server, large, small, "--limit", "1M", "--json")
    assert result.returncode == 0, result.stderr
    seconds = json.loads(result.stdout.splitlines()[-1])["seconds"]
    assert 2.5 < seconds < 8
