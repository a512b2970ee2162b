"""What can be done with a stored file: one class for each word that rules may use."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from securexfer.errors import SecurexferError
from securexfer.opening.rules import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from securexfer.opening.limits import Limits
    from securexfer.opening.results import Result
    from securexfer.opening.sandbox import Sandbox

_PIECE = 65536


@dataclass(frozen=True)
class Opened:
    """What came of a file; see transfer.openings.Opened, whose words these are."""

    action: str
    how: str
    code: int = 0
    seconds: float = 0.0
    detail: str = ""
    output: bytes = b""
    cut: bool = False
    results: Sequence[Result] = field(default=())

    def close(self) -> None:
        """Let go of the results."""
        for result in self.results:
            result.file.close()


class Opens(Protocol):
    """One way to open a file."""

    @property
    def word(self) -> Action:
        """What rules call it."""
        ...

    def open(self, file: int, digest: bytes, beside: Path, cancelled: Callable[[], bool]) -> Opened:
        """Open what the descriptor `file` holds, which had this SHA-256 when it was verified.

        `beside` is the directory of the files that came with it; `cancelled` is asked again and again whether to go on.
        Raises SecurexferError or OSError if it cannot be opened.
        """
        ...


class Show:
    """Its beginning is shown."""

    word = Action.SHOW

    def __init__(self, limits: Limits) -> None:
        self._most = limits.show

    def open(
        self,
        file: int,
        digest: bytes,  # noqa: ARG002 - what is shown does nothing
        beside: Path,  # noqa: ARG002 - nor does it need others
        cancelled: Callable[[], bool],  # noqa: ARG002 - it takes no time
    ) -> Opened:
        """See Opens.open."""
        data = b""
        while len(data) <= self._most and (piece := os.pread(file, min(_PIECE, self._most + 1 - len(data)), len(data))):
            data += piece
        return Opened(self.word, "shown", output=data[: self._most], cut=len(data) > self._most)


class Run:
    """It is run in the sandbox."""

    word = Action.RUN

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def open(self, file: int, digest: bytes, beside: Path, cancelled: Callable[[], bool]) -> Opened:
        """See Opens.open."""
        ran = self._sandbox.run(file, digest, beside, cancelled)
        return Opened(self.word, ran.how, ran.exit_code or 0, ran.seconds, ran.detail, ran.output, ran.cut, ran.results)


def actions(limits: Limits, sandbox: Sandbox) -> dict[Action, Opens]:
    """Return what there is, by its word; `store` needs nothing."""
    found: list[Opens] = [Show(limits), Run(sandbox)]
    return {each.word: each for each in found}


def failed(action: str, error: SecurexferError | OSError) -> Opened:
    """Return that a file could not be opened, and why."""
    return Opened(action, "failed", detail=error.message if isinstance(error, SecurexferError) else str(error))
