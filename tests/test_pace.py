"""The time that is shown as left: close to the truth in the second half of a steady send, whatever is sent."""

from __future__ import annotations

import random

import pytest

from securexfer.cli.pace import SMOOTHING_SECONDS, Pace

MB = 1_000_000
RATE = 10 * MB
LOOK_SECONDS = 0.2
PIECE = 1 << 18
SEED = random.Random(20261122)
TINY = [1024] * 100_000


def guesses(
    files: list[int], seconds_a_file: float, burst: float = 0.0, rate: float = RATE
) -> list[tuple[float, float | None]]:
    """Return what was truly left and what was guessed, at each look at a send at a steady rate, on a clock of its own.

    Bytes come in bursts of so many seconds, as buffers make them.
    """
    now, moved = 0.0, 0
    steps = []  # when, bytes so far, files so far
    for done, size in enumerate(files):
        now += seconds_a_file
        for start in range(0, size, PIECE):
            piece = min(PIECE, size - start)
            now, moved = now + piece / rate, moved + piece
            steps.append((now, moved, done))
        steps.append((now, moved, done + 1))
    if burst:
        steps = [(now - now % burst + burst, moved, done) for now, moved, done in steps]
    end, pace, found = steps[-1][0], Pace(0.0), []
    seen = (0, 0)
    looked, total = 0.0, sum(files)
    for when, moved, done in steps:
        while looked + LOOK_SECONDS < when:
            looked += LOOK_SECONDS
            pace.look(looked, *seen)
            found.append((end - looked, pace.left(total - seen[0], len(files) - seen[1])))
        seen = (moved, done)
    return found


def sum_of(files: list[int]) -> int:
    return sum(files)


MIXES = {
    "one file": [400 * MB],
    "100 000 tiny files": TINY,
    "sizes of a source tree": [int(SEED.lognormvariate(8, 2)) for _ in range(20_000)],
    "large files, then tiny ones": [10 * MB] * 40 + TINY,
    "tiny files, then large ones": TINY + [10 * MB] * 40,
    "by turns": ([5 * MB] + [1024] * 1000) * 60,
}


@pytest.mark.parametrize("burst", [0.0, 1.0])
@pytest.mark.parametrize("mix", MIXES)
def test_C06_at_a_steady_rate_the_second_half_knows_its_end_within_a_fifth(mix: str, burst: float) -> None:
    found = guesses(MIXES[mix], 0.0, burst)
    second_half = [(truth, guess) for truth, guess in found if 1.5 < truth < found[0][0] / 2]
    assert len(second_half) > 15
    for truth, guess in second_half:
        assert guess is not None
        assert abs(guess - truth) <= 0.2 * truth + burst, f"{guess:.1f} s were guessed where {truth:.1f} s were left"


@pytest.mark.parametrize("mix", ["100 000 tiny files", "by turns"])
def test_C06_what_a_file_costs_by_itself_is_learnt(mix: str) -> None:
    """2 ms a file: most of the time has nothing to do with bytes."""
    found = guesses(MIXES[mix], 0.002)
    for truth, guess in found[len(found) // 2 :]:
        if truth > 2:
            assert guess == pytest.approx(truth, rel=0.2)


def test_C06_empty_files_take_time_too() -> None:
    found = guesses([0] * 100_000, 100e-6)
    for truth, guess in found[len(found) // 2 :]:
        assert guess == pytest.approx(truth, rel=0.1, abs=LOOK_SECONDS)


def test_C06_nothing_is_guessed_from_nothing() -> None:
    """Not in the first second, when buffers fill; not for bytes when only empty files have gone."""
    pace = Pace(50.0)
    assert (pace.rate, pace.left(100, 1), pace.left(0, 0)) == (None, None, 0.0)
    pace.look(50.5, 4 * MB, 1)
    assert pace.left(MB, 1) is None
    empty = Pace(0.0)
    empty.look(2.0, 0, 100)
    assert empty.left(MB, 1) is None
    assert empty.left(0, 50) == pytest.approx(1.0)


def test_C06_a_standstill_makes_it_longer_and_a_new_rate_counts_soon() -> None:
    pace, now, moved = Pace(0.0), 0.0, 0
    for _ in range(100):
        now, moved = now + LOOK_SECONDS, moved + 2 * MB
        pace.look(now, moved)
    assert pace.rate == pytest.approx(RATE)
    before = pace.left(100 * MB)
    for _ in range(25):
        now += LOOK_SECONDS
        pace.look(now, moved)
    after = pace.left(100 * MB)
    assert before is not None
    assert after is not None
    assert after > 1.2 * before
    for _ in range(int(2 * SMOOTHING_SECONDS / LOOK_SECONDS)):
        now, moved = now + LOOK_SECONDS, moved + MB // 5
        pace.look(now, moved)
    assert pace.left(10 * MB) == pytest.approx(10.0, rel=0.75)
    assert pace.rate == pytest.approx(MB, rel=1.5)
