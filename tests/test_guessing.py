"""Guessing: what is evaluated and what is not, for strangers and for those an account knows; and the queue's fairness.

The rules alone, with a clock of the test's own; then a running server, with guessers and honest users.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import sqlite3
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from lab import PASSWORD, Lab, Server, fresh_source

from securexfer.accounts.database import KNOWN_SOURCES, Accounts
from securexfer.accounts.guessing import ENTRIES, FREE_FAILURES, LONGEST_WAIT, Guessing, GuessLimits
from securexfer.accounts.logins import Logins
from securexfer.accounts.passwords import PasswordHash
from securexfer.accounts.turns import Turns
from securexfer.accounts.users import Standing
from securexfer.errors import BusyError, LoginRefusedError, SecurexferError, ThrottledError
from securexfer.hosts import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from securexfer.events import Event

STRANGER = Standing(exists=True)
KNOWN = Standing(exists=True, known=True)
NOBODY = Standing()
WRONG = "not her password"
HOME, ELSEWHERE = "192.0.2.2", "192.0.2.66"


class Clock:
    """Seconds, which pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guessing(clock: Clock) -> Guessing:
    """Many sources may guess; the tests of one source have their own."""
    return Guessing(clock=clock)


def fail(guessing: Guessing, account: str, source: str, standing: Standing = STRANGER) -> bool:
    """Guess wrong; return whether it was evaluated."""
    try:
        with guessing.trial(account, source, standing):
            raise LoginRefusedError("wrong")
    except ThrottledError:
        return False
    except LoginRefusedError:
        return True


def succeed(guessing: Guessing, account: str, source: str, standing: Standing = STRANGER) -> bool:
    """Guess right; return whether it was evaluated."""
    with contextlib.suppress(ThrottledError), guessing.trial(account, source, standing):
        return True
    return False


def sources() -> Iterator[str]:
    return (f"198.51.{high}.{low}" for high in range(256) for low in range(256))


# -- one account -------------------------------------------------------------------------------------------------


def test_A08_after_five_failures_each_try_waits_twice_as_long_up_to_a_minute(guessing: Guessing, clock: Clock) -> None:
    assert all(fail(guessing, "alice", ELSEWHERE) for _ in range(FREE_FAILURES))
    for wait in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        clock.now += wait - 0.01
        assert not fail(guessing, "alice", ELSEWHERE)
        assert not succeed(guessing, "alice", ELSEWHERE)  # nor is a right one looked at
        clock.now += 0.02
        assert fail(guessing, "alice", ELSEWHERE)


def test_A08_a_try_that_was_not_evaluated_prolongs_nothing(guessing: Guessing, clock: Clock) -> None:
    for _ in range(FREE_FAILURES):
        fail(guessing, "alice", ELSEWHERE)
    for _ in range(1000):
        assert not fail(guessing, "alice", ELSEWHERE)
        clock.now += 0.0009
    clock.now += 0.11
    assert fail(guessing, "alice", ELSEWHERE)


def test_A08_strangers_together_get_a_hundred_tries_at_one_account_and_no_more(
    guessing: Guessing, clock: Clock
) -> None:
    evaluated = 0
    for source in sources():
        evaluated += fail(guessing, "alice", source)
        clock.now += LONGEST_WAIT + 1
        if evaluated == 100:
            break
    for source in (ELSEWHERE, HOME):
        clock.now += 365 * 86400
        assert not fail(guessing, "alice", source)
        assert not succeed(guessing, "alice", source)
    assert succeed(guessing, "alice", HOME, KNOWN)
    assert not succeed(guessing, "alice", ELSEWHERE)
    assert fail(guessing, "bruno", ELSEWHERE)


def test_A08_guesses_at_the_same_moment_get_no_more_tries_than_one_after_the_other(guessing: Guessing) -> None:
    fail(guessing, "alice", ELSEWHERE)
    with contextlib.ExitStack() as stack:
        for _ in range(FREE_FAILURES - 1):
            stack.enter_context(guessing.trial("alice", ELSEWHERE, STRANGER))
        assert not fail(guessing, "alice", ELSEWHERE)


