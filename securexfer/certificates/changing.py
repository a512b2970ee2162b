"""What `init` and `cert renew` do to a server's directory: one change each, with a copy of every key it replaces."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING

from securexfer import files
from securexfer.certificates.making import Pair, der, fingerprint, make_ca, make_leaf, names_in
from securexfer.certificates.reading import (
    CA_KEY,
    CA_PEM,
    FILES,
    SERVER_KEY,
    SERVER_PEM,
    alone_in,
    command,
    read_ca,
    read_certificate,
    read_plain,
    read_usable,
    told,
)
from securexfer.errors import ConfigurationError
from securexfer.hosts import default_names, is_address, parse_name
from securexfer.privileges import acting_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Issued:
    """What `initialise` or `renew` made."""

    fingerprint: str  # of the CA
    names: tuple[str, ...]  # as in the certificate
    not_after: datetime
    backup: Path | None = None  # the directory with copies of what --force replaced
    finished: bool = False  # a command that was killed had begun this


def initialise(directory: Path, names: Sequence[str], *, force: bool) -> Issued:
    """Make a CA and a server's certificate in `directory`: `initialising`, where nothing needs telling."""
    with initialising(directory, names, force=force) as issued:
        return issued


@contextlib.contextmanager
def initialising(directory: Path, names: Sequence[str], *, force: bool) -> Iterator[Issued]:
    """Make a CA and a server's certificate in `directory`, for this machine's names and `names`.

    What was made is to be told inside the block: if the process is killed before the block ends, another call finishes
    the work and yields the same. Raises ConfigurationError and changes nothing if any of the four files is there,
    unless `force`: then they are copied to a backup directory first.
    """
    asked, own = [parse_name(name) for name in names], default_names()
    # Alone until it is told: another call would take this one for interrupted.
    with acting_for(directory), contextlib.ExitStack() as alone:
        with told(directory):
            _make_ours(directory)
            if alone.enter_context(alone_in(directory)) and not force:
                issued = _finish(directory, asked, own)
            else:
                issued = _initialise(directory, asked, own, force=force)
        yield issued
        files.settle(directory)


def renew(directory: Path, names: Sequence[str], *, if_needed: bool) -> Issued | None:
    """Make a new key and certificate for the server, from the CA that is there; None if `if_needed` and it is not.

    The names of the old certificate stay (see `_all_names`), those of this machine and `names` are added. The old pair
    is kept as server.old.pem and server.old.key, until the next time. It is needed when less than a third of the
    certificate's life is left, when it lacks one of those names, or when `load` would refuse it.
    """
    asked, own = [parse_name(name) for name in names], default_names()
    with acting_for(directory), told(directory), alone_in(directory):
        issued = _renew(directory, asked, own, if_needed=if_needed)
        files.settle(directory)
    return issued


def _make_ours(directory: Path) -> None:
    files.make_private_directory(directory)
    try:
        files.check_not_shared(directory, "the keys")
    except ConfigurationError:
        # A clone made under umask 002, which is what users with a group of their own get on many systems.
        if not {entry.name for entry in directory.iterdir()} <= {"README.md", ".gitignore"}:
            raise
        directory.chmod(0o700)


def _initialise(directory: Path, asked: Sequence[str], own: Sequence[str], *, force: bool) -> Issued:
    there = [name for name in FILES if os.path.lexists(directory / name)]
    if there and not force:
        raise ConfigurationError(
            f"{directory} already holds {', '.join(there)}",
            hint=f"To look at it: {command('cert show', directory)}\n"
            f"To add a name or to make a new certificate: {command('cert renew', directory)}\n"
            f"To start anew, so that every machine has to trust again: {command('init --force', directory)}",
        )
    now = datetime.now(UTC)
    backup = directory / f"backup-{now:%Y%m%dT%H%M%S.%fZ}" if there else None  # a name for each, also within a second
    copies = {f"{backup.name}/{name}": (read_plain(directory, name), 0o600) for name in there} if backup else {}
    ca = make_ca(now)
    leaf = make_leaf(ca, _all_names(asked, own, old=()), now)
    files.place_together(directory, copies | ca.files(CA_PEM, CA_KEY) | leaf.files(SERVER_PEM, SERVER_KEY))
    return _issued(ca, leaf, backup)


def _finish(directory: Path, asked: Sequence[str], own: Sequence[str]) -> Issued:
    """Answer for a command that was killed: with what it made, or with a new certificate if that lacks something."""
    renewed = _renew(directory, asked, own, if_needed=True)
    if renewed:
        return replace(renewed, finished=True)
    found = read_usable(directory)
    return Issued(found.ca_fingerprint, found.names, found.not_after, finished=True)


def _renew(directory: Path, asked: Sequence[str], own: Sequence[str], *, if_needed: bool) -> Issued | None:
    now = datetime.now(UTC)
    try:
        old = names_in(read_certificate(directory, SERVER_PEM))
    except ConfigurationError:
        old = ()
    names = _all_names(asked, own, old)
    if if_needed and not _is_due(directory, names, now):
        return None
    ca = read_ca(directory)
    leaf = make_leaf(ca, names, now)
    copies = {
        name.replace("server.", "server.old."): (read_plain(directory, name), 0o600)
        for name in (SERVER_PEM, SERVER_KEY)
        if os.path.lexists(directory / name)
    }
    files.place_together(directory, copies | leaf.files(SERVER_PEM, SERVER_KEY))
    return _issued(ca, leaf)


def _is_due(directory: Path, names: Sequence[str], now: datetime) -> bool:
    try:
        found = read_usable(directory)
    except ConfigurationError:
        return True
    return not set(names) <= set(found.names) or found.not_after - now < (found.not_after - found.not_before) / 3


def _all_names(asked: Sequence[str], own: Sequence[str], old: Sequence[str]) -> list[str]:
    """Return the names for the next certificate: those somebody gave, then localhost, then this machine's `own`.

    That order is how a certificate tells which names were given with --name: those before localhost. They stay. Host
    names stay as well, even if the machine has none at the moment (a timer may renew before the network is up).
    Addresses that nobody gave and the machine has no longer are dropped.
    """
    given = [*takewhile(lambda name: name != "localhost", old), *asked]
    former = [name for name in old if not is_address(name) and name not in own]
    return list(dict.fromkeys([*(name for name in [*given, *former] if name != "localhost"), "localhost", *own]))


def _issued(ca: Pair, leaf: Pair, backup: Path | None = None) -> Issued:
    return Issued(
        fingerprint(der(ca.certificate)), names_in(leaf.certificate), leaf.certificate.not_valid_after_utc, backup
    )
