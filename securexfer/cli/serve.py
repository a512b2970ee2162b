"""`securexfer serve`: the server, with its options; prints where it listens and what to type elsewhere."""

from __future__ import annotations

import enum
import gc
import ipaddress
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securexfer.cli.amounts import finite, parse_size
from securexfer.cli.home import CertsOption, Home, HomeOption, UsersOption
from securexfer.cli.limits import (
    HandshakeTimeout,
    IdleTimeout,
    LoginQueue,
    LoginTimeout,
    MaxFailures,
    MaxFailuresPerSource,
    MaxHandshakes,
    MaxHandshakesPerSource,
    MaxSessions,
    MaxSessionsPerUser,
    MinimumRate,
)
from securexfer.cli.log import Log, LogFormat
from securexfer.cli.terminal import note
from securexfer.errors import UsageError
from securexfer.names import NamePolicy
from securexfer.storage.base import OnConflict

if TYPE_CHECKING:
    from securexfer.certificates import ServerCertificate
    from securexfer.events import StorageNotice
    from securexfer.identity import Identity
    from securexfer.opening.rules import Rules as OpeningRules
    from securexfer.server import Server
    from securexfer.storage.local import Inbox

# So many that more than a hundred sessions take small files at full speed; short of them, a group is committed earlier.
_DESCRIPTORS = 65_536


class Durability(enum.StrEnum):
    """What an acknowledged file survives: whatever happens to the machine, or the end of the server alone."""

    FULL = "full"
    NONE = "none"


def parse_mode(text: str) -> int:
    """Return a file mode written in octal."""
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise typer.BadParameter(f"{text!r} is not a mode; write it in octal, as in 0640")
    mode = int(text, 8)
    if mode & 0o007 or mode & 0o700 < 0o600:
        raise typer.BadParameter(f"{text!r} must let the owner read and write, and others nothing")
    return mode


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="Listen on this address only. Default: all.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 lets the system choose one.")] = 9090,
    inbox: Annotated[Path | None, typer.Option("--inbox", metavar="DIR", help="Where files go: DIR/USER/...")] = None,
    certs: CertsOption = None,
    users: UsersOption = None,
    home: HomeOption = None,
    on_conflict: Annotated[
        OnConflict, typer.Option("--on-conflict", help="When other content stands under the name.")
    ] = OnConflict.REFUSE,
    allow_conflict: Annotated[
        list[OnConflict] | None,
        typer.Option("--allow-conflict", help="What a sender may ask for instead; repeatable. Default: all."),
    ] = None,
    names: Annotated[
        NamePolicy, typer.Option("--names", help="Refuse also names that other systems cannot hold: portable.")
    ] = NamePolicy.NATIVE,
    largest_file: Annotated[
        int, typer.Option("--largest-file", metavar="SIZE", parser=parse_size, help="As in 500M, 20G.")
    ] = "1Ti",  # type: ignore[assignment]  # typer parses the default, too
    quota: Annotated[
        int | None, typer.Option("--quota", metavar="SIZE", parser=parse_size, help="Bytes each user may store.")
    ] = None,
    reserve: Annotated[
        int | None,
        typer.Option("--reserve", metavar="SIZE", parser=parse_size, help="Space kept free. [1Gi, or 5% if less]"),
    ] = None,
    file_mode: Annotated[
        int, typer.Option("--file-mode", metavar="MODE", parser=parse_mode, help="Mode of stored files.")
    ] = "0600",  # type: ignore[assignment]
    dir_mode: Annotated[
        int, typer.Option("--dir-mode", metavar="MODE", parser=parse_mode, help="Mode of directories made.")
    ] = "0700",  # type: ignore[assignment]
    group: Annotated[str | None, typer.Option("--group", help="Group of what is stored.")] = None,
    durability: Annotated[
        Durability, typer.Option("--durability", help="none: a power cut loses files that were acknowledged.")
    ] = Durability.FULL,
    grace: Annotated[
        float,
        typer.Option(
            "--grace", callback=finite, min=0, max=3600, metavar="SECONDS", help="For running files, at the end."
        ),
    ] = 10.0,
    max_handshakes: MaxHandshakes = 256,
    max_handshakes_per_source: MaxHandshakesPerSource = 64,
    handshake_timeout: HandshakeTimeout = 10.0,
    login_timeout: LoginTimeout = 10.0,
    login_queue: LoginQueue = 128,
    max_failures: MaxFailures = 100,
    max_failures_per_source: MaxFailuresPerSource = 20,
    max_sessions: MaxSessions = 512,
    max_sessions_per_user: MaxSessionsPerUser = 64,
    idle_timeout: IdleTimeout = 30.0,
    minimum_rate: MinimumRate = 1024,
    open_files: Annotated[
        bool, typer.Option("--open", help="Show .txt and run .py files in a sandbox, of users who may: user allow.")
    ] = False,
    open_rules: Annotated[
        Path | None,
        typer.Option("--open-rules", metavar="FILE", help="TOML: what is done with which extension; limits."),
    ] = None,
    open_python: Annotated[
        Path | None, typer.Option("--open-python", metavar="VENV", help="What runs scripts. [the system's Python]")
    ] = None,
    keep_output: Annotated[
        bool, typer.Option("--keep-output", help="Keep what a script prints beside it: x.py.out.txt")
    ] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option("--log-format", help="Default: text on a terminal, else json.")
    ] = None,
    run_as: Annotated[
        str | None,
        typer.Option("--run-as", metavar="USER", help="Started as root: become USER once the port is bound."),
    ] = None,
) -> None:
    """Take files from users, over TLS, until SIGTERM or Ctrl-C."""
    if os.name != "posix":
        raise UsageError(
            "serve runs on Linux and other POSIX systems only; this one can send",
            hint="Run it on another machine, and here: securexfer trust HOST, securexfer send FILE USER@HOST",
        )
    from securexfer import certificates, privileges
    from securexfer.accounts.database import Accounts
    from securexfer.accounts.guessing import GuessLimits
    from securexfer.accounts.logins import Logins
    from securexfer.cli import opening, serving_as
    from securexfer.events import ServerStarted, ServerStopped
    from securexfer.identity import Identity
    from securexfer.net.listening import listen
    from securexfer.server import Limits, Server
    from securexfer.storage.local import Inbox, Rules

    place = Home.find(context, home)
    wishes = opening.Wishes(open_files, open_rules, open_python, keep_output)
    wishes.check()
    rules = Rules(
        on_conflict,
        names,
        file_mode,
        dir_mode,
        _group_id(group),
        quota,
        reserve,
        _allowed(on_conflict, allow_conflict),
        durability is Durability.FULL,
    )
    limits = Limits(
        handshakes=max_handshakes,
        handshakes_per_source=max_handshakes_per_source,
        handshake_seconds=handshake_timeout,
        login_seconds=login_timeout,
        sessions=max_sessions,
        sessions_per_user=max_sessions_per_user,
        idle_seconds=idle_timeout,
        minimum_rate=minimum_rate,
        largest_file=largest_file,
        grace_seconds=grace,
    )
    guesses = GuessLimits(max_failures, max_failures_per_source)
    certs, users, inbox = certs or place.certs, users or place.users, inbox or place.inbox
    user = privileges.ServiceUser.find(run_as) if run_as is not None else None
    own_names = certificates.default_names()
    _allow_descriptors()
    listeners = listen(host, port, "securexfer serve" + (f" --home {place.directory}" if place.named else ""))
    # Only the port needs root. From here on nothing is imported either: that user may not be able to read this program.
    notices = serving_as.become(user, certs, users, inbox)
    accounts = Accounts.open(users)
    store = Inbox(inbox, rules)
    log = Log(sys.stderr, log_format or (LogFormat.TEXT if sys.stderr.isatty() else LogFormat.JSON))
    try:
        identity = Identity(certs, log.write)
        logins = Logins(accounts, waiting=login_queue, limits=guesses, observe=log.write)
        opener, unavailable = opening.make(wishes, store, logins.may_open, log.write)
        server = Server(listeners, identity.context, logins, store, limits, log.write, identity.refresh, opener)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        signal.signal(signal.SIGHUP, lambda *_: _look_again(identity, server))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        addresses = _addresses(listeners, own_names)
        _announce(identity.certificate, addresses, store.path, opener.rules if wishes.on and not unavailable else None)
        serving_as.warn([*notices, *_of_storage(store), *unavailable], log)
        log.write(ServerStarted(tuple(addresses), str(store.path)))
        gc.freeze()  # what was imported is no garbage, and need not be looked through for any while files come
        finished = server.run()
        opener.close()
        logins.finish()
        log.write(ServerStopped("done" if finished else "sessions were cut off"))
    finally:
        store.close()
        accounts.close()
        log.close()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def _look_again(identity: Identity, server: Server) -> None:
    identity.hurry()
    server.wake()


