"""What is done with a file of which extension, and how much that may take: defaults, and the file that changes them.

This is such a file, and says what holds without one:

    [actions]          # extension -> show, run or store; replaces this table as a whole
    ".txt" = "show"
    ".py" = "run"

    [limits]           # each by itself
    seconds = 30
    cpu_seconds = 10
    address_space = "512Mi"  # of each process
    memory = "1Gi"           # of all of them
    processes = 32
    descriptors = 64
    file_size = "16Mi"
    tmp = "16Mi"             # of /tmp
    results = "16Mi"         # of /out
    files = 100              # taken from there
    entries = 10000          # files and directories, in both
    output = "64Ki"
    script = "1Mi"
    show = "64Ki"
    queue = 100

Whoever can change it decides what is run, so it has to be ours or root's. It is read once.
"""

from __future__ import annotations

import enum
import tomllib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from securexfer.amounts import exactly, parse_size
from securexfer.errors import ConfigurationError
from securexfer.files import check_private, read_itself
from securexfer.names import show
from securexfer.opening.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Action(enum.StrEnum):
    """What is done with a file once it is stored."""

    SHOW = "show"  # its beginning, as text
    RUN = "run"  # in the sandbox
    STORE = "store"  # nothing more


# The least and the most that a file of rules may say: what is less lets nothing honest run, what is more is no limit.
_NUMBERS = {
    "seconds": (1, 3600),  # others wait meanwhile
    "cpu_seconds": (1, 3600),
    "processes": (2, 4096),  # the supervisor is one
    "descriptors": (16, 65_536),
    "files": (1, 10_000),
    "entries": (10, 1_000_000),
    "queue": (1, 10_000),  # each is an open file
}
_AMOUNTS = {
    "address_space": (64 << 20, 1 << 40),  # of which Python and a few of its modules take 16 MiB
    "memory": (64 << 20, 1 << 40),
    "tmp": (1 << 10, 64 << 30),
    "script": (1 << 10, 64 << 20),  # in the server's memory
    "file_size": (1 << 10, 1 << 40),
    "output": (1 << 10, 16 << 20),  # in the server's memory and its log, as what is shown
    "results": (1 << 10, 64 << 30),
    "show": (1 << 10, 16 << 20),
}

_ACTIONS: Mapping[str, Action] = MappingProxyType({".txt": Action.SHOW, ".py": Action.RUN})


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done with which extension (of lower case, dot included), and how much it may take."""

    actions: Mapping[str, Action] = field(default_factory=lambda: _ACTIONS)
    limits: Limits = field(default_factory=Limits)

    def __str__(self) -> str:
        """Return what is done, for a person: .txt (show), .py (run)."""
        return ", ".join(f"{extension} ({action})" for extension, action in self.actions.items())

    def action_for(self, name: str) -> Action:
        """Return what is done with a file of the stored name `name`.

        The last extension decides, to the letter: `x.PY`, `x.py.` and `x.py ` are stored and that is all, and so is
        `.py`, which is a name and no extension.
        """
        stem, _, extension = name.rpartition("/")[2].rpartition(".")
        return self.actions.get(f".{extension}", Action.STORE) if stem.strip(".") else Action.STORE


def read_rules(path: Path) -> Rules:
    """Return the rules in the file `path`; what it leaves out has its default.

    Raises ConfigurationError, which says what is wrong and what is allowed, also if others can change the file.
    """
    sections = _read(path)
    unknown = [section for section in sections if section not in {"actions", "limits"}]
    if unknown:
        raise _wrong(
            path, f"there is no section {show(unknown[0])!r}", "The sections there are: [actions] and [limits]."
        )
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise _wrong(
                path, f"{name} is {_told(section)}, and has to be a section", f"Write [{name}] above its lines."
            )
    rules = Rules(limits=_limits(path, sections.get("limits", {})))
    return Rules(_actions(path, sections["actions"]), rules.limits) if "actions" in sections else rules


def _read(path: Path) -> dict[str, Any]:
    try:
        check_private(path, "the file of rules", secret=False)
        return tomllib.loads(read_itself(path).decode())
    except OSError as error:
        raise ConfigurationError(
            f"the file of rules {path} cannot be read: {error.strerror}", hint="Check its path and its mode."
        ) from error
    except RecursionError:
        raise _wrong(path, "it is nested too deeply", "It has two sections, [actions] and [limits].") from None
    except ValueError as error:  # no UTF-8, no TOML, or a number of thousands of digits
        raise _wrong(path, f"it is not TOML: {show(str(error))}", "See https://toml.io for how to write it.") from None


def _actions(path: Path, section: Mapping[str, object]) -> Mapping[str, Action]:
    found = {}
    for extension, action in section.items():
        if not _is_extension(extension):
            raise _wrong(
                path,
                f"[actions] has {show(extension)!r}, which is no extension",
                'Allowed: a dot and then small letters, digits and the like, without another dot: ".py".',
            )
        if not isinstance(action, str) or action not in list(Action):
            raise _wrong(
                path,
                f"[actions] {show(extension)!r} is {_told(action)}, which is no action",
                f"Allowed: {', '.join(Action)}.",
            )
        found[extension] = Action(action)
    return MappingProxyType(found)


def _is_extension(text: str) -> bool:
    """Whether a name can end so: what is of upper case, has two dots or cannot be seen would never match."""
    return (
        len(text) > 1
        and text.startswith(".")
        and not set(text[1:]) & set("./\\ ")
        and text.isprintable()
        and text == text.lower()
    )


def _limits(path: Path, section: Mapping[str, object]) -> Limits:
    found: dict[str, Any] = {}
    for name, value in section.items():
        if name in _NUMBERS:
            least, most = _NUMBERS[name]
            number, allowed = _number(name, value), f"{least} to {most}"
        elif name in _AMOUNTS:
            least, most = _AMOUNTS[name]
            number, allowed = _amount(name, value), f'{exactly(least)} to {exactly(most)}, written as "64Ki" or "512M"'
        else:
            raise _wrong(
                path,
                f"[limits] has {show(name)!r}, which is no limit",
                f"The limits there are: {', '.join(Limits.__slots__)}.",
            )
        if number is None or not least <= number <= most:
            raise _wrong(path, f"[limits] {name} is {_told(value)}", f"Allowed: {allowed}.")
        found[name] = number
    return Limits(**found)


def _number(name: str, value: object) -> float | None:
    """Return a number as it stands in the file, or None; only time by the clock need not be whole."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int) or (isinstance(value, float) and name == "seconds"):
        return value
    return None


def _amount(name: str, value: object) -> float | None:
    """Return a number of bytes, written as a size or as digits alone, or None."""
    if not isinstance(value, str):
        return _number(name, value)
    try:
        return parse_size(value)
    except ValueError:
        return None


def _told(value: object) -> str:
    """Return how a value is written, roughly, for a person to find it."""
    try:
        return show(str(value).lower() if isinstance(value, bool) else repr(value), 60)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of far too many digits"


def _wrong(path: Path, what: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"the file of rules {path}: {what}", hint=allowed)
