"""A hostile client of protocol 2 at a real server: refused in words, at no cost, and all oracles hold after each case.

Each case has a user and a source address of its own (see hostile/site.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import stranger_client as stranger
from hostile import client2 as kit
from hostile import speaking
from hostile.client2 import GOOD, LOGINS, REFUSED, REQUESTS, WRONG, WRONG_IN_TURN
from hostile.site import Site
from hostile.speaking import FINISH, Speaker, data, eager, offer, put, start, trailer
from lab import PASSWORD, Lab

from securexfer.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CASES = [
    *(f"login: {case}" for case in LOGINS),
    *(f"request: {case}" for case in REQUESTS),
    *WRONG,
    *WRONG_IN_TURN,
    *REFUSED,
    "names",
    *kit.OVER_THE_WINDOW,
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Site]:
    lab = Lab(tmp_path_factory.mktemp("hostile2"), lab_source)
    yield Site(lab, CASES, "127.10", "--largest-file", str(kit.LARGEST))
    lab.close()


def connect(site: Site, case: str) -> Speaker:
    return speaking.connect(site.server.port, site.lab.ca, site.source(case))


def logged_in(site: Site, case: str) -> Speaker:
    return speaking.logged_in(site.server.port, site.lab.ca, site.user(case), PASSWORD, site.source(case))


def ready(site: Site, case: str) -> Speaker:
    return speaking.ready(site.server.port, site.lab.ca, site.user(case), PASSWORD, site.source(case))


# -- logins and requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LOGINS)
def test_A01_A03_A04_A14_A23_a_first_message_that_is_wrong_gets_one_word_and_the_end(site: Site, case: str) -> None:
    """Of what is announced, nothing is waited for; whatever is wrong with a login, the answer has the same bytes."""
    login, case = LOGINS[case], f"login: {case}"
    with connect(site, case) as speaker:
        speaker.say(login.says(site.user(case), PASSWORD))
        heard = [message for _, message in speaker.rest() if not isinstance(message, messages.Welcome)]
    (refusal,) = heard
    assert isinstance(refusal, messages.Refuse)
    if login.reason == "AUTH":
        assert refusal == messages.Refuse(0, "AUTH", "")
    assert refusal.reason == login.reason
    site.check(case, {}, (login.reason,))
    assert bool(site.logged("auth.ok", case)) is case.startswith("login: right")


def test_A10_A23_a_throttled_login_says_for_how_long_and_never_who_exists(lab: Lab) -> None:
    """Six wrong ones each: one of a user that there is, one of nobody; what is heard is the same, word for word."""
    server = lab.serve("--max-failures-per-source", "100")
    heard: dict[str, list[tuple[int, Any]]] = {}
    for number, user in enumerate(("ana", "nobody"), 1):
        heard[user] = []
        for _ in range(8):
            with speaking.connect(server.port, lab.ca, f"127.11.0.{number}") as speaker:
                speaker.say(speaking.authenticate(user, "wrong password"))
                heard[user] += speaker.rest()
    assert heard["ana"] == heard["nobody"]
    refusals = [message for _, message in heard["ana"]]
    assert {(message.reason, message.retry_after) for message in refusals[:5]} == {("AUTH", 0)}
    assert refusals[-1].reason == "THROTTLED"
    assert 1 <= refusals[-1].retry_after <= 60


@pytest.mark.parametrize("case", REQUESTS)
def test_P01_P06_P11_a_request_that_is_wrong_is_refused_before_anything_is_made(site: Site, case: str) -> None:
    (said, reason), case = REQUESTS[case], f"request: {case}"
    with logged_in(site, case) as speaker:
        speaker.say(said)
        ((number, refusal),) = speaker.rest()
    assert (number, refusal.reason) == (0, reason)
    site.check(case, {}, (reason,))


def test_a_policy_that_the_server_does_not_allow_is_refused(lab: Lab) -> None:
    server = lab.serve("--allow-conflict", "rename", "--allow-conflict", "refuse")
    for policy, reason in (("replace", "POLICY"), ("skip", "POLICY"), ("rename", ""), ("default", "")):
        with speaking.logged_in(server.port, lab.ca, "ana", PASSWORD) as speaker:
            speaker.say(put(policy=policy))
            _, first = speaker.hear() or (0, None)
        assert (isinstance(first, messages.Ready), getattr(first, "reason", "")) == (not reason, reason)


# -- what follows ------------------------------------------------------------------------------------------------


def check_ended(site: Site, case: str, speaker: Speaker, heard: list[tuple[int, Any]]) -> None:
    """The good file is committed before the session ends with one word, which the log has as well."""
    number, last = heard[-1]
    assert (number, type(last)) == (0, messages.Refuse), heard
    assert last.reason == "PROTO"
    assert (1, messages.Committed("stored", 0, "")) in speaker.heard
    committed = {number for number, message in heard if number > 1 and isinstance(message, messages.Committed)}
    if case in kit.BEHIND_A_DIRECTORY:
        site.oracles.directories.add(f"{site.user(case)}/d")
    else:
        assert not committed
    # Files that were on their way have their line; each of these cases stores the good one alone.
    site.oracles.check({f"{site.user(case)}/good": GOOD})
    assert [event["reason"] for event in site.logged("conn.close", case)] == ["PROTO"]
    assert {event["reason"] for event in site.logged("file.abort", case)} <= {"PROTO"}
    assert len(site.logged("file.ok", case)) == 1


@pytest.mark.parametrize("case", WRONG)
def test_F01_F03_F07_F08_F12_what_the_protocol_does_not_know_ends_the_session_and_nothing_else(
    site: Site, case: str
) -> None:
    with ready(site, case) as speaker:
        speaker.say(eager(1, "good", GOOD) + WRONG[case])
        heard = speaker.rest()
    check_ended(site, case, speaker, heard)


@pytest.mark.parametrize("case", WRONG_IN_TURN)
def test_F01_F03_an_answer_that_lies_ends_the_session(site: Site, case: str) -> None:
    with ready(site, case) as speaker:
        speaker.say(eager(1, "good", GOOD))
        WRONG_IN_TURN[case](speaker)
        heard = speaker.rest()
    check_ended(site, case, speaker, heard)


@pytest.mark.parametrize("case", kit.OVER_THE_WINDOW)
def test_F03_more_offers_than_the_window_end_the_session(site: Site, case: str) -> None:
    with ready(site, case) as speaker:
        speaker.say(eager(1, "good", GOOD))
        speaker.until(messages.Committed)
        # Not by a second thread: one TLS object serves one. The answers are few enough to lie on the line meanwhile.
        speaker.say(kit.OVER_THE_WINDOW[case])
        heard = speaker.rest()
    assert len([message for _, message in heard if isinstance(message, messages.Accept)]) == kit.WINDOW
    check_ended(site, case, speaker, heard)


@pytest.mark.parametrize("case", REFUSED)
def test_F09_P01_P02_P06_P07_P11_P13_what_is_wrong_with_a_file_costs_that_file_alone(site: Site, case: str) -> None:
    refused = REFUSED[case]
    with ready(site, case) as speaker:
        speaker.say(eager(1, "good", GOOD))
        speaker.until(messages.Committed)
        speaker.say(refused.says, eager(3, "next", b"next"), FINISH)
        speaker.until(messages.Summary)
        stranger.leave_in_order(speaker.tls)
        assert speaker.rest() == []
    answers = {number: message for number, message in speaker.heard if number > 1}
    refusals = [message for number, message in speaker.heard if isinstance(message, messages.Refuse)]
    assert [message.reason for message in refusals] == [refused.reason]
    assert answers[3] == messages.Committed("stored", 0, "")
    site.check(case, {"good": GOOD, "next": b"next"}, ("done",))
    logged = [event for kind in ("file.reject", "file.abort") for event in site.logged(kind, case)]
    assert [event["reason"] for event in logged] == [refused.reason]


def test_P03_P04_P05_P08_P09_P10_P11_P12_P13_odd_names_are_stored_to_the_byte(site: Site) -> None:
    case = "names"
    names = kit.STORED
    with ready(site, case) as speaker:
        speaker.say(*(eager(number, f"{number}/{name}", name.encode()) for number, name in enumerate(names, 1)))
        speaker.say(FINISH)
        speaker.until(messages.Summary)
        stranger.leave_in_order(speaker.tls)
    assert {message for number, message in speaker.heard if number} == {messages.Committed("stored", 0, "")}
    site.check(case, {f"{number}/{name}": name.encode() for number, name in enumerate(names, 1)}, ("done",))


def test_P02_P03_P04_P05_P08_P09_P10_portable_names_are_those_that_other_systems_can_hold(lab: Lab) -> None:
    server = lab.serve("--names", "portable")
    flat = [name for pair in kit.COLLIDING for name in pair]
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        names = [*kit.UNPORTABLE, *flat]
        for number, name in enumerate(names, 1):
            speaker.say(offer(number, name, 1))
            answer = speaker.until(messages.Accept, messages.Refuse)
            if isinstance(answer, messages.Accept):
                speaker.say(start(number, b"", answer.nonce), data(number, b"x"), trailer(number, b"x"))
                speaker.until(messages.Committed, messages.Refuse)
            else:
                speaker.say(speaking.abort(number))
    said = {names[number - 1]: getattr(message, "reason", "") for number, message in speaker.heard if number}
    assert {said[name] for name in kit.UNPORTABLE} == {"NAME"}
    assert [said[name] for name in flat] == ["", "EXISTS"] * len(kit.COLLIDING)


def test_what_came_in_part_goes_on_only_for_who_proves_to_have_it(lab: Lab) -> None:
    """Of the same name, size and time, with other bytes: refused, and sent from the start; nothing is mixed."""
    server = lab.serve()
    first, other = bytes(3 << 20), b"\1" * (3 << 20)
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        speaker.say(offer(1, "x", len(first)))
        accept = speaker.until(messages.Accept)
        speaker.say(start(1, b"", accept.nonce), data(1, first[: 2 << 20]))
        stranger.leave_without_a_word(speaker.tls)
        server.wait_for("file.abort")
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        speaker.say(offer(1, "x", len(other)))
        accept = speaker.until(messages.Accept)
        assert accept.offset == 2 << 20
        speaker.say(start(1, other[: accept.offset], accept.nonce))
        speaker.say(data(1, other[accept.offset :]), trailer(1, other))
        assert speaker.until(messages.Refuse, messages.Committed).reason == "CHANGED"
        speaker.say(offer(2, "x", len(other), messages.FRESH))
        accept = speaker.until(messages.Accept)
        assert accept.offset == 0
        speaker.say(start(2, b"", accept.nonce), data(2, other), trailer(2, other))
        assert speaker.until(messages.Refuse, messages.Committed) == messages.Committed("stored", 0, "")
    assert lab.stored() == {"x": other}
