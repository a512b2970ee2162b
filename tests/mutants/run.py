"""Break the package on purpose, one patch at a time, and fail unless the tests that a patch names go red.

python tests/mutants/run.py             all of them, in about three minutes on two cores
python tests/mutants/run.py 06 37       those whose names begin so

A mutant is a file NN-what-it-breaks.patch beside this one. Before the diff, against the checkout's root and with little
context so that it outlives changes nearby, it says, a line each:

    Breaks: what is no longer true, in one sentence
    Row: the case or the promise that is broken with it
    Caught-by: tests/test_x.py::test_y      as often as needed; every one of them has to go red
    Hangs: 15                               only where not ending is how it is caught: after so many seconds

Each patch is applied to a copy of the checkout that has a virtual environment of its own, in which the copy is what
Python imports and what the command `securexfer` runs. (00-nothing-works.patch goes red only if both hold.) Red means
that a named test itself failed: not its set-up, not pytest, not a name that the patch misspells. A patch that does not
apply, a test that is not there, one that is skipped or is red on the unbroken copy: each is a failure of this program.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent
SECONDS = 60.0  # for the tests of one mutant: several times what the slowest of them takes
BASELINE_SECONDS = 600.0

# A copy is of what is in the repository; nothing in a test that is named in a patch looks at more.
LEFT_OUT = shutil.ignore_patterns(".*", "venv", "dist", "build", "inbox", "users.db*", "__pycache__")
COMMAND = "#!{python}\nimport sys\nfrom securexfer.cli import main\nsys.exit(main())\n"

# A mutant should be wrong, not broken: any test would fail then.
BROKEN = re.compile(r"\b(NameError|UnboundLocalError|ImportError|ModuleNotFoundError|SyntaxError|IndentationError)\b")


class PatchError(ValueError):
    """A patch that says no proper thing about itself, or does not apply. Says why."""


@dataclass(frozen=True)
class Mutant:
    """A patch and what it says about itself."""

    path: Path
    breaks: str
    row: str
    caught_by: tuple[str, ...]
    hangs: float  # after so many seconds; 0 if it does not

    @classmethod
    def read(cls, path: Path) -> Mutant:
        head, found, _ = path.read_text(encoding="utf-8").partition("\ndiff --git ")
        said: dict[str, list[str]] = {"Breaks": [], "Row": [], "Caught-by": [], "Hangs": []}
        for line in head.splitlines():
            key, colon, value = line.partition(": ")
            if line.strip() and (not colon or key not in said):
                raise PatchError(f"{path.name} says {line!r}, which means nothing")
            if colon:
                said[key].append(value.strip())
        if not found or not said["Caught-by"] or len(said["Breaks"]) != 1 or len(said["Row"]) != 1:
            raise PatchError(f"{path.name} needs one Breaks, one Row, a Caught-by and a diff")
        return cls(
            path,
            said["Breaks"][0],
            said["Row"][0],
            tuple(said["Caught-by"]),
            *(float(each) for each in said["Hangs"] or [0]),
        )


@dataclass(frozen=True)
class Outcome:
    """What a run of tests came to: pytest's exit code (None: it had to be killed), and each test's result and text."""

    code: int | None
    results: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def of(self, test: str) -> dict[str, str]:
        """Return the results of a test, or of all its parameters where it names none."""
        return {node: result for node, result in self.results.items() if node == test or node.startswith(f"{test}[")}


def make_pristine(place: Path) -> Path:
    """Copy the checkout. Its byte code is checked by content, so that no copy of it runs what was there before."""
    pristine = place / "pristine"
    shutil.copytree(ROOT, pristine, ignore=LEFT_OUT)
    compileall.compile_dir(
        pristine / "securexfer", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )
    return pristine


def make_environment(copy: Path) -> None:
    """Give a copy a virtual environment where it comes first, and where the packages of this one are to be had.

    Its path file names this one's directory of packages, and so does not read the path files in there: the checkout
    that may be installed here by one of those is not to be found.
    """
    directory = copy / ".venv"
    venv.EnvBuilder(symlinks=True).create(directory)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(directory), "platbase": str(directory)}))
    ours = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (packages / "copy.pth").write_text("\n".join([str(copy), *ours]) + "\n")
    command = directory / "bin" / "securexfer"
    command.write_text(COMMAND.format(python=directory / "bin" / "python"))
    command.chmod(0o755)


def apply(patch: Path, copy: Path) -> None:
    """Apply a patch, wherever its few lines of context have moved to; raise PatchError where they are gone."""
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(patch)],
        cwd=copy, capture_output=True, text=True, check=False,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)},
    )  # fmt: skip
    if done.returncode:
        raise PatchError(f"the patch does not apply: {done.stderr.strip().splitlines()[-1]}")


def run_tests(copy: Path, tests: Sequence[str], seconds: float, *options: str) -> Outcome:
    """Run tests in a copy, in a process group that is killed after so many seconds."""
    report = copy / "report.xml"
    command = [str(copy / ".venv/bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    process = subprocess.Popen(
        [*command, f"--basetemp={copy / 'temporary'}", f"--junit-xml={report}", *tests],
        cwd=copy, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST_"))}
        | {"SECUREXFER_NO_SKIPS": "1"},
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Outcome(None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    results, texts = read_report(report) if report.exists() else ({}, {})
    return Outcome(process.returncode, results, texts, said)


def read_report(report: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return each test's result (passed, failure, error, skipped) and what was said of it."""
    results, texts = {}, {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        node = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        found = [part for part in case if part.tag in {"failure", "error", "skipped"}]
        # (A test that failed and then could not be taken down stands there twice.)
        if results.get(node) != "failure":
            results[node] = found[0].tag if found else "passed"
            texts[node] = "".join(f"{part.get('message', '')}\n{part.text or ''}" for part in found)
    return results, texts


def judge(mutant: Mutant, outcome: Outcome) -> str:
    """Return why a mutant does not count as caught; nothing if it does."""
    if outcome.code is None:
        return "" if mutant.hangs else f"it ran into the limit of {SECONDS:.0f} s, and does not say that it hangs"
    if mutant.hangs:
        return "it says that it hangs, and did not"
    if outcome.code not in {0, 1}:
        return f"pytest ended with {outcome.code}: {outcome.said.strip().splitlines()[-1]}"
    for test in mutant.caught_by:
        results = outcome.of(test)
        failed = [node for node, result in results.items() if result == "failure"]
        if not failed:
            return f"NOT CAUGHT: {test} is {' and '.join(sorted(set(results.values()))) or 'not run'}"
        broken = BROKEN.search(outcome.texts[failed[0]])
        if broken:
            return f"the patch itself is broken: {broken[0]} in {failed[0]}"
    return ""


def judge_unbroken(mutant: Mutant, outcome: Outcome) -> str:
    """Return what is wrong with a mutant's tests where nothing is broken; nothing if they are green."""
    if outcome.code is None:
        return f"the tests on the unbroken copy took over {BASELINE_SECONDS:.0f} s"
    for test in mutant.caught_by:
        results = set(outcome.of(test).values())
        if not results:
            return f"there is no test {test}"
        if results != {"passed"}:
            return f"on the unbroken copy, {test} is {' and '.join(sorted(results))}"
    return ""


def run_unbroken(mutants: Sequence[Mutant], place: Path, pristine: Path, jobs: int) -> Outcome:
    """Run every test that a patch names in a copy that is as it should be."""
    copy = place / "unbroken"
    shutil.copytree(pristine, copy)
    make_environment(copy)
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.caught_by)
    # One that is not there would keep all others from running.
    files = sorted({test.partition("::")[0] for test in tests if is_there(copy, test)})
    collected = run_tests(copy, ["--collect-only", *files], BASELINE_SECONDS).said.splitlines() if files else []
    known = {node for line in collected for node in (line, line.partition("[")[0])}
    there = [test for test in tests if test in known]
    if not there:
        return Outcome(0)
    first = run_tests(copy, there, BASELINE_SECONDS, f"-n{jobs}", "--dist=worksteal")
    failed = [node for node, result in first.results.items() if result != "passed"]
    if first.code != 1 or not failed:
        return first
    # As in check.py: what holds a server to a deadline may be late beside others, and is not when it is alone.
    alone = run_tests(copy, failed, BASELINE_SECONDS)
    return Outcome(alone.code, first.results | alone.results, first.texts | alone.texts, alone.said)


