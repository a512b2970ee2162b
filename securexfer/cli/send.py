"""`securexfer send`: the files, where to, and what became of each."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securexfer.cli.home import Home, HomeOption
from securexfer.cli.passwords import PasswordFileOption, PasswordStdinOption, obtain_password
from securexfer.cli.terminal import note
from securexfer.errors import (
    ConfigurationError,
    InterruptedTransferError,
    SecurexferError,
    SourceError,
    UntrustedServerError,
    UsageError,
)

if TYPE_CHECKING:
    from securexfer.client import Target
    from securexfer.transfer.items import Item


def send(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", readable=False, help="The files to send.")],
    target: Annotated[str, typer.Argument(metavar="[USER@]HOST[:PORT][/DIRECTORY]", help="Where to send them.")],
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", readable=False, help="Trust this CA, not the saved one.")
    ] = None,
    ca_fingerprint: Annotated[
        str | None, typer.Option("--ca-fingerprint", metavar="SHA256", help="The CA must have this fingerprint.")
    ] = None,
    password_stdin: PasswordStdinOption = False,
    password_file: PasswordFileOption = None,
    on_conflict: Annotated[
        str | None,
        typer.Option("--on-conflict", metavar="refuse|rename|replace|skip", help="Needs protocol 2."),
    ] = None,
    protocol: Annotated[int, typer.Option("--protocol", metavar="1", help="Protocol version: 1.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    home: HomeOption = None,
) -> None:
    """Send files to a server. Success means: stored there, verified by SHA-256, on disk."""
    from securexfer import client
    from securexfer.cli.report import Report
    from securexfer.net.tls import client_context

    if protocol != 1:
        raise UsageError(f"protocol {protocol} is not spoken by this version", hint="Leave --protocol out.")
    if on_conflict:
        raise UsageError(
            "--on-conflict needs protocol 2, which this version does not speak",
            hint="Leave it out. The server's own policy is an option of `securexfer serve`.",
        )
    goal = client.parse_target(target)
    items = _items(paths, goal.directory)
    authorities, user = _trust(context, home, goal, ca, ca_fingerprint, quiet=quiet)
    trusted = client_context(authorities, client.PROTOCOLS)
    report = Report(items, goal.address, as_json=json, quiet=quiet)
    for item in items:
        if item.error:
            report.ended(item)
    outcome: SecurexferError | None = None
    try:
        if any(item.open for item in items):
            prompt = f"Password of {user} on {goal.host}"
            password = obtain_password(prompt, from_stdin=password_stdin, file=password_file)
            with report:
                client.send(goal, trusted, (user, password), items, report)
    except (UsageError, ConfigurationError):  # about the command, not about any file
        raise
    except SecurexferError as error:
        outcome = error
    except KeyboardInterrupt:
        outcome = InterruptedTransferError("interrupted")
    failure = report.finish(outcome)
    if failure:
        raise failure


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("send")(send)


def _items(paths: list[Path], directory: str) -> list[Item]:
    """Return what is to be sent, each with its destination name; what cannot be sent has its error already.

    Raises UsageError for two files with one name.
    """
    from securexfer.names import Name, show
    from securexfer.transfer.items import Item
    from securexfer.transfer.sources import unsendable
    from securexfer.wire.framing import FileHeader, encode_count

    encode_count(len(paths))
    items: list[Item] = []
    names: dict[str, Path] = {}
    for index, path in enumerate(paths):
        # The last component as typed: `send .` has none, and is a directory anyway.
        name = f"{directory}/{path.name}" if directory else path.name
        if names.setdefault(name, path) is not path:
            raise UsageError(
                f"{show(str(names[name]))} and {show(str(path))} would both be stored as {show(name)}",
                hint="Send one of them to another directory: HOST/DIRECTORY",
            )
        item = Item(path, name, index=index)
        items.append(item)
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise unsendable(path, found.st_mode)
            item.size = found.st_size
            FileHeader.of(str(Name.parse(name)), item.size)
        except OSError as error:
            item.error = SourceError(f"{show(str(path))} cannot be sent: {error.strerror}")
        except SecurexferError as error:
            item.error = error
    return items


def _trust(
    context: typer.Context, home: Path | None, goal: Target, ca: Path | None, ca_fingerprint: str | None, *, quiet: bool
) -> tuple[str, str]:
    """Return the CA to trust (PEM) and the user to log in as."""
    from securexfer import client, profiles

    profile = profiles.Profile.find(goal.host, goal.port)
    user = goal.user or (profile.user if profile else None) or client.login_name()
    fingerprint = profiles.parse_fingerprint(ca_fingerprint) if ca_fingerprint is not None else None
    if ca:
        authorities = profiles.read_authorities(ca)
    elif profile:
        authorities = profile.authorities
    elif (own := _own_authority(Home.find(context, home))) is not None:
        authorities = profiles.read_authorities(own)
    elif fingerprint:
        authorities = client.fetch_authority(goal, fingerprint)
    else:
        raise UntrustedServerError(
            f"this machine does not know whom to trust as {goal.host}",
            hint=f"Once: securexfer trust {goal.address} (`securexfer serve` prints the whole line there)",
        )
    if fingerprint:
        authorities = profiles.pinned(authorities, fingerprint)
    elif not profile and not quiet:
        for each in profiles.fingerprints(authorities):
            note(f"Trusting the CA with fingerprint {each}")
    return authorities, user


def _own_authority(home: Home) -> Path | None:
    """Return the CA of the server whose files are here, if somebody named the place or the server is this user's.

    A ca.pem that merely lies in the current directory, a shared folder perhaps, is no reason to trust anybody.
    """
    authority, key = home.certs / "ca.pem", home.certs / "server.key"
    if not authority.is_file():
        return None
    if home.named:
        return authority
    ours = hasattr(os, "geteuid") and key.is_file() and key.stat().st_uid == os.geteuid()
    return authority if ours else None
