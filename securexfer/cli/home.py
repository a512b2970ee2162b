"""Where a server's files live: certs/, users.db and inbox/ in one directory, which --home or SECUREXFER_HOME moves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Directory of certs/, users.db and inbox/. Default: SECUREXFER_HOME, else the current directory.",
    ),
]
CertsOption = Annotated[Path | None, typer.Option("--certs", metavar="DIR", help="Directory of the certificates.")]
UsersOption = Annotated[Path | None, typer.Option("--users", metavar="FILE", help="The users' database.")]


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of a server's files; `named` when somebody chose it, so that it may be trusted (see `trust`)."""

    directory: Path
    named: bool

    @classmethod
    def find(cls, context: typer.Context, home: Path | None) -> Home:
        """Return the home that the command names, or what stands before it, or the environment; else this directory."""
        # Not typer's `envvar`: at the command it would win over what stands before the command.
        chosen = home or context.find_root().obj or os.environ.get("SECUREXFER_HOME")
        return cls(Path(chosen or ".").absolute(), named=chosen is not None)

    @property
    def certs(self) -> Path:
        """The directory of the CA and the server's certificate."""
        return self.directory / "certs"

    @property
    def users(self) -> Path:
        """The users' database."""
        return self.directory / "users.db"

    @property
    def inbox(self) -> Path:
        """The directory that received files go to."""
        return self.directory / "inbox"
