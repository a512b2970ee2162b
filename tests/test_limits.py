"""Every limit of the server is an option with a range, shows its default, and says which rule refused."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Annotated, get_args, get_origin, get_type_hints

import pytest
import stranger_client as stranger
from lab import PASSWORD, Lab

from securexfer.accounts.guessing import GuessLimits
from securexfer.accounts.logins import WAITING
from securexfer.cli.serve import serve
from securexfer.server import Limits

if TYPE_CHECKING:
    from typer.models import OptionInfo

DEFAULTS = dataclasses.asdict(Limits()) | {
    "login_queue": WAITING,
    "max_failures": GuessLimits().failures,
    "max_failures_per_source": GuessLimits().source_failures,
}
CALLED = {
    "handshakes": "max_handshakes",
    "handshakes_per_source": "max_handshakes_per_source",
    "handshake_seconds": "handshake_timeout",
    "login_seconds": "login_timeout",
    "sessions": "max_sessions",
    "sessions_per_user": "max_sessions_per_user",
    "idle_seconds": "idle_timeout",
    "grace_seconds": "grace",
}


def option(name: str) -> tuple[OptionInfo, object]:
    annotated = get_type_hints(serve, include_extras=True)[name]
    assert get_origin(annotated) is Annotated
    return get_args(annotated)[1], inspect.signature(serve).parameters[name].default


@pytest.mark.parametrize("limit", [name for name in DEFAULTS if name != "largest_file"])
def test_each_limit_is_an_option_with_its_default_and_a_range(limit: str) -> None:
    found, default = option(CALLED.get(limit, limit))
    assert default == DEFAULTS[limit]
    assert found.min is not None
    assert found.max is not None
    assert found.min <= default <= found.max


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--max-handshakes", "0"), "0 is not in the range 1<=x<=10000"),
        (("--max-failures", "101"), "101 is not in the range 10<=x<=100"),
        (("--idle-timeout", "0"), "0"),
        (("--handshake-timeout", "nan"), "nan is not a number of seconds"),
        (("--grace", "nan"), "nan is not a number of seconds"),
        (("--minimum-rate", "0"), "0 is not in the range"),
        (("--login-queue", "-1"), "-1 is not in the range"),
        (("--max-sessions", "many"), "'many' is not a valid int"),
    ],
)
def test_a_limit_out_of_its_range_is_refused_with_the_range(lab: Lab, words: tuple[str, str], reason: str) -> None:
    done = lab.run("serve", "--home", lab.home, *words)
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.replace("│", "").split())
    assert words[0] in done.stderr


def test_what_was_refused_by_a_limit_stands_in_the_log_with_the_rule(lab: Lab) -> None:
    server = lab.serve("--max-sessions-per-user", "1", "--idle-timeout", "1.5")
    with stranger.connect(server.port, str(lab.ca)) as first, stranger.connect(server.port, str(lab.ca)) as second:
        assert stranger.log_in(first, "ana", PASSWORD)
        with pytest.raises(ConnectionError, match="busy"):
            stranger.log_in(second, "ana", PASSWORD)
        hit = server.wait_for("limit.hit")
        assert (hit["limit"], hit["detail"]) == ("sessions per user", "ana has 1 sessions running")
        assert stranger.rest(first) == b"", "a silent session ends"
    server.wait_for("conn.close", 2)
    reasons = {event["reason"] for event in server.events("conn.close")}
    assert reasons == {"BUSY", "TIMEOUT"}
