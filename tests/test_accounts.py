"""Passwords, and the users' database: real files, real processes, real Argon2."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import argon2
import pytest

from securexfer.accounts import passwords, sqlite
from securexfer.accounts.database import Accounts
from securexfer.accounts.passwords import BadHashError, PasswordHash, Profile, make_passphrase, new_password, normalise
from securexfer.accounts.tables import SCHEMA_VERSION
from securexfer.accounts.users import Permission
from securexfer.errors import BusyError, ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = Profile(memory=64, passes=1, lanes=4)  # KiB: for tests that are not about the cost
SALT, TAG = "c29tZXNhbHRzb21lc2FsdA", "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"


def encoded(parameters: str, kind: str = "argon2id", version: str = "v=19$") -> str:
    return f"${kind}${version}{parameters}${SALT}${TAG}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def path(home: Path) -> Path:
    return home / "users.db"


@pytest.fixture
def accounts(path: Path) -> Iterator[Accounts]:
    with Accounts.create(path) as made:
        yield made


def run_python(script: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start another process of this Python."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.lstat().st_mode)


# -- hashes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
    ],
)
def test_the_vectors_of_the_reference_implementation_match(vector: str) -> None:
    """phc-winner-argon2, src/test.c: `password` under the salt `somesalt`."""
    stored = PasswordHash.parse(vector)
    assert stored.matches("password")
    assert not stored.matches("Password")


def test_hashes_are_those_of_the_argon2_library() -> None:
    """What is made here verifies there, and the reverse, so that a database never depends on this program."""
    theirs = argon2.PasswordHasher.from_parameters(argon2.profiles.RFC_9106_LOW_MEMORY)
    ours = PasswordHash.make("grün und blau")
    assert theirs.verify(str(ours), "grün und blau")
    assert not theirs.check_needs_rehash(str(ours))
    back = PasswordHash.parse(theirs.hash("grün und blau"))
    assert back.matches("grün und blau")
    assert not back.outdated
    assert str(PasswordHash.parse(str(ours))) == str(ours)


def test_hashes_are_salted_and_hide_from_repr() -> None:
    first, second = (PasswordHash.make("correct horse", QUICK) for _ in range(2))
    assert first.salt != second.salt
    assert first.tag != second.tag
    assert first.outdated
    for secret in (str(first), repr(first.tag), first.tag.hex()):
        assert secret not in repr(first)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "correct horse",
        encoded("m=65536,t=3,p=4", kind="argon2i"),
        encoded("m=65536,t=3,p=4", kind="argon2d"),
        "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
        encoded("m=65536,t=3,p=4", version=""),
        encoded("m=65536,t=3,p=4", version="v=16$"),
        encoded("m=4194304,t=3,p=4"),
        encoded("m=65536,t=4294967295,p=4"),
        encoded("m=65536,t=3,p=16777215"),
        encoded("m=65536,t=3,p=0"),
        encoded("m=65536,t=0,p=4"),
        encoded("m=0,t=3,p=4"),
        encoded("m=31,t=3,p=4"),
        encoded("m=-1,t=3,p=4"),
        encoded("m=065536,t=3,p=4"),
        encoded("t=3,m=65536,p=4"),
        encoded("m=65536,t=3,p=4") + "\n",
        encoded("m=65536,t=3,p=4") + "=",
        encoded("m=65536,t=3,p=4")[:-1] + "5",
        "$argon2id$v=19$m=65536,t=3,p=4$c29t$" + TAG,
        "$argon2id$v=19$m=65536,t=3,p=4$" + SALT + "$c29t",
        encoded("m=٦٤,t=3,p=4"),
    ],
)
def test_A16_a_hash_that_is_not_ours_or_asks_too_much_is_refused_before_any_work(text: str) -> None:
    began = time.process_time()
    with pytest.raises(BadHashError):
        PasswordHash.parse(text)
    assert time.process_time() - began < 0.01


def test_a_stored_hash_may_be_stronger_than_those_made_now() -> None:
    assert PasswordHash.parse(encoded("m=262144,t=16,p=16")).outdated


def test_nobody_has_the_hash_of_nobody() -> None:
    assert passwords.NOBODY.profile == passwords.CURRENT
    assert not passwords.NOBODY.matches("")


def test_several_threads_compute_at_once_and_the_memory_is_given_back() -> None:
    """Each gets its own answer; nothing of the 64 MiB that each took is kept."""
    stored = [PasswordHash.make(f"password {number}", QUICK) for number in range(4)]
    large = [PasswordHash.make(f"password {number}") for number in range(2)]
    before = resident()
    answers: dict[int, list[bool]] = {}

    def work(number: int) -> None:
        right = [each.matches(f"password {index}") for index, each in enumerate(stored)]
        wrong = [each.matches(f"password {number}") for index, each in enumerate(stored) if index != number]
        answers[number] = [all(right), not any(wrong), large[number % 2].matches(f"password {number % 2}")]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [True, True, True] for number in range(4)}
    assert resident() - before < 16 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_check_without_memory_says_try_again() -> None:
    """It is neither a match nor a mismatch, and nothing crashes."""
    process = run_python(
        """
        import resource
        from securexfer.accounts.passwords import NOBODY
        from securexfer.errors import BusyError
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), used + (32 << 20)))
        try:
            NOBODY.matches("correct horse")
        except BusyError as error:
            print(error.exit_code, error)
        """
    )
    assert "75 no password can be checked at the moment" in process.communicate(timeout=30)[0]


# -- rules for new passwords -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "too short"),
        ("7 chars", "too short"),
        ("x" * 129, "too long"),
        ("é" * 65, "too long"),
        (" correct horse", "space"),
        ("correct horse ", "space"),
        ("correct horse\u00a0", "space"),
        ("correct\0horse", "control"),
        ("correct\x1b[31mhorse", "control"),
        ("correct\u0085horse", "control"),
        ("correct\udcffhorse", "Unicode"),
        ("ada.lovelace", "user name"),
        ("Ada.Lovelace", "user name"),
        ("securexfer", "this program"),
        ("SecureXfer", "this program"),
        ("password", "common"),
        ("PASSWORD1", "common"),
        ("12345678", "common"),
    ],
)
def test_A07_a_weak_or_impossible_password_is_refused_with_the_reason(password: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        new_password(password, "ada.lovelace")
    if len(password) > 10:
        assert password not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "password", ["x" * 128, "é" * 64, "eightbyt", "aaaaaaaab", "correct horse battery staple", "  x  ".join("abcd")]
)
def test_A04_A07_anything_else_of_8_to_128_bytes_is_accepted_whole(password: str) -> None:
    """No rule asks for kinds of characters, and nothing is cut."""
    assert new_password(password, "ada") == password


def test_A07_8_to_14_characters_are_called_short() -> None:
    assert [passwords.is_short("x" * length) for length in (8, 14, 15)] == [True, True, False]


def test_A06_one_password_however_the_keyboard_composed_it() -> None:
    composed, decomposed = (unicodedata.normalize(form, "prêt-à-porter") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert new_password(decomposed, "ada") == normalise(decomposed) == composed


def test_passphrases_are_fresh_allowed_and_hold_60_bits() -> None:
    made = {make_passphrase() for _ in range(2000)}
    assert len(made) == 2000
    syllables = {two[half : half + 2] for each in made for two in each.split("-") for half in (0, 2)}
    assert len(syllables) == 64
    for each in made:
        assert re.fullmatch("[a-z]{4}(-[a-z]{4}){4}", each)
    assert not passwords.is_short(new_password(made.pop(), "ada"))


# -- the file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_A15_the_database_and_its_companions_are_private_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Accounts.create(path) as accounts:
            accounts.add("alice", "x")
            modes = {file.name: mode_of(file) for file in path.parent.iterdir() if file.name.startswith("users.db")}
    finally:
        os.umask(before)
    assert modes == {"users.db": 0o600, "users.db-wal": 0o600, "users.db-shm": 0o600}


def test_a_database_is_made_once_and_nothing_else_is_left(path: Path) -> None:
    with Accounts.create(path) as accounts:
        accounts.add("alice", "x")
    with Accounts.create(path) as accounts:
        assert [user.name for user in accounts.all()] == ["alice"]
    assert {file.name for file in path.parent.iterdir()} - {".lock"} == {"users.db"}


def test_a_missing_database_names_the_directory_and_the_command(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(str(path.parent))) as caught:
        Accounts.open(path)
    assert f"securexfer user add NAME --users {path}" in caught.value.hint
    with pytest.raises(ConfigurationError, match="no directory") as caught:
        Accounts.create(path.parent / "nowhere" / "users.db")
    assert "mkdir" in caught.value.hint
    assert not list(path.parent.iterdir())


def test_A15_a_database_that_others_can_get_at_is_refused_with_the_fix(accounts: Accounts, path: Path) -> None:
    accounts.add("alice", "x")
    accounts.close()
    for mode in (0o644, 0o660, 0o602):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=re.escape(str(path))) as caught:
            Accounts.open(path)
        subprocess.run(caught.value.hint.split(), check=True)
        Accounts.open(path).close()
        assert mode_of(path) == 0o600


def test_A15_companions_that_others_can_get_at_are_refused(accounts: Accounts, path: Path) -> None:
    accounts.add("alice", "x")
    for companion in ("users.db-wal", "users.db-shm"):
        path.with_name(companion).chmod(0o640)
        with pytest.raises(ConfigurationError, match=companion):
            Accounts.open(path)
        path.with_name(companion).chmod(0o600)


def test_A15_a_link_and_a_shared_directory_are_refused(accounts: Accounts, path: Path) -> None:
    accounts.close()
    link = path.with_name("link.db")
    link.symlink_to(path)
    for take in (Accounts.open, Accounts.create):
        with pytest.raises(ConfigurationError, match="is not a plain file but a link"):
            take(link)
    path.parent.chmod(0o777)
    for take in (Accounts.open, Accounts.create):
        with pytest.raises(ConfigurationError, match="others can change the directory"):
            take(path)
    path.unlink()
    with pytest.raises(ConfigurationError, match="others can change the directory"):
        Accounts.create(path)
    assert {file.name for file in path.parent.iterdir()} <= {".lock", "link.db"}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_A15_a_database_of_another_user_is_refused(accounts: Accounts, path: Path) -> None:
    accounts.close()
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        Accounts.open(path)


def test_A16_what_is_not_a_whole_users_database_is_refused(accounts: Accounts, path: Path) -> None:
    for number in range(200):
        accounts.add(f"user{number}", "x" * 97)
    accounts.close()
    whole = path.read_bytes()
    assert len(whole) > 8 * 4096
    contents = {
        "empty": b"",
        "damaged": b"name,hash\n" * 500,
        "(?s)damaged": whole[: len(whole) // 2],
        "(?s:damaged)": whole[:50],
        "(?:damaged)": whole[: 6 * 4096] + bytes(4096) + whole[7 * 4096 :],
    }
    for why, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=why) as caught:
            Accounts.open(path)
        assert "backup" in caught.value.hint
        assert path.read_bytes() == content
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE notes (text)")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="is not a users' database"):
        Accounts.open(path)


def test_A16_a_database_of_a_newer_version_is_refused_and_left_alone(accounts: Accounts, path: Path) -> None:
    accounts.close()
    tamper(path, "UPDATE securexfer_schema SET version = 99")
    before = path.read_bytes()
    for take in (Accounts.open, Accounts.create):
        with pytest.raises(ConfigurationError, match="version 99"):
            take(path)
    assert path.read_bytes() == before


# What version 2 made, to the letter.
VERSION_2 = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE securexfer_schema (version INTEGER NOT NULL);
    CREATE TABLE users (
        name VARCHAR(32) NOT NULL, hash VARCHAR(512), disabled BOOLEAN NOT NULL, created BIGINT NOT NULL,
        changed BIGINT NOT NULL, failures INTEGER NOT NULL, epoch BIGINT NOT NULL, PRIMARY KEY (name)
    );
    CREATE TABLE known_sources (
        user VARCHAR(32) NOT NULL, source VARCHAR(64) NOT NULL, seen BIGINT NOT NULL, PRIMARY KEY (user, source)
    );
    INSERT INTO securexfer_schema VALUES (2);
    INSERT INTO users VALUES ('alice', 'x', 0, 1, 2, 3, 4), ('bob', NULL, 1, 5, 6, 7, 8);
    INSERT INTO known_sources VALUES ('alice', '192.0.2.1', 20000);
    """


