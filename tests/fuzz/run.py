"""Feed the targets with bytes that a fuzzer makes up, watching which code they reach, for a minute in all.

python tests/fuzz/run.py                   all targets side by side
python tests/fuzz/run.py --seconds 3600 --corpus DIR session      one of them, for longer, going on from what was found

Needs atheris (`pip install -e '.[test,fuzz]'`; there are builds of it for some Pythons only). It begins with the test
vectors. What breaks a promise is shown as an exception, with the bytes that did it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

TARGETS = ("names", "framed", "session", "spoken", "received", "sent", "left")
LEAST = 300  # inputs of each target, the vectors among them; fewer are no fuzzing
MEMORY = Path("/dev/shm")  # where there is one, so that no disk is waited for
STARTING_SECONDS = 60.0  # beside the time that was asked for: imports, seeds


def fuzz(name: str, arguments: list[str]) -> None:
    """Become the fuzzer of one target; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["securexfer"]):
        from fuzz import targets
    with contextlib.ExitStack() as stack:
        atheris.Setup([sys.argv[0], *arguments], targets.target(name, stack))
        atheris.Fuzz()


def start(name: str, seconds: int, corpus: Path, found: Path) -> subprocess.Popen[str]:
    """Start the fuzzer of a target, with the vectors in its corpus."""
    from fuzz import targets

    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds()[name]):
        (corpus / f"vector-{number}").write_bytes(seed)
    dictionary = found / "dictionary"
    tokens = ("".join(f"\\x{byte:02x}" for byte in token.encode()) for token in targets.TOKENS)
    dictionary.write_text("".join(f'"{token}"\n' for token in tokens))
    options = [
        f"-dict={dictionary}",
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    longest = max(len(seed) for seed in targets.seeds()[name]) * 2
    command = [sys.executable, __file__, "--be", name, str(corpus), *options, f"-max_len={longest}"]
    return subprocess.Popen(
        [*command, f"-artifact_prefix={found}/{name}-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(found.parent)},
    )


def judge(name: str, code: int, said: str, found: Path) -> str:
    """Return what is wrong with what a fuzzer came to; nothing if it ran and found nothing."""
    inputs = re.search(r"number_of_executed_units: (\d+)", said)
    print(f"{name}: {inputs[1] if inputs else 'no'} inputs, exit code {code}", flush=True)
    if code or list(found.glob(f"{name}-*")):
        end = said[max(said.find("Uncaught Python exception"), 0) :]
        bytes_found = "\n".join(f"{path.name}: {path.read_bytes()!r}" for path in found.glob(f"{name}-*"))
        return f"{end.strip()[-4000:]}\n{bytes_found}"
    if not inputs or int(inputs[1]) < LEAST:
        return f"that is too few to say anything\n{said.strip()[-2000:]}"
    return ""


def main() -> int:
    """Run the targets that were asked for; exit code 1 if one breaks a promise, 2 without atheris."""
    if sys.argv[1:2] == ["--be"]:
        fuzz(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=50, help="for each, all at the same time (default: 50)")
    parser.add_argument("--corpus", type=Path, help="a directory to keep what was found in, and to go on from")
    chosen = parser.parse_args()
    if not set(chosen.targets) <= set(TARGETS):
        parser.error(f"the targets are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed, so nothing was fuzzed: pip install -e '.[test,fuzz]'", file=sys.stderr)
        return 2
    problems = []
    # libFuzzer ends its process without a farewell, so all that is made there is made in here.
    with tempfile.TemporaryDirectory(prefix="securexfer-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as made:
        found = Path(made, "found")
        found.mkdir()
        corpus = chosen.corpus or Path(made, "corpus")
        names = chosen.targets or TARGETS
        running = {name: start(name, chosen.seconds, corpus / name, found) for name in names}
        for name, process in running.items():
            try:
                said, _ = process.communicate(timeout=chosen.seconds + STARTING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
            problem = judge(name, process.returncode, said, found)
            problems += [f"== {name}\n{problem}"] if problem else []
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