def is_there(copy: Path, test: str) -> bool:
    """Whether the test file has a function of that name."""
    file, _, function = test.partition("::")
    path, name = copy / file, function.partition("[")[0]
    return path.is_file() and re.search(rf"^def {re.escape(name)}\(", path.read_text(), re.MULTILINE) is not None


def run_mutant(mutant: Mutant, place: Path, pristine: Path) -> tuple[str, float]:
    """Return why a mutant does not count as caught, if so, and the seconds it took."""
    started = time.monotonic()
    copy = place / mutant.path.stem
    try:
        shutil.copytree(pristine, copy)
        apply(mutant.path, copy)
        make_environment(copy)
        options = ["-x"] if len(mutant.caught_by) == 1 else []
        problem = judge(mutant, run_tests(copy, mutant.caught_by, mutant.hangs or SECONDS, *options))
    except PatchError as error:
        problem = str(error)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return problem, time.monotonic() - started


def run(paths: Sequence[Path], jobs: int) -> int:
    """Run the mutants and print a line for each; return how many are not caught, as they should be."""
    mutants = [Mutant.read(path) for path in paths]
    with tempfile.TemporaryDirectory(prefix="securexfer-mutants-") as directory:
        place = Path(directory)
        place.chmod(0o755)  # some tests look at it as another user
        pristine = make_pristine(place)
        started = time.monotonic()
        unbroken = run_unbroken(mutants, place, pristine, jobs)
        print(f"{len(unbroken.results)} tests on the unbroken copy: {time.monotonic() - started:.0f} s", flush=True)
        wrong = {mutant.path: judge_unbroken(mutant, unbroken) for mutant in mutants}
        if any(wrong.values()):
            print("\n".join(unbroken.said.splitlines()[-40:]))
        with ThreadPoolExecutor(jobs) as pool:
            ready = [mutant for mutant in mutants if not wrong[mutant.path]]
            running = {mutant.path: pool.submit(run_mutant, mutant, place, pristine) for mutant in ready}
            for mutant in mutants:
                problem, seconds = running[mutant.path].result() if mutant in ready else (wrong[mutant.path], 0.0)
                wrong[mutant.path] = problem
                verdict = f"FAIL    {problem}" if problem else f"caught  {mutant.row}: {mutant.breaks}"
                print(f"{mutant.path.stem:45} {seconds:5.1f} s  {verdict}", flush=True)
    return sum(map(bool, wrong.values()))


def main() -> int:
    """Run what was asked for; exit code 1 unless every mutant is caught."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of the patches' names (default: all)")
    parser.add_argument("--patches", type=Path, default=PATCHES, help="where they are (default: beside this program)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    chosen = parser.parse_args()
    paths = [
        path
        for path in sorted(chosen.patches.resolve().glob("*.patch"))
        if not chosen.names or path.name.startswith(tuple(chosen.names))
    ]
    if not paths:
        print(f"there are no patches in {chosen.patches} that are called so", file=sys.stderr)
        return 2
    try:
        failed = run(paths, chosen.jobs)
    except PatchError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(paths) - failed} of {len(paths)} mutants are caught")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
