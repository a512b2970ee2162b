"""`send` of a whole tree, to a real server: what stands there afterwards is the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
