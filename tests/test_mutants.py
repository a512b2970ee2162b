"""The runner of the mutants fails for what proves nothing: an unnoticed mutant, a stale one, a test that is gone."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import run

RUNNER = Path(run.__file__)
QUICK = "tests/test_framing.py::test_a_count_is_four_bytes_big_endian"
CHANGED = "securexfer/wire/framing.py"
COUNT = "    return _COUNT.pack(count)\n"


def patch(after: str, *, caught_by: str = QUICK) -> str:
    """Return a mutant that changes how a count is encoded."""
    old = (run.ROOT / CHANGED).read_text(encoding="utf-8")
    assert old.count(COUNT) == 1
    lines = [text.splitlines(keepends=True) for text in (old, old.replace(COUNT, after))]
    diff = "".join(difflib.unified_diff(*lines, f"a/{CHANGED}", f"b/{CHANGED}", n=1))
    return f"Breaks: something.\nRow: none\nCaught-by: {caught_by}\n\ndiff --git a/{CHANGED} b/{CHANGED}\n{diff}"


def run_patches(place: Path, patches: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in patches.items():
        (place / f"{name}.patch").write_text(text)
    return subprocess.run(
        [sys.executable, RUNNER, "--patches", place, "--jobs", "2"], capture_output=True, text=True, check=False
    )


def test_only_a_mutant_that_its_tests_notice_is_caught(tmp_path: Path) -> None:
    patches = {
        "1-noticed": patch("    return _COUNT.pack(count + 1)\n"),
        "2-unnoticed": patch("    return _COUNT.pack(count) + b''\n"),
        "3-stale": patch("    return b''\n").replace(f"-{COUNT}", "-    return _COUNT.pack(number)\n"),
        "4-no-such-test": patch("    return b''\n", caught_by="tests/test_framing.py::test_that_was_renamed"),
        "5-no-such-parameter": patch("    return b''\n", caught_by=f"{QUICK}[gone]"),
        "6-misspelt": patch("    return _KOUNT.pack(count)\n"),
    }
    done = run_patches(tmp_path, patches)
    assert done.returncode == 1
    verdicts = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith(tuple(patches))}
    assert list(verdicts) == list(patches)
    for name, verdict in {
        "1-noticed": "caught  none: something.",
        "2-unnoticed": "NOT CAUGHT",
        "3-stale": "the patch does not apply",
        "4-no-such-test": "there is no test",
        "5-no-such-parameter": "there is no test",
        "6-misspelt": "the patch itself is broken: NameError",
    }.items():
        assert verdict in verdicts[name]
    assert done.stdout.splitlines()[-1] == "1 of 6 mutants are caught"


def test_without_patches_nothing_is_proved(tmp_path: Path) -> None:
    assert run_patches(tmp_path, {}).returncode == 2


@pytest.mark.parametrize("lacking", ["Breaks: something.\n", "Row: none\n", f"Caught-by: {QUICK}\n", "diff --git "])
def test_a_patch_that_does_not_say_what_it_is_stops_the_run(tmp_path: Path, lacking: str) -> None:
    done = run_patches(tmp_path, {"1-silent": patch("    return b''\n").replace(lacking, "")})
    assert done.returncode == 1
    assert "1-silent.patch needs one Breaks" in done.stderr or "which means nothing" in done.stderr


MUTANT = run.Mutant(Path("1.patch"), "something", "none", (QUICK,), 0)
HANGING = run.Mutant(Path("1.patch"), "something", "none", (QUICK,), 15)


@pytest.mark.parametrize(
    ("mutant", "outcome", "problem"),
    [
        (MUTANT, run.Outcome(1, {QUICK: "failure"}, {QUICK: "assert 0"}), ""),
        (MUTANT, run.Outcome(1, {f"{QUICK}[a]": "passed", f"{QUICK}[b]": "failure"}, {f"{QUICK}[b]": "assert 0"}), ""),
        (MUTANT, run.Outcome(1, {QUICK: "error"}, {QUICK: "in the set-up"}), "NOT CAUGHT"),
        (MUTANT, run.Outcome(0, {QUICK: "skipped"}, {QUICK: ""}), "NOT CAUGHT"),
        (MUTANT, run.Outcome(1, {f"{QUICK}_more": "failure"}, {}), "NOT CAUGHT"),
        (MUTANT, run.Outcome(2, said="interrupted"), "pytest ended with 2"),
        (MUTANT, run.Outcome(4, said="no such file"), "pytest ended with 4"),
        (MUTANT, run.Outcome(5, said="no tests ran"), "pytest ended with 5"),
        (MUTANT, run.Outcome(None), "does not say that it hangs"),
        (HANGING, run.Outcome(None), ""),
        (HANGING, run.Outcome(1, {QUICK: "failure"}, {QUICK: ""}), "says that it hangs"),
    ],
)
def test_a_test_has_to_fail_itself(mutant: run.Mutant, outcome: run.Outcome, problem: str) -> None:
    found = run.judge(mutant, outcome)
    assert problem in found
    assert bool(found) == bool(problem)


def test_what_is_skipped_or_red_without_the_mutant_proves_nothing() -> None:
    for result in ("skipped", "failure", "error"):
        assert f"is {result}" in run.judge_unbroken(MUTANT, run.Outcome(1, {QUICK: result}, {QUICK: ""}))
    assert "there is no test" in run.judge_unbroken(MUTANT, run.Outcome(0))
    assert run.judge_unbroken(MUTANT, run.Outcome(0, {QUICK: "passed"}, {QUICK: ""})) == ""


def test_every_mutant_says_what_it_is_and_names_tests_that_are_there() -> None:
    mutants = [run.Mutant.read(path) for path in sorted(run.PATCHES.glob("*.patch"))]
    assert len(mutants) >= 90
    assert [test for mutant in mutants for test in mutant.caught_by if not run.is_there(run.ROOT, test)] == []


def test_every_mutant_still_applies(tmp_path: Path) -> None:
    """Cheap enough to be said with every run of the tests, so that who changes the code mends the mutant at once."""
    stale = []
    for path in sorted(run.PATCHES.glob("*.patch")):
        copy = tmp_path / path.stem
        for line in path.read_text().splitlines():
            if line.startswith("--- a/"):
                (copy / line[6:]).parent.mkdir(parents=True, exist_ok=True)
                (copy / line[6:]).write_bytes((run.ROOT / line[6:]).read_bytes())
        try:
            run.apply(path, copy)
        except run.PatchError:
            stale.append(path.name)
    assert stale == []
