"""`securexfer user`: who may log in, and what else they may, kept in the users' database of a server.

In force at once, without a restart.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securexfer.cli.home import Home, HomeOption, UsersOption
from securexfer.cli.passwords import PasswordFileOption, PasswordStdinOption, obtain_password
from securexfer.cli.terminal import note
from securexfer.errors import ConfigurationError, UsageError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from securexfer.accounts.database import Accounts
    from securexfer.accounts.roster import Roster
    from securexfer.accounts.users import Permission, User

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
PermissionArgument = Annotated[
    str,
    typer.Argument(
        metavar="PERMISSION", help="open: what the user sends is opened, by `serve --open`.", show_default=False
    ),
]


def add(
    context: typer.Context,
    name: NameArgument,
    password_stdin: PasswordStdinOption = False,
    password_file: PasswordFileOption = None,
    users: UsersOption = None,
    home: HomeOption = None,
) -> None:
    """Add a user. Makes the users' database if there is none."""
    from securexfer.accounts.passwords import PasswordHash
    from securexfer.accounts.users import check_user_name

    check_user_name(name)
    path = _database(context, users, home)
    first = not os.path.lexists(path)
    if not first:
        with _opened(path) as accounts:
            if accounts.find(name):
                raise accounts.taken(name)
    password = str(PasswordHash.make(_new_password(name, from_stdin=password_stdin, file=password_file)))
    with _opened(path, make=True) as accounts:
        accounts.add(name, password)
    note(f"{name} can log in now (users' database: {path}).")
    if first and not users:
        where = "" if path.parent == Path.cwd() else f" --home {shlex.quote(str(path.parent))}"
        note(f"Next: securexfer serve{where}")


def passwd(
    context: typer.Context,
    name: NameArgument,
    password_stdin: PasswordStdinOption = False,
    password_file: PasswordFileOption = None,
    users: UsersOption = None,
    home: HomeOption = None,
) -> None:
    """Set a new password for a user."""
    from securexfer.accounts.passwords import PasswordHash

    path = _database(context, users, home)
    with _opened(path) as accounts:
        if not accounts.find(name):
            raise accounts.unknown(name)
    password = str(PasswordHash.make(_new_password(name, from_stdin=password_stdin, file=password_file)))
    with _opened(path) as accounts:
        accounts.set_password(name, password)
    note(f"{name} has a new password; the old one is refused from now on.")


def remove(context: typer.Context, name: NameArgument, users: UsersOption = None, home: HomeOption = None) -> None:
    """Remove a user. Files that the user has sent stay."""
    with _opened(_database(context, users, home)) as accounts:
        accounts.remove(name)
    note(f"{show(name)} is removed and can log in no more; files in the inbox stay.")


def disable(context: typer.Context, name: NameArgument, users: UsersOption = None, home: HomeOption = None) -> None:
    """Let a user log in no more, without forgetting the password."""
    with _opened(_database(context, users, home)) as accounts:
        accounts.disable(name)
        note(f"{name} can log in no more. To undo it: {accounts.command(f'enable {name}')}")


def enable(context: typer.Context, name: NameArgument, users: UsersOption = None, home: HomeOption = None) -> None:
    """Let a user log in again who was disabled, or at whom others have guessed too often."""
    with _opened(_database(context, users, home)) as accounts:
        accounts.enable(name)
    note(f"{name} can log in again, from everywhere, with the password from before.")


def allow(
    context: typer.Context,
    name: NameArgument,
    permission: PermissionArgument,
    users: UsersOption = None,
    home: HomeOption = None,
) -> None:
    """Let a user do more than send files. Nobody may at first."""
    with _opened(_database(context, users, home)) as accounts:
        allowed = _permission(permission, accounts, "allow")
        accounts.allow(name, allowed)
        note(f"What {name} sends is opened from now on, if the server was started with --open.")
        note(f"To undo it: {accounts.command(f'deny {name} {allowed}')}")


def deny(
    context: typer.Context,
    name: NameArgument,
    permission: PermissionArgument,
    users: UsersOption = None,
    home: HomeOption = None,
) -> None:
    """Take a permission from a user."""
    with _opened(_database(context, users, home)) as accounts:
        denied = _permission(permission, accounts, "deny")
        accounts.deny(name, denied)
        note(f"What {name} sends is stored and never opened. To undo it: {accounts.command(f'allow {name} {denied}')}")


def list_users(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    users: UsersOption = None,
    home: HomeOption = None,
) -> None:
    """List the users."""
    with _opened(_database(context, users, home)) as accounts:
        found = accounts.all()
        if not found:
            note(f"There are no users yet. Add the first: {accounts.command('add NAME')}")
    if as_json:
        for user in found:
            times = {"created": user.created.isoformat(), "changed": user.changed.isoformat()}
            told = {"user": user.name, "state": _state(user), "permissions": sorted(user.permissions)}
            print(json.dumps({**told, "failures": user.failures, **times}))
    elif found:
        _show_table(
            [(show(user.name), _described(user), *_times(user), ", ".join(sorted(user.permissions))) for user in found]
        )


