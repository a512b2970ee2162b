"""Which Python runs a script, and what of this machine it has to see for that.

In the sandbox there is /usr and nothing else. A virtual environment, or a Python that somebody built, lives elsewhere:
the interpreter itself is asked where, and those directories are seen at the same place, to be read only.
"""

from __future__ import annotations

import json
import subprocess  # nosec B404 # to ask a Python where it is
from dataclasses import dataclass
from pathlib import Path

from securexfer.errors import ConfigurationError
from securexfer.names import show

SYSTEM_PYTHON = Path("/usr/bin/python3")

_ASK = "import json, sys; print(json.dumps([sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]))"
_SECONDS = 30.0  # for an interpreter to start, from a slow disk too
# What has a meaning of its own in the sandbox, or would show more than a Python. /usr is there anyway.
_TAKEN = ("/data", "/out", "/proc", "/dev", "/sys", "/script.py", "/supervisor.py")
_TOO_MUCH = ("/", "/home", "/root", "/etc", "/var", "/opt", "/srv", "/mnt", "/media", "/run")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python: how it is called, and the directories outside of /usr that it needs."""

    command: tuple[str, ...]
    directories: tuple[Path, ...]


def find(python: Path | None) -> Interpreter:
    """Return the Python of a virtual environment's directory, that interpreter, or without one the system's.

    Runs it once, to ask it. Raises ConfigurationError if it does not answer, or cannot be shown in the sandbox.
    """
    if python is None:
        if not SYSTEM_PYTHON.exists():
            raise ConfigurationError(f"{SYSTEM_PYTHON} is not there", hint="apt install python3")
        # Without `site`, which would look for packages: the system's own are nobody's wish here.
        return Interpreter((str(SYSTEM_PYTHON), "-I", "-S"), ())
    program = (python / "bin" / "python" if python.is_dir() else python).absolute()
    prefixes = [Path(prefix).absolute() for prefix in _ask(program)]
    needed = {path.resolve() for path in prefixes} | set(prefixes) | _links(program)
    outside = sorted(path for path in needed if not path.is_relative_to("/usr"))
    directories = tuple(path for path in outside if not any(path != up and path.is_relative_to(up) for up in outside))
    for directory in directories:
        if str(directory) in _TOO_MUCH or any(directory.is_relative_to(taken) for taken in _TAKEN):
            raise ConfigurationError(
                f"the Python {program} needs {directory}, which cannot be shown to a script",
                hint="Make a virtual environment elsewhere: python3 -m venv /opt/securexfer-scripts",
            )
    return Interpreter((str(program), "-I"), directories)


def _ask(program: Path) -> list[str]:
    try:
        done = subprocess.run(  # nosec B603 # of whoever runs the server, with a fixed text
            [str(program), "-I", "-c", _ASK],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
            env={},
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigurationError(
            f"{program} is no Python that works here: {show(str(error))}",
            hint="Name a virtual environment, or leave it out for the system's Python.",
        ) from error
    if not isinstance(found, list) or not all(isinstance(prefix, str) for prefix in found):
        raise ConfigurationError(f"{program} is no Python: it says {show(str(found))}")
    return found


def _links(program: Path) -> set[Path]:
    """Return the directories of a program and of every link on the way to it: each hop is made in the sandbox too."""
    found = set()
    while program.is_symlink():
        found.add(program.parent)
        target = program.readlink()
        program = target if target.is_absolute() else program.parent / target
    return {*found, program.parent}
