"""Draw what was measured: a bar for each peer, its time relative to securexfer's, as an SVG on stdout.

    python bench/chart.py MEASURED.json ... > docs/bench.svg

Takes what trees.py, wan.py and large_file.py print with --json. The text for those who cannot see it is in the picture,
and on stderr for the page that shows it.
"""

from __future__ import annotations

import argparse
import html
import json
from dataclasses import dataclass
from pathlib import Path

from comparing import OURS
from measuring import BenchError
from options import end_with, note

WIDTH, MARGIN = 760, 16
NAMES_END, BARS, BARS_END = 150, 160, 610  # where the names end, and between what the bars are; then come the figures
HEAD, HEADING, BAR, STEP, GAP = 60, 24, 12, 20, 14  # heights
MOST = 4.0  # times securexfer's; a longer bar is cut, and its figure says how long it is
ONE = (BARS_END - BARS) / MOST  # securexfer's own bar

# Colours of text and bars by the reader's system: light, then dark. Nothing behind them: the page shows through.
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 } .work { font-weight: 600 } .quiet { fill: #59636e }
  .peer { fill: #afb8c1 } .ours { fill: #0969da } .one { stroke: #0969da; stroke-dasharray: 2 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9198a1 }
    .peer { fill: #57606a } .ours { fill: #4493f8 } .one { stroke: #4493f8 }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A peer's median seconds, and the median of its seconds over securexfer's in the same pairs."""

    peer: str
    seconds: float
    ratio: float

    def figures(self) -> str:
        """Return `1.52 times, 0.86 s`."""
        seconds = f"{self.seconds:.2f} s" if self.seconds < 10 else f"{self.seconds:.0f} s"
        return seconds if self.peer == OURS else f"{self.ratio:.{1 if self.ratio >= 10 else 2}f} times, {seconds}"


@dataclass(frozen=True, slots=True)
class Group:
    """What was moved, and who moved it: securexfer first."""

    title: str
    bars: list[Bar]


def main() -> None:
    """Read the documents and write the picture."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("measured", nargs="+", type=Path, help="documents that --json printed")
    groups = [group for path in options.parse_args().measured for group in groups_of(path)]
    if not groups:
        raise BenchError("nothing to draw: no pairs of securexfer and a peer in these documents")
    note(alternative(groups))
    print(picture(groups))


def groups_of(path: Path) -> list[Group]:
    """Return the works of a document in which securexfer had peers; raise BenchError if it is none of ours."""
    try:
        document = json.loads(path.read_text())
        works = document.get("works", {"": document}).values()
        groups = [
            Group(
                work["title"],
                [Bar(each["peer"], each["seconds"], each["ratio"] or 1.0) for each in work["summaries"]],
            )
            for work in works
        ]
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BenchError(f"{path} is not a document of these programs: {error!r}") from error
    return [group for group in groups if len(group.bars) > 1 and group.bars[0].peer == OURS]


def alternative(groups: list[Group]) -> str:
    """Return the picture in words."""
    return " ".join(
        f"{group.title}: {'; '.join(f'{bar.peer} {bar.figures()}' for bar in group.bars)}." for group in groups
    )


def picture(groups: list[Group]) -> str:
    """Return the SVG: its own colours for light and dark, no script, no font and nothing else from elsewhere."""
    body, top = [], HEAD
    for group in groups:
        body.append(_text(MARGIN, top + HEADING - 10, group.title, "work"))
        top += HEADING
        body.append(f'<path class="one" d="M{BARS + ONE} {top - 4}v{len(group.bars) * STEP}"/>')
        for bar in group.bars:
            body += _bar(bar, top)
            top += STEP
        top += GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-labelledby="title desc">',
        '<title id="title">Time relative to securexfer</title>',
        f'<desc id="desc">{html.escape(alternative(groups))}</desc>',
        f"<style>{STYLE}</style>",
        _text(MARGIN, 26, "Time relative to securexfer", "title"),
        _text(MARGIN, 44, "Shorter is faster. Medians of runs in pairs; the dashed line is securexfer.", "quiet"),
        *body,
        "</svg>",
    ]
    return "\n".join(lines)


def _bar(bar: Bar, top: int) -> list[str]:
    width = ONE * min(bar.ratio, MOST)
    kind = "ours" if bar.peer == OURS else "peer"
    # A bar that is cut ends in a tear instead of an edge.
    tear = f"l-5 {BAR / 4}l5 {BAR / 4}l-5 {BAR / 4}l5 {BAR / 4}" if bar.ratio > MOST else f"v{BAR}"
    return [
        _text(NAMES_END, top + BAR - 2, bar.peer, "quiet", anchor="end"),
        f'<path class="{kind}" d="M{BARS} {top}h{width:.1f}{tear}h-{width:.1f}z"/>',
        _text(BARS + max(width, ONE) + 8, top + BAR - 2, bar.figures(), "quiet"),
    ]


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{html.escape(words)}</text>'


if __name__ == "__main__":
    end_with(main)
