"""Directories, times and the x bit: what a tree has beside the content of its files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from securexfer.errors import NameTakenError, SkippedError
from securexfer.names import Name, NamePolicy
from securexfer.storage import directories
from securexfer.storage.base import Committed, Description, OnConflict, Outcome, in_one
from securexfer.storage.local import Inbox, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from securexfer.storage.user import UserStorage

D = Name.parse("d")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Inbox]]:
    umask = os.umask(0o022)
    with contextlib.ExitStack() as stack:

        def opened(**rules: Any) -> Inbox:
            made = Inbox(tmp_path / "inbox", Rules(**rules))
            stack.callback(made.close)
            return made

        yield opened
    os.umask(umask)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "inbox/ana"


def store(storage: UserStorage, name: str, content: bytes = b"new", **described: Any) -> Committed:
    with storage.stage(Description(Name.parse(name), len(content), **described)) as staging:
        staging.write(memoryview(content))
        staging.seal(hashlib.sha256(content).digest())
    (result,) = storage.commit([staging])
    assert isinstance(result, Committed), result
    return result


def directory(storage: UserStorage, name: str = "d", mtime_ns: int | None = None) -> Outcome:
    (result,) = in_one(storage.make_directories([Description(Name.parse(name), 0, mtime_ns)]))
    if not isinstance(result, Committed):
        raise result
    assert str(result.stored_as) == name
    return result.outcome


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mtime_ns", [0, 1, 10**18 + 123_456_789, -(10**18) - 1, 4 * 10**18])
def test_D17_the_mtime_is_kept_to_the_nanosecond(make: Callable[..., Inbox], home: Path, mtime_ns: int) -> None:
    storage = make().for_user("ana")
    store(storage, "d/x", mtime_ns=mtime_ns)
    assert (home / "d/x").stat().st_mtime_ns == mtime_ns
    directory(storage, mtime_ns=mtime_ns)
    assert home.joinpath("d").stat().st_mtime_ns == mtime_ns


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o700), (0o640, 0o740), (0o660, 0o760)])
def test_D17_one_bit_of_the_senders_mode_is_kept_at_most(
    make: Callable[..., Inbox], home: Path, mode: int, expected: int
) -> None:
    storage = make(file_mode=mode).for_user("ana")
    store(storage, "plain")
    store(storage, "script", executable=True)
    assert (mode_of(home / "plain"), mode_of(home / "script")) == (mode, expected)


def test_an_unchanged_file_is_left_as_it_is(make: Callable[..., Inbox], home: Path) -> None:
    storage = make().for_user("ana")
    store(storage, "x", mtime_ns=1)
    before = (home / "x").stat()
    assert store(storage, "x", mtime_ns=2, executable=True).outcome is Outcome.UNCHANGED
    assert (home / "x").stat() == before


def test_a_directory_is_stored_once_and_unchanged_afterwards(make: Callable[..., Inbox], home: Path) -> None:
    inbox = make(directory_mode=0o2750)
    storage = inbox.for_user("ana")
    assert [directory(storage, "empty/d"), directory(storage, "empty/d")] == [Outcome.STORED, Outcome.UNCHANGED]
    assert mode_of(home / "empty/d") == 0o2750
    assert directory(storage, "empty") is Outcome.STORED
    assert directory(inbox.for_user("ana"), "empty") is Outcome.UNCHANGED


def test_a_directory_that_the_files_of_this_send_needed_is_stored(make: Callable[..., Inbox]) -> None:
    inbox = make()
    storage = inbox.for_user("ana")
    store(storage, "d/e/x")
    assert [directory(storage, name) for name in ("d/e", "d", "d")] == [*[Outcome.STORED] * 2, Outcome.UNCHANGED]
    assert directory(inbox.for_user("ana"), "d") is Outcome.UNCHANGED


def test_a_directory_that_was_there_keeps_its_mode_and_takes_the_time(make: Callable[..., Inbox], home: Path) -> None:
    storage = make().for_user("ana")
    (home / "d").mkdir()
    (home / "d").chmod(0o755)
    assert directory(storage, mtime_ns=10**18) is Outcome.UNCHANGED
    assert (mode_of(home / "d"), (home / "d").stat().st_mtime_ns) == (0o755, 10**18)
    before = (home / "d").stat()
    assert directory(storage, mtime_ns=10**18) is directory(storage) is Outcome.UNCHANGED
    assert (home / "d").stat() == before


@pytest.mark.parametrize("policy", list(OnConflict))
@pytest.mark.parametrize("kind", ["file", "link"])
def test_P14_what_stands_in_the_way_of_a_directory_stays(
    make: Callable[..., Inbox], home: Path, tmp_path: Path, policy: OnConflict, kind: str
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    (tmp_path / "outside").mkdir()
    if kind == "file":
        (home / "d").write_text("here")
    else:
        (home / "d").symlink_to(tmp_path / "outside")
    before = (home / "d").lstat(), (tmp_path / "outside").stat()
    for name in ("d", "d/e"):
        with pytest.raises(NameTakenError):
            directory(storage, name, 1)
    assert ((home / "d").lstat(), (tmp_path / "outside").stat()) == before


def test_P10_a_directory_that_collides_after_folding_is_refused(make: Callable[..., Inbox], home: Path) -> None:
    storage = make(names=NamePolicy.PORTABLE).for_user("ana")
    directory(storage, "Data")
    with pytest.raises(NameTakenError):
        directory(storage, "data")
    assert [path.name for path in home.iterdir()] == ["Data"]


def test_what_is_in_a_directory_that_was_moved_away_is_no_longer_there(
    make: Callable[..., Inbox], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of the last name is kept open for a moment: no file that comes later may end in it, or be in it."""
    storage = make().for_user("ana")
    store(storage, "d/x", b"same")
    offered = storage.offer(Description(Name.parse("d/x"), 4), fresh=False)
    assert offered.stands
    (home / "d").rename(tmp_path / "away")
    monkeypatch.setattr(directories, "_TRUST_SECONDS", 0.0)
    storage._finder._until = 0.0  # the moment is over
    assert not storage.offer(Description(Name.parse("d/x"), 4), fresh=False).stands
    assert store(storage, "d/x", b"same").outcome is Outcome.STORED
    assert store(storage, "d/y").outcome is Outcome.STORED
    assert sorted(path.name for path in home.rglob("*")) == ["d", "x", "y"]
    assert [path.name for path in (tmp_path / "away").iterdir()] == ["x"]


