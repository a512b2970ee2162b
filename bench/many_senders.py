"""Start many `securexfer send` at once, from one address and with the server's default limits: all must succeed.

With --hanging, other addresses meanwhile hold connections that never finish their handshake. README.md says how to
read it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

from measuring import BenchError, descendants, finish, peak_memory, running
from options import between, end_with, machine, mib, parser, size
from peers import securexfer_server
from serving import HOST
from sources import make_file, workplace

if TYPE_CHECKING:
    from collections.abc import Iterator

REOPEN_SECONDS = 1.0
RETRYING = "; trying again in "  # what `send` says on stderr each time the server was busy


def main() -> None:
    """Measure, then print lines or JSON; exit code 1 if a sender failed."""
    options = parser(__doc__)
    options.add_argument("--senders", type=between(1, 2000), default=200, help="processes (default: 200)")
    options.add_argument("--users", type=between(1, 100), default=5, help="whose logins they share (default: 5)")
    options.add_argument("--size", type=size, default=size("64KiB"), help="of each one's file (default: 64KiB)")
    options.add_argument("--hanging", type=between(0, 5000), default=0, help="connections kept hanging (default: 0)")
    options.add_argument("--hanging-sources", type=between(1, 250), default=4, help="their addresses (default: 4)")
    chosen = options.parse_args()
    users = [f"user{number}" for number in range(chosen.users)]
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(workplace(chosen.directory, chosen.size * chosen.senders))
        server = stack.enter_context(securexfer_server(place / "securexfer", users))
        peers = []
        for number in range(chosen.senders):
            source = make_file(place / f"{number}.bin", chosen.size)
            peers.append(server.peer(source, users[number % len(users)]))
        hanging = stack.enter_context(hang(server.port, chosen.hanging, chosen.hanging_sources))
        started = time.perf_counter()
        processes = [stack.enter_context(running(peer.client)) for peer in peers]
        ended = [finish(process) for process in processes]
        seconds = time.perf_counter() - started
        peak = sum(map(peak_memory, descendants(server.server.pid)))
        for peer, end in zip(peers, ended, strict=True):
            if end.code == 0:
                peer.source.check(peer.received, mtime_unit=peer.mtime_unit)
    retries = sum(end.stderr.count(RETRYING) for end in ended)
    codes = collections.Counter(end.code for end in ended)
    result = {
        "senders": chosen.senders,
        "users": chosen.users,
        "size": chosen.size,
        "hanging": chosen.hanging,
        "hanging_opened": hanging.opened,
        "seconds": seconds,
        "exit_codes": {str(code): count for code, count in sorted(codes.items())},
        "retries": retries,
        "server_peak": peak,
    }
    if chosen.json:
        print(json.dumps({"machine": machine(), **result}, indent=2))
    else:
        print(f"{chosen.senders} senders of {chosen.users} users: {seconds:.1f} s")
        print("exit codes: " + ", ".join(f"{count} times {code}" for code, count in sorted(codes.items())))
        print(f"retries: {retries}")
        print(f"server peak: {mib(peak)} MiB")
        if chosen.hanging:
            print(f"hanging connections: {chosen.hanging} kept up, {hanging.opened} opened in all")
    failed = next((end for end in ended if end.code), None)
    if failed:
        raise BenchError(f"not every sender succeeded; the first that failed said:\n{failed.stderr.strip()}")


class Hanging:
    """Connections to `port` that never say a word, spread over loopback addresses from 127.0.0.2 up."""

    def __init__(self, port: int, count: int, sources: int) -> None:
        self.opened = 0
        self._port = port
        self._sources = [f"127.0.0.{2 + number % sources}" for number in range(count)]
        self._held: dict[int, socket.socket] = {}

    def keep_up(self) -> None:
        """Open each connection that is not open yet, or that the server has ended."""
        for number, source in enumerate(self._sources):
            held = self._held.get(number)
            if held and _is_open(held):
                continue
            if held:
                held.close()
            with contextlib.suppress(OSError):  # a full backlog: the next look tries again
                self._held[number] = socket.create_connection((HOST, self._port), 1, source_address=(source, 0))
                self.opened += 1

    def close(self) -> None:
        """Let them all go."""
        for held in self._held.values():
            held.close()


@contextlib.contextmanager
def hang(port: int, count: int, sources: int) -> Iterator[Hanging]:
    """Hold `count` hanging connections during the block; those that the server ends are opened again each second."""
    hanging = Hanging(port, count, sources)
    done = threading.Event()

    def hold() -> None:
        while not done.wait(REOPEN_SECONDS):
            hanging.keep_up()

    holder = threading.Thread(target=hold)
    try:
        hanging.keep_up()
        holder.start()
        yield hanging
    finally:
        done.set()
        if holder.ident:
            holder.join()
        hanging.close()


def _is_open(held: socket.socket) -> bool:
    held.settimeout(0)
    try:
        return held.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    end_with(main)
