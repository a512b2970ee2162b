"""What the programs take on their command line, within bounds, and how they end."""

from __future__ import annotations

import argparse
import os
import platform
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError, interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNITS = {"GIB": 1 << 30, "MIB": 1 << 20, "KIB": 1 << 10, "": 1}
MAX_SIZE = 64 << 30  # bytes; two of them must fit in the memory file system


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every program takes: where to work, and JSON instead of a table."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--directory", type=_directory, default=Path("/dev/shm"), help="where both ends' files are made")
    made.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")
    return made


def size(text: str) -> int:
    """Return a number of bytes from `4096`, `200MiB` or `2GiB`; for argparse."""
    upper = text.upper()
    unit = next(unit for unit in UNITS if upper.endswith(unit))
    number = upper.removesuffix(unit)
    if not (number.isascii() and number.isdigit() and 0 < int(number) * UNITS[unit] <= MAX_SIZE):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size from 1 to 64GiB, such as 4096, 200MiB or 2GiB")
    return int(number) * UNITS[unit]


def between(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within these bounds; for argparse."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


def _directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return Path(text).absolute()


def machine() -> dict[str, str | int]:
    """Return what a figure depends on and a reader of it cannot know."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
    }


def _processor() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].partition(":")[2].strip() if models else platform.machine()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines of columns as wide as they need to be: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in (headings, *rows))
    )


def mib(count: int) -> str:
    """Return a number of bytes as MiB, for a table; a peak of 0 bytes is one that nobody was there to see."""
    return f"{count / 2**20:.1f}" if count else "-"


def note(text: str) -> None:
    """Tell the person who waits; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def end_with(program: Callable[[], None]) -> None:
    """Run a program: a BenchError becomes a message and exit code 1, Ctrl-C and SIGTERM exit code 130."""
    try:
        with interruptible():
            program()
    except BenchError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
