"""An untrusted name becomes a safe one, or is refused.

A *name* is what a peer says: relative, made of components separated by ``/``. It is parsed once, at the
border; inside there are only `Name` values, which cannot be wrong. Storage still opens every component
from a held directory handle without following links: a check of the string is necessary, not sufficient.

Two policies:

* ``native`` refuses what is dangerous anywhere: empty, ``.`` and ``..`` components, absolute names, NUL,
  backslash, control characters, bidirectional controls, line separators, invisible tags, invalid UTF-8, a
  component over 255 bytes, more than 4096 bytes or 64 components, and the reserved staging name.
* ``portable`` also refuses what other systems cannot hold: ``: * ? " < > |``, Windows device names, a
  trailing dot or space, look-alikes of separators; storage adds: names that collide after folding.

Nothing is ever cut, stripped or normalised: a name is stored to the letter or not at all.
"""

from __future__ import annotations

import contextlib
import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securexfer.errors import UnsafeNameError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_COMPONENT_BYTES = 255  # NAME_MAX of every common file system
MAX_NAME_BYTES = 4096  # PATH_MAX on Linux
MAX_NUMBER = 1000  # of names that are numbered: `x (1)` to `x (1000)`
MAX_COMPONENTS = 64  # deeper trees than any source tree seen; bounds the handles walked for one file

# Where unfinished files live, under the root of the inbox. No peer can name it.
STAGING_NAME = ".securexfer-staging"

# C0, DEL, C1, backslash; Arabic letter mark, zero-width-free bidi controls (Unicode UAX 9, Trojan Source),
# line and paragraph separators, byte order mark, tags.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_DOTS = frozenset({".", ".."})
_UNPORTABLE = re.compile('[:*?"<>|]')
_SLASH_LOOKALIKES = re.compile("[\u2044\u2215\u29f8\uff0f\uff3c\ufe68\u29f5]")
# "Naming Files, Paths, and Namespaces", Microsoft Learn; the superscript digits fold to 1-3 under NFKC.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|com[0-9]|lpt[0-9])(?:[. ]|$)", re.IGNORECASE)


class NamePolicy(enum.StrEnum):
    """Which names a server accepts."""

    NATIVE = "native"
    PORTABLE = "portable"


