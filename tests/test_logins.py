"""Logins: one answer for every "no", at one price, and no more work at once than fits. Real Argon2, a real database."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
from typing import TYPE_CHECKING

import pytest
from lab import wait_until

from securexfer.accounts import passwords
from securexfer.accounts.database import Accounts
from securexfer.accounts.logins import Logins
from securexfer.accounts.passwords import CURRENT, PasswordHash, Profile
from securexfer.accounts.users import Permission
from securexfer.errors import (
    BusyError,
    ConfigurationError,
    LoginRefusedError,
    SecurexferError,
    ShuttingDownError,
    TruncatedError,
)
from securexfer.events import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from securexfer.events import Event

PASSWORD = "prêt-à-porter 42"
OLD = Profile(memory=8 * 1024, passes=1, lanes=1)
HERE = "192.0.2.1"  # where logins come from
ELSEWHERE = itertools.count(1)
HUGE = "$argon2id$v=19$m=4194304,t=4294967295,p=4$c29tZXNhbHRzb21lc2FsdA$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"


@pytest.fixture(scope="module")
def stored() -> str:
    return str(PasswordHash.make(PASSWORD))


@pytest.fixture
def accounts(tmp_path: Path, stored: str) -> Iterator[Accounts]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with Accounts.create(home / "users.db") as made:
        made.add("alice", stored)
        made.add("dora", stored)
        made.disable("dora")
        yield made


def tamper(accounts: Accounts, statement: str, *values: object) -> None:
    """Do what somebody with the file and another program could do."""
    with contextlib.closing(sqlite3.connect(accounts.path)) as raw:
        raw.execute(statement, values)
        raw.commit()


def refusal(logins: Logins, user: str, password: str | None) -> LoginRefusedError:
    """Fail to log in from where nobody has failed before."""
    with pytest.raises(LoginRefusedError) as caught:
        logins.check(user, password, f"198.51.100.{next(ELSEWHERE)}")
    return caught.value


def hash_of(accounts: Accounts, name: str) -> str | None:
    found = accounts.find(name)
    assert found
    return found.hash


class Caller(threading.Thread):
    """One login in a thread of its own; `outcome` is "ok" or the name of the error."""

    def __init__(
        self, logins: Logins, user: str = "alice", password: str = PASSWORD, give_up: Callable[[], bool] | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.outcome = ""
        self.ended = 0.0
        self._arguments = (logins, user, password, give_up)
        self.start()

    def run(self) -> None:
        logins, user, password, give_up = self._arguments
        try:
            logins.check(user, password, HERE, give_up=give_up)
            self.outcome = "ok"
        except SecurexferError as error:
            self.outcome = type(error).__name__
        self.ended = time.monotonic()


class Gate:
    """Stands before a database and holds back whoever asks it, so that a test decides when a verification goes on."""

    def __init__(self, accounts: Accounts) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.inside = self.most = 0
        self._lock = threading.Lock()
        self._accounts = accounts

    def __getattr__(self, name: str) -> object:
        return getattr(self._accounts, name)

    def find(self, name: str) -> object:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.open.acquire(timeout=30)
        with self._lock:
            self.inside -= 1
        return self._accounts.find(name)


def queued(logins: Logins) -> int:
    return logins._turns.waiting()


# -- the answer ------------------------------------------------------------------------------------------------


def test_the_right_password_logs_in_and_returns_the_record(accounts: Accounts) -> None:
    user = Logins(accounts).check("alice", PASSWORD, HERE)
    assert (user.name, user.disabled) == ("alice", False)


def test_A01_A16_every_no_is_the_same_and_only_the_detail_differs(accounts: Accounts) -> None:
    """A row that turned bad at run time locks out its user alone, and never logs in."""
    logins = Logins(accounts)
    tamper(accounts, "INSERT INTO users VALUES ('nohash', NULL, 0, 0, 0, 0, 0, 0)")
    for name, bad in (("huge", HUGE), ("bcrypt", "$2b$12$" + "x" * 53), ("empty", ""), ("blob", b"\0\xff"), ("n", 7)):
        tamper(accounts, "INSERT INTO users VALUES (?, ?, 0, 0, 0, 0, 0, 0)", name, bad)
    cases = {
        ("alice", "wrong password"): "wrong",
        ("alice", ""): "wrong",
        ("alice", PASSWORD + "\0"): "wrong",
        ("alice", "x" * 1024): "wrong",
        ("nobody", PASSWORD): "unknown",
        ("dora", PASSWORD): "disabled",
        ("nohash", PASSWORD): "no-hash",
        ("nohash", ""): "no-hash",
        ("huge", PASSWORD): "bad-hash",
        ("bcrypt", PASSWORD): "bad-hash",
        ("empty", ""): "bad-hash",
        ("blob", PASSWORD): "bad-hash",
        ("n", "7"): "bad-hash",
        ("alice", None): "malformed",
    }
    assert logins.check("alice", PASSWORD, HERE)
    errors = {case: refusal(logins, *case) for case in cases}
    assert {case: error.detail for case, error in errors.items()} == cases
    assert len({(error.message, error.hint, error.reason, type(error)) for error in errors.values()}) == 1
    assert logins.check("alice", PASSWORD, HERE)


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice\0x", PASSWORD),
        ("alice ", PASSWORD),
        ("Alice", PASSWORD),
        ("alice\u202e", PASSWORD),
        ("alice\x1b[2J", PASSWORD),
        ("\udcffalice", PASSWORD),
        ("", PASSWORD),
        ("a" * 4096, PASSWORD),
        ("alice", PASSWORD + "\udcff"),
        ("alice", None),
    ],
)
def test_A03_what_cannot_be_a_login_is_refused_like_any_other(
    accounts: Accounts, user: str, password: str | None
) -> None:
    assert refusal(Logins(accounts), user, password).detail == "malformed"


def test_A06_the_password_matches_however_the_keyboard_composed_it(accounts: Accounts) -> None:
    decomposed = unicodedata.normalize("NFD", PASSWORD)
    assert decomposed != PASSWORD
    assert Logins(accounts).check("alice", decomposed, HERE)


def test_A02_every_no_costs_one_verification(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, of the parameters that a hash made now has, whatever is wrong. (bench/login_timing.py has the times.)"""
    computed: list[tuple[Profile, int]] = []

    def watched(secret: bytes, salt: bytes, tag_bytes: int, profile: Profile) -> bytes:
        computed.append((profile, tag_bytes))
        return compute(secret, salt, tag_bytes, profile)

    compute = passwords._compute
    monkeypatch.setattr(passwords, "_compute", watched)
    logins = Logins(accounts)
    tamper(accounts, "INSERT INTO users VALUES ('nohash', NULL, 0, 0, 0, 0, 0, 0), ('huge', ?, 0, 0, 0, 0, 0, 0)", HUGE)
    cases: list[tuple[str, str | None]] = [
        ("alice", "wrong password"),
        ("nobody", PASSWORD),
        ("dora", PASSWORD),
        ("nohash", PASSWORD),
        ("huge", PASSWORD),
        ("alice", None),
        ("../alice", PASSWORD),
        ("alice", "x" * 1024),
    ]
    for case in cases:
        computed.clear()
        refusal(logins, *case)
        assert computed == [(CURRENT, 32)], case


