"""The targets of the fuzzer, over the vectors and over examples: they hold, and they notice what breaks a promise."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from fuzz import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