def import_roster(
    context: typer.Context,
    roster: Annotated[Path, typer.Argument(metavar="ROSTER.csv", help="A CSV file with the column `user`.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where the passphrases go. Default: ROSTER-passphrases.csv"),
    ] = None,
    users: UsersOption = None,
    home: HomeOption = None,
) -> None:
    """Add the users of a class list, each with a passphrase made here.

    Users who are there already are left alone. The passphrases are written once, to a new private file.
    """
    from securexfer.accounts.passwords import make_passphrase
    from securexfer.accounts.roster import Roster

    listed = Roster.read(roster)
    slips = out or roster.with_name(f"{roster.stem}-passphrases.csv")
    path = _database(context, users, home)
    with _opened(path, make=True) as accounts:
        there = {user.name for user in accounts.all()}
    passphrases = {name: make_passphrase() for name in listed.users if name not in there}
    added: list[str] = []
    if passphrases:
        _refuse_taken(slips)
        hashes = _hash_all(passphrases)
        with _opened(path) as accounts:
            added = accounts.add_all(
                hashes, lambda names: _write(slips, listed, {name: passphrases[name] for name in names})
            )
    note(f"Users added: {len(added)}; there already and left as they were: {len(listed.users) - len(added)}.")
    if added:
        note(f"Their passphrases are in {slips}. Give each user theirs, then delete that file.")


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Say who may log in, and what else they may.")
    group.command("add")(add)
    group.command("passwd")(passwd)
    group.command("remove")(remove)
    group.command("list")(list_users)
    group.command("disable")(disable)
    group.command("enable")(enable)
    group.command("allow")(allow)
    group.command("deny")(deny)
    group.command("import")(import_roster)
    app.add_typer(group, name="user")


def _database(context: typer.Context, users: Path | None, home: Path | None) -> Path:
    return users or Home.find(context, home).users


@contextlib.contextmanager
def _opened(path: Path, *, make: bool = False) -> Iterator[Accounts]:
    """Open the users' database for the block, made where missing if `make`; root acts for the owner of its directory.

    What reads or writes anything else stays outside: that owner may have no right to it.
    """
    from securexfer.accounts.database import Accounts
    from securexfer.privileges import acting_for

    with acting_for(path.parent), Accounts.create(path) if make else Accounts.open(path) as accounts:
        yield accounts


def _permission(word: str, accounts: Accounts, command: str) -> Permission:
    from securexfer.accounts.users import Permission

    try:
        return Permission(word)
    except ValueError:
        raise UsageError(
            f"there is no permission {show(word)!r}; the one there is: {Permission.OPEN}",
            hint=f"Write it behind the user's name: {accounts.command(f'{command} NAME {Permission.OPEN}')}",
        ) from None


def _new_password(name: str, *, from_stdin: bool, file: Path | None) -> str:
    from securexfer.accounts.passwords import SHORT, is_short, new_password

    prompt = f"New password of {name}"
    password = new_password(obtain_password(prompt, from_stdin=from_stdin, file=file, confirm=True), name)
    if is_short(password):
        note(f"Warning: {len(password)} characters are few; {SHORT} or more withstand guessing much better.")
    return password


def _state(user: User) -> str:
    if user.disabled:
        return "disabled"
    return "active" if user.hash else "no password"


def _described(user: User) -> str:
    failed = f", {user.failures} failed logins" if user.failures else ""
    return _state(user) + failed


def _times(user: User) -> tuple[str, str]:
    created, changed = (moment.astimezone().strftime("%Y-%m-%d %H:%M") for moment in (user.created, user.changed))
    return created, changed


def _show_table(rows: list[tuple[str, str, str, str, str]]) -> None:
    header = ("user", "state", "created", "changed", "may")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        Console(markup=False, emoji=False, highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _hash_all(passphrases: dict[str, str]) -> dict[str, str]:
    """Return user name -> hash; shows how far it is on a terminal, since each takes a tenth of a second."""
    from rich.console import Console
    from rich.progress import track

    from securexfer.accounts.passwords import PasswordHash

    console = Console(stderr=True)
    shown = track(
        passphrases.items(), "Hashing the passphrases", console=console, transient=True, disable=not console.is_terminal
    )
    return {name: str(PasswordHash.make(passphrase)) for name, passphrase in shown}


def _refuse_taken(slips: Path) -> None:
    """Say before the long work what could only fail after it."""
    if os.path.lexists(slips):
        raise UsageError(
            f"{slips} is there already, and holds passphrases perhaps",
            hint="Move it away, or name another file with --out FILE.",
        )
    if not os.access(slips.absolute().parent, os.W_OK | os.X_OK):
        raise UsageError(f"no file can be made in {slips.absolute().parent}", hint="Name another with --out FILE.")


def _write(slips: Path, roster: Roster, passphrases: dict[str, str]) -> None:
    """Make the passphrases durable. They come before the users: no user is added whose passphrase nobody has."""
    from securexfer.files import create_private
    from securexfer.privileges import as_ourselves

    with as_ourselves():
        try:
            create_private(slips, roster.with_passphrases(passphrases))
        except OSError as error:
            if not isinstance(error, FileExistsError):
                with contextlib.suppress(OSError):
                    slips.unlink()  # incomplete, and in the way of the next try
            raise ConfigurationError(
                f"the passphrases cannot be written to {slips}: {error.strerror}; no user was added",
                hint="Name another file with --out FILE.",
            ) from error
