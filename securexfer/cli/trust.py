"""`securexfer trust`: save, once, whom to trust on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from securexfer.cli.terminal import is_interactive, note
from securexfer.errors import UsageError


def trust(
    server: Annotated[str, typer.Argument(metavar="[USER@]HOST[:PORT]", help="The server to trust.")],
    ca: Annotated[
        str | None, typer.Option("--ca", metavar="FILE", help="The server's ca.pem; - reads it from standard input.")
    ] = None,
    ca_fingerprint: Annotated[
        str | None, typer.Option("--ca-fingerprint", metavar="SHA256", help="Fetch the CA that has this fingerprint.")
    ] = None,
) -> None:
    """Save a server's CA, so that `send` knows it. `securexfer serve` prints the exact line to type."""
    from securexfer.client import DEFAULT_PORT, PROTOCOLS, connect, fetch_authority, parse_target
    from securexfer.net.tls import client_context
    from securexfer.profiles import (
        Profile,
        authorities_in,
        fingerprints,
        parse_fingerprint,
        pinned,
        read_authorities,
    )

    target = parse_target(server)
    if target.directory:
        raise UsageError(f"{server!r} names a directory; a server is trusted as a whole", hint="Leave the / away.")
    if ca is None and ca_fingerprint is None:
        ca_fingerprint = _ask(target.host)
    fingerprint = parse_fingerprint(ca_fingerprint) if ca_fingerprint is not None else None
    if ca is not None:
        authorities = authorities_in(sys.stdin.buffer, "standard input") if ca == "-" else read_authorities(Path(ca))
        if fingerprint:
            authorities = pinned(authorities, fingerprint)
        client_context(authorities, PROTOCOLS)  # raises for a text that holds no CA
    else:
        authorities = fetch_authority(target, fingerprint or "")
        # The pin vouches for the CA; only a full handshake shows that this server holds a key certified by it.
        connect(target, client_context(authorities, PROTOCOLS)).close()
    known = Profile.find(target.host, target.port)
    if known and fingerprints(known.authorities) != fingerprints(authorities):
        note(f"Until now this machine trusted another CA there: {', '.join(fingerprints(known.authorities))}")
    user = target.user or (known.user if known else None)
    Profile(target.host, target.port, authorities, user).save()
    for each in fingerprints(authorities):
        print(f"Trusted: {target.address}, CA fingerprint {each}")
    if not fingerprint:
        note("Compare it with what `securexfer cert show` prints on the server.")
    typed = target.address if target.port != DEFAULT_PORT else target.address.removesuffix(f":{DEFAULT_PORT}")
    note(f"Next: securexfer send FILE {user or 'USER'}@{typed}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trust")(trust)


def _ask(host: str) -> str:
    """Ask for the fingerprint. Typing it, not agreeing to one that is shown, is what makes it a comparison."""
    if not is_interactive():
        raise UsageError(
            f"what the CA of {host} is must come from its server",
            hint="Give --ca-fingerprint SHA256 (`securexfer serve` prints the whole line) or --ca FILE.",
        )
    note(f"`securexfer serve` on {host} prints its CA's fingerprint; so does `securexfer cert show`.")
    print("Fingerprint: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
