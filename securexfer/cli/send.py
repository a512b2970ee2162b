"""`securexfer send`: the files, where to, and what became of each."""

# Without `from __future__ import annotations`: typer would have to compile each of them anew, 1 ms at every start.
import itertools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from securexfer.cli.amounts import finite, parse_rate
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
    from securexfer.cli.tally import Selection
    from securexfer.client import Target
    from securexfer.transfer.items import Item


Conflict = Literal["refuse", "rename", "replace", "skip"]
Symlinks = Literal["skip", "follow"]


def send(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", readable=False, help="The files and directories to send.")
    ],
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
        Conflict | None,
        typer.Option("--on-conflict", help="When other content stands under the name. [the server decides]"),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave out what matches; may be repeated.")
    ] = None,
    symlinks: Annotated[
        Symlinks, typer.Option("--symlinks", help="Follow symbolic links that stay inside the tree sent.")
    ] = "skip",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask what would become of the files; send none.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file, also those known to be there.")] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="RATE", parser=parse_rate, help="Bytes a second at most, as in 500k, 20M."),
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, max=1000, help="How often a lost connection is made again.")
    ] = 5,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", callback=finite, min=1, max=3600, metavar="SECONDS", help="How long the server may be silent."
        ),
    ] = 60.0,
    protocol: Annotated[
        int | None, typer.Option("--protocol", min=1, max=2, metavar="1|2", help="[2 if the server speaks it]")
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Have the files stored and nothing else, whatever the server opens.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="DIR", help="Store there what scripts leave in /out on the server."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    home: HomeOption = None,
) -> None:
    """Send files and directories to a server. Success means: stored there, verified by SHA-256, on disk."""
    from securexfer import client
    from securexfer.cli.report import Report
    from securexfer.net.tls import client_context
    from securexfer.transfer.wishes import Wishes

    if results and no_open:
        raise UsageError(
            "--results is what comes of opening, and --no-open does without", hint="Leave one of them out."
        )
    wishes = Wishes(protocol, on_conflict, retries, timeout, limit, rehash, dry_run, not no_open, results)
    wishes.check()
    goal = client.parse_target(target)
    selection = _select(paths, goal.directory, tuple(exclude or ()), follow=symlinks == "follow", protocol=protocol)
    authorities, user = _trust(context, home, goal, ca, ca_fingerprint, quiet=quiet)
    trusted = client_context(authorities, client.protocols(wishes.protocol))
    report = Report(goal.address, selection, as_json=json, quiet=quiet, dry_run=dry_run, results=results)
    items = report.follow(selection.items)
    if selection.left_out is None:  # plain files: what is wrong with them is said first, and all of them are told of
        items = iter(list(items))
    outcome: SecurexferError | None = None
    try:
        first = next(items, None)
        if first:
            first.seen = None  # by the time that somebody has typed a password, it may have changed
            prompt = f"Password of {user} on {goal.host}"
            password = obtain_password(prompt, from_stdin=password_stdin, file=password_file)
            with report:
                client.send(goal, trusted, (user, password), itertools.chain((first,), items), report, wishes)
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


def _select(
    paths: list[Path], directory: str, exclude: tuple[str, ...], *, follow: bool, protocol: int | None
) -> "Selection":
    """Return what is to be sent. Plain files are looked at here and now, trees as they are sent.

    Raises UsageError for two arguments with one name, and for what only makes sense with trees where there are none.
    """
    from securexfer.cli.tally import Selection
    from securexfer.names import show
    from securexfer.transfer.items import top_name

    names: dict[str, Path] = {}
    for path in paths:
        # The last component as typed. What has none (`.`) gives its contents, whose names are not known here.
        last = top_name(path)
        name = f"{directory}/{last}" if directory else last
        if last and names.setdefault(name, path) is not path:
            raise UsageError(
                f"{show(str(names[name]))} and {show(str(path))} would both be stored as {show(name)}",
                hint="Send one of them to another directory: HOST/DIRECTORY",
            )
    if protocol == 1 and (exclude or follow):
        option = "--exclude" if exclude else "--symlinks follow"
        raise UsageError(
            f"{option} is for directory trees, which protocol 1 cannot send", hint="Leave --protocol 1 out."
        )
    if exclude or follow or (protocol != 1 and any(stat.S_ISDIR(_mode(path)) for path in paths)):
        from securexfer.transfer.tree import LeftOut, ScanRules, scan

        rules, left_out = ScanRules(directory, exclude, follow), LeftOut()
        return Selection(scan(paths, rules, left_out), lambda: scan(paths, rules, LeftOut()), left_out)
    items = [_plain(path, directory, classroom=protocol == 1) for path in paths]
    return Selection(items, lambda: items, alone=len(items) == 1)


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _plain(path: Path, directory: str, *, classroom: bool) -> "Item":
    """Return a plain file with its destination name; what cannot be sent, by `classroom` rules too, has its error."""
    from securexfer.names import Name, show
    from securexfer.transfer.items import Item
    from securexfer.transfer.sources import unsendable
    from securexfer.wire.framing import FileHeader

    item = Item(path, f"{directory}/{path.name}" if directory else path.name)
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise unsendable(path, found.st_mode)
        item.size, item.mtime_ns = found.st_size, found.st_mtime_ns
        item.executable = found.st_mode & stat.S_IXUSR != 0
        name = Name.parse(item.name)
        if classroom:
            FileHeader.of(str(name), item.size)
    except OSError as error:
        item.error = SourceError(f"{show(str(path))} cannot be sent: {error.strerror}")
    except SecurexferError as error:
        item.error = error
    return item


def _trust(
    context: typer.Context,
    home: Path | None,
    goal: "Target",
    ca: Path | None,
    ca_fingerprint: str | None,
    *,
    quiet: bool,
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
