"""What an inbox remembers of its files: it saves reading them, never believed against the disk, and may be lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from securexfer.errors import ChangedError, NameTakenError, SkippedError, StorageFailedError
from securexfer.names import Name
from securexfer.storage import ledger as ledgers
from securexfer.storage.base import Committed, Description, OnConflict, Outcome
from securexfer.storage.index import Index
from securexfer.storage.ledger import LEDGER_NAME, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from securexfer.storage.base import Staging
    from securexfer.storage.local import Inbox
    from securexfer.storage.offers import LocalOffered
    from securexfer.storage.user import UserStorage

X = Name.parse("x")
CONTENT = b"content of ten megabytes, in spirit"
POLICIES = list(OnConflict)


@pytest.fixture
def x(tmp_path: Path) -> Path:
    return tmp_path / "inbox/ana/x"


def store(storage: UserStorage, content: bytes = CONTENT, name: Name = X) -> Committed:
    with storage.stage(Description(name, len(content))) as staging:
        staging.write(memoryview(content))
        staging.seal(hashlib.sha256(content).digest())
    (result,) = storage.commit([staging])
    assert isinstance(result, Committed)
    return result


def offer(storage: UserStorage, size: int = len(CONTENT), *, fresh: bool = False, name: Name = X) -> LocalOffered:
    return storage.offer(Description(name, size), fresh=fresh)


def no_tick() -> None:
    """Do nothing, often."""


# -- known -----------------------------------------------------------------------------------------------------


def test_what_was_stored_is_known_without_being_read(make_inbox: Callable[..., Inbox], x: Path) -> None:
    storage = make_inbox().for_user("ana")
    store(storage)
    before = x.stat()
    offered = offer(storage)
    assert (offered.have, offered.stands, offered.known) == (len(CONTENT), True, True)
    assert offered.prefix(lambda: pytest.fail("it was read")).digest() == hashlib.sha256(CONTENT).digest()
    assert offered.keep() == Committed(Outcome.UNCHANGED, X)
    assert x.stat() == before


def test_the_next_server_knows_it_too(make_inbox: Callable[..., Inbox]) -> None:
    store(make_inbox().for_user("ana"))
    assert offer(make_inbox().for_user("ana")).known


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_renamed_or_replaced_is_known(make_inbox: Callable[..., Inbox], policy: OnConflict) -> None:
    storage = make_inbox(on_conflict=policy).for_user("ana")
    store(storage, b"other")
    with contextlib.suppress(NameTakenError, SkippedError):
        stored_as = store(storage, CONTENT).stored_as
        assert offer(storage, name=stored_as).known


def alter_and_set_the_times_back(x: Path) -> None:
    found = x.stat()
    with x.open("r+b") as file:
        file.write(b"C")
    os.utime(x, ns=(found.st_atime_ns, found.st_mtime_ns))


def put_another_in_its_place(x: Path) -> None:
    found = x.stat()
    other = x.with_name("other")
    other.write_bytes(b"C" + CONTENT[1:])
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(x)


@pytest.mark.parametrize("change", [alter_and_set_the_times_back, put_another_in_its_place])
def test_a_file_that_was_altered_is_not_known_even_with_its_size_and_mtime(
    make_inbox: Callable[..., Inbox], x: Path, change: Callable[[Path], None]
) -> None:
    storage = make_inbox().for_user("ana")
    store(storage)
    change(x)
    offered = offer(storage)
    assert offered.stands
    assert not offered.known
    assert offered.prefix(no_tick).digest() == hashlib.sha256(b"C" + CONTENT[1:]).digest()
    assert isinstance(offered.differs(), NameTakenError)
    with pytest.raises(AssertionError, match="NameTakenError"):
        store(storage)


def test_what_somebody_put_there_is_read_once(make_inbox: Callable[..., Inbox], x: Path) -> None:
    storage = make_inbox().for_user("ana")
    content = os.urandom(3 << 20)
    x.write_bytes(content)
    ticks: list[None] = []
    offered = offer(storage, len(content))
    assert not offered.known
    assert offered.prefix(lambda: ticks.append(None)).digest() == hashlib.sha256(content).digest()
    assert len(ticks) == 3
    assert offered.keep().outcome is Outcome.UNCHANGED
    assert offer(storage, len(content)).known


def test_the_index_of_one_user_says_nothing_of_anothers_files(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"))
    assert not offer(inbox.for_user("bruno")).stands


# -- what is claimed -----------------------------------------------------------------------------------------------

DIGEST = hashlib.sha256(CONTENT).digest()
UNCHANGED = Committed(Outcome.UNCHANGED, X)


def claimed(
    storage: UserStorage, size: int = len(CONTENT), digest: bytes = DIGEST, name: Name = X, mtime_ns: int = 0
) -> Committed | None:
    return storage.claimed(Description(name, size, mtime_ns), digest)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_claim_of_what_is_known_is_true_whatever_the_policy_and_changes_nothing(
    make_inbox: Callable[..., Inbox], x: Path, policy: OnConflict
) -> None:
    storage = make_inbox(on_conflict=policy, quota=len(CONTENT)).for_user("ana")
    store(storage)
    before = x.stat()
    assert claimed(storage, mtime_ns=5) == UNCHANGED
    assert claimed(make_inbox(on_conflict=policy).for_user("ana")) == UNCHANGED
    assert x.stat() == before


def test_a_claim_of_another_digest_or_size_is_not_true(make_inbox: Callable[..., Inbox]) -> None:
    storage = make_inbox().for_user("ana")
    store(storage)
    for place in range(32):
        wrong = bytearray(DIGEST)
        wrong[place] ^= 1
        assert claimed(storage, digest=bytes(wrong)) is None
    assert claimed(storage, len(CONTENT) + 1) is None
    assert claimed(storage, name=Name.parse("y")) is None
    assert claimed(storage, name=Name.parse("x/y")) is None
    assert claimed(storage, name=Name.parse("d/x")) is None
    assert claimed(storage) == UNCHANGED


def put_a_directory_there(x: Path) -> None:
    x.unlink()
    x.mkdir()


def put_a_link_there(x: Path) -> None:
    x.rename(x.with_name("target"))
    x.symlink_to("target")


def touch_it(x: Path) -> None:
    os.utime(x, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [alter_and_set_the_times_back, put_another_in_its_place, put_a_directory_there, put_a_link_there, touch_it],
)
def test_a_claim_of_what_was_changed_is_not_true(
    make_inbox: Callable[..., Inbox], x: Path, change: Callable[[Path], None]
) -> None:
    storage = make_inbox().for_user("ana")
    store(storage)
    change(x)
    for size in {len(CONTENT), x.lstat().st_size}:
        assert claimed(storage, size) is None
        assert claimed(storage, size, hashlib.sha256(b"C" + CONTENT[1:]).digest()) is None


def test_without_the_index_no_claim_is_true_until_the_file_was_read(
    make_inbox: Callable[..., Inbox], tmp_path: Path
) -> None:
    store(make_inbox().for_user("ana"))
    make_inbox().close()
    for path in (tmp_path / "inbox").glob(f"{LEDGER_NAME}*"):
        path.unlink()
    storage = make_inbox().for_user("ana")
    assert claimed(storage) is None
    offer(storage).prefix(no_tick)
    assert claimed(storage) == UNCHANGED


def test_what_one_user_has_is_no_answer_to_anothers_claim(make_inbox: Callable[..., Inbox], tmp_path: Path) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"))
    bruno = inbox.for_user("bruno")
    (tmp_path / "inbox/bruno/x").write_bytes(CONTENT)
    assert claimed(bruno) is None


NAMES = [*(f"d/{number:03}" for number in range(300)), "d.txt", "e", "d/é", "d/😀", "d/e/f", "d/\uffff"]


@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True), lambda names: names[::7] + names])
def test_rows_that_are_read_ahead_are_those_of_their_names(
    make_inbox: Callable[..., Inbox], tmp_path: Path, order: Callable[[list[str]], list[str]]
) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana")
    contents = {name: name.encode() for name in NAMES}
    for name, content in contents.items():
        store(storage, content, Name.parse(name))
    (tmp_path / "inbox/ana/d/100").unlink()
    (tmp_path / "inbox/ana/d/150").write_bytes(b"other")
    again = inbox.for_user("ana")
    for name in order(NAMES):
        content = contents[name]
        found = claimed(again, len(content), hashlib.sha256(content).digest(), Name.parse(name))
        expected = None if name in {"d/100", "d/150"} else Committed(Outcome.UNCHANGED, Name.parse(name))
        assert found == expected, name


def test_rows_are_read_ahead_in_few_statements_only_where_they_are_of_use(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana")
    for name in NAMES:
        store(storage, b"1", Name.parse(name))
    counts: list[int] = []
    rows_from = inbox.index.rows_from

    def counting(user: str, name: str, count: int) -> list[tuple[Any, ...]]:
        counts.append(count)
        return rows_from(user, name, count)

    inbox.index.rows_from = counting  # type: ignore[method-assign]
    storage = inbox.for_user("ana")
    for name in sorted(NAMES):
        assert claimed(storage, 1, hashlib.sha256(b"1").digest(), Name.parse(name))
    assert counts == [2, 4, 8, 16, 32, 64, 128, 128]
    counts.clear()
    storage = inbox.for_user("ana")
    for name in sorted(NAMES, reverse=True):
        assert claimed(storage, 1, hashlib.sha256(b"1").digest(), Name.parse(name))
    assert set(counts) == {2}


# -- what becomes of an offer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (OnConflict.REFUSE, NameTakenError),
        (OnConflict.SKIP, SkippedError),
        (OnConflict.RENAME, ChangedError),
        (OnConflict.REPLACE, ChangedError),
    ],
)
def test_other_content_of_the_same_size_is_refused_or_has_to_be_sent(
    make_inbox: Callable[..., Inbox], x: Path, policy: OnConflict, error: type
) -> None:
    storage = make_inbox().for_user("ana", policy=policy)
    store(storage)
    assert type(offer(storage).differs()) is error
    assert x.read_bytes() == CONTENT
    again = offer(storage, fresh=True)
    assert (again.have, again.stands) == (0, False)
    again.drop()


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (OnConflict.REFUSE, NameTakenError),
        (OnConflict.SKIP, SkippedError),
        *[(each, None) for each in (OnConflict.RENAME, OnConflict.REPLACE)],
    ],
)
def test_another_size_is_refused_before_anything_comes(
    make_inbox: Callable[..., Inbox], policy: OnConflict, error: type[Exception] | None
) -> None:
    storage = make_inbox().for_user("ana", policy=policy)
    store(storage)
    if error:
        with pytest.raises(error):
            offer(storage, 5)
        return
    offered = offer(storage, 5)
    assert offered.have == 0
    offered.drop()


def test_an_empty_file_is_offered_with_nothing_and_unchanged_when_it_comes(make_inbox: Callable[..., Inbox]) -> None:
    storage = make_inbox().for_user("ana")
    store(storage, b"")
    assert offer(storage, 0).have == 0
    assert store(storage, b"").outcome is Outcome.UNCHANGED


def test_all_that_is_offered_has_to_fit_together_but_what_stands_needs_no_room(
    make_inbox: Callable[..., Inbox],
) -> None:
    inbox = make_inbox(quota=100)
    storage = inbox.for_user("ana")
    store(storage, bytes(60))
    first = offer(storage, 30, name=Name.parse("y"))
    with pytest.raises(Exception, match="quota"):
        offer(storage, 11, name=Name.parse("z"))
    assert storage.room() == (10, None)
    assert offer(storage, 60).stands
    first.drop()
    assert storage.room() == (40, None)
    with offer(storage, 40, name=Name.parse("z")).stage(resume=False) as staging:
        staging.write(memoryview(bytes(40)))
    assert storage.room() == (40, None)
    assert inbox.space._promised == 0


def test_a_file_that_changes_while_it_is_compared_is_not_unchanged(make_inbox: Callable[..., Inbox], x: Path) -> None:
    storage = make_inbox().for_user("ana")
    x.write_bytes(os.urandom(2 << 20))
    offered = offer(storage, 2 << 20)
    with pytest.raises(StorageFailedError, match="changed while it was read"):
        offered.prefix(lambda: os.truncate(x, 1 << 20))
    offered = offer(storage, 1 << 20)
    offered.prefix(x.touch)
    assert not offer(storage, 1 << 20).known


def test_offers_on_one_thread_while_another_commits(make_inbox: Callable[..., Inbox], tmp_path: Path) -> None:
    inbox = make_inbox(quota=1 << 30)
    storage = inbox.for_user("ana")
    groups: SimpleQueue[list[Staging]] = SimpleQueue()
    results: list[object] = []

    def commit() -> None:
        while group := groups.get():
            results.extend(storage.commit(group))

    thread = threading.Thread(target=commit)
    thread.start()
    for number in range(100):
        group: list[Staging] = []
        for each in range(10):
            offered = offer(storage, 1, name=Name.parse(f"d{each % 3}/{number}/{each}"))
            with offered.stage(resume=False) as staging:
                staging.write(memoryview(b"1"))
                staging.seal(hashlib.sha256(b"1").digest())
            group.append(staging)
        groups.put(group)
        with contextlib.suppress(NameTakenError):
            offer(storage, 2, name=Name.parse(f"d0/{number}/0")).drop()
    groups.put([])
    thread.join()
    assert all(isinstance(result, Committed) for result in results)
    assert len(results) == len([path for path in (tmp_path / "inbox/ana").rglob("*") if path.is_file()]) == 1000
    assert inbox.space._promised == 0


# -- the file --------------------------------------------------------------------------------------------------


def test_the_index_is_for_the_server_alone(make_inbox: Callable[..., Inbox], tmp_path: Path) -> None:
    store(make_inbox().for_user("ana"))
    files = [path for path in (tmp_path / "inbox").iterdir() if path.name.startswith(LEDGER_NAME)]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def scribble(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def put_anothers(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")


def put_a_newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")


def put_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [scribble, cut, put_anothers, put_a_newer, put_a_directory])
def test_a_damaged_index_is_begun_anew_and_said(
    make_inbox: Callable[..., Inbox], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store(make_inbox().for_user("ana"))
    make_inbox().close()
    path = tmp_path / "inbox" / LEDGER_NAME
    damage(path)
    inbox = make_inbox()
    (notice,) = inbox.notices
    assert f"the index {path} could not be used and was begun anew: " in notice
    storage = inbox.for_user("ana")
    assert not offer(storage).known
    offer(storage).prefix(no_tick)
    assert offer(storage).known
    if damage is not put_a_directory:
        assert not make_inbox().notices
        assert offer(make_inbox().for_user("ana")).known


def test_an_index_that_fails_while_it_is_used_fails_no_transfer(make_inbox: Callable[..., Inbox], x: Path) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana")
    store(storage)
    inbox.index._ledger._connection.close()  # every statement raises from now on
    assert not offer(storage).known
    assert offer(storage).prefix(no_tick).digest() == hashlib.sha256(CONTENT).digest()
    assert store(storage).outcome is Outcome.UNCHANGED
    assert store(storage, b"more", Name.parse("y")).outcome is Outcome.STORED
    assert x.read_bytes() == CONTENT


def test_damage_that_is_met_while_it_is_used_is_mended(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, durable=True)
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    index = Index(ledger)
    found = tmp_path.stat()
    index.note("ana", [("x", found, b"1" * 32)])
    ledger._mend(error)
    assert index.find("ana", "x", found) is None
    index.note("ana", [("x", found, b"1" * 32)])
    assert index.find("ana", "x", found) == b"1" * 32
    ledger.close()


def test_the_index_keeps_the_newest(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, durable=True)
    index = Index(ledger, max_files=10)
    found = tmp_path.stat()
    for number in range(100):
        index.note("ana", [(str(number), found, b"1" * 32)])
    known = [number for number in range(100) if index.find("ana", str(number), found)]
    assert known == list(range(known[0], 100))
    assert 10 <= len(known) <= 20
    ledger.close()


def test_sizes_and_times_beyond_what_the_database_holds_are_no_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, durable=True)
    index = Index(ledger)

    class Strange:
        st_size, st_mtime_ns, st_ctime_ns, st_ino, st_dev = 2**63 - 1, -(10**19), 10**19, 2**64 - 1, 2**64 - 1

    index.note("ana", [("x", Strange, b"1" * 32)])  # type: ignore[list-item]
    assert index.find("ana", "x", Strange) == b"1" * 32  # type: ignore[arg-type]
    ledger.close()


# -- without durability ----------------------------------------------------------------------------------------


@pytest.fixture
def reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the machine be started anew, as far as an inbox can tell."""
    place = tmp_path / "boot_id"
    place.write_text("boot 0\n")
    monkeypatch.setattr(ledgers, "_BOOT_ID", place)
    return lambda: place.write_text(f"{place.read_text().strip()}+1\n") and None


@pytest.mark.parametrize(("durable", "known"), [(True, True), (False, False)])
def test_what_was_not_durable_is_not_known_after_a_reboot(
    make_inbox: Callable[..., Inbox], reboot: Callable[[], None], durable: bool, known: bool
) -> None:
    store(make_inbox(durable=durable).for_user("ana"))
    assert offer(make_inbox(durable=True).for_user("ana")).known
    reboot()
    inbox = make_inbox(durable=True)
    assert not inbox.notices
    assert offer(inbox.for_user("ana")).known is known


def test_where_boots_cannot_be_told_apart_nothing_outlives_the_server(
    make_inbox: Callable[..., Inbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_BOOT_ID", tmp_path / "none")
    store(make_inbox(durable=False).for_user("ana"))
    assert not offer(make_inbox().for_user("ana")).known
