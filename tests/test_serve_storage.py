"""What `serve` is told about storing: which policies a sender may ask for, and how durable it is to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Lab

INDEX = ".securexfer-index"


def test_a_server_whose_own_policy_is_not_allowed_is_refused_and_the_hint_mends_it(lab: Lab) -> None:
    options = ["--on-conflict", "rename", "--allow-conflict", "skip"]
    done = lab.run("serve", "--home", lab.home, "--port", "0", *options)
    assert done.returncode == 2
    assert "--on-conflict rename is the server's own policy, and --allow-conflict leaves it out" in done.stderr
    assert "--allow-conflict rename" in done.stderr
    assert lab.serve(*options, "--allow-conflict", "rename").stop() == 0


def test_a_server_without_durability_says_so_and_stores(lab: Lab, tmp_path: Path) -> None:
    server = lab.serve("--durability", "none")
    assert "a power cut loses them" in server.wait_for("store.warn")["detail"]
    assert "WARNING: --durability none: " in server.log_path.read_text()
    (tmp_path / "x").write_bytes(b"1")
    assert lab.send(server, tmp_path / "x").returncode == 0
    assert lab.stored() == {"x": b"1"}
    assert server.stop() == 0
    assert not lab.serve().events("store.warn")


@pytest.mark.parametrize("damage", [b"scribble" * 1000, b""])
def test_a_server_with_a_damaged_index_starts_and_stores(lab: Lab, tmp_path: Path, damage: bytes) -> None:
    assert lab.serve().stop() == 0
    (lab.inbox / INDEX).write_bytes(damage)
    server = lab.serve()
    (tmp_path / "x").write_bytes(b"1")
    assert lab.send(server, tmp_path / "x").returncode == 0
    assert lab.send(server, tmp_path / "x").returncode == 0
    assert server.stop() == 0
    said = [event["detail"] for event in server.events("store.warn")]
    assert [f"{INDEX} could not be used and was begun anew: " in detail for detail in said] == (
        [True] if damage else []
    )
