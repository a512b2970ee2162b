"""`securexfer serve --open`: what it takes, and whether it works here."""

from __future__ import annotations

import hashlib
import os
import pwd
import sys
from typing import TYPE_CHECKING, NamedTuple

from securexfer.cli.terminal import width_of
from securexfer.errors import SandboxError, SecurexferError, UsageError
from securexfer.events import OpeningNotice
from securexfer.names import STAGING_NAME, Name
from securexfer.opening.actions import actions
from securexfer.opening.opener import Opener
from securexfer.opening.rules import Rules, read_rules
from securexfer.privileges import ServiceUser, drop
from securexfer.storage.base import Description, OnConflict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from securexfer.events import Observer
    from securexfer.opening.actions import Opens
    from securexfer.opening.limits import Limits
    from securexfer.opening.rules import Action
    from securexfer.opening.sandbox import Sandbox
    from securexfer.storage.local import Inbox

"".encode("unicode_escape")  # loads it: who serves may not be able to read where Python keeps it


class Wishes(NamedTuple):
    """The options of `serve` that are about opening."""

    on: bool
    rules: Path | None
    python: Path | None
    keep_output: bool

    def check(self) -> None:
        """Raise UsageError for what needs --open and comes without; load what is needed while that can be read."""
        if self.on and sys.platform == "linux":
            import securexfer.opening.sandbox  # noqa: F401 - who serves may not be able to read it
        options = {"--open-rules": self.rules, "--open-python": self.python, "--keep-output": self.keep_output}
        for option, wished in options.items():
            if wished and not self.on:
                raise UsageError(
                    f"{option} is for a server that opens files", hint=f"Add --open, or leave {option} out."
                )


def make(
    wishes: Wishes, inbox: Inbox, may_open: Callable[[str], bool], observe: Observer
) -> tuple[Opener, list[OpeningNotice]]:
    """Return what opens files for a server, as the user that it runs as; and why that does not work, if it does not.

    Raises ConfigurationError for rules or a Python that cannot be used, and where this is root.
    """
    if wishes.on and os.geteuid() == 0:
        raise SandboxError(
            "handlers need a non-root user: root's scripts would have too much of this machine within reach",
            hint="Start it so: securexfer serve --open --run-as USER",
        )
    rules = read_rules(wishes.rules) if wishes.rules else Rules()
    known, problem = _actions(rules, wishes.python, inbox.path.absolute() / STAGING_NAME) if wishes.on else ({}, None)
    opener = Opener(
        rules,
        known,
        may_open,
        observe,
        on=wishes.on,
        works=problem is None,
        keep=_keeper(inbox) if wishes.keep_output else None,
        width=width_of(sys.stderr),
    )
    return opener, [OpeningNotice(f"nothing is opened: {problem.message} ({problem.hint})")] if problem else []


def _actions(rules: Rules, python: Path | None, spool: Path) -> tuple[Mapping[Action, Opens], SecurexferError | None]:
    """Return what can be done with files, and why nothing can, if so. Raises ConfigurationError for a bad Python."""
    try:
        sandbox = _sandbox(rules.limits, python, spool)
        sandbox.check()
    except SandboxError as error:
        return {}, error
    return actions(rules.limits, sandbox), None


def _sandbox(limits: Limits | None = None, python: Path | None = None, spool: Path | None = None) -> Sandbox:
    if sys.platform != "linux":
        raise SandboxError("there is a sandbox on Linux only", hint="Run the server that opens files there.")
    from securexfer.opening.sandbox import Sandbox

    return Sandbox(limits, python, spool)


def prove(home: Path) -> str:
    """Prove that a sandbox works for whoever serves from `home`; return who that is, if it is not who asks.

    Raises SecurexferError, which says why it does not.
    """
    owner = home.stat().st_uid
    if os.geteuid() != 0:
        _sandbox().check()
        return ""
    if owner == 0:
        raise SandboxError(
            f"{home} is root's, and who opens files must not be root", hint="Serve as another user: serve --run-as USER"
        )
    try:
        user = ServiceUser.find(pwd.getpwuid(owner).pw_name)
    except KeyError:
        raise SandboxError(f"{home} belongs to no user of this machine", hint="chown it to one.") from None
    sandbox = _sandbox()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            drop(user)
            sandbox.check()
            os._exit(0)
        except SecurexferError as error:
            os.write(writing, f"{error.message}\0{error.hint}".encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        message, _, hint = told.read().decode(errors="backslashreplace").partition("\0")
    _, status = os.waitpid(child, 0)
    if status:
        raise SandboxError(message or "the sandbox could not be tried", hint=hint or None)
    return f" as {user.name}"


def _keeper(inbox: Inbox) -> Callable[[str, str, bytes], None]:
    """Return what stores a script's output as a file of its user, beside others of that name."""

    def keep(user: str, name: str, output: bytes) -> None:
        storage = inbox.for_user(user, policy=OnConflict.RENAME)
        try:
            file = Description(Name.parse(name), len(output))
            staging = storage.take(file, memoryview(output), hashlib.sha256(output).digest())
            (kept,) = storage.commit([staging])
            if isinstance(kept, SecurexferError):
                raise kept
        finally:
            storage.close()

    return keep
