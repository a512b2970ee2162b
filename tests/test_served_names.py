"""Names that only other systems mind, towards a running server of either policy: stored to the letter, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from lab import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Lab

ROWS = {
    "P02": ["C:x", "C:"],
    "P03": ["a:b", "a::$DATA", "12:30:00.log", "d:/x"],
    "P04": ["CON", "nul.txt", "com1", "LPT9.log", "COM¹", "CONIN$", "prn/x", "aux.tar.gz"],
    "P05": ["x.", "...", "x\u00a0", "\u00a0x", "a /b", "\u2003a/b", "dir./x"],
    "P08": ["\uff0e\uff0e", "a\uff0fb", "a\u2044b", "a\u2215b"],
}
NAMES = [name for names in ROWS.values() for name in names]


@pytest.mark.parametrize("policy", ["native", "portable"])
def test_P02_P03_P04_P05_P08_native_stores_to_the_letter_and_portable_refuses(lab: Lab, policy: str) -> None:
    """The default is native. A refused name costs its file alone, and is in the log, with the reason."""
    server = lab.serve(*([] if policy == "native" else ["--names", policy]))
    files = [(name, name.encode()) for name in NAMES]
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        answers = stranger.send(tls, [*files, ("plain.txt", b"plain.txt")])
    assert answers == [policy == "native"] * len(files) + [True]
    assert lab.stored() == {"plain.txt": b"plain.txt", **(dict(files) if policy == "native" else {})}
    assert server.stop() == 0
    refused = [(event["name"], event["reason"]) for event in server.events("file.reject")]
    assert refused == ([] if policy == "native" else [(name, "NAME") for name in NAMES])


@pytest.mark.parametrize("policy", ["native", "portable"])
def test_P03_P04_P05_send_says_the_same_of_the_files_of_a_lab(lab: Lab, tmp_path: Path, policy: str) -> None:
    server = lab.serve("--names", policy)
    names = ["12:30:00.log", "nul.txt", "ends with a dot.", "x\u00a0", "plain.txt"]
    for name in names:
        (tmp_path / name).write_text(name)
    sent = lab.send(server, *(tmp_path / name for name in names))
    assert (sent.returncode, set(lab.stored())) == ((0, set(names)) if policy == "native" else (7, {"plain.txt"}))
    if policy == "portable":
        alone = lab.send(server, tmp_path / "nul.txt")
        assert alone.returncode == 5
        assert "nul.txt" in alone.stderr


def test_P05_of_what_pads_a_name_spaces_alone_are_taken_away(lab: Lab) -> None:
    server = lab.serve()
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        assert stranger.send(tls, [("x\u3000", b"1"), ("y\u00a0", b"2")]) == [True, True]
    assert lab.stored() == {"x\u3000": b"1", "y\u00a0": b"2"}
