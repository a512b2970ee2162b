"""Send honestly while others hang, guess and trickle: how much is left, does anything fail, and what stays behind.

First honest senders alone, for a tenth of the time; then the same beside the attackers, who have addresses of their own
(the slow writers also an account); then nobody, until the server has come to rest. README.md says how to read it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import socket
import ssl
import struct
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from many_senders import RETRYING, hang
from measuring import BenchError, finish, running
from options import between, end_with, machine, parser, size
from peers import securexfer_server
from serving import HOST
from sources import make_file, workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peers import Peer, SecurexferServer

SLOW_USER = "slow"
REST_SECONDS = 60.0  # the longest a server may need to be as it was: idle sessions end after 30 s


@dataclass(frozen=True, slots=True)
class Held:
    """What a server process holds."""

    memory: int  # bytes resident
    # Without those of the users' database, of which a few stay open once they are. None where only root may count them:
    # a server lets nobody look into its process.
    descriptors: int | None
    threads: int


@dataclass(slots=True)
class Honest:
    """What honest senders did in a stretch of time."""

    seconds: float
    sent: int = 0
    bytes: int = 0
    retries: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Bytes a second, all of them together."""
        return self.bytes / self.seconds


def main() -> None:
    """Measure, then print lines or JSON; exit code 1 if an honest sender failed."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=between(1, 86400), default=600, help="beside the attackers (default: 600)")
    options.add_argument("--senders", type=between(1, 64), default=5, help="honest ones at a time (default: 5)")
    options.add_argument("--size", type=size, default=size("8MiB"), help="of each honest file (default: 8MiB)")
    options.add_argument("--hanging", type=between(0, 5000), default=300, help="connections (default: 300)")
    options.add_argument("--guessers", type=between(0, 200), default=20, help="(default: 20)")
    options.add_argument("--slow", type=between(0, 200), default=10, help="writers of a byte a second (default: 10)")
    chosen = options.parse_args()
    users = [f"user{number}" for number in range(chosen.senders)]
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(workplace(chosen.directory, chosen.size * chosen.senders * 3))
        server = stack.enter_context(securexfer_server(place / "securexfer", [*users, SLOW_USER]))
        peers = [server.peer(make_file(place / f"{user}.bin", chosen.size), user) for user in users]
        send_for(peers, 2.0)  # the first logins, and what is done once only
        before = held(server.server.pid)
        alone = send_for(peers, max(2.0, chosen.seconds / 10))
        with contextlib.ExitStack() as attack:
            attack.enter_context(hang(server.port, chosen.hanging, 5))
            attack.enter_context(attackers(guess, server, chosen.guessers, users))
            attack.enter_context(attackers(trickle, server, chosen.slow, users))
            beside = send_for(peers, chosen.seconds)
            during = held(server.server.pid)
        after = at_rest(server.server.pid, before)
        events = count_events(server.server.log)
    result = {
        "senders": chosen.senders,
        "size": chosen.size,
        "hanging": chosen.hanging,
        "guessers": chosen.guessers,
        "slow": chosen.slow,
        "alone": asdict(alone),
        "beside": asdict(beside),
        "throughput_left": beside.rate / alone.rate,
        "before": asdict(before),
        "during": asdict(during),
        "after": asdict(after),
        "events": events,
    }
    if chosen.json:
        print(json.dumps({"machine": machine(), **result}, indent=2))
    else:
        for name, honest in (("alone", alone), ("beside the attackers", beside)):
            print(
                f"{name}: {honest.sent} files in {honest.seconds:.0f} s, {honest.rate / 1e6:.1f} MB/s, "
                f"slowest {honest.slowest:.1f} s, {honest.retries} retries, {len(honest.failures)} failures"
            )
        print(f"throughput left: {beside.rate / alone.rate:.2f}")
        for name, what in (("before", before), ("during", during), ("after", after)):
            opened = f"{what.descriptors} descriptors, " if what.descriptors is not None else ""
            print(f"{name}: {what.memory >> 20} MiB, {opened}{what.threads} threads")
        print(f"in the log: {', '.join(f'{count} {kind}' for kind, count in sorted(events.items()))}")
    if beside.failures or alone.failures:
        raise BenchError("an honest sender failed:\n" + [*alone.failures, *beside.failures][0])


# -- the honest --------------------------------------------------------------------------------------------------


def send_for(peers: list[Peer], seconds: float) -> Honest:
    """Let each peer send its file again and again for so long, each time as if anew; return what they did."""
    honest = Honest(seconds)
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def send_on(peer: Peer) -> None:
        while time.monotonic() < end:
            peer.received.unlink(missing_ok=True)
            began = time.monotonic()
            with running(peer.client) as process:
                ended = finish(process)
            took = time.monotonic() - began
            good = ended.code == 0 and _arrived(peer)
            with lock:
                honest.sent += good
                honest.bytes += peer.source.size if good else 0
                honest.retries += ended.stderr.count(RETRYING)
                honest.slowest = max(honest.slowest, took)
                if not good:
                    honest.failures.append(f"exit code {ended.code}: {ended.stderr.strip()}")

    began = time.monotonic()
    threads = [threading.Thread(target=send_on, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    honest.seconds = time.monotonic() - began
    return honest


def _arrived(peer: Peer) -> bool:
    try:
        peer.source.check(peer.received, mtime_unit=peer.mtime_unit)
    except BenchError:
        return False
    return True


# -- the others --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def attackers(
    what: Callable[[str, int, str, int, list[str]], None], server: SecurexferServer, count: int, users: list[str]
) -> Iterator[None]:
    """Run `count` of them during the block, in a process of their own."""
    if not count:
        yield
        return
    arguments = (what, str(server.home / "certs" / "ca.pem"), server.port, server.password, count, users)
    process = multiprocessing.get_context("spawn").Process(target=_attack, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _attack(
    what: Callable[[str, int, str, int, list[str]], None],
    ca: str,
    port: int,
    password: str,
    count: int,
    users: list[str],
) -> None:
    def attack_on(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                what(ca, port, password, number, users)

    threads = [threading.Thread(target=attack_on, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def guess(ca: str, port: int, _password: str, number: int, users: list[str]) -> None:
    """Try a wrong password for an honest user, or for nobody."""
    user = users[number % len(users)] if number % 2 else f"nobody{time.monotonic_ns() % 1000}"
    with _connected(ca, port, f"127.0.1.{1 + number}") as tls:
        tls.sendall(user.encode().ljust(128) + b"a wrong password".ljust(128))
        tls.recv(1)


def trickle(ca: str, port: int, password: str, number: int, _users: list[str]) -> None:
    """Log in, announce a large file and send a byte a second until the server has had enough."""
    with _connected(ca, port, f"127.0.2.{1 + number}") as tls:
        tls.sendall(SLOW_USER.encode().ljust(128) + password.encode().ljust(128))
        if tls.recv(1) != b"\x01":
            time.sleep(1)
            return
        tls.sendall(struct.pack(">I", 1) + f"{number}".encode().ljust(128) + struct.pack(">Q", 1 << 30))
        while True:
            tls.sendall(b"x")
            time.sleep(1)


def _connected(ca: str, port: int, source: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    context.set_alpn_protocols(["securexfer/1"])
    plain = socket.create_connection((HOST, port), 30, source_address=(source, 0))
    return context.wrap_socket(plain, server_hostname=HOST)


# -- the server --------------------------------------------------------------------------------------------------


def held(pid: int) -> Held:
    """Return what the server holds now."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return Held(int(status["VmRSS"].split()[0]) * 1024, _descriptors(pid), int(status["Threads"]))


def _descriptors(pid: int) -> int | None:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return None
    opened = []
    for entry in entries:
        with contextlib.suppress(OSError):  # closed meanwhile
            opened.append(str(entry.readlink()))
    return sum("/users.db" not in path for path in opened)


def at_rest(pid: int, before: Held) -> Held:
    """Return what the server holds once it is as few descriptors and threads as before, or after REST_SECONDS."""
    deadline = time.monotonic() + REST_SECONDS
    while True:
        now = held(pid)
        back = (now.descriptors or 0) <= (before.descriptors or 0) and now.threads <= before.threads
        if back or time.monotonic() > deadline:
            return now
        time.sleep(0.5)


def count_events(log: Path) -> dict[str, int]:
    """Return how often the log tells of each kind, in a line or in a count of lines left out, and its size in bytes."""
    counts: dict[str, int] = {"bytes": log.stat().st_size}
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            for kind, times in {event["event"]: 1, **event.get("kinds", {})}.items():
                counts[kind] = counts.get(kind, 0) + times
    return counts


if __name__ == "__main__":
    end_with(main)
