"""Commands typed in a directory, what they leave there, and what they were seen doing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import lab
import pytest

ENVIRONMENT = lab.environment(
    PATH=f"{Path(lab.SECUREXFER).parent}{os.pathsep}{os.environ['PATH']}",
    PYTHONDONTWRITEBYTECODE="1",  # so that the only files that change are the command's own
)


def run(*command: object, cwd: Path | str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, `securexfer` or another, and check its exit code."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def said(done: subprocess.CompletedProcess[str], what: str) -> str:
    """Return what a line `what: ...` of the output says."""
    return next(line.removeprefix(f"{what}: ") for line in done.stdout.splitlines() if line.startswith(f"{what}: "))


def snapshot(directory: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return mode and content of everything in a directory."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(directory.rglob("*"))
    }


def _cannot_trace() -> str:
    if shutil.which("strace") is None:
        return "needs strace"
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    return "strace may not trace" if probe.returncode else ""


needs_strace = pytest.mark.skipif(bool(_cannot_trace()), reason=_cannot_trace())