def test_a_file_is_published_where_its_name_leads_when_it_is_committed(
    make: Callable[..., Inbox], home: Path, tmp_path: Path
) -> None:
    storage = make().for_user("ana")
    store(storage, "d/x")
    with storage.stage(Description(Name.parse("d/y"), 1)) as staging:
        staging.write(memoryview(b"1"))
        staging.seal(hashlib.sha256(b"1").digest())
    (home / "d").rename(tmp_path / "away")
    assert [type(result) for result in storage.commit([staging])] == [Committed]
    assert (home / "d/y").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "away").iterdir()] == ["x"]


def test_each_send_has_its_policy(make: Callable[..., Inbox], home: Path) -> None:
    inbox = make(on_conflict=OnConflict.REPLACE)
    store(inbox.for_user("ana"), "x", b"1")
    with pytest.raises(NameTakenError):
        store(inbox.for_user("ana", policy=OnConflict.REFUSE), "x", b"22")
    with pytest.raises(SkippedError):
        store(inbox.for_user("ana", policy=OnConflict.SKIP), "x", b"22")
    assert store(inbox.for_user("ana", policy=OnConflict.RENAME), "x", b"22").outcome is Outcome.RENAMED
    assert store(inbox.for_user("ana"), "x", b"22").outcome is Outcome.REPLACED
    assert {path.name: path.read_bytes() for path in home.iterdir()} == {"x": b"22", "x (1)": b"22"}