def test_many_may_log_in_at_once_where_nothing_failed(guessing: Guessing) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(guessing.trial("alice", HOME, KNOWN))
    assert succeed(guessing, "alice", HOME, KNOWN)


def test_A09_failures_elsewhere_never_delay_a_known_address(guessing: Guessing, clock: Clock) -> None:
    for source in list(sources())[:200]:
        fail(guessing, "alice", source)
        clock.now += LONGEST_WAIT
        assert succeed(guessing, "alice", HOME, KNOWN)
    assert not fail(guessing, "alice", ELSEWHERE), "her success cleared the count of strangers"


def test_A09_a_known_address_waits_for_its_own_failures_and_is_never_closed(guessing: Guessing, clock: Clock) -> None:
    for _ in range(1100):
        assert fail(guessing, "alice", HOME, KNOWN)
        clock.now += LONGEST_WAIT + 1
    assert succeed(guessing, "alice", HOME, KNOWN)
    assert all(fail(guessing, "alice", HOME, KNOWN) for _ in range(FREE_FAILURES))
    assert not succeed(guessing, "alice", HOME, KNOWN)


def test_A10_an_account_that_does_not_exist_is_treated_like_one_that_does(guessing: Guessing, clock: Clock) -> None:
    steps = random.Random(7)
    for _ in range(2000):
        source = f"198.51.100.{steps.randrange(64)}"
        assert fail(guessing, "alice", source, STRANGER) == fail(guessing, "nobody", source, NOBODY)
        clock.now += steps.choice((0, 1, 20, 61))


def test_a_success_of_a_stranger_ends_the_row(guessing: Guessing, clock: Clock) -> None:
    for _ in range(30):
        for _ in range(FREE_FAILURES - 1):
            assert fail(guessing, "alice", ELSEWHERE)
            clock.now += 20
        assert succeed(guessing, "alice", ELSEWHERE)


@pytest.mark.parametrize("error", [BusyError("busy"), MemoryError()])
def test_what_is_neither_success_nor_failure_counts_for_nothing(guessing: Guessing, error: Exception) -> None:
    for _ in range(300):
        with pytest.raises(type(error)), guessing.trial("alice", ELSEWHERE, STRANGER):
            raise error
    assert succeed(guessing, "alice", ELSEWHERE)


# -- what is kept ------------------------------------------------------------------------------------------------


def test_A13_what_was_stored_is_where_counting_goes_on(clock: Clock) -> None:
    first = Guessing(clock=clock)
    for source in list(sources())[:97]:
        assert fail(first, "alice", source)
        fail(first, "nobody", source, NOBODY)
        fail(first, "bruno", source, KNOWN)
        clock.now += LONGEST_WAIT + 1
    assert first.take_unsaved() == {"alice": (97, 0)}
    assert first.take_unsaved() == {}
    again = Guessing(clock=clock)
    stored = Standing(exists=True, failures=97)
    assert fail(again, "alice", ELSEWHERE, stored)
    assert not fail(again, "alice", ELSEWHERE, stored)
    for _ in range(2):
        clock.now += LONGEST_WAIT + 1
        assert fail(again, "alice", ELSEWHERE, stored)
    clock.now += LONGEST_WAIT + 1
    assert not fail(again, "alice", ELSEWHERE, stored)


def test_a_login_that_waited_while_an_epoch_began_guesses_no_more_than_others(guessing: Guessing) -> None:
    before, after = Standing(exists=True, epoch=1), Standing(exists=True, epoch=2)
    addresses = sources()
    evaluated = sum(
        fail(guessing, "alice", next(addresses), standing) for _ in range(60) for standing in (before, after)
    )
    assert evaluated <= FREE_FAILURES + 1


def test_a_success_is_not_forgotten_before_it_is_stored(guessing: Guessing, clock: Clock) -> None:
    stored = Standing(exists=True, failures=99)
    assert succeed(guessing, "alice", HOME, stored)
    assert fail(guessing, "alice", ELSEWHERE, stored)
    assert guessing.take_unsaved() == {"alice": (1, 0)}