# -- the database behind it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "value", "why"),
    [
        ("UPDATE users SET hash = ? WHERE name = 'alice'", HUGE, "it asks for 4194304 KiB"),
        ("UPDATE users SET hash = ? WHERE name = 'alice'", "$2b$12$" + "x" * 53, "not an Argon2id hash"),
        ("UPDATE users SET hash = ? WHERE name = 'alice'", "", "not an Argon2id hash"),
        ("UPDATE users SET name = ? WHERE name = 'dora'", "Alice", "not an allowed name"),
        ("UPDATE users SET name = ? WHERE name = 'dora'", "../../root", "not an allowed name"),
    ],
)
def test_A16_A25_a_row_nobody_could_have_made_is_refused_at_start_with_the_fix(
    accounts: Accounts, statement: str, value: str, why: str
) -> None:
    tamper(accounts, statement, value)
    with pytest.raises(ConfigurationError, match=why) as caught:
        Logins(accounts)
    command = caught.value.hint.partition(": securexfer ")[2]
    assert command.startswith(("user passwd alice", "user remove"))
    mended = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$0" -m securexfer {command} $1',
            sys.executable,
            "--password-stdin" * ("passwd" in command),
        ],
        input=b"a new passphrase for alice\n",
        check=False,
    )
    assert mended.returncode == 0
    Logins(accounts)


