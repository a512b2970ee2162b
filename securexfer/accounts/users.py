"""What a user is, and what one may be called."""

from __future__ import annotations

import enum
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securexfer.errors import UsageError
from securexfer.names import show

if TYPE_CHECKING:
    from datetime import datetime

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
NAME_RULE = "A user name is 1 to 32 of a-z, 0-9, dot, dash and underscore, beginning with a letter or a digit."


class Permission(enum.StrEnum):
    """What a user may beyond sending files. Nobody may at first."""

    OPEN = "open"  # have what they send shown or run by a server that opens files at all


@dataclass(frozen=True, slots=True)
class User:
    """A user as the database holds them.

    `changed` is when somebody last set the password, disabled or enabled the user, or allowed or denied something.
    """

    name: str
    hash: str | None = field(repr=False)  # None: may not log in with a password
    disabled: bool
    created: datetime
    changed: datetime
    failures: int = 0  # logins that strangers failed in a row
    permissions: frozenset[Permission] = frozenset()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a source stands with an account (see guessing.py): what of that outlives a restart.

    `failures` are those of strangers in a row; they are void, and counted anew, with every `epoch`. `seen` is when the
    user last logged in from there, if `known`: see `today`.
    """

    exists: bool = False
    known: bool = False
    failures: int = 0
    epoch: int = 0
    seen: int = 0


def today() -> int:
    """Return the number of days since 1970, which is as exactly as it is noted where users log in from."""
    return int(time.time() / 86_400)


def is_user_name(text: str) -> bool:
    """Whether a user may have this name: lower case only, so that no two differ by case alone."""
    return _NAME.fullmatch(text) is not None


def check_user_name(name: str) -> None:
    """Raise UsageError unless a user may have this name."""
    if not is_user_name(name):
        raise UsageError(f"{show(name)!r} is not an allowed user name", hint=NAME_RULE)