def test_A10_what_is_forgotten_of_an_account_that_exists_is_forgotten_where_it_is_stored(clock: Clock) -> None:
    guessing = Guessing(entries=10, clock=clock)
    for _ in range(FREE_FAILURES - 1):
        assert fail(guessing, "alice", ELSEWHERE)
    assert guessing.take_unsaved() == {"alice": (FREE_FAILURES - 1, 0)}
    for number, source in zip(range(20), sources(), strict=False):
        fail(guessing, f"nobody{number}", source, NOBODY)
        clock.now += 61
    assert guessing.take_unsaved() == {"alice": (0, 0)}


def test_A13_what_could_not_be_stored_is_stored_later(guessing: Guessing) -> None:
    fail(guessing, "alice", ELSEWHERE)
    fail(guessing, "bruno", HOME)
    unsaved = guessing.take_unsaved()
    fail(guessing, "bruno", HOME)
    guessing.put_back(unsaved)
    assert guessing.take_unsaved() == {"alice": (1, 0), "bruno": (2, 0)}


def test_a_new_epoch_begins_with_nothing_counted(guessing: Guessing) -> None:
    while fail(guessing, "alice", ELSEWHERE):
        pass
    assert succeed(guessing, "alice", HOME, Standing(exists=True, epoch=1))


# -- one source --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("standing", "most"), [(NOBODY, 20), (KNOWN, 60)], ids=["stranger", "known"])
def test_A11_a_source_gets_so_many_failures_in_any_minute_whatever_the_accounts(
    guessing: Guessing, clock: Clock, standing: Standing, most: int
) -> None:
    evaluated: list[float] = []
    for number in range(40_000):
        if fail(guessing, f"user{number}", ELSEWHERE, standing):
            evaluated.append(clock.now)
        clock.now += 0.01
    assert len(evaluated) > 3 * most
    for first, beyond in zip(evaluated, evaluated[most:], strict=False):
        assert beyond - first > 60


def test_A11_another_source_and_a_known_address_behind_the_same_one_go_on(guessing: Guessing) -> None:
    while fail(guessing, "alice", ELSEWHERE) or fail(guessing, "bruno", ELSEWHERE) or fail(guessing, "x", ELSEWHERE):
        pass
    assert not succeed(guessing, "carla", ELSEWHERE)
    assert succeed(guessing, "carla", HOME)
    assert succeed(guessing, "carla", ELSEWHERE, KNOWN)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_ipv6_host_is_one_source_whichever_of_its_addresses_it_takes(address: str, source: str) -> None:
    assert source_of(address) == source


# -- the tables --------------------------------------------------------------------------------------------------


def test_A11_the_tables_are_bounded(clock: Clock) -> None:
    guessing = Guessing(clock=clock)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(ENTRIES + 1000):
        fail(guessing, f"{number:x}".rjust(32, "a"), f"2001:db8:{number:x}::/64", NOBODY)
        clock.now += 0.01
    assert len(guessing._counts) <= ENTRIES
    for number in range(ENTRIES + 1000):
        for _ in range(FREE_FAILURES):
            fail(guessing, f"{number:x}".rjust(32, "b"), f"2001:db8:{number:x}::/64", NOBODY)
            clock.now += 7
        assert len(guessing._counts) <= ENTRIES >= len(guessing._waiting)
        assert len(guessing._levels) <= ENTRIES
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < 24 << 20


def test_A11_who_has_to_wait_is_not_forgotten_for_a_flood_of_others(clock: Clock) -> None:
    guessing = Guessing(entries=100, clock=clock)
    for source in list(sources())[:100]:
        fail(guessing, "alice", source)
        clock.now += LONGEST_WAIT + 1
    for number, source in zip(range(1000), sources(), strict=False):
        fail(guessing, f"user{number}", source, NOBODY)
        clock.now += 61
    assert not fail(guessing, "alice", ELSEWHERE)