def test_A16_a_hash_that_asks_for_4_gib_never_gets_them(accounts: Accounts) -> None:
    events: list[Event] = []
    logins = Logins(accounts, observe=events.append)
    tamper(accounts, "UPDATE users SET hash = ? WHERE name = 'alice'", HUGE)
    assert refusal(logins, "alice", PASSWORD).detail == "bad-hash"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    assert peak < 1 << 20
    assert [type(event) for event in events] == [StoreError]
    assert "alice" in str(events[0])
    assert HUGE not in str(events[0])


def test_A18_a_hash_of_other_parameters_is_renewed_once_at_login(accounts: Accounts) -> None:
    logins = Logins(accounts)
    accounts.set_password("alice", str(PasswordHash.make(PASSWORD, OLD)))
    old = hash_of(accounts, "alice")
    refusal(logins, "alice", "wrong password")
    assert hash_of(accounts, "alice") == old
    logins.check("alice", PASSWORD, HERE)
    renewed = hash_of(accounts, "alice")
    assert renewed
    assert PasswordHash.parse(renewed).profile == CURRENT
    logins.check("alice", PASSWORD, HERE)
    assert hash_of(accounts, "alice") == renewed
    refusal(logins, "alice", "wrong password")


def test_A18_several_logins_at_once_renew_a_hash_without_harm(accounts: Accounts) -> None:
    logins = Logins(accounts, verifications=3)
    accounts.set_password("alice", str(PasswordHash.make(PASSWORD, OLD)))
    callers = [Caller(logins) for _ in range(3)]
    for caller in callers:
        caller.join(timeout=30)
    assert [caller.outcome for caller in callers] == ["ok"] * 3
    assert logins.check("alice", PASSWORD, HERE)
    assert not PasswordHash.parse(hash_of(accounts, "alice") or "").outdated


def test_A18_a_renewal_never_undoes_a_new_password(accounts: Accounts, stored: str) -> None:
    """The password is changed between a login's reading of the record and its renewal of the hash."""
    other = str(PasswordHash.make("another passphrase"))

    class Late(Gate):
        def find(self, name: str) -> object:
            found = self._accounts.find(name)
            self._accounts.set_password(name, other)
            return found

    accounts.set_password("alice", str(PasswordHash.make(PASSWORD, OLD)))
    Logins(Late(accounts)).check("alice", PASSWORD, HERE)  # type: ignore[arg-type]
    assert hash_of(accounts, "alice") == other


def test_A18_a_database_that_cannot_be_written_stops_no_login(tmp_path: Path) -> None:
    """The hash stays as it was, and the administrator is told once for each login."""
    script = """
        import os, sys
        from pathlib import Path
        from securexfer.accounts.database import Accounts
        from securexfer.accounts.logins import Logins
        from securexfer.accounts.passwords import PasswordHash, Profile
        home = Path(sys.argv[1])
        if os.geteuid() == 0:  # root may write whatever the mode says
            os.chown(home, 65534, 65534)
            os.setegid(65534)
            os.seteuid(65534)
        old = str(PasswordHash.make("correct horse", Profile(64, 1, 1)))
        with Accounts.create(home / "users.db") as accounts:
            accounts.add("alice", old)
        (home / "users.db").chmod(0o400)
        events = []
        with Accounts.open(home / "users.db") as accounts:
            print(Logins(accounts, observe=events.append).check("alice", "correct horse", "192.0.2.1").name)
            assert accounts.find("alice").hash == old
        print(len(events), events[0].kind, events[0].detail)
        """
    home = tmp_path / "read-only"
    home.mkdir(mode=0o700)
    if os.geteuid() == 0:
        for parent in home.parents:
            if parent.stat().st_mode & 0o077 == 0:
                parent.chmod(0o711)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(home)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "alice"
    assert second.startswith("1 store.error the hash of user alice could not be renewed")
    assert "readonly" in second


