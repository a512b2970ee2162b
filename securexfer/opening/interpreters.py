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
# What has a meaning of its own in the sandbox, or would show much more than a Python. /usr is there anyway.
_TAKEN = ("/data", "/out", "/proc", "/dev", "/sys", "/script.py", "/supervisor.py")
_TOO_MUCH = ("/", "/home", "/root", "/etc", "/var", "/opt", "/srv", "/mnt", "/media", "/run")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python: how it is called, and what is needed outside of /usr, as bubblewrap's arguments."""

    command: tuple[str, ...]
    shown: tuple[str, ...] = ()


def find(python: Path | None) -> Interpreter:
    """Return the Python of a virtual environment's directory, that interpreter, or without one the system's.

    Runs it once, to ask it. Raises ConfigurationError if it does not answer, or cannot be shown in the sandbox.
    """
    if not SYSTEM_PYTHON.exists():  # it runs the supervisor, too
        raise ConfigurationError(f"{SYSTEM_PYTHON} is not there", hint="apt install python3")
    if python is None:
        # Without `site`, which would look for packages: the system's own are nobody's wish here.
        return Interpreter((str(SYSTEM_PYTHON), "-I", "-S"))
    program = (python / "bin" / "python" if python.is_dir() else python).absolute()
    prefixes = [Path(prefix).absolute() for prefix in _ask(program)]
    if prefixes[0] == prefixes[2]:  # no virtual environment, which is found by where its program stands
        program = program.resolve()
    paths = {path for prefix in prefixes for path in (prefix, prefix.resolve())}
    outside = {path for path in paths if not path.is_relative_to("/usr")}
    # Each link on the way to the program is made there as well: Python looks for the rest from where it finds itself.
    there = {Path("/usr"), *outside}
    hops = [hop for hop in _hops(program) if not any(hop.is_relative_to(place) for place in there)]
    for path in (*outside, *hops):
        _check(program, path)
    shown: list[str] = []
    for path in (*sorted(outside), *(hop for hop in hops if not hop.is_symlink())):
        shown += ["--ro-bind", str(path), str(path)]
    for hop in hops:
        shown += ["--symlink", str(hop.readlink()), str(hop)] if hop.is_symlink() else []
    return Interpreter((str(program), "-I"), tuple(shown))


def _check(program: Path, path: Path) -> None:
    if str(path) in _TOO_MUCH or str(path.parent) == "/home" or any(path.is_relative_to(taken) for taken in _TAKEN):
        raise ConfigurationError(
            f"the Python {program} needs {path}, which cannot be shown to a script",
            hint="Make a virtual environment elsewhere: python3 -m venv /opt/securexfer-scripts",
        )


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
            hint="Name a virtual environment that whoever serves can use (made by a Python that everybody can run: "
            "/usr/bin/python3 -m venv DIR), or leave it out for the system's Python.",
        ) from error
    if not isinstance(found, list) or not all(isinstance(prefix, str) for prefix in found):
        raise ConfigurationError(f"{program} is no Python: it says {show(str(found))}")
    return found


def _hops(program: Path) -> list[Path]:
    """Return a program, and what each link on the way to it leads to."""
    found = [program]
    while program.is_symlink():
        program = program.parent / program.readlink()
        found.append(program)
    return found