def test_A11_a_table_that_is_full_of_those_who_wait_takes_no_more(clock: Clock) -> None:
    guessing = Guessing(entries=100, clock=clock)
    for number, source in zip(range(100), sources(), strict=False):
        assert all(fail(guessing, f"user{number}", source, NOBODY) for _ in range(FREE_FAILURES))
        clock.now += 61
    assert all(fail(guessing, "alice", ELSEWHERE) for _ in range(FREE_FAILURES - 1))
    assert not fail(guessing, "alice", ELSEWHERE)
    assert succeed(guessing, "alice", HOME, KNOWN)
    clock.now += 86400 - 99 * 61  # a day after the last failure of the first of them
    assert fail(guessing, "alice", ELSEWHERE)
    assert all(fail(guessing, "bruno", ELSEWHERE) for _ in range(FREE_FAILURES - 1))
    assert not fail(guessing, "bruno", ELSEWHERE), "there was room for one"


def test_A11_so_is_a_table_full_of_sources_until_they_have_calmed_down(clock: Clock) -> None:
    guessing = Guessing(entries=100, clock=clock)
    for number, source in zip(range(100), sources(), strict=False):
        assert fail(guessing, f"user{number}", source, NOBODY)
    assert not fail(guessing, "alice", ELSEWHERE)
    assert succeed(guessing, "alice", ELSEWHERE, KNOWN)
    clock.now += 6.01
    assert fail(guessing, "alice", ELSEWHERE)


def test_the_limits_are_those_that_were_asked_for(clock: Clock) -> None:
    guessing = Guessing(GuessLimits(failures=10, source_failures=4), clock=clock)
    assert [fail(guessing, f"user{number}", ELSEWHERE) for number in range(3)] == [True, True, False]
    for source in list(sources())[:10]:
        assert fail(guessing, "alice", source)
        clock.now += LONGEST_WAIT + 1
    assert not fail(guessing, "alice", HOME)


# -- what the database knows -------------------------------------------------------------------------------------


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    home = tmp_path / "accounts"
    home.mkdir(mode=0o700)
    with Accounts.create(home / "users.db") as made:
        made.add_all({"ana": "x", "bruno": "x"})
        yield made


def note_failures(accounts: Accounts, **failures: int) -> None:
    """Store so many failures of strangers as of now."""
    accounts.keep_failures({name: (count, accounts.standing(name, "").epoch) for name, count in failures.items()})


def remember(accounts: Accounts, name: str, source: str) -> None:
    accounts.remember(name, source, accounts.standing(name, source).epoch)


def stood(accounts: Accounts, name: str, source: str) -> tuple[bool, bool, int]:
    found = accounts.standing(name, source)
    return found.exists, found.known, found.failures


def test_an_address_is_known_to_the_accounts_that_logged_in_from_it_alone(accounts: Accounts) -> None:
    remember(accounts, "ana", HOME)
    assert stood(accounts, "ana", HOME) == (True, True, 0)
    assert stood(accounts, "bruno", HOME) == stood(accounts, "ana", ELSEWHERE) == (True, False, 0)
    assert accounts.standing("nobody", HOME) == accounts.standing("../\udcff", HOME) == Standing()


def test_a_new_password_makes_every_address_a_stranger_again(accounts: Accounts) -> None:
    remember(accounts, "ana", HOME)
    note_failures(accounts, ana=7, bruno=3, nobody=9)
    before = accounts.standing("ana", HOME)
    assert stood(accounts, "ana", HOME) == (True, True, 7)
    accounts.set_password("ana", "y")
    assert stood(accounts, "ana", HOME) == (True, False, 0)
    accounts.keep_failures({"ana": (8, before.epoch)})
    assert stood(accounts, "ana", HOME) == (True, False, 0)
    assert [user.failures for user in accounts.all()] == [0, 3]


def test_a_login_with_the_old_password_makes_nothing_known_after_the_new_one(accounts: Accounts) -> None:
    before = accounts.standing("ana", HOME)
    accounts.set_password("ana", "y")
    accounts.remember("ana", HOME, before.epoch)
    assert stood(accounts, "ana", HOME) == (True, False, 0)


