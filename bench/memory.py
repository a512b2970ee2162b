"""Measure the peak memory of `securexfer send` and `securexfer serve` for files of several sizes.

Each size has a server of its own, login included. The peaks must not grow with the file. README.md says how to read it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from options import between, end_with, machine, note, parser, size, table
from peers import securexfer_server
from sources import make_file, workplace

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest peaks of both sides, in bytes, for a file of `size` bytes."""

    size: int
    client_peak: int
    server_peak: int


def main() -> None:
    """Measure, then print a table or JSON."""
    options = parser(__doc__)
    options.add_argument(
        "--sizes", type=size, nargs="+", default=[size("200MiB"), size("4GiB")], help="default: 200MiB 4GiB"
    )
    options.add_argument("--runs", type=between(1, 20), default=1, help="sends of each size (default: 1)")
    chosen = options.parse_args()
    peaks = [peak(chosen.directory, each, chosen.runs) for each in chosen.sizes]
    if chosen.json:
        print(json.dumps({"machine": machine(), "peaks": [asdict(each) for each in peaks]}, indent=2))
        return
    first, last = peaks[0], peaks[-1]
    growth = Peak(last.size - first.size, last.client_peak - first.client_peak, last.server_peak - first.server_peak)
    rows = [
        (name, *(f"{count / 2**20:.1f}" for count in (each.size, each.client_peak, each.server_peak)))
        for name, each in [*(("", each) for each in peaks), ("difference", growth)]
    ]
    print(table(("MiB", "file", "client peak", "server peak"), rows))


def peak(directory: Path, size: int, runs: int) -> Peak:
    """Send a random file of `size` bytes `runs` times and return the highest peaks."""
    with workplace(directory, size) as place:
        source = make_file(place / "source.bin", size)
        with securexfer_server(place / "securexfer", ["bench"]) as server:
            costs = [server.peer(source, "bench").transfer() for _ in range(runs)]
    note(f"  {size} bytes sent {runs} times")
    return Peak(size, max(cost.client_peak for cost in costs), max(cost.server_peak for cost in costs))


if __name__ == "__main__":
    end_with(main)
