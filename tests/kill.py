"""Kill a client, a server or both at random moments of a large send, and send again, many times.

python tests/kill.py --rounds 20 --size 256 --seed 7

After each kill nothing is visible, or the whole file; the next send ends with it stored and verified, and what was
sent twice is at most a twentieth of the file and 32 MiB. Ends with 1 where one of these did not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import PASSWORD, SECUREXFER, Lab, Server, environment

from securexfer import certificates
from securexfer.accounts.database import Accounts
from securexfer.accounts.passwords import PasswordHash

STAGING = ".securexfer-staging"
TWICE = 32 << 20  # bytes: between two notes of what is on disk
SILENCE = 5.5  # seconds until what one send has left is another's


def make_lab(place: Path) -> Lab:
    source = place / "source"
    source.mkdir()
    certificates.initialise(source / "certs", [], force=False)
    accounts = Accounts.create(source / "users.db")
    accounts.add("ana", str(PasswordHash.make(PASSWORD)))
    accounts.close()
    return Lab(place, source)


def start(lab: Lab, port: int, path: Path, *options: str) -> subprocess.Popen[str]:
    target = f"ana@localhost:{port}"
    return subprocess.Popen(
        [SECUREXFER, "send", str(path), target, "--ca", str(lab.ca), "--password-file", str(lab.password_file),
         "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env=environment(SECUREXFER_CONFIG=str(lab.config), XDG_CACHE_HOME=str(lab.home / "cache")),
    )  # fmt: skip


def kept(lab: Lab) -> int:
    """Return how many bytes there are of what came in part."""
    place = lab.inbox / STAGING
    return sum(path.stat().st_size for path in place.iterdir()) if place.exists() else 0


def one_round(lab: Lab, port: int, server: Server, path: Path, chance: random.Random) -> tuple[Server, str]:
    """Kill somebody, send again; return the server that runs now, and what happened. Raises AssertionError."""
    size, goal = path.stat().st_size, lab.inbox / "ana" / path.name
    victim = chance.choice(("client", "server", "both"))
    rate = max(size // 4, 1 << 20)  # so that it takes four seconds
    sending = start(lab, port, path, "--limit", str(rate), "--retries", "0")
    time.sleep(0.8 + chance.random() * 4)
    if victim != "server":
        sending.kill()
    if victim != "client":
        server.process.kill()
        server.process.wait()
    sending.communicate(timeout=60)
    was_there, visible = kept(lab), goal.exists()
    middle = 0 < was_there < size and not visible
    if victim != "client":
        server = lab.serve("--port", str(port))
    time.sleep(SILENCE)
    again = start(lab, port, path)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    entry = json.loads(out.splitlines()[0])
    with path.open("rb") as mine, goal.open("rb") as stored:
        assert hashlib.file_digest(mine, "sha256").digest() == hashlib.file_digest(stored, "sha256").digest()
    twice = max(0, was_there - entry.get("resumed", 0)) if middle else 0
    assert twice <= size // 20 + TWICE, f"{twice} bytes were sent twice"
    assert middle or visible or not was_there, "what came in part is larger than the file"
    goal.unlink()
    return server, f"{victim:6} {'in the middle' if middle else 'elsewhere':13} there {was_there:>11,}, twice {twice:,}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="MiB of the file")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        lab = make_lab(Path(place))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        try:
            server, middle = lab.serve("--port", str(port)), 0
            for number in range(options.rounds):
                path = lab.home / f"large-{number}"
                path.write_bytes(os.urandom(options.size << 20))
                server, what = one_round(lab, port, server, path, chance)
                middle += "in the middle" in what
                print(f"{number + 1:3} {what}", flush=True)
                path.unlink()
        finally:
            lab.close()
    print(f"{middle} of {options.rounds} in the middle of the file")
    return 0 if middle >= options.rounds * 3 // 4 else 1


if __name__ == "__main__":
    sys.exit(main())