def test_while_another_process_has_the_database_logins_go_on_and_are_noted_afterwards(accounts: Accounts) -> None:
    for user in ("ana", "bruno"):
        accounts.set_password(user, str(PasswordHash.make(PASSWORD)))
    events: list[Event] = []
    logins = Logins(accounts, observe=events.append)
    addresses = list(sources())[:12]
    with contextlib.closing(sqlite3.connect(accounts.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for source in addresses:
            logins.check("ana", PASSWORD, source)
            time.sleep(0.3)  # so that some of it is being stored meanwhile
            assert logins._standing("ana", source).known
        assert time.monotonic() - began < 9, "a login waited for the other process"
        other.execute("ROLLBACK")
    logins.close()
    logins.finish()
    assert all(accounts.standing("ana", source).known for source in addresses)


def test_enabling_lets_strangers_try_again_and_keeps_known_addresses(accounts: Accounts) -> None:
    remember(accounts, "ana", HOME)
    note_failures(accounts, ana=100)
    before = accounts.standing("ana", HOME)
    accounts.enable("ana")
    assert stood(accounts, "ana", HOME) == (True, True, 0)
    assert accounts.standing("ana", HOME).epoch != before.epoch


def test_a_user_who_was_removed_leaves_nothing_to_the_next_of_that_name(accounts: Accounts) -> None:
    remember(accounts, "ana", HOME)
    note_failures(accounts, ana=100)
    before = accounts.standing("ana", HOME)
    accounts.remove("ana")
    remember(accounts, "ana", HOME)  # a login that was under way
    accounts.add("ana", "x")
    assert stood(accounts, "ana", HOME) == (True, False, 0)
    assert accounts.standing("ana", HOME).epoch not in {before.epoch, Standing().epoch}, "a server counts on, else"


def test_the_addresses_seen_last_are_known(accounts: Accounts) -> None:
    for source in list(sources())[:KNOWN_SOURCES]:
        remember(accounts, "ana", source)
        remember(accounts, "bruno", source)
    with contextlib.closing(sqlite3.connect(accounts.path)) as raw, raw:
        raw.execute("UPDATE known_sources SET seen = seen - 1 WHERE source != '198.51.0.0'")
    for _ in range(2):
        remember(accounts, "ana", HOME)
        known = [
            source for source in [*list(sources())[:KNOWN_SOURCES], HOME] if accounts.standing("ana", source).known
        ]
        assert len(known) == KNOWN_SOURCES
        assert {"198.51.0.0", HOME} < set(known)
    assert all(accounts.standing("bruno", source).known for source in list(sources())[:KNOWN_SOURCES])


# -- the queue ---------------------------------------------------------------------------------------------------


class Caller(threading.Thread):
    """Takes a turn and notes when it has it."""

    def __init__(self, turns: Turns, source: str, order: list[str], *, known: bool = False) -> None:
        super().__init__(daemon=True)
        self.outcome = ""
        self._turns, self._source, self._order, self._known = turns, source, order, known
        before = turns.waiting()
        self.start()
        deadline = time.monotonic() + 0.5  # one that takes another's place leaves as many waiting
        while turns.waiting() == before and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)

    def run(self) -> None:
        try:
            with self._turns.take(self._source, known=self._known):
                self._order.append(self._source)
        except SecurexferError as error:
            self.outcome = error.reason


def test_sources_take_turns_and_strangers_leave_every_other_turn_to_the_known() -> None:
    turns, order = Turns(1, 100), list[str]()
    with turns.take("first", known=False):
        crowd = [Caller(turns, "crowd", order) for _ in range(6)]
        others = [Caller(turns, "few", order) for _ in range(2)]
        known = [Caller(turns, "known", order, known=True) for _ in range(3)]
    for caller in (*crowd, *others, *known):
        caller.join(10)
    assert order == ["known", "crowd", "known", "few", "known", "crowd", "few", *["crowd"] * 4]


def test_A09_many_strangers_with_a_place_each_do_not_keep_the_known_out() -> None:
    turns, order = Turns(1, 4), list[str]()
    with turns.take("first", known=False):
        strangers = [Caller(turns, f"stranger{number}", order) for number in range(4)]
        known = [Caller(turns, f"known{number}", order, known=True) for number in range(3)]
        assert known[2].outcome == "BUSY", "half of the queue is the strangers'"
        assert Caller(turns, "one more", order).outcome == "BUSY"
    for caller in (*strangers, *known):
        caller.join(10)
    assert len(order) == 4
    assert {"known0", "known1"} < set(order)


def test_a_full_queue_gives_a_newcomer_the_last_place_of_whoever_has_most() -> None:
    turns, order = Turns(1, 4), list[str]()
    with turns.take("first", known=False):
        crowd = [Caller(turns, "crowd", order) for _ in range(4)]
        assert Caller(turns, "crowd", order).outcome == "BUSY"
        newcomers = [Caller(turns, f"newcomer{number}", order) for number in range(3)]
        for caller in crowd[1:]:
            caller.join(10)
        assert [caller.outcome for caller in crowd] == ["", "BUSY", "BUSY", "BUSY"]
        assert Caller(turns, "one more", order).outcome == "BUSY", "all hold one place each"
    for caller in (*crowd, *newcomers):
        caller.join(10)
    assert sorted(order) == ["crowd", "newcomer0", "newcomer1", "newcomer2"]


# -- a running server --------------------------------------------------------------------------------------------


def guess(lab: Lab, server: Server, user: str, source: str, password: str = WRONG) -> bool | None:
    """Try to log in; None stands for an end without an answer."""
    with stranger.connect(server.port, str(lab.ca), source=source) as tls:
        tls.sendall(stranger.login(user, password))
        answer = stranger.answers(tls, 1)
    return answer == stranger.ACCEPTED if answer else None


def log_in_at_last(lab: Lab, server: Server, user: str, source: str, seconds: float) -> float:
    """Log in with the right password, trying again while there is no answer; return the seconds it took."""
    began = time.monotonic()
    while (answer := guess(lab, server, user, source, PASSWORD)) is None and time.monotonic() - began < seconds:
        time.sleep(0.1)
    assert answer, answer
    return time.monotonic() - began


def test_A08_A09_A10_a_guesser_is_slowed_and_nobody_else(lab: Lab) -> None:
    with Accounts.open(lab.home / "users.db") as accounts:
        remember(accounts, "ana", "127.0.0.2")
        note_failures(accounts, ana=9)  # so that the next wait is 32 s, whatever this machine does beside
    server = lab.serve()
    assert guess(lab, server, "ana", "127.0.0.2", PASSWORD) is True
    assert guess(lab, server, "ana", "127.0.0.66") is False
    assert guess(lab, server, "ana", "127.0.0.66") is None
    assert guess(lab, server, "ana", "127.0.0.68", PASSWORD) is None, "one count for all strangers"
    assert guess(lab, server, "ana", "127.0.0.2", PASSWORD) is True, "from where she has logged in before"
    assert guess(lab, server, "ana", "127.0.0.66") is None, "her login cleared the count of strangers"
    assert guess(lab, server, "bruno", "127.0.0.66", PASSWORD) is True
    heard = [guess(lab, server, "nobody", fresh_source()) for _ in range(FREE_FAILURES + 3)]
    assert heard[:FREE_FAILURES] == [False] * FREE_FAILURES
    assert None in heard
    throttled = server.events("auth.throttle")
    assert {event["address"] for event in throttled if event["user"] == "ana"} == {"127.0.0.66", "127.0.0.68"}
    assert {event["user"] for event in throttled} == {"ana", "nobody"}
    assert all("logins failed in a row" in event["rule"] for event in throttled)


def test_A09_her_send_goes_through_while_twenty_guess_at_her_account(lab: Lab, tmp_path: Path) -> None:
    server = lab.serve()
    assert lab.send(server, __file__).returncode == 0  # from 127.0.0.1, which is known from now on
    ended = threading.Event()

    def guess_on(number: int) -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                guess(lab, server, "ana" if number % 2 else f"user{number}", f"127.0.1.{number + 1}")

    guessers = [threading.Thread(target=guess_on, args=(number,)) for number in range(20)]
    for guesser in guessers:
        guesser.start()
    try:
        server.wait_for("auth.throttle", 20)
        for number in range(3):
            path = tmp_path / f"{number}.txt"
            path.write_text("honest")
            assert lab.send(server, path).returncode == 0
    finally:
        ended.set()
        for guesser in guessers:
            guesser.join(30)


def test_A13_a_restart_forgets_neither_failures_nor_known_addresses(lab: Lab) -> None:
    server = lab.serve("--max-failures", "10")
    assert guess(lab, server, "ana", "127.0.0.2", PASSWORD)
    for number in range(FREE_FAILURES):
        assert guess(lab, server, "ana", f"127.0.0.{60 + number}") is False
    assert server.stop() == 0
    for _ in range(5):
        server = lab.serve("--max-failures", "10")
        assert guess(lab, server, "ana", "127.0.0.80") is False  # the wait is not stored, only the count
        assert server.stop() == 0
    server = lab.serve("--max-failures", "10")
    assert guess(lab, server, "ana", "127.0.0.90", PASSWORD) is None
    assert guess(lab, server, "ana", "127.0.0.2", PASSWORD)
    listed = lab.run("user", "list", "--home", lab.home)
    assert "10 failed logins" in next(line for line in listed.stdout.splitlines() if line.startswith("ana"))
    assert lab.run("user", "enable", "ana", "--home", lab.home).returncode == 0
    assert guess(lab, server, "ana", "127.0.0.90", PASSWORD)


def test_A13_a_server_that_is_killed_forgets_a_few_seconds_at_most(lab: Lab) -> None:
    server = lab.serve("--max-failures", "10")
    for number in range(FREE_FAILURES):
        assert guess(lab, server, "ana", f"127.0.0.{60 + number}") is False
    deadline = time.monotonic() + 20
    listed = ""
    while "5 failed logins" not in listed and time.monotonic() < deadline:
        listed = lab.run("user", "list", "--home", lab.home).stdout
    server.process.kill()
    assert "5 failed logins" in listed


def test_who_guesses_in_a_loop_hears_of_it_once_a_second_whatever_is_sent_meanwhile(lab: Lab) -> None:
    with Accounts.open(lab.home / "users.db") as accounts:
        note_failures(accounts, ana=100)
    server = lab.serve()
    with stranger.connect(server.port, str(lab.ca), source="127.0.0.66") as tls:
        began = time.monotonic()
        tls.sendall(stranger.login("ana", PASSWORD) + stranger.count(1) + stranger.file("x", b"y"))
        assert stranger.rest(tls) == b""
        assert time.monotonic() - began > 0.9
    assert server.wait_for("conn.close")["reason"] == "THROTTLED"


def test_F19_of_one_source_a_throttled_guesser_makes_room_before_a_handshake(lab: Lab) -> None:
    with Accounts.open(lab.home / "users.db") as accounts:
        note_failures(accounts, ana=100)
    server = lab.serve("--max-handshakes-per-source", "2")
    silent = socket.create_connection(("127.0.0.1", server.port), 10, source_address=("127.0.0.66", 0))
    with silent, stranger.connect(server.port, str(lab.ca), source="127.0.0.66") as guesser:
        guesser.sendall(stranger.login("ana", PASSWORD))
        server.wait_for("auth.throttle")
        assert guess(lab, server, "bruno", "127.0.0.66", PASSWORD) is True
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.recv(1)


def test_a_send_that_is_throttled_tries_again_until_it_may(lab: Lab) -> None:
    with Accounts.open(lab.home / "users.db") as accounts:
        note_failures(accounts, ana=7)  # so that the next wait is 8 s
    server = lab.serve()
    assert guess(lab, server, "ana", "127.0.0.66") is False
    done = lab.send(server, __file__)
    assert done.returncode == 0
    assert re.search(r"too many failed logins: the next try may be made in [78] s; trying again in ", done.stderr)
