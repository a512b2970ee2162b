"""Numbers as people write and read them: sizes, rates, counts, times."""

from __future__ import annotations

import math

import typer

from securexfer import amounts

MIN_RATE = 10_000  # bytes a second; slower than the slowest link there is, and waits would look like a lost connection


def parse_size(text: str) -> int:
    """Return a number of bytes written as 500M, 2G, 64Ki or plain digits."""
    try:
        return amounts.parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_rate(text: str) -> int:
    """Return bytes a second written as a size, perhaps with /s behind it; MIN_RATE at least."""
    rate = parse_size(text.removesuffix("/s"))
    if rate < MIN_RATE:
        raise typer.BadParameter(f"{text!r} is too slow to be sure that the other side is there; 10k is the least")
    return rate


def finite(value: float) -> float:
    """Return a number that is one: nan lies in every range."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number of seconds")
    return value


def amount(size: float) -> str:
    """Return a number of bytes in decimal units, as disks and networks are sold: 1.5 MB is 1 500 000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def number(count: int) -> str:
    """Return a count with its thousands apart: 10 000."""
    return f"{count:,}".replace(",", " ")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 file, 2 files, 1 directory, 2 directories."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number(count)} {noun if count == 1 else plural}"


def clock(seconds: float | None) -> str:
    """Return how long something takes, as 0:05, 12:34, 1:02:03 or, of several days, 4 d; -:-- if it is not known."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} d"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
