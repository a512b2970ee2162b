"""`securexfer init`: make the CA and this server's certificate."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from securexfer.cli.cert import NameOption, tell
from securexfer.cli.home import CertsOption, Home, HomeOption
from securexfer.cli.terminal import note


def init(
    context: typer.Context,
    name: NameOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Make a new CA, which everybody has to trust anew; keep the old as a backup."),
    ] = False,
    certs: CertsOption = None,
    home: HomeOption = None,
) -> None:
    """Make the CA and this server's certificate."""
    from securexfer.certificates import initialising

    found = Home.find(context, home)
    with initialising(certs or found.certs, name or [], force=force) as issued:
        tell(issued.fingerprint, issued.names, issued.not_after)
        print("Next:")
        for line in _next_commands(found, certs):
            print(f"  {line}", flush=True)
        if issued.finished:
            note("This finishes what an earlier command had begun before it was killed.")
        if issued.backup:
            note(f"The old files are in {issued.backup}.")
            note(
                "The old CA and all it vouched for are invalid: every machine that trusted this server has to trust it"
            )
            note("again, with the new fingerprint. Until then `securexfer send` ends there with exit code 3.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def _next_commands(home: Home, certs: Path | None) -> list[str]:
    """Return what to type next, to the same files that this command used."""
    program = f"securexfer --home {shlex.quote(str(home.directory))}" if home.named else "securexfer"
    option = f" --certs {shlex.quote(str(certs.absolute()))}" if certs else ""
    return [f"{program} user add NAME", f"{program} serve{option}"]
