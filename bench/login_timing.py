"""Whether the time of a refused login tells why: the user is unknown or disabled, the password wrong or long.

Logins of the four kinds in turn, each from an address of its own and for a user of its own; then every pair of kinds is
compared. README.md says how to read it.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import socket
import ssl
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from measuring import BenchError
from options import between, end_with, machine, note, parser, table
from peers import securexfer_server
from serving import HOST
from sources import workplace

from securexfer.accounts.database import Accounts
from securexfer.accounts.passwords import PasswordHash
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peers import SecurexferServer

KINDS = ("unknown", "wrong", "disabled", "long")
PASSWORD = "a password that is right"  # noqa: S105 - of accounts that live as long as this program
SECONDS = 30.0

# A pair of kinds looks the same if chance alone would make them differ as much in more than one of a hundred runs, and
# their medians are within either of these.
LEAST_P = 0.01
MOST_APART = 0.05
MOST_SECONDS_APART = 0.003


@dataclass(frozen=True, slots=True)
class Pair:
    """Two kinds beside each other: medians in seconds, and the p of a two-sided Mann-Whitney U test."""

    one: str
    other: str
    medians: tuple[float, float]
    p: float

    @property
    def same(self) -> bool:
        """Whether nobody could tell the two from each other by their time."""
        apart = abs(self.medians[0] - self.medians[1])
        return self.p > LEAST_P and (apart <= MOST_SECONDS_APART or apart <= MOST_APART * min(self.medians))


def main() -> None:
    """Measure, then print a table or JSON; exit code 1 if a pair can be told apart."""
    options = parser(__doc__)
    options.add_argument("--tries", type=between(2, 10_000), default=200, help="logins of each kind (default: 200)")
    chosen = options.parse_args()
    with workplace(chosen.directory, 0) as place, securexfer_server(place / "securexfer", ["bench"]) as server:
        add_users(server.home / "users.db", chosen.tries)
        tries = [(kind, number) for number in range(-2, chosen.tries) for kind in shuffled(KINDS)]
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for index, (kind, number) in enumerate(tries):
            seconds = seconds_of_refusal(server, login_of(kind, number), index)
            if number >= 0:  # the first two of each kind only warm up
                found[kind].append(seconds)
            if index % 100 == 99:
                note(f"{index + 1} of {len(tries)} logins")
    pairs = [compare(one, other, found) for one, other in itertools.combinations(KINDS, 2)]
    if chosen.json:
        results = [{**asdict(pair), "same": pair.same} for pair in pairs]
        print(json.dumps({"machine": machine(), "tries": chosen.tries, "pairs": results, "seconds": found}, indent=2))
    else:
        medians = (f"{kind} {statistics.median(seconds) * 1e3:.1f}" for kind, seconds in found.items())
        print(f"{chosen.tries} refused logins of each kind; medians in ms: {', '.join(medians)}\n")
        rows = [
            (f"{pair.one} and {pair.other}", f"{(pair.medians[1] / pair.medians[0] - 1) * 100:+.1f} %", f"{pair.p:.3g}")
            for pair in pairs
        ]
        print(table(("", "median", "p"), rows))
    different = [pair for pair in pairs if not pair.same]
    if different:
        raise BenchError("these can be told apart: " + ", ".join(f"{pair.one} and {pair.other}" for pair in different))


def shuffled(kinds: Sequence[str]) -> list[str]:
    """Return the kinds in a random order, so that none always comes after the same other."""
    return random.sample(kinds, len(kinds))


def add_users(database: Path, tries: int) -> None:
    """Add a user for each login that is not of somebody unknown, all with one hash: its making is not measured."""
    stored = str(PasswordHash.make(PASSWORD))
    users = [f"{kind}{number}" for kind in KINDS[1:] for number in range(-2, tries)]
    with Accounts.open(database) as accounts:
        accounts.add_all(dict.fromkeys(users, stored))
        for user in users:
            if user.startswith("disabled"):
                accounts.disable(user)


def login_of(kind: str, number: int) -> bytes:
    """Return the bytes of a login that is refused for this reason alone."""
    passwords = {"wrong": "not the right password!!", "long": "x" * framing.TEXT_SIZE}
    return framing.Login(f"{kind}{number}", passwords.get(kind, PASSWORD)).encode()


def seconds_of_refusal(server: SecurexferServer, login: bytes, index: int) -> float:
    """Return the seconds from a login to its answer. The address is another for each: 127.1.0.7, 127.1.1.7 ..."""
    with session(server, f"127.{1 + index // 256}.{index % 256}.7") as tls:
        started = time.perf_counter()
        tls.sendall(login)
        answer = tls.recv(1)
        seconds = time.perf_counter() - started
    if answer != framing.REFUSED:
        raise BenchError(f"a login was answered {answer!r}; it has to be refused after a verification")
    return seconds


@contextmanager
def session(server: SecurexferServer, source: str) -> Iterator[ssl.SSLSocket]:
    """Open a session from this address, up to the login."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(server.home / "certs" / "ca.pem")
    context.set_alpn_protocols([framing.ALPN])
    with socket.create_connection((HOST, server.port), SECONDS, (source, 0)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=HOST) as tls:
            yield tls


def compare(one: str, other: str, found: dict[str, list[float]]) -> Pair:
    """Return how two kinds differ."""
    medians = statistics.median(found[one]), statistics.median(found[other])
    return Pair(one, other, medians, mann_whitney(found[one], found[other]))


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the two-sided p of the Mann-Whitney U test: how often chance alone makes two samples differ so much.

    By the normal approximation, good from about 20 values each, with corrections for ties and for continuity.
    """
    both = sorted([*one, *other])
    rank = {value: statistics.mean(range(first + 1, first + count + 1)) for value, first, count in _runs(both)}
    m, n = len(one), len(other)
    u = sum(rank[value] for value in one) - m * (m + 1) / 2
    ties = sum(count**3 - count for _, _, count in _runs(both)) / ((m + n) * (m + n - 1))
    deviation = (m * n / 12 * (m + n + 1 - ties)) ** 0.5
    if not deviation:
        return 1.0
    z = max(abs(u - m * n / 2) - 0.5, 0) / deviation
    return math.erfc(z / 2**0.5)


def _runs(values: Sequence[float]) -> list[tuple[float, int, int]]:
    """Return each value of a sorted list, where it begins and how often it is there."""
    found = []
    first = 0
    for value, group in itertools.groupby(values):
        count = len(list(group))
        found.append((value, first, count))
        first += count
    return found


if __name__ == "__main__":
    end_with(main)
