"""How a password gets in: a prompt, standard input or a private file; never the command line or the environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from securexfer.cli.terminal import is_interactive, note
from securexfer.errors import ConfigurationError, UsageError

MAX_INPUT_BYTES = 4096  # far above the limit on passwords, which is checked where it is known

PasswordStdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        readable=False,
        help="Read the password from the first line of FILE (mode 0600).",
    ),
]


def obtain_password(prompt: str, *, from_stdin: bool, file: Path | None, confirm: bool = False) -> str:
    """Return the password without its line end.

    Raises UsageError if there is no way to ask for it, ConfigurationError for a file that others can read.
    """
    if from_stdin and file:
        raise UsageError("--password-stdin and --password-file were both given", hint="Give one of the two.")
    if from_stdin:
        return _first_line(sys.stdin.buffer.readline(MAX_INPUT_BYTES), "standard input")
    if file:
        return _from_file(file)
    if not is_interactive():
        raise UsageError(
            "a password is needed, and standard input is not a terminal",
            hint="Add --password-stdin or --password-file FILE.",
        )
    import getpass

    try:
        password = getpass.getpass(f"{prompt}: ", stream=sys.stderr)
        if confirm and getpass.getpass("The same again: ", stream=sys.stderr) != password:
            raise UsageError("the two passwords differ", hint="Type the same password twice.")
    except EOFError:
        note()  # ends the line of the prompt
        raise UsageError("no password was typed", hint="Type it, or add --password-stdin.") from None
    except KeyboardInterrupt:
        note()
        raise
    return password


def _from_file(file: Path) -> str:
    from securexfer.files import check_private

    try:
        check_private(file, "the password file")
        with file.open("rb") as opened:
            return _first_line(opened.readline(MAX_INPUT_BYTES), str(file))
    except OSError as error:
        raise ConfigurationError(
            f"the password file {file} cannot be read: {error.strerror}",
            hint="Check the path given to --password-file.",
        ) from error


def _first_line(raw: bytes, source: str) -> str:
    try:
        return raw.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        raise UsageError(f"the password in {source} is not UTF-8", hint="Save it as UTF-8 text.") from None
