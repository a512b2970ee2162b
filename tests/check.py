"""The one command that formats, lints, types and tests; what CI runs and what to run before a commit.

python tests/check.py            format, lint, type, test
python tests/check.py --check    the same, but say what is not formatted instead of mending it (as CI does)
python tests/check.py --no-tests only the quick part
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `serve` is for POSIX; what a client runs must also type on the systems that clients have.
CLIENT_ONLY = ["-p", "securexfer.client"]
for _module in ("profiles", "transfer.classroom.sender", "transfer.sender", "transfer.tree", "transfer.digests"):
    CLIENT_ONLY += ["-m", f"securexfer.{_module}"]
CLIENT_COMMANDS = ["-m", "securexfer.cli.send", "-m", "securexfer.cli.trust", "-m", "securexfer.cli.progress"]


def steps(*, mend: bool, tests: bool) -> list[tuple[str, list[str]]]:
    """Return what is run, in order: a name and a command line for `python -m`."""
    found = [
        ("format", ["ruff", "format", *([] if mend else ["--check"]), "."]),
        ("lint", ["ruff", "check", "."]),
        ("security lint", ["bandit", "--quiet", "--recursive", "securexfer"]),
        ("types", ["mypy"]),
    ]
    for platform in ("win32", "darwin"):
        # --follow-imports=silent: the modules that only a server imports may use POSIX to their heart's content.
        only = ["--follow-imports=silent", "--platform", platform, *CLIENT_ONLY, *CLIENT_COMMANDS]
        found.append((f"types of the client on {platform}", ["mypy", *only]))
    if tests:
        found.append(("tests", ["pytest", "-n", str(min(os.cpu_count() or 1, 4)), "--dist", "worksteal"]))
    return found


def run(command: list[str]) -> int:
    """Run `python -m` with this command line in the checkout; return its exit code."""
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode


def main() -> int:
    """Run the steps; stop at the first that fails and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", default=bool(os.environ.get("CI")))
    parser.add_argument("--no-tests", action="store_true")
    chosen = parser.parse_args()
    for name, command in steps(mend=not chosen.check, tests=not chosen.no_tests):
        print(f"== {name}: {' '.join(command)}", flush=True)
        code = run(command)
        if code == 1 and name == "tests":
            # Many tests hold a running server to a deadline, beside others that take the machine's every core. One that
            # passes alone was late, not wrong; one that fails again is wrong. (Other reasons to fail, such as skips
            # where none may be, have other exit codes.)
            print("== what failed, once more, alone", flush=True)
            code = run(["pytest", "--last-failed", "--last-failed-no-failures", "none"])
        if code:
            print(f"== {name} failed (exit {code})", flush=True)
            return code
    print("== all passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
