"""`securexfer doctor`: what this machine offers, and what is wrong with the set-up, each with the mend."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from securexfer.cli.home import CertsOption, Home, HomeOption, UsersOption
from securexfer.errors import ConfigurationError, SecurexferError
from securexfer.privileges import acting_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SOON_DAYS = 30  # as `serve` starts to warn


def doctor(
    context: typer.Context, certs: CertsOption = None, users: UsersOption = None, home: HomeOption = None
) -> None:
    """Say what this machine offers and what is wrong with the set-up. Exit code 2 if anything is."""
    place = Home.find(context, home)
    wrong = 0
    checks: list[tuple[str, Callable[[], str]]] = [("TLS", _tls), ("servers trusted", _profiles)]
    serves = sys.platform != "win32" and (place.certs.is_dir() or place.users.exists())
    if serves:
        checks += [
            ("certificate", lambda: _certificate(certs or place.certs)),
            ("users", lambda: _users(users or place.users)),
            ("inbox", lambda: _inbox(place.inbox)),
        ]
    else:
        print(f"server: none in {place.directory} (`securexfer init` makes one there)")
    for subject, check in checks:
        try:
            print(f"ok     {subject}: {check()}")
        except SecurexferError as error:
            wrong += 1
            print(f"wrong  {subject}: {error.message}")
            print(f"       {error.hint}")
    if serves:
        _tell_of_opening(place.directory)
    if wrong:
        raise ConfigurationError(f"{wrong} of {len(checks)} checks failed", hint="Each says above how to mend it.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def _tell_of_opening(home: Path) -> None:
    """Say whether `serve --open` would work here. That it would not is wrong only for who wants it."""
    from securexfer.cli.opening import prove

    try:
        print(f"ok     opening: `serve --open` can run scripts in a sandbox{prove(home)}")
    except SecurexferError as error:
        print(f"no     opening: {error.message}")
        print(f"       {error.hint}")


def _tls() -> str:
    from securexfer.net.tls import offer

    return f"Python {platform.python_version()}, {offer()}"


def _profiles() -> str:
    from securexfer.profiles import Profile, fingerprints

    found = [f"{each.address} ({fingerprints(each.authorities)[0][:16]}…)" for each in Profile.all()]
    return ", ".join(found) or "none yet (`securexfer trust HOST`)"


def _certificate(directory: Path) -> str:
    from securexfer.certificates import default_names, load

    with acting_for(directory):
        found = load(directory)
    left = (found.not_after - datetime.now(UTC)).days
    if left < _SOON_DAYS:
        raise ConfigurationError(f"it ends in {left} days", hint="securexfer cert renew (nobody has to trust again)")
    missing = [name for name in default_names() if name not in found.names]
    if missing:
        names = " ".join(f"--name {name}" for name in missing)
        raise ConfigurationError(
            f"it lacks {', '.join(missing)}, by which this machine can be reached",
            hint=f"securexfer cert renew {names}",
        )
    where = f"the CA's key is in {directory}" if found.has_ca_key else "the CA's key is kept elsewhere; renew needs it"
    return f"for {', '.join(found.names)}; {left} days left; {where} (it may live on another machine)"


def _users(database: Path) -> str:
    from securexfer.accounts.database import Accounts

    with acting_for(database.parent), Accounts.open(database) as accounts:
        users = accounts.all()
    if not users:
        raise ConfigurationError(f"{database} has no users", hint="securexfer user add NAME")
    return f"{len(users)} in {database}, {sum(user.disabled for user in users)} of them disabled"


def _inbox(directory: Path) -> str:
    """Try what a commit needs: a file, a second link to it, and a sync of the directory."""
    from securexfer.storage import nameless  # whoever the inbox is owned by may not be able to read this program

    if not directory.is_dir():
        return f"{directory} will be made by `securexfer serve`"
    probe = directory / f".securexfer-doctor-{secrets.token_hex(4)}"
    second = probe.with_suffix(".link")
    with acting_for(directory):
        try:
            probe.touch(mode=0o600, exist_ok=False)
            second.hardlink_to(probe)
            second.unlink()
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                give_name = nameless.way(handle, second.name)
            finally:
                os.close(handle)
        except OSError as error:
            raise ConfigurationError(
                f"{directory} cannot hold received files: {error.strerror}",
                hint="Use a directory that this user can write, on a file system with hard links: serve --inbox DIR",
            ) from error
        finally:
            second.unlink(missing_ok=True)
            probe.unlink(missing_ok=True)
    found = os.statvfs(directory)
    how = "have no name until they are stored" if give_name else "are staged by name"
    return f"{directory}, {found.f_bavail * found.f_frsize / 1e9:.1f} GB free; small files {how}"
