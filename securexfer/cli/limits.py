"""The options of `serve` that bound what others can make it hold: each has a range, and none can be switched off."""

from __future__ import annotations

from typing import Annotated

import typer

from securexfer.cli.amounts import finite

MaxHandshakes = Annotated[
    int, typer.Option("--max-handshakes", min=1, max=10_000, help="Connections that have not logged in, in all.")
]
MaxHandshakesPerSource = Annotated[
    int, typer.Option("--max-handshakes-per-source", min=1, max=10_000, help="Of them, from one address.")
]
HandshakeTimeout = Annotated[
    float,
    typer.Option(
        "--handshake-timeout", callback=finite, min=1, max=300, metavar="SECONDS", help="For the whole TLS handshake."
    ),
]
LoginTimeout = Annotated[
    float,
    typer.Option(
        "--login-timeout", callback=finite, min=1, max=300, metavar="SECONDS", help="For the client to send its login."
    ),
]
LoginQueue = Annotated[
    int, typer.Option("--login-queue", min=1, max=10_000, help="Logins that wait to be checked; more are told: busy.")
]
MaxFailures = Annotated[
    int,
    typer.Option(
        "--max-failures", min=10, max=100, help="Failed logins in a row, of addresses new to the user; then no more."
    ),
]
MaxFailuresPerSource = Annotated[
    int, typer.Option("--max-failures-per-source", min=2, max=1000, help="Failed logins a minute from one address.")
]
MaxSessions = Annotated[int, typer.Option("--max-sessions", min=1, max=10_000, help="Sessions at a time, in all.")]
MaxSessionsPerUser = Annotated[
    int, typer.Option("--max-sessions-per-user", min=1, max=10_000, help="Sessions of one user at a time.")
]
IdleTimeout = Annotated[
    float,
    typer.Option(
        "--idle-timeout", callback=finite, min=1, max=3600, metavar="SECONDS", help="For a client that owes bytes."
    ),
]
MinimumRate = Annotated[
    int,
    typer.Option(
        "--minimum-rate",
        min=1,
        max=10**9,
        metavar="BYTES",
        help="Of content a second, slower for a minute is too slow.",
    ),
]