@pytest.fixture
def old(path: Path) -> Path:
    """Return a database of version 2 with two users."""
    path.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(path)) as made:
        made.executescript(VERSION_2)
    return path


def columns(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return raw.execute("PRAGMA table_info(users)").fetchall()


def version_of(path: Path) -> list[tuple[int]]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return raw.execute("SELECT version FROM securexfer_schema").fetchall()


def test_a_database_of_the_version_before_becomes_one_of_this_and_keeps_what_it_holds(
    old: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        with Accounts.open(old) as accounts:
            held = {user.name: user for user in accounts.all()}
            assert accounts.standing("alice", "192.0.2.1").known
            accounts.add_all({"carol": "z"})
        alice, bob = held["alice"], held["bob"]
        assert (alice.hash, alice.disabled, alice.created.timestamp(), alice.failures) == ("x", False, 1, 3)
        assert (bob.hash, bob.disabled, bob.changed.timestamp(), bob.failures) == (None, True, 6, 7)
        assert {user.permissions for user in held.values()} == {frozenset()}
        assert version_of(old) == [(SCHEMA_VERSION,)]
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    Accounts.create(new / "users.db").close()
    assert columns(old) == columns(new / "users.db")


def test_a_database_becomes_one_of_this_version_once_however_many_open_it(old: Path) -> None:
    opening = """
        import sys; from pathlib import Path
        from securexfer.accounts.database import Accounts
        print("ready", flush=True)
        sys.stdin.read(1)
        with Accounts.open(Path(sys.argv[1])) as accounts:
            print(len(accounts.all()))
        """
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")  # so that all of them have seen the old version, and wait
        processes = [run_python(opening, old, stdin=subprocess.PIPE) for _ in range(4)]
        for process in processes:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("x")
            process.stdin.flush()
        time.sleep(0.5)
        raw.execute("ROLLBACK")
    assert [process.communicate(timeout=30)[0] for process in processes] == ["2\n"] * 4
    assert version_of(old) == [(SCHEMA_VERSION,)]


def test_A17_a_database_is_of_one_version_or_the_next_and_a_kill_in_between_changes_nothing(old: Path) -> None:
    before = columns(old)
    process = run_python(
        """
        import os, sys; from pathlib import Path
        from securexfer.accounts import sqlite
        from securexfer.accounts.database import Accounts
        class Upgrades(dict):
            def __getitem__(self, version):
                if version == 3:
                    os.kill(os.getpid(), 9)
                return super().__getitem__(version)
        sqlite.UPGRADES = Upgrades(sqlite.UPGRADES)
        sqlite.SCHEMA_VERSION = 4
        Accounts.open(Path(sys.argv[1]))
        """,
        old,
    )
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert (columns(old), version_of(old)) == (before, [(2,)])
    with Accounts.open(old) as accounts:
        assert [user.name for user in accounts.all()] == ["alice", "bob"]


def test_a_version_before_those_that_are_known_is_refused_and_left_alone(old: Path) -> None:
    tamper(old, "UPDATE securexfer_schema SET version = 1")
    with pytest.raises(ConfigurationError, match="version 1"):
        Accounts.open(old)
    assert version_of(old) == [(1,)]


def tamper(path: Path, statement: str, *values: object) -> None:
    """Do what somebody with the file and another program could do."""
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute(statement, values)
        raw.commit()


def test_what_is_left_of_a_lost_database_never_gets_into_a_new_one(accounts: Accounts, path: Path) -> None:
    """SQLite would replay a journal that lies beside a new file of the same name."""
    accounts.add("mallory", "x")
    journal = path.with_name("users.db-wal")
    left = journal.read_bytes()
    accounts.close()
    path.unlink()
    journal.write_bytes(left)
    with pytest.raises(ConfigurationError, match=r"users\.db-wal is left") as caught:
        Accounts.create(path)
    subprocess.run(["sh", "-c", caught.value.hint.partition("left: ")[2]], check=True)
    with Accounts.create(path) as fresh:
        assert fresh.all() == []


# -- users -----------------------------------------------------------------------------------------------------


def test_a_user_is_added_changed_and_removed(accounts: Accounts) -> None:
    began = time.time()
    accounts.add("bob", "hash 1")
    accounts.add("alice", "hash 2")
    assert [user.name for user in accounts.all()] == ["alice", "bob"]
    bob = accounts.find("bob")
    assert bob
    assert (bob.hash, bob.disabled, bob.created) == ("hash 1", False, bob.changed)
    assert abs(bob.created.timestamp() - began) < 10
    assert bob.created.tzinfo is not None
    assert "hash 1" not in repr(bob)
    tamper(accounts.path, "UPDATE users SET created = 1, changed = 2")
    accounts.set_password("bob", "hash 3")
    bob = accounts.find("bob")
    assert bob
    assert bob.created.timestamp() == 1
    assert abs(bob.changed.timestamp() - began) < 10
    accounts.disable("bob")
    bob, alice = accounts.find("bob"), accounts.find("alice")
    assert bob
    assert alice
    assert (bob.hash, bob.disabled) == ("hash 3", True)
    assert (alice.hash, alice.disabled) == ("hash 2", False)
    accounts.enable("bob")
    assert [user.disabled for user in accounts.all()] == [False, False]
    accounts.remove("bob")
    assert accounts.find("bob") is None
    assert [user.name for user in accounts.all()] == ["alice"]


def test_H02_nobody_may_have_anything_opened_until_they_are_allowed_to(accounts: Accounts) -> None:
    accounts.add("alice", "x")
    accounts.add_all({"bob": "y", "carol": "z"})
    assert [user.permissions for user in accounts.all()] == [frozenset()] * 3
    assert [accounts.may_open(name) for name in ("alice", "bob", "carol")] == [False] * 3
    accounts.allow("bob", Permission.OPEN)
    assert [user.permissions for user in accounts.all()] == [frozenset(), {Permission.OPEN}, frozenset()]
    assert [accounts.may_open(name) for name in ("alice", "bob", "carol")] == [False, True, False]


def test_H02_who_is_denied_disabled_or_gone_may_not_from_that_moment_on(accounts: Accounts, path: Path) -> None:
    """Asked each time, whoever changed it; a namesake who comes later has none of it."""
    accounts.add("alice", "x")
    with Accounts.open(path) as others:
        others.allow("alice", Permission.OPEN)
        assert accounts.may_open("alice")
        others.deny("alice", Permission.OPEN)
        assert not accounts.may_open("alice")
        others.allow("alice", Permission.OPEN)
        others.disable("alice")
        assert not accounts.may_open("alice")
        others.enable("alice")
        assert accounts.may_open("alice")
        others.set_password("alice", "y")
        assert accounts.may_open("alice")
        others.remove("alice")
        assert not accounts.may_open("alice")
        others.add("alice", "x")
        assert not accounts.may_open("alice")
    for name in ("nobody", "", "../x", "ALICE", "a\0"):
        assert not accounts.may_open(name)


def test_a_permission_changes_nothing_else_of_a_user_but_when_they_were_changed(accounts: Accounts) -> None:
    began = time.time()
    accounts.add("alice", "x")
    accounts.add("bob", "y")
    tamper(accounts.path, "UPDATE users SET created = 1, changed = 2, failures = 3, epoch = 4")
    accounts.remember("alice", "192.0.2.1", 4)
    bob = accounts.find("bob")
    for change in (accounts.allow, accounts.deny):
        change("alice", Permission.OPEN)
        alice = accounts.find("alice")
        assert alice
        assert (alice.hash, alice.created.timestamp(), alice.failures, alice.disabled) == ("x", 1, 3, False)
        assert abs(alice.changed.timestamp() - began) < 10
        standing = accounts.standing("alice", "192.0.2.1")
        assert (standing.known, standing.epoch) == (True, 4)
        assert accounts.find("bob") == bob


def test_somebody_who_is_there_or_is_not_there_is_a_usage_error_with_the_command(accounts: Accounts) -> None:
    accounts.add("alice", "first")
    with pytest.raises(UsageError) as caught:
        accounts.add("alice", "second")
    assert "securexfer user passwd alice" in caught.value.hint
    for change in (
        accounts.disable,
        accounts.enable,
        accounts.remove,
        lambda name: accounts.set_password(name, "x"),
        lambda name: accounts.allow(name, Permission.OPEN),
        lambda name: accounts.deny(name, Permission.OPEN),
    ):
        with pytest.raises(UsageError, match="there is no user 'bob'") as caught:
            change("bob")
        assert "securexfer user list" in caught.value.hint
    alice = accounts.find("alice")
    assert alice
    assert alice.hash == "first"


@pytest.mark.parametrize(
    "name", ["../../root", ".", "..", "Alice", "", "x" * 33, "a b", "a\n", "älice", "-rf", "a/b", "a\0", "alice\u202e"]
)
def test_A25_names_outside_the_rule_are_refused_and_never_found(accounts: Accounts, name: str) -> None:
    with pytest.raises(UsageError, match="not an allowed user name"):
        accounts.add(name, "x")
    tamper(accounts.path, "INSERT INTO users VALUES (?, 'x', 0, 0, 0, 0, 0, 0)", name)
    assert accounts.find(name) is None
    accounts.remove(name)


@pytest.mark.parametrize("name", ["a", "0", "con", "ada.lovelace", "m-42_x", "x" * 32])
def test_A25_names_within_the_rule_are_accepted(accounts: Accounts, name: str) -> None:
    accounts.add(name, "x")
    assert accounts.find(name)


def test_many_users_are_added_as_one_and_those_who_are_there_are_left_alone(accounts: Accounts) -> None:
    accounts.add("bob", "old")
    seen: list[list[str]] = []
    assert accounts.add_all({"alice": "1", "bob": "2", "carol": "3"}, seen.append) == ["alice", "carol"]
    assert seen == [["alice", "carol"]]
    assert [(user.name, user.hash) for user in accounts.all()] == [("alice", "1"), ("bob", "old"), ("carol", "3")]
    assert accounts.add_all({"alice": "9"}, seen.append) == []
    assert len(seen) == 1


def test_no_user_is_added_when_the_last_word_fails(accounts: Accounts) -> None:
    def fail(_: list[str]) -> None:
        raise OSError("no room for the passphrases")

    with pytest.raises(OSError, match="no room"):
        accounts.add_all({"alice": "1", "bob": "2"}, fail)
    with pytest.raises(UsageError):
        accounts.add_all({"alice": "1", "B": "2"})
    assert accounts.all() == []
    accounts.add("alice", "x")


def test_A18_a_hash_is_renewed_only_if_it_is_still_the_one_that_was_checked(accounts: Accounts) -> None:
    accounts.add("alice", "old")
    before = accounts.find("alice")
    assert before
    assert accounts.rehash("alice", "old", "new")
    assert not accounts.rehash("alice", "old", "newer")
    after = accounts.find("alice")
    assert after
    assert (after.hash, after.changed) == ("new", before.changed)


# -- several processes and threads -----------------------------------------------------------------------------


def test_A19_what_another_process_changes_is_in_force_at_once(accounts: Accounts, path: Path) -> None:
    accounts.add("alice", "old")
    assert accounts.find("alice")
    process = run_python(
        """
        import sys; from pathlib import Path
        from securexfer.accounts.database import Accounts
        with Accounts.open(Path(sys.argv[1])) as accounts:
            accounts.set_password("alice", "new")
            print("done", flush=True)
            sys.stdin.read()
        """,
        path,
        stdin=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == "done\n"
    alice = accounts.find("alice")
    process.communicate(timeout=30)
    assert alice
    assert alice.hash == "new"


def test_A19_a_database_that_was_replaced_or_removed_is_noticed(accounts: Accounts, path: Path, tmp_path: Path) -> None:
    """A restored backup holds from the next question on; a deleted database lets nobody in."""
    accounts.add("alice", "old")
    restored = tmp_path / "restored.db"
    with Accounts.create(restored) as other:
        other.add("alice", "restored")
    for companion in ("users.db-wal", "users.db-shm"):
        path.with_name(companion).unlink()
    shutil.move(restored, path)
    alice = accounts.find("alice")
    assert alice
    assert alice.hash == "restored"
    path.unlink()
    with pytest.raises(ConfigurationError, match="there is no users' database"):
        accounts.find("alice")
    assert not path.exists()


def test_a_writer_stops_no_reader_and_is_waited_for(
    accounts: Accounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add("alice", "x")
    accounts.close()
    monkeypatch.setattr(sqlite, "LOCK_SECONDS", 0.3)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("UPDATE users SET disabled = 1")
        began = time.monotonic()
        alice = accounts.find("alice")
        assert time.monotonic() - began < 0.2
        assert alice
        assert not alice.disabled
        with pytest.raises(BusyError, match="locked by another process"):
            accounts.disable("alice")
        assert time.monotonic() - began >= 0.3
        raw.execute("ROLLBACK")
    accounts.disable("alice")


def test_many_threads_share_a_few_connections(accounts: Accounts) -> None:
    accounts.add("alice", "x")
    wrong: list[object] = []
    most = [0]

    def ask(number: int) -> None:
        try:
            for turn in range(20):
                if not accounts.find("alice"):
                    wrong.append("not found")
                if turn == number % 20:
                    accounts.add(f"user{number}", "x")
                most[0] = max(most[0], len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(accounts.all()) == 25
    assert most[0] - before <= 3 * sqlite.CONNECTIONS + len(threads)  # a file and two companions; a listing each


WRITERS = """
    import os, sys; from pathlib import Path
    from securexfer.accounts.database import Accounts
    path, said = Path(sys.argv[1]), Path(sys.argv[2])
    for number in range(20):
        if os.fork() == 0:
            acknowledged = os.open(said / str(number), os.O_WRONLY | os.O_CREAT)
            for turn in range(1_000_000):
                with Accounts.create(path) as accounts:
                    if turn == 0:
                        accounts.add(f"user{number}", "0")
                    else:
                        accounts.set_password(f"user{number}", str(turn))
                    os.write(acknowledged, f"{turn} ".encode())
                    accounts.add(f"extra{number}", "x")
                    accounts.remove(f"extra{number}")
    os.wait()
    """


def test_A17_kill_9_among_twenty_writers_loses_nothing_that_was_acknowledged(path: Path, tmp_path: Path) -> None:
    """Each writer notes what was committed; after the kill the database holds that, or the change after it."""
    said = tmp_path / "said"
    said.mkdir()
    process = run_python(WRITERS, path, said, start_new_session=True)
    deadline = time.monotonic() + 60
    while len([note for note in said.iterdir() if note.stat().st_size]) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 20
    for child in children:
        time.sleep(0.02)
        os.kill(int(child), signal.SIGKILL)
    process.communicate(timeout=30)
    with Accounts.create(path) as accounts:
        held = {user.name: user.hash for user in accounts.all()}
    for note in said.iterdir():
        last = int(note.read_text().split()[-1])
        assert held[f"user{note.name}"] in {str(last), str(last + 1)}
    assert {mode_of(file) for file in path.parent.iterdir()} == {0o600}


MAKER = """
    import sys; from pathlib import Path
    from securexfer.accounts.database import Accounts
    print("ready", flush=True)
    for _ in range(1_000_000):
        Accounts.create(Path(sys.argv[1])).close()
        Path(sys.argv[1]).unlink()
    """


def test_A17_whoever_looks_while_the_database_is_made_sees_none_or_a_whole_one(path: Path) -> None:
    process = run_python(MAKER, path)
    assert process.stdout
    process.stdout.readline()
    seen = set()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            seen.add(path.read_bytes()[:100])
    process.kill()
    process.communicate(timeout=30)
    assert len(seen) == 1
    assert seen.pop().startswith(b"SQLite format 3\0")


def test_A17_kill_9_while_the_database_is_made_leaves_one_that_opens_or_none(path: Path) -> None:
    for turn in range(8):
        process = run_python(MAKER, path)
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.05 + 0.0037 * turn)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        if path.exists():
            Accounts.open(path).close()
            path.unlink()
        with Accounts.create(path) as accounts:
            accounts.add("alice", "x")
        assert {file.name for file in path.parent.iterdir()} == {".lock", "users.db"}
        path.unlink()