def test_A19_a_change_by_the_command_is_in_force_at_the_next_login(accounts: Accounts) -> None:
    logins = Logins(accounts)
    logins.check("alice", PASSWORD, HERE)

    def command(*words: str, stdin: str = "") -> None:
        where = ["--users", str(accounts.path)]
        subprocess.run([sys.executable, "-m", "securexfer", "user", *words, *where], input=stdin, text=True, check=True)

    command("passwd", "alice", "--password-stdin", stdin="another passphrase\n")
    assert refusal(logins, "alice", PASSWORD).detail == "wrong"
    assert logins.check("alice", "another passphrase", HERE)
    command("disable", "alice")
    assert refusal(logins, "alice", "another passphrase").detail == "disabled"
    command("enable", "alice")
    assert logins.check("alice", "another passphrase", HERE)
    command("remove", "alice")
    assert refusal(logins, "alice", "another passphrase").detail == "unknown"


def test_A19_a_change_made_while_a_login_waits_is_in_force_for_it(accounts: Accounts) -> None:
    gate = Gate(accounts)
    logins = Logins(gate, verifications=1)  # type: ignore[arg-type]
    first = Caller(logins)
    assert gate.entered.acquire(timeout=20)
    second = Caller(logins)
    wait_until(lambda: queued(logins) == 1)
    gate.open.release()
    first.join(timeout=30)
    accounts.disable("alice")
    gate.open.release()
    second.join(timeout=30)
    assert (first.outcome, second.outcome) == ("ok", "LoginRefusedError")


