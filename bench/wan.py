"""Compare moving many small files and one large one over a long line, with scp, rsync and tar over ssh.

Whole processes on two hosts made of network namespaces; needs root. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from comparing import OURS, compare_moving, with_machine
from measuring import BenchError, Command, finish, running
from options import between, end_with, note, parser, size
from sources import BLOCK, FILES, make_file, make_tree, titled, workplace
from wide_area import CONGESTION_CONTROL, MTU, Line, wide_area

if TYPE_CHECKING:
    from collections.abc import Callable

    from comparing import Comparison

PEERS = {
    "small": (OURS, "rsync -a", "tar | ssh tar"),
    "few": ("scp -r",),  # so slow that it gets few files and runs without a pair
    "file": (OURS, "scp", "rsync"),
}
NAMES = tuple(dict.fromkeys(name for names in PEERS.values() for name in names))
LOSS = {"small": 0.0, "few": 0.0, "file": 0.001}
SMALL = 4096  # bytes

PORT = 5001
CEILING_MIB = 1024
SINK = f"""
import socket, time
listener = socket.create_server(("", {PORT}))
print(flush=True)
connection, _ = listener.accept()
buffer, count, started = bytearray(1 << 20), 0, time.monotonic()
while got := connection.recv_into(buffer):
    count += got
print(count / (time.monotonic() - started))
"""
SPRING = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT}), 30) as connection:
    for _ in range({CEILING_MIB}):
        connection.sendall(bytes(1 << 20))
"""


def main() -> None:
    """Measure, then print a table for each work, or JSON."""
    options = parser(__doc__)
    options.add_argument("--work", action="append", choices=PEERS, help="repeatable (default: all)")
    options.add_argument("--peers", nargs="+", choices=NAMES, default=NAMES, help="where they take part (default: all)")
    options.add_argument("--runs", type=between(1, 100), default=5, help="pairs with each peer (default: 5)")
    options.add_argument("--rtt", type=_decimal(2000), default=50.0, help="milliseconds (default: 50)")
    options.add_argument("--loss", type=_decimal(0.2), help="share of packets (default: 0.001 for the file, else 0)")
    options.add_argument("--rate", type=size, default=125_000_000, help="bytes a second (default: 125000000, 1 Gbit/s)")
    options.add_argument("--queue", type=size, default=6_250_000, help="bytes that may wait for it (default: 6250000)")
    options.add_argument("--seed", type=between(0, 10**9), default=1, help="of the losses (default: 1)")
    options.add_argument("--directories", type=between(1, 1000), default=100, help="of 100 small files (default: 100)")
    options.add_argument("--few", type=between(1, 100), default=2, help="directories for scp -r (default: 2)")
    options.add_argument("--size", type=size, default=200_000_000, help="of the large file (default: 200000000)")
    chosen = options.parse_args()
    ceiling = relay_ceiling()
    note(f"the relay itself moves {ceiling / 1e6:.0f} MB/s")
    found = {work: measured(work, chosen) for work in chosen.work or PEERS}
    per_file = {
        each.peer: each.seconds / found[work].files
        for work in ("small", "few")
        if work in found
        for each in found[work].summaries
    }
    if chosen.json:
        works = {work: {**each.document(), "line": asdict(line_for(work, chosen))} for work, each in found.items()}
        how = {"relay_bytes_a_second": ceiling, "congestion_control": CONGESTION_CONTROL, "mtu": MTU}
        print(json.dumps(with_machine(**how, works=works, seconds_a_file=per_file), indent=2))
        return
    print("Medians; the last column is securexfer's seconds over the peer's: below 1, securexfer was faster.\n")
    print("\n".join(each.text() for each in found.values()))
    if per_file:
        shown = ", ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in per_file.items())
        print(f"ms a file, login included, scp -r from its few files alone: {shown}")


def measured(work: str, chosen: argparse.Namespace) -> Comparison:
    """Make the source of a work and move it over a line of its own."""
    line = line_for(work, chosen)
    directories = chosen.few if work == "few" else chosen.directories
    room = chosen.size if work == "file" else directories * FILES * max(SMALL, BLOCK)
    what = f"one file of {chosen.size / 1e6:g} MB" if work == "file" else titled(directories * FILES, SMALL)
    title = f"{what}, {line.rtt * 1e3:g} ms{f' and {line.loss * 100:g} % loss' if line.loss else ''}"
    names = [name for name in PEERS[work] if name in chosen.peers]
    note(f"{work}: {title}")
    with workplace(chosen.directory, room) as place, wide_area(line) as wan:
        if work == "file":
            source = make_file(place / "source.bin", chosen.size)
        else:
            source = make_tree(place / work, directories, FILES, SMALL)
        # A large file, and files one by one, take minutes there: a rehearsal would cost more than it makes better.
        rehearse = work == "small"
        found = compare_moving(source, title, names, place, chosen.runs, rehearse=rehearse, network=wan.network)
        for way, counts in zip(("there", "back"), wan.counts(), strict=True):
            note(f"  {way}: {counts.packets} packets, {counts.lost} lost, {counts.dropped} dropped by a full queue")
    return found


def line_for(work: str, chosen: argparse.Namespace) -> Line:
    """Return the line of a work."""
    loss = LOSS[work] if chosen.loss is None else chosen.loss
    return Line(rtt=chosen.rtt / 1e3, loss=loss, rate=chosen.rate, queue=chosen.queue, seed=chosen.seed)


def relay_ceiling() -> float:
    """Return how many bytes a second one connection moves over a line without delay, loss or limit."""
    with wide_area(Line()) as wan:
        sink = subprocess.Popen((*wan.network.at_server, sys.executable, "-c", SINK), stdout=subprocess.PIPE, text=True)
        assert sink.stdout
        with sink, sink.stdout:
            sink.stdout.readline()
            spring = Command((*wan.network.at_client, sys.executable, "-c", SPRING, wan.network.host))
            with running(spring) as process:
                finish(process).checked(spring)
            said = sink.stdout.readline()
    if not said:
        raise BenchError("the line without delay did not carry a connection")
    return float(said)


def _decimal(most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most:g}")
        return value

    return number


if __name__ == "__main__":
    end_with(main)
