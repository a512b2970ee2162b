"""Runs in pairs: securexfer, then a peer, over and over; and what the pairs say.

The ratio of a pair is the peer's wall time divided by that of the run of securexfer just before it: above 1, securexfer
was faster. "Ours over theirs" is the same the other way round: below 1, securexfer was faster. A machine that slows
down for a while slows both runs of a pair, so the ratio is steadier than the seconds.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from options import machine, mib, note, table
from peers import missing, start_peers
from serving import LOOPBACK
from sources import make_file, workplace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from measuring import Cost
    from peers import Peer
    from serving import Network
    from sources import Source

OURS = "securexfer"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: whose, in which pair (the other's name, and which turn), and what it cost."""

    peer: str
    against: str
    turn: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Summary:
    """A peer's medians, its highest peaks, and the ratios of its pairs (None where there were none)."""

    peer: str
    runs: int
    seconds: float
    client_cpu: float
    server_cpu: float
    client_peak: int
    server_peak: int
    ratio: float | None
    ratio_least: float | None
    ratio_most: float | None

    def ratio_text(self) -> str:
        """Return the median ratio with its range, for a table."""
        return f"{self.ratio:.2f} ({self.ratio_least:.2f} to {self.ratio_most:.2f})" if self.ratio else "-"

    def ours_over_theirs(self) -> tuple[float, float, float] | None:
        """Return securexfer's time over the peer's: the median of the pairs, the least and the most."""
        if not (self.ratio and self.ratio_least and self.ratio_most):
            return None
        return 1 / self.ratio, 1 / self.ratio_most, 1 / self.ratio_least


@dataclass(frozen=True, slots=True)
class Comparison:
    """All runs with one source of so many files and bytes, and the programs that were missing for peers left out."""

    title: str
    files: int
    size: int
    runs: list[Run]
    summaries: list[Summary]
    missing: dict[str, list[str]]

    def document(self) -> dict[str, object]:
        """Return everything as values that JSON can hold."""
        return {
            "title": self.title,
            "files": self.files,
            "size": self.size,
            "missing": self.missing,
            "summaries": [
                {**asdict(summary), "ours_over_theirs": summary.ours_over_theirs()} for summary in self.summaries
            ],
            "runs": [
                {"peer": run.peer, "against": run.against, "turn": run.turn, **asdict(run.cost)} for run in self.runs
            ],
        }

    def text(self) -> str:
        """Return a table of seconds, of peaks of memory, and of securexfer's time over each peer's."""
        rows = []
        for each in self.summaries:
            ours = each.ours_over_theirs()
            shown = f"{ours[0]:.2f} ({ours[1]:.2f} to {ours[2]:.2f})" if ours else "-"
            peaks = mib(each.client_peak), mib(each.server_peak)
            rows.append((each.peer, str(each.runs), f"{each.seconds:.2f}", *peaks, shown))
        headings = ("", "runs", "seconds", "client MiB", "server MiB", "securexfer / peer")
        return f"{self.title} ({self.files} files, {self.size} bytes)\n\n{table(headings, rows)}\n"


def with_machine(**document: object) -> dict[str, object]:
    """Return a document for JSON, with the machine it was measured on."""
    return {"machine": machine(), **document}


def compare(names: Sequence[str], directory: Path, size: int, turns: int, *, watch_memory: bool = True) -> Comparison:
    """Move a random file of `size` bytes with each peer that is installed, in pairs, `turns` times."""
    with workplace(directory, size) as place:
        source = make_file(place / "source.bin", size)
        return compare_moving(source, f"one file of {size / 1e6:g} MB", names, place, turns, watch_memory=watch_memory)


def compare_moving(
    source: Source,
    title: str,
    names: Sequence[str],
    place: Path,
    turns: int,
    *,
    watch_memory: bool = True,
    rehearse: bool = True,
    again: bool = False,
    aside: Path | None = None,
    network: Network = LOOPBACK,
) -> Comparison:
    """Move a source with each peer that is installed, in pairs, `turns` times; the servers' files are in `place`.

    `rehearse`: one run of each goes first and does not count: the first to touch memory or a program pays for what the
    system fetches then. `again`: what these brought stays in place for the others to find. `aside`: what any of them
    brought is kept there. (Before ext4 gives a new file an inode it looks at each one that was freed in the last
    minutes: where thousands were, that costs up to 200 us a file, and not every peer the same.)
    """
    absent = {name: programs for name in names if (programs := missing(name))}
    for name, programs in absent.items():
        note(f"{name} is left out: {', '.join(programs)} not installed")
    with contextlib.ExitStack() as stack:
        peers = start_peers(stack, names, place, source, network)
        if rehearse:
            for peer in peers.values():
                peer.transfer(watch_memory=False, keep=again, aside=aside)
        runs = alternate(peers, turns, watch_memory=watch_memory, keep=again, aside=aside)
    summaries = [summarise(runs, name) for name in peers]
    return Comparison(title, len(source.entries), source.size, runs, summaries, absent)


def alternate(
    peers: Mapping[str, Peer], turns: int, *, watch_memory: bool, keep: bool, aside: Path | None
) -> list[Run]:
    """Run securexfer and each peer in turn, `turns` times; without securexfer each peer, without peers ours."""
    runs: list[Run] = []
    for turn in range(turns):
        for other in [name for name in peers if name != OURS] or [OURS]:
            for name in dict.fromkeys((OURS, other)):
                if name in peers:
                    cost = peers[name].transfer(watch_memory=watch_memory, keep=keep, aside=aside)
                    runs.append(Run(name, other, turn, cost))
                    note(f"  {turn + 1}/{turns}  {name:16} {cost.seconds:8.3f} s")
    return runs


def summarise(runs: Sequence[Run], peer: str) -> Summary:
    """Return what the runs of one peer say."""
    seconds = {(run.peer, run.against, run.turn): run.cost.seconds for run in runs}
    costs = [run.cost for run in runs if run.peer == peer]
    ratios = [
        value / seconds[OURS, against, turn]
        for (name, against, turn), value in seconds.items()
        if name == peer != OURS and (OURS, against, turn) in seconds
    ]
    return Summary(
        peer,
        len(costs),
        median(cost.seconds for cost in costs),
        median(cost.client_cpu for cost in costs),
        median(cost.server_cpu for cost in costs),
        max(cost.client_peak for cost in costs),
        max(cost.server_peak for cost in costs),
        median(ratios) if ratios else None,
        min(ratios, default=None),
        max(ratios, default=None),
    )
