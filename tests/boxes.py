"""Scripts in a real sandbox, for tests: run by a program of its own, as an ordinary user, who root is not.

As root, that program imports all it needs, becomes `nobody` and then runs the script, as a server does.
"""

from __future__ import annotations

import contextlib
import ctypes  # what is used after root became somebody else has to be imported before
import dataclasses
import hashlib
import json
import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

USER = "nobody"
needs_bubblewrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")

# What scripts that try something begin with: what the system said, by its name.
PRELUDE = """
import ctypes, errno, os, signal, socket, subprocess, sys, time

def told(deed, *arguments):
    try:
        found = deed(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

libc = ctypes.CDLL(None, use_errno=True)

def syscall(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")
"""


@dataclass(frozen=True)
class Box:
    """What came of a script, as `Ran` has it; or the error that kept it from being run, with nothing else."""

    how: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    output: bytes = b""
    cut: bool = False
    results: dict[str, bytes] = dataclasses.field(default_factory=dict)
    detail: str = ""
    error: str = ""
    message: str = ""
    hint: str = ""
    peak: int = 0  # of memory of the program that ran it, in bytes

    @property
    def lines(self) -> list[str]:
        return self.output.decode().splitlines()


def arguments(script: str | bytes, **options: Any) -> list[str]:
    """Return the command that runs a script and says what came of it, as JSON."""
    text = script if isinstance(script, bytes) else textwrap.dedent(script).encode()
    return [sys.executable, __file__, json.dumps({"script": text.hex(), **options}, default=str)]


def run(script: str | bytes, *, before: tuple[str, ...] = (), **options: Any) -> Box:
    """Run a script in a sandbox.

    `before` is a command that runs the program. `limits`, `python`, `spool` and `data` are as the sandbox has them;
    `digest` is another one than the script's, in hex; `check` has the sandbox checked instead; `cancel` is after how
    many seconds nobody waits any more.
    """
    done = subprocess.run(
        [*before, *arguments(script, **options)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, content in found.get("results", {}).items():
        found["results"][name] = bytes.fromhex(content)
    return Box(**{**found, "output": bytes.fromhex(found.get("output", ""))})


def holds(script: str, **options: Any) -> Box:
    """Run a script that is to come to its end; what tries something has `PRELUDE` before it."""
    box = run(PRELUDE + textwrap.dedent(script), **options)
    assert (box.how, box.exit_code, box.error) == ("exit", 0, ""), box
    return box


def running(marker: str) -> list[str]:
    """Return the processes of this machine whose command line has the marker in it, but for the programs here."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if marker.encode() in line and __file__.encode() not in line:
                found.append(path.parent.name)
    return found


@contextlib.contextmanager
def reachable() -> Any:
    """Hold a directory that every user can get to."""
    directory = Path(tempfile.mkdtemp(prefix="securexfer-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


# -- the program ---------------------------------------------------------------------------------------------------


def main(wishes: dict[str, Any]) -> dict[str, Any]:
    """Run the script as wished; return what came of it."""
    from securexfer.errors import SecurexferError
    from securexfer.opening.limits import Limits
    from securexfer.opening.sandbox import Ran, Sandbox
    from securexfer.privileges import ServiceUser, drop

    assert ctypes
    assert "".encode("unicode_escape") == b""  # codecs are imported when they are used first
    if os.geteuid() == 0 and not wishes.get("as_root"):
        found = pwd.getpwnam(USER)
        drop(ServiceUser(USER, found.pw_uid, found.pw_gid, (found.pw_gid,)))
    places = {name: Path(wishes[name]) for name in ("python", "spool") if name in wishes}
    text = bytes.fromhex(wishes["script"])
    started = time.monotonic()
    try:
        sandbox = Sandbox(Limits(**wishes.get("limits", {})), **places)
        if wishes.get("check"):
            sandbox.check()
            return {"how": "holds"}
        before = sorted(Path("/proc/self/fd").iterdir())
        with tempfile.TemporaryFile() as file:
            file.write(text)
            file.flush()

            def run_it() -> Ran:
                return sandbox.run(
                    file.fileno(),
                    bytes.fromhex(wishes["digest"]) if "digest" in wishes else hashlib.sha256(text).digest(),
                    Path(wishes["data"]) if "data" in wishes else None,
                    lambda: time.monotonic() - started > wishes.get("cancel", 3600),
                )

            with ThreadPoolExecutor(8) as pool:
                several = [job.result() for job in [pool.submit(run_it) for _ in range(wishes.get("at_once", 1))]]
    except SecurexferError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    ran = several[-1]
    said = {field.name: getattr(ran, field.name) for field in dataclasses.fields(ran)}
    results = {result.name: result.file.read() for result in ran.results}
    assert [len(results[result.name]) for result in ran.results] == [result.size for result in ran.results]
    ran.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    return {
        **said,
        "output": b"".join(each.output for each in several).hex(),
        "results": {name: content.hex() for name, content in results.items()},
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