def _allowed(on_conflict: OnConflict, allow_conflict: list[OnConflict] | None) -> frozenset[OnConflict]:
    """Return the policies that a sender may ask for. Raises UsageError if the server's own is not among them."""
    allowed = frozenset(allow_conflict or OnConflict)
    if on_conflict not in allowed:
        raise UsageError(
            f"--on-conflict {on_conflict} is the server's own policy, and --allow-conflict leaves it out",
            hint=f"Allow it, too: --allow-conflict {on_conflict}",
        )
    return allowed


def _of_storage(inbox: Inbox) -> list[StorageNotice]:
    """Return what whoever starts the server should know of where the files go."""
    from securexfer.events import StorageNotice

    told = (
        []
        if inbox.rules.durable
        else ["--durability none: files are acknowledged before they are on disk, and a power cut loses them"]
    )
    return [StorageNotice(text) for text in [*told, *inbox.notices]]


def _group_id(group: str | None) -> int | None:
    import grp

    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {group!r} on this machine", hint="See `getent group`.") from None


def _allow_descriptors() -> None:
    """Raise the soft limit on descriptors towards what a full server uses."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _addresses(listeners: list[socket.socket], own: list[str]) -> list[str]:
    """Return every HOST:PORT that reaches us; `own` are this machine's names and addresses."""
    found: list[str] = []
    for listener in listeners:
        address, port = listener.getsockname()[:2]
        wild = ipaddress.ip_address(address).is_unspecified
        hosts: list[Any] = [name for name in own if listener.family == socket.AF_INET6 or ":" not in name]
        found += [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in (hosts if wild else [address])]
    return found


def _announce(certificate: ServerCertificate, addresses: list[str], inbox: Path, opening: OpeningRules | None) -> None:
    """Say where the server is, what it opens, and what to type on another machine."""
    note(f"Listening on {', '.join(addresses)}")
    note(f"Files go to {inbox}/USER/ ; the certificate ends on {certificate.not_after:%Y-%m-%d}")
    if opening:
        note(f"Opens {opening} of users who may: securexfer user allow NAME open")
    # The first name is the host's own: what people call the machine by.
    there = addresses[0].removesuffix(":9090")
    note("On another machine, once, then for every send:")
    note(f"  securexfer trust {there} --ca-fingerprint {certificate.ca_fingerprint}")
    note(f"  securexfer send FILE USER@{there}")
