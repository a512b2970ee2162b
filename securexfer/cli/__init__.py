"""The command line: the only room that prints, prompts or chooses an exit code.

`send` must start fast (a small file should cost no more than with scp), so only the module of the command that
was typed is imported, and the modules of commands import the other rooms inside their functions: no database,
no password hashing and no certificate library where they are not needed.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from securexfer import __version__
from securexfer.cli.home import HomeOption
from securexfer.cli.terminal import show_error
from securexfer.errors import SecurexferError

COMMANDS = ("init", "cert", "user", "serve", "trust", "send", "demo", "doctor")


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


def main() -> None:
    """Run the command line and leave with the exit code that its outcome has."""
    arguments = sys.argv[1:]
    try:
        build(arguments)(args=arguments, prog_name="securexfer")
    except SecurexferError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). Point stdout elsewhere so that the flush at exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # no traceback reaches a user unless they ask for it
        if os.environ.get("SECUREXFER_DEBUG"):
            raise
        show_error(
            SecurexferError(
                f"an error inside securexfer: {type(error).__name__}: {error}",
                hint="Please report it, with what SECUREXFER_DEBUG=1 prints for the same command.",
            )
        )
        sys.exit(1)
