"""Where to send, as people type it, and as whom."""

from __future__ import annotations

import re
from typing import NamedTuple

from securexfer.errors import UnsafeNameError, UsageError
from securexfer.hosts import is_address, parse_name
from securexfer.names import Name, show
from securexfer.profiles import address_of

DEFAULT_PORT = 9090


class Target(NamedTuple):
    """Where to send: ``[USER@]HOST[:PORT][/DIRECTORY]``."""

    user: str | None
    host: str
    port: int
    directory: str

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        return address_of(self.host, self.port)


def parse_target(text: str) -> Target:
    """Return the target that a person typed; raise UsageError that says how to write it."""
    before, slash, directory = text.partition("/")
    user, at, host_port = before.rpartition("@")
    if at and not user:
        raise UsageError(f"{show(text)!r} has no user before the @", hint=_TARGET_HINT)
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", host_port)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    else:
        host, colon, rest = host_port.partition(":")
        port = rest if colon else None
        if ":" in rest:
            hint = f"An IPv6 address goes in brackets: [{host_port}]" if is_address(host_port) else _TARGET_HINT
            raise UsageError(f"{show(host_port)!r} is not HOST or HOST:PORT", hint=hint)
    if port is not None and not re.fullmatch("[0-9]{1,5}", port):
        shown = f"{user}@{host}" if user else host
        path = f"{port}{slash}{directory}".strip("/")
        raise UsageError(
            f"{show(text)!r} has {show(port)!r} where a port belongs"
            if port
            else f"{show(text)!r} has no port after :",
            hint=f"For a directory write {show(shown)}/{show(path)}" if path else f"Write {show(shown)}",
        )
    number = DEFAULT_PORT if port is None else int(port)
    if not 1 <= number <= 65535:
        raise UsageError(f"{number} is not a port", hint="A port is a number from 1 to 65535.")
    return Target(user or None, parse_name(host), number, _parse_directory(directory))


_TARGET_HINT = "Write [USER@]HOST[:PORT][/DIRECTORY], as in ana@lab1 or ana@lab1:9091/results"


def _parse_directory(text: str) -> str:
    text = text.rstrip("/")
    try:
        return str(Name.parse(text)) if text else ""
    except UnsafeNameError as error:
        raise UsageError(
            error.message, hint="DIRECTORY is one below your inbox on the server, as in ana@lab1/results/2026"
        ) from error


def login_name() -> str:
    """Return who is logged in on this machine; raise UsageError where the system does not say."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise UsageError(
            "this machine does not say who you are", hint="Name the user: securexfer send FILE USER@HOST"
        ) from None
