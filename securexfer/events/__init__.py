"""Frozen records of what happened, for whoever watches: the log, the progress display, `--json`.

No event ever holds a secret, and text from a peer stands in it as it came: who shows it escapes it. The
`kind` is the word that the log uses for it. `serving` has what happens on a server, `sending` what happens on
a client, which never pays for importing the former.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class Event:
    """Something happened."""

    kind: ClassVar[str] = ""
    level: ClassVar[str] = "info"


Observer = Callable[[Event], None]
