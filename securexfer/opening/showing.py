r"""What a user sent, or what a script printed, as lines that are safe for a terminal and for a log.

* Every line of it begins with BAR; what is said about it does not. So nothing in it can pass for a line of ours.
* What is not printable is escaped as in names, `\x1b`, and so is a byte that is no UTF-8; a backslash is doubled. Two
  exceptions that harm nobody: a tab becomes spaces, and the `\r` at the end of a line is dropped.
* So much is read and no more, however large a file is, and no line is longer than so much: it goes on in the next.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from securexfer.amounts import exactly
from securexfer.names import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

BAR = "│ "
LINE = 1000  # characters behind the bar: a log's line stays one that can be read
NARROWEST = 20  # columns behind the bar: as much as the longest escape, and some
_TAB = 8  # columns, as every terminal has them
_WHOLE = re.compile(r"(?:[^\\]|\\(?:x.{2}|u.{4}|U.{8}|[^xuU]))*")  # does not end within an escape


class Shown(NamedTuple):
    """What is to be shown, without line ends, and whether there was more: then the last line says so."""

    lines: list[str]
    cut: bool


def shown(content: BinaryIO | bytes, limit: int, width: int = LINE) -> Shown:
    """Return the first `limit` bytes of `content` as lines to show; at most one byte more is read.

    Behind the bar, a line has at most `width` columns, NARROWEST or more. On a terminal that is what it has without the
    bar: what it wraps itself would begin a line without one. Raises OSError if `content` cannot be read.
    """
    data = content[: limit + 1] if isinstance(content, bytes) else _beginning(content, limit + 1)
    cut = len(data) > limit
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    # If there is more, a character whose end is beyond the limit is left out.
    text = decoder.decode(data[:limit].replace(b"\\", rb"\\"), final=not cut)
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]  # what follows the last line's end
    found = [
        BAR + piece for line in lines for piece in _pieces(escape(line.removesuffix("\r").expandtabs(_TAB)), width)
    ]
    return Shown([*found, f"… cut after {exactly(limit)}"] if cut else found, cut)


def _beginning(content: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := content.read(size - len(data))):  # a pipe gives what it has
        data += more
    return data


def _pieces(line: str, width: int) -> Iterator[str]:
    """Yield an escaped line in pieces of at most so many columns; an empty one too."""
    if not line.isascii() and any(map(_may_be_wide, line)):
        width //= 2  # each of its characters might be
    start = 0
    while len(line) - start > width:
        found = _WHOLE.match(line, start, start + width)
        end = found.end() if found else start + width
        yield line[start:end]
        start = end
    yield line[start:]


def _may_be_wide(character: str) -> bool:
    """Whether it takes two columns (Unicode Standard Annex 11), or makes the one before it do so."""
    return unicodedata.east_asian_width(character) in {"W", "F"} or character == "\ufe0f"