@dataclass(slots=True, unsafe_hash=True)  # frozen it would take twice as long to make: nobody changes one
class Name:
    """A safe relative name: its components, outermost first. Only `Name.parse` and `Parent.parse` make one."""

    parts: tuple[str, ...]
    text: str = field(default="", compare=False, repr=False)  # the same in one, where that is known

    def __str__(self) -> str:
        return self.text or "/".join(self.parts)

    @classmethod
    def parse(cls, text: str, policy: NamePolicy = NamePolicy.NATIVE) -> Name:
        """Return the safe name that `text` is; raise UnsafeNameError, which says what is wrong with it."""
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise _refusal(text, "is not valid UTF-8") from None
        if len(encoded) > MAX_NAME_BYTES:
            raise _refusal(text, f"is {len(encoded)} bytes long; the limit is {MAX_NAME_BYTES}")
        if text.startswith("/"):
            raise _refusal(text, "is an absolute path")
        parts = tuple(text.split("/"))
        if len(parts) > MAX_COMPONENTS:
            raise _refusal(text, f"has {len(parts)} components; the limit is {MAX_COMPONENTS}")
        for part in parts:
            problem = _problem(part) or (_portability(part) if policy is NamePolicy.PORTABLE else None)
            if problem:
                raise _refusal(text, problem)
        if parts[0].casefold() == STAGING_NAME:
            raise _refusal(text, "is reserved for files that are not complete yet")
        return cls(parts, text)

    @classmethod
    def decode(cls, raw: bytes, policy: NamePolicy = NamePolicy.NATIVE) -> Name:
        """Return the safe name that these bytes spell in UTF-8; raise UnsafeNameError."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise _refusal(raw.decode(errors="backslashreplace"), "is not valid UTF-8") from None
        return cls.parse(text, policy)


class Parent:
    """The name of a directory, checked once: of each entry in it only the last component is looked at then.

    That is three times as fast as `Name.parse`, and says the same of every name, in the same words.
    """

    __slots__ = ("_parts", "_room", "_text", "text")

    def __init__(self, text: str = "") -> None:
        """Check the name of the directory; none is the root of all names. Raises UnsafeNameError."""
        self.text = text
        self._text = f"{text}/" if text else ""
        self._parts = Name.parse(text).parts if text else ()
        self._room = 0  # bytes for a last component; none without a directory, where one name is reserved
        if text and len(self._parts) < MAX_COMPONENTS:
            self._room = min(MAX_COMPONENT_BYTES, MAX_NAME_BYTES - len(self._text.encode()))

    @property
    def full(self) -> bool:
        """Whether no name in this directory is short enough: it has all the components or bytes a name may have."""
        return bool(self._text) and self._room < 1

    def parse(self, last: str) -> Name:
        """Return the safe name of an entry; raise UnsafeNameError as `Name.parse` does for the whole name."""
        text = self.name(last)
        return Name((*self._parts, last), text) if "/" not in last else Name.parse(text)

    def name(self, last: str) -> str:
        """Return the safe name of an entry; raise UnsafeNameError as `Name.parse` does for the whole name."""
        text = self._text + last
        # Whatever is not certain here is for the one who knows.
        if last.isascii() and last.isprintable():
            if 0 < len(last) <= self._room and "/" not in last and "\\" not in last and last not in _DOTS:
                return text
        elif _size(last) <= self._room and "/" not in last and not _DANGEROUS.search(last):
            return text
        Name.parse(text)
        return text


def numbered(name: Name) -> Iterator[Name]:
    """Yield the names to store a file under, in the order to try them, where its own is taken: `x (1).py`."""
    stem, dot, suffix = name.parts[-1].rpartition(".")
    if not stem:  # no dot, or only a leading one
        stem, dot, suffix = name.parts[-1], "", ""
    for number in range(1, MAX_NUMBER + 1):
        with contextlib.suppress(UnsafeNameError):  # too long with its number: then there is no such name
            yield Name.parse("/".join((*name.parts[:-1], f"{stem} ({number}){dot}{suffix}")))


def folded(component: str) -> str:
    """Return the form under which two components collide on a system that folds case or normalises."""
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", component).casefold())


def show(text: str, limit: int = 200) -> str:
    """Return `text` safe for a terminal and a log: escaped, on one line, cut with a mark after `limit`."""
    if text.isprintable() and "\\" not in text and len(text) <= limit:
        return text
    return escape(text[:limit].replace("\\", "\\\\")) + ("…" if len(text) > limit else "")


def escape(text: str) -> str:
    """Return `text` with an escape for whatever could move, hide or change something where it is shown.

    A backslash stays one: who has to tell an escape from what was written doubles those that were.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", errors="surrogatepass").decode()


def _refusal(text: str, why: str) -> UnsafeNameError:
    return UnsafeNameError(f"the name {show(text)!r} is refused: it {why}")


def _size(text: str) -> int:
    """Return how many bytes of UTF-8 `text` is, or more than there is room for if it cannot be encoded."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_NAME_BYTES


def _problem(part: str) -> str | None:
    if part == "":
        return "has an empty component"
    if part in {".", ".."}:
        return f"has the component {part!r}"
    found = _DANGEROUS.search(part)
    if found:
        return f"has the character U+{ord(found[0]):04X}, which is never stored"
    size = len(part.encode())
    if size > MAX_COMPONENT_BYTES:
        return f"has a component of {size} bytes; the limit is {MAX_COMPONENT_BYTES}"
    return None


def _portability(part: str) -> str | None:
    import unicodedata

    # What another system makes of the name decides, so look at the compatibility form as well: full-width
    # dots, superscript digits of device names, a no-break space at the end.
    for form in (part, unicodedata.normalize("NFKC", part)):
        found = _UNPORTABLE.search(form) or _SLASH_LOOKALIKES.search(form)
        if found or "/" in form or "\\" in form:
            return f"has the character {found[0] if found else '/'!r}, which not every system can store"
        if form.endswith((".", " ")) or form.startswith(" "):
            return "begins or ends with a space or ends with a dot, which not every system can store"
        if _DEVICE.match(form):
            return "is a device name on Windows"
    return None
