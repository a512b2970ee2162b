"""A real `send` and a real `serve`, with something happening on the way between them, at many places.

`send` succeeds if all files are stored with their digests, and says so of no file that is not; whatever happened, all
oracles hold. The places are drawn with a fixed seed; SECUREXFER_CHAOS=100 draws so many of each kind instead of a few.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hostile import chaos
from hostile.chaos import DOWN, UP, Chaos, Fault, Way
from hostile.oracles import Oracles
from lab import PASSWORD, SECUREXFER, Lab, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACES = int(os.environ.get("SECUREXFER_CHAOS", "3"))  # of each kind, in each direction
SIZES = {"empty": 0, "small": 1000, "large": 5 << 20, "last": 70_000}
HARMLESS = {chaos.delay, chaos.trickle}  # these must not keep anything from being stored


class Site:
    """A lab, its server, what watches it, four files to send, and how many bytes that takes in each direction."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server = lab.serve(watched=True)
        self.oracles = Oracles(lab, self.server)
        self.files = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
        for name, content in self.files.items():
            (lab.home / name).write_bytes(content)
        self._sources = (f"127.2.{number // 250}.{number % 250}" for number in range(1, 60_000))
        with Way(self.server.port, next(self._sources)) as way:
            result = self.send(way, "undisturbed")
            assert result.returncode == 0, result.stderr
        self.bytes = way.passed
        self.check("undisturbed", result)

    def source(self) -> str:
        """Return an address that no other case comes from."""
        return next(self._sources)

    def send(self, way: Way, directory: str, *before: str) -> subprocess.CompletedProcess[str]:
        command = [SECUREXFER, "send", *(str(self.lab.home / name) for name in self.files)]
        command += [f"ana@localhost:{way.port}/{directory}", "--json", "--ca", str(self.lab.ca)]
        command += ["--password-file", str(self.lab.password_file)]
        return subprocess.run(
            [*before, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
            env=environment(SECUREXFER_CONFIG=str(self.lab.config)),
        )  # fmt: skip

    def said_stored(self, directory: str, result: subprocess.CompletedProcess[str]) -> dict[str, bytes]:
        """Check what `send` said by itself; return what it says is stored."""
        assert "Traceback" not in result.stderr
        assert PASSWORD not in result.stderr + result.stdout
        entries: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
        # A file whose answer was lost with the connection is unchanged when it is offered again.
        stored = [entry for entry in entries if entry.get("status") in {"stored", "unchanged"}]
        assert (result.returncode == 0) is (len(stored) == len(self.files)), result.stderr
        for entry in stored:
            content = self.files[entry["name"].removeprefix(f"{directory}/")]
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        return {f"ana/{entry['name']}": self.files[entry["name"].removeprefix(f"{directory}/")] for entry in stored}

    def check(self, directory: str, result: subprocess.CompletedProcess[str]) -> None:
        """Hold the oracles, and that nothing but what was sent is stored; then make room for the next case."""
        self.oracles.check(self.said_stored(directory, result))
        place = self.lab.inbox / "ana" / directory
        for name in [name for name in self.oracles.ledger if name.startswith(f"ana/{directory}/")]:
            path = self.lab.inbox / name
            assert path.read_bytes() == self.files[path.name], f"{name} is not what was sent"
            del self.oracles.ledger[name]
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Site]:
    lab = Lab(tmp_path_factory.mktemp("chaos"), lab_source)
    yield Site(lab)
    lab.close()


def places(kind: str, direction: str, total: int) -> list[int]:
    """Return at which bytes: in the handshake, in what is small, and anywhere; the same ones each time."""
    chance = random.Random(f"{kind} {direction}")
    edges = [chance.randrange(1, 1500), chance.randrange(1500, 3000) if direction == UP else total - 1]
    return [*edges, *(chance.randrange(total) for _ in range(PLACES - len(edges)))]


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize(
    "happens",
    [chaos.cut_by_fin, chaos.cut_by_rst, chaos.delay, chaos.trickle, chaos.flip, chaos.repeat, chaos.swap],
)
def test_T19_T20_whatever_happens_on_the_way_only_what_is_stored_is_called_stored(
    site: Site, happens: Any, direction: str
) -> None:
    for offset in places(happens.__name__, direction, site.bytes[direction]):
        fault = Fault(happens, direction, offset)
        directory = f"{happens.__name__}-{direction}-{offset}"
        with Chaos(site.server.port, fault, site.source()) as way:
            result = site.send(way, directory)
        struck = way.struck.is_set()
        if happens in HARMLESS:
            assert result.returncode == 0, (str(fault), result.stderr)
        assert struck or result.returncode == 0, (str(fault), result.stderr)
        site.check(directory, result)


def test_a_bit_that_flips_in_what_is_sent_is_never_accepted(site: Site) -> None:
    """Not one, after the handshake: the session ends there, and what was not answered for is not stored by it."""
    chance = random.Random("flip")
    for number in range(PLACES):
        fault = Fault(chaos.flip, UP, chance.randrange(3000, site.bytes[UP] - 100))
        with Chaos(site.server.port, fault, site.source()) as way:
            result = site.send(way, f"bit-{number}")
        assert way.struck.is_set()
        # (A session that ends when some files are answered for is followed by another one, for the rest.)
        assert way.used > 1 or result.returncode in {6, 7}, result.stderr
        site.check(f"bit-{number}", result)


# Which way nothing comes any more, and from where on: in the handshake, at the login, in a large file, at the end.
STALLS = [
    *((chaos.stall, UP, where) for where in (200, 2000, 0.1, 0.99)),
    *((chaos.stall, DOWN, where) for where in (200, 0.98)),  # answers come in one record or in two
    (chaos.drop, UP, 0.5),
    (chaos.drop, DOWN, 0.9),
]


@pytest.mark.debian
@pytest.mark.skipif(not shutil.which("faketime"), reason="needs the package faketime")
def test_T25_a_way_on_which_nothing_moves_any_more_is_left_by_both_sides(site: Site) -> None:
    """All at once: the server's deadlines take half a minute. The client's, which take longer, run faster."""

    def stalled(case: tuple[Any, str, float]) -> tuple[str, subprocess.CompletedProcess[str], float]:
        happens, direction, where = case
        offset = int(where if where > 1 else where * site.bytes[direction])
        directory = f"{happens.__name__}-{direction}-{offset}"
        started = time.monotonic()
        with Chaos(site.server.port, Fault(happens, direction, offset), site.source()) as way:
            result = site.send(way, directory, "faketime", "-f", "+0 x5")
            assert way.struck.is_set()
        return directory, result, time.monotonic() - started

    with ThreadPoolExecutor(len(STALLS)) as pool:
        ended = list(pool.map(stalled, STALLS))
    for directory, result, seconds in ended:
        assert result.returncode in {0, 6, 7, 75}, (directory, result.stderr)
        # Not at once, unless all that a client waits for had come.
        assert (0 if result.returncode == 0 else 5) < seconds < 60, directory
        site.check(directory, result)
