"""A deadline at noon: many people send at once. (Two hundred, also beside hanging strangers: bench/many_senders.py.)"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

from lab import PASSWORD, SECUREXFER, USERS, Lab, environment

if TYPE_CHECKING:
    from pathlib import Path

SENDERS = 40


def test_A12_forty_senders_of_five_users_all_succeed(lab: Lab, tmp_path: Path) -> None:
    """From one address, each a process of its own: every one exits 0, every file is whole, in its user's inbox."""
    server = lab.serve()
    sources = []
    for number in range(SENDERS):
        source = tmp_path / f"homework-{number}.bin"
        source.write_bytes(os.urandom(20_000 + number))
        sources.append((USERS[number % len(USERS)], source))
    started = time.monotonic()
    senders = [start(lab, server.port, user, source) for user, source in sources]
    ended = [(process.communicate(timeout=110)[1], process.returncode) for process in senders]
    seconds = time.monotonic() - started
    assert Counter(code for _, code in ended) == {0: SENDERS}, [text for text, code in ended if code]
    assert seconds < 100
    for user in USERS:
        expected = {source.name: source.read_bytes() for owner, source in sources if owner == user}
        assert lab.stored(user) == expected
    assert len(server.events("auth.ok")) == SENDERS
    assert not server.events("auth.fail")
    assert PASSWORD not in server.log_path.read_text()
    assert server.stop() == 0


def start(lab: Lab, port: int, user: str, source: Path) -> subprocess.Popen[str]:
    with lab.password_file.open() as password:
        return subprocess.Popen(
            [SECUREXFER, "send", source, f"{user}@localhost:{port}", "--ca", lab.ca, "--password-stdin"],
            stdin=password, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=environment(SECUREXFER_CONFIG=str(lab.config)),
        )  # fmt: skip
