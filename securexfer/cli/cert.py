"""`securexfer cert`: look at the server's certificate, or make a new one from the same CA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from securexfer.cli.home import CertsOption, Home, HomeOption
from securexfer.cli.terminal import note
from securexfer.names import show as shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

NameOption = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="HOST", help="A further name or address that clients use for this server."),
]


def tell(fingerprint: str, names: Sequence[str], not_after: datetime) -> None:
    """Print what everybody wants to know of a certificate."""
    print(f"CA fingerprint: {fingerprint}")
    print(f"Names: {', '.join(map(shown, names))}")
    print(f"Valid until: {day(not_after)}", flush=True)


def day(moment: datetime) -> str:
    """Return a date and time in UTC as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def show(
    context: typer.Context,
    pem: Annotated[
        bool, typer.Option("--pem", help="Print the CA's certificate, for `securexfer trust --ca -`.")
    ] = False,
    certs: CertsOption = None,
    home: HomeOption = None,
) -> None:
    """Show the CA's fingerprint, the server's names, and until when the certificates are valid."""
    from securexfer.certificates import ca_pem, describe

    directory = certs or Home.find(context, home).certs
    if pem:
        print(ca_pem(directory), end="")
        return
    found = describe(directory)
    tell(found.ca_fingerprint, found.names, found.not_after)
    print(f"Valid from: {day(found.not_before)}")
    print(f"CA valid until: {day(found.ca_not_after)}")
    print(f"Directory: {directory}")
    print(f"CA key: {'here' if found.has_ca_key else 'not here; cert renew needs it'}")


def renew(
    context: typer.Context,
    name: NameOption = None,
    if_needed: Annotated[
        bool,
        typer.Option("--if-needed", help="Only when less than a third of its life is left, or a name is missing."),
    ] = False,
    certs: CertsOption = None,
    home: HomeOption = None,
) -> None:
    """Make a new key and certificate for the server. The CA stays, so nobody has to trust again."""
    from securexfer import certificates

    issued = certificates.renew(certs or Home.find(context, home).certs, name or [], if_needed=if_needed)
    if issued is None:
        note("Not needed: the certificate has all names, and more than a third of its life is left.")
        return
    tell(issued.fingerprint, issued.names, issued.not_after)
    note("The CA is the same, so nobody has to trust again. A running `securexfer serve` picks this up by itself.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(no_args_is_help=True, help="Look at the server's certificate, or make a new one.")
    commands.command("show")(show)
    commands.command("renew")(renew)
    app.add_typer(commands, name="cert")