def test_a_database_that_fails_is_an_error_of_the_server_and_is_reported(accounts: Accounts) -> None:
    events: list[Event] = []
    logins = Logins(accounts, verifications=1, waiting=0, observe=events.append)
    accounts.path.rename(accounts.path.with_name("elsewhere.db"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="there is no users' database"):
            logins.check("alice", PASSWORD, HERE)
    assert [type(event) for event in events] == [StoreError] * 2
    accounts.path.with_name("elsewhere.db").rename(accounts.path)
    assert logins.check("alice", PASSWORD, HERE)


# -- the queue -------------------------------------------------------------------------------------------------


def test_A12_so_many_verifications_run_at_once_and_no_more(accounts: Accounts) -> None:
    gate = Gate(accounts)
    logins = Logins(gate, verifications=2)  # type: ignore[arg-type]
    callers = [Caller(logins) for _ in range(5)]
    wait_until(lambda: queued(logins) == 3)
    time.sleep(0.1)
    assert gate.inside == 2
    for _ in callers:
        gate.open.release()
    for caller in callers:
        caller.join(timeout=30)
    assert [caller.outcome for caller in callers] == ["ok"] * 5
    assert gate.most == 2
    assert queued(logins) == 0


def test_A12_by_default_there_is_one_verification_for_each_core(accounts: Accounts) -> None:
    gate = Gate(accounts)
    logins = Logins(gate)  # type: ignore[arg-type]
    cores = len(os.sched_getaffinity(0))
    callers = [Caller(logins) for _ in range(cores + 1)]
    wait_until(lambda: queued(logins) == 1 and gate.inside == cores)
    for _ in callers:
        gate.open.release()
    for caller in callers:
        caller.join(timeout=30)
    assert gate.most == cores


def test_A12_callers_are_served_in_the_order_in_which_they_came(accounts: Accounts) -> None:
    gate = Gate(accounts)
    logins = Logins(gate, verifications=1)  # type: ignore[arg-type]
    callers = []
    for place in range(5):
        callers.append(Caller(logins))
        wait_until(lambda place=place: queued(logins) == place and gate.inside == 1)
    for _ in callers:
        gate.open.release()
    for caller in callers:
        caller.join(timeout=30)
    times = [caller.ended for caller in callers]
    assert times == sorted(times)


def test_A12_one_more_than_may_wait_is_told_so_at_once(accounts: Accounts) -> None:
    gate = Gate(accounts)
    logins = Logins(gate, verifications=1, waiting=2)  # type: ignore[arg-type]
    callers = [Caller(logins) for _ in range(3)]
    wait_until(lambda: queued(logins) == 2)
    began = time.monotonic()
    for user in ("alice", "nobody", "not a name"):
        with pytest.raises(BusyError):
            logins.check(user, PASSWORD, HERE)
    assert time.monotonic() - began < 0.1
    for _ in range(4):
        gate.open.release()
    for caller in callers:
        caller.join(timeout=30)
    assert [caller.outcome for caller in callers] == ["ok"] * 3
    assert logins.check("alice", PASSWORD, HERE)


def test_a_refused_login_gives_its_place_on(accounts: Accounts) -> None:
    logins = Logins(accounts, verifications=1, waiting=0)
    for _ in range(3):
        refusal(logins, "alice", "wrong password")
    assert logins.check("alice", PASSWORD, HERE)


def test_a_caller_whose_client_has_left_stops_waiting(accounts: Accounts) -> None:
    """Its place in the queue is free again, nothing is computed for it, and those behind it are served."""
    gate = Gate(accounts)
    logins = Logins(gate, verifications=1, waiting=2)  # type: ignore[arg-type]
    left = threading.Event()
    first = Caller(logins)
    wait_until(lambda: gate.inside == 1)
    second = Caller(logins, give_up=left.is_set)
    wait_until(lambda: queued(logins) == 1)
    third = Caller(logins, give_up=lambda: False)
    wait_until(lambda: queued(logins) == 2)
    time.sleep(0.6)
    assert second.is_alive()
    left.set()
    second.join(timeout=2)
    assert second.outcome == TruncatedError.__name__
    assert queued(logins) == 1
    for _ in range(2):
        gate.open.release()
    first.join(timeout=30)
    third.join(timeout=30)
    assert (first.outcome, third.outcome) == ("ok", "ok")


def test_closing_sends_the_waiting_away_and_lets_the_running_finish(accounts: Accounts) -> None:
    gate = Gate(accounts)
    logins = Logins(gate, verifications=1)  # type: ignore[arg-type]
    running = Caller(logins)
    wait_until(lambda: gate.inside == 1)
    waiting = [Caller(logins), Caller(logins, give_up=lambda: False)]
    wait_until(lambda: queued(logins) == 2)
    logins.close()
    for caller in waiting:
        caller.join(timeout=2)
        assert caller.outcome == ShuttingDownError.__name__
    with pytest.raises(ShuttingDownError):
        logins.check("alice", PASSWORD, HERE)
    gate.open.release()
    running.join(timeout=30)
    assert running.outcome == "ok"


def test_a_crowd_is_served_to_the_last_one(accounts: Accounts) -> None:
    """Right and wrong passwords, clients that leave, more than fit: every caller gets an answer, no place is lost."""
    accounts.set_password("alice", str(PasswordHash.make(PASSWORD, OLD._replace(memory=64))))
    logins = Logins(accounts, verifications=2, waiting=8)
    gone = [Caller(logins, give_up=lambda: True) for _ in range(4)]
    callers = [Caller(logins, password=PASSWORD if number % 2 else "wrong password") for number in range(12)]
    wait_until(lambda: not any(caller.is_alive() for caller in gone + callers))
    known = {"ok", "LoginRefusedError", "BusyError", "TruncatedError", "ThrottledError"}
    assert {caller.outcome for caller in gone + callers} <= known
    assert queued(logins) == 0
    accounts.enable("alice")  # and forget what failed
    both = [Caller(logins), Caller(logins)]
    wait_until(lambda: not any(caller.is_alive() for caller in both))
    assert [caller.outcome for caller in both] == ["ok", "ok"]
    assert logins._turns._free == 2


# -- what a user may -------------------------------------------------------------------------------------------------


def test_H02_who_may_have_files_opened_is_asked_of_the_database_each_time(accounts: Accounts) -> None:
    logins = Logins(accounts)
    assert not logins.may_open("alice")
    accounts.allow("alice", Permission.OPEN)
    assert logins.may_open("alice")
    accounts.disable("alice")
    assert not logins.may_open("alice")
    assert not logins.may_open("nobody")


def test_H02_nobody_may_while_the_database_fails_and_the_administrator_hears_of_it(accounts: Accounts) -> None:
    events: list[object] = []
    logins = Logins(accounts, observe=events.append)
    accounts.allow("alice", Permission.OPEN)
    away = accounts.path.rename(accounts.path.with_name("away.db"))
    assert not logins.may_open("alice")
    assert [type(event) for event in events] == [StoreError]
    assert "alice" in str(events[0])
    away.rename(accounts.path)
    assert logins.may_open("alice")
