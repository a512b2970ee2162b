"""The application: its commands, and what stands before them on the command line.

Only the module of the command that was typed is imported, and the modules of commands import the other rooms inside
their functions: no database, no password hashing and no certificate library where they are not needed.
"""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from securexfer import __version__
from securexfer.cli.home import HomeOption

COMMANDS = ("init", "cert", "user", "serve", "trust", "send", "demo", "doctor")


def build(arguments: list[str]) -> typer.Typer:
    """Return the application: with the one command that `arguments` name, or with all if they name none."""
    app = typer.Typer(
        name="securexfer",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_root,
    )
    named = arguments[0] if arguments else ""
    for command in (named,) if named in COMMANDS else COMMANDS:
        importlib.import_module(f"securexfer.cli.{command}").register(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"securexfer {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    home: HomeOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Encrypted, verified, durable file transfer between lab machines."""
    del version
    context.obj = home
