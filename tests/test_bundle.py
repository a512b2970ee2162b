"""The files of one send stay as they were verified, whatever becomes of their names, until their bundle is removed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from securexfer.errors import (
    NameTakenError,
    NoSpaceError,
    SecurexferError,
    StorageFailedError,
    TruncatedError,
    UnsafeNameError,
)
from securexfer.names import STAGING_NAME, Name
from securexfer.storage import bundle as bundles
from securexfer.storage import directories, staged
from securexfer.storage.base import Committed, Description, OnConflict, Outcome
from securexfer.storage.local import Inbox, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from securexfer.storage.bundle import Bundle
    from securexfer.storage.user import UserStorage

MIB = 1 << 20
CONTENT = b"print('verified')\n"
OTHER = b"print('another!')\n"  # of the same size
MAX_LINKS = 65_000  # of one file on ext4


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "inbox/ana"


def opened(inbox: Inbox, directory: str = "", **options: Any) -> tuple[UserStorage, Bundle]:
    """Return the storage of a send, and its bundle."""
    bundle = inbox.new_bundle("ana", directory)
    return inbox.for_user("ana", bundle=bundle, **options), bundle


def stage(storage: UserStorage, name: str, content: bytes) -> staged.LocalStaging:
    staging = storage.stage(Description(Name.parse(name), len(content)))
    staging.write(memoryview(content))
    staging.seal(hashlib.sha256(content).digest())
    return staging


def store(storage: UserStorage, name: str = "x.py", content: bytes = CONTENT) -> Committed | SecurexferError:
    try:
        (result,) = storage.commit([stage(storage, name, content)])
    except SecurexferError as error:
        return error
    return result


def keep(storage: UserStorage, name: str = "x.py", content: bytes = CONTENT) -> Committed:
    """Prove that a file stands there already, as a sender does that has it."""
    offered = storage.offer(Description(Name.parse(name), len(content)), fresh=False)
    assert offered.stands
    assert offered.prefix(lambda: None).digest() == hashlib.sha256(content).digest()
    return offered.keep()


def is_known(storage: UserStorage, name: str = "x.py", size: int = len(CONTENT)) -> bool:
    """Whether the server knows a file's digest without reading it."""
    offered = storage.offer(Description(Name.parse(name), size), fresh=False)
    offered.drop()
    return offered.stands and offered.known


def held(bundle: Bundle) -> dict[str, bytes]:
    """Return name -> content as read through the bundle, having looked at all that it says of itself."""
    found = {}
    for name, entry in bundle.entries.items():
        with os.fdopen(bundle.open(name), "rb") as file:
            found[name] = file.read()
        assert (entry.name, entry.size) == (name, len(found[name]))
        assert entry.digest == hashlib.sha256(found[name]).digest()
        assert (bundle.path / name).read_bytes() == found[name]
    on_disk = {str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if not path.is_dir()}
    assert on_disk == set(found)
    return found


def staging_of(inbox: Inbox) -> list[str]:
    return sorted(path.name for path in (inbox.path / STAGING_NAME).iterdir())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- as they were verified ---------------------------------------------------------------------------------------


def remove(x: Path) -> None:
    x.unlink()


def move_away(x: Path) -> None:
    x.rename(x.with_name("y"))


def put_another_in_its_place(x: Path) -> None:
    x.with_name("y").write_bytes(OTHER)
    x.with_name("y").replace(x)


def put_a_link_in_its_place(x: Path) -> None:
    x.unlink()
    x.symlink_to("/etc/passwd")


def move_the_whole_user_away(x: Path) -> None:
    x.parent.rename(x.parent.with_name("gone"))


CHANGES = [remove, move_away, put_another_in_its_place, put_a_link_in_its_place, move_the_whole_user_away]


@pytest.mark.parametrize("change", CHANGES)
def test_H03_what_happens_to_a_name_after_the_commit_does_not_reach_the_bundle(
    make_inbox: Callable[..., Inbox], home: Path, change: Callable[[Path], None]
) -> None:
    storage, bundle = opened(make_inbox())
    assert store(storage) == Committed(Outcome.STORED, Name.parse("x.py"))
    change(home / "x.py")
    assert held(bundle) == {"x.py": CONTENT}
    bundle.remove()
    assert staging_of(storage.inbox) == []


@pytest.mark.parametrize("change", [remove, move_away, put_another_in_its_place, put_a_link_in_its_place])
def test_H03_what_happens_to_a_name_during_the_commit_does_not_reach_the_bundle(
    make_inbox: Callable[..., Inbox], home: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """It is visible by the time its directory is synced, and not in the bundle yet."""
    storage, bundle = opened(make_inbox())
    sync = directories.Handles.sync

    def meanwhile(*arguments: Any) -> str | None:
        change(home / "x.py")
        return sync(*arguments)

    monkeypatch.setattr(directories.Handles, "sync", meanwhile)
    assert isinstance(store(storage), Committed)
    assert held(bundle) == {"x.py": CONTENT}


def test_H03_a_later_send_that_replaces_a_file_leaves_the_earlier_bundle_alone(
    make_inbox: Callable[..., Inbox],
) -> None:
    inbox = make_inbox()
    storage, bundle = opened(inbox, policy=OnConflict.REPLACE)
    later, its = opened(inbox, policy=OnConflict.REPLACE)
    store(storage)
    assert store(later, content=OTHER) == Committed(Outcome.REPLACED, Name.parse("x.py"))
    assert held(bundle) == {"x.py": CONTENT}
    assert held(its) == {"x.py": OTHER}
    assert (inbox.path / "ana/x.py").read_bytes() == OTHER
    assert len(staging_of(inbox)) == 2  # the two bundles, and no second name of what took the place


def test_a_replacement_that_fails_leaves_no_second_name(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make_inbox(on_conflict=OnConflict.REPLACE)
    store(inbox.for_user("ana"))
    storage, bundle = opened(inbox)

    def fail(*_: object) -> None:
        raise OSError(5, "as asked")

    monkeypatch.setattr(inbox, "replace", fail)
    assert isinstance(store(storage, content=OTHER), StorageFailedError)
    assert held(bundle) == {}
    assert staging_of(inbox) == [bundle.path.name]


def test_what_was_renamed_is_in_the_bundle_as_it_was_offered(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(on_conflict=OnConflict.RENAME)
    store(inbox.for_user("ana"), content=OTHER)
    storage, bundle = opened(inbox)
    assert store(storage) == Committed(Outcome.RENAMED, Name.parse("x (1).py"))
    assert held(bundle) == {"x.py": CONTENT}
    assert bundle.entries["x.py"].stored_as == Name.parse("x (1).py")


def test_what_was_refused_is_not_in_it(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"), content=OTHER)
    storage, bundle = opened(inbox)
    group = [stage(storage, name, CONTENT) for name in ("a.py", "b.py", "b.py/below")]
    with pytest.raises(NameTakenError):
        stage(storage, "x.py", b"of another size")
    group.insert(1, stage(storage, "x.py", CONTENT))
    outcomes = [isinstance(result, Committed) for result in storage.commit(group)]
    assert outcomes == [True, False, True, False]
    assert held(bundle) == {"a.py": CONTENT, "b.py": CONTENT}
    assert bundle.missing == {}


def test_what_was_withdrawn_because_of_its_directory_is_not_in_it(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, bundle = opened(make_inbox())

    def failed(*_: object) -> Generator[Any, None, str]:
        yield lambda: None
        return "EIO"

    monkeypatch.setattr(directories.Handles, "sync", failed)
    assert isinstance(store(storage), StorageFailedError)
    assert held(bundle) == {}


def test_what_was_given_up_is_not_in_it(make_inbox: Callable[..., Inbox]) -> None:
    storage, bundle = opened(make_inbox())
    stage(storage, "x.py", CONTENT).discard()
    assert held(bundle) == {}


def test_groups_and_sub_directories_are_below_the_directory_of_the_send(make_inbox: Callable[..., Inbox]) -> None:
    storage, bundle = opened(make_inbox(), "results/today")
    before = descriptors()
    names = ["b.py", "d/e/f.txt", "d/a", "z", "d/e/b"]
    group = [stage(storage, f"results/today/{name}", name.encode()) for name in names]
    assert all(isinstance(result, Committed) for result in storage.commit(group))
    assert held(bundle) == {name: name.encode() for name in names}
    assert list(bundle.entries) == names
    assert bundle.path.stat().st_mode & 0o777 == (bundle.path / "d/e").stat().st_mode & 0o777 == 0o700
    assert bundle.path.is_absolute()
    assert descriptors() == before


def test_what_is_not_below_the_directory_of_the_send_is_stored_but_not_in_it(make_inbox: Callable[..., Inbox]) -> None:
    storage, bundle = opened(make_inbox(), "results")
    assert isinstance(store(storage, "elsewhere/x.py"), Committed)
    assert isinstance(store(storage, "results", b"a file under the very name"), Committed)
    assert held(bundle) == {}
    assert set(bundle.missing) == {"elsewhere/x.py", "results"}


def test_the_directory_of_a_send_is_a_name_like_any_other(make_inbox: Callable[..., Inbox]) -> None:
    with pytest.raises(UnsafeNameError):
        make_inbox().new_bundle("ana", "../bruno")


def test_a_large_file_that_was_resumed_is_in_it(make_inbox: Callable[..., Inbox]) -> None:
    content = os.urandom(2 * MIB)
    storage, bundle = opened(make_inbox(), send_id=b"1" * 16)
    file = Description(Name.parse("d/large"), len(content), 10**18)
    first = storage.offer(file, fresh=False).stage(resume=False)
    first.write(memoryview(content[:MIB]))
    with contextlib.suppress(SecurexferError), first:
        raise TruncatedError("the end")
    assert held(bundle) == {}
    staging = storage.offer(file, fresh=False).stage(resume=True)
    with staging:
        staging.write(memoryview(content[MIB:]))
        staging.seal(hashlib.sha256(content).digest())
    assert isinstance(storage.commit([staging])[0], Committed)
    assert held(bundle) == {"d/large": content}
    assert staging_of(storage.inbox) == [bundle.path.name]


def test_only_what_is_in_it_can_be_opened(make_inbox: Callable[..., Inbox]) -> None:
    storage, bundle = opened(make_inbox())
    store(storage)
    for name in ("y", "../x", "", "."):
        with pytest.raises(KeyError):
            bundle.open(name)
    descriptor = bundle.open("x.py")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    os.close(descriptor)


def test_neither_the_quota_nor_the_promised_room_counts_it(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(quota=100)
    storage, _ = opened(inbox)
    store(storage, "a", bytes(60))
    (inbox.path / "ana/a").unlink()
    inbox.close()
    inbox = make_inbox(quota=100)
    storage, bundle = opened(inbox)
    store(storage, "a", bytes(60))
    assert storage.room() == (40, None)
    assert inbox.space._promised == 0
    assert list(held(bundle)) == ["a"]


# -- what stands there already -----------------------------------------------------------------------------------


def test_what_turns_out_to_stand_there_when_it_has_come_is_in_it(make_inbox: Callable[..., Inbox], home: Path) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"))
    storage, bundle = opened(inbox)
    assert store(storage) == Committed(Outcome.UNCHANGED, Name.parse("x.py"))
    remove(home / "x.py")
    assert held(bundle) == {"x.py": CONTENT}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_proved_to_stand_there_is_in_it(
    make_inbox: Callable[..., Inbox], home: Path, change: Callable[[Path], None], *, known: bool
) -> None:
    inbox = make_inbox()
    first = inbox.for_user("ana")
    if known:
        store(first, "d/x.py")
    else:
        (home / "d").mkdir()
        (home / "d/x.py").write_bytes(CONTENT)
    storage, bundle = opened(inbox, "d")
    offered = storage.offer(Description(Name.parse("d/x.py"), len(CONTENT)), fresh=False)
    offered.prefix(lambda: None)
    before = descriptors()
    assert offered.keep() == Committed(Outcome.UNCHANGED, Name.parse("d/x.py"))
    assert descriptors() == before
    assert is_known(storage, "d/x.py")
    assert bundle.entries["x.py"].stored_as == Name.parse("d/x.py")
    change(home / "d/x.py")
    assert held(bundle) == {"x.py": CONTENT}


def alter_and_set_the_times_back(x: Path) -> None:
    found = x.stat()
    with x.open("r+b") as file:
        file.write(OTHER)
    os.utime(x, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", [*CHANGES, alter_and_set_the_times_back])
def test_what_was_changed_since_it_was_proved_is_not_in_it(
    make_inbox: Callable[..., Inbox], home: Path, change: Callable[[Path], None]
) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"))
    storage, bundle = opened(inbox)
    offered = storage.offer(Description(Name.parse("x.py"), len(CONTENT)), fresh=False)
    offered.prefix(lambda: None)
    change(home / "x.py")
    assert offered.keep().outcome is Outcome.UNCHANGED
    assert held(bundle) == {} or change is move_the_whole_user_away  # which is held open
    assert list(bundle.missing or bundle.entries) == ["x.py"]


def test_what_is_put_under_the_name_in_the_moment_of_the_link_is_not_in_it(
    make_inbox: Callable[..., Inbox], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"))
    storage, bundle = opened(inbox)
    offered = storage.offer(Description(Name.parse("x.py"), len(CONTENT)), fresh=False)
    link = os.link

    def late(*arguments: Any, **keywords: Any) -> None:
        put_another_in_its_place(home / "x.py")
        link(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", late)
        offered.keep()
    assert held(bundle) == {}
    assert bundle.missing == {"x.py": "it was changed meanwhile"}
    assert not is_known(storage)


def test_the_same_file_in_two_bundles_is_known_whenever_one_goes(make_inbox: Callable[..., Inbox]) -> None:
    """A bundle that goes between another's offer and its proof changes the ctime, and nothing else."""
    inbox = make_inbox()
    storage, first = opened(inbox)
    store(storage)
    later, second = opened(inbox)
    offered = later.offer(Description(Name.parse("x.py"), len(CONTENT)), fresh=False)
    first.remove()
    offered.prefix(lambda: None)
    offered.keep()
    assert held(second) == {"x.py": CONTENT}
    second.remove()
    assert is_known(storage)


# -- what fails --------------------------------------------------------------------------------------------------


def test_a_file_with_as_many_links_as_it_may_have_is_stored_and_missing(
    make_inbox: Callable[..., Inbox], home: Path, tmp_path: Path
) -> None:
    inbox = make_inbox()
    store(inbox.for_user("ana"))
    (tmp_path / "links").mkdir()
    with contextlib.suppress(OSError):
        for number in range(MAX_LINKS):
            os.link(home / "x.py", tmp_path / f"links/{number}")
        pytest.skip("this file system takes more links")
    storage, bundle = opened(inbox)
    assert keep(storage).outcome is Outcome.UNCHANGED
    assert held(bundle) == {}
    assert bundle.missing == {"x.py": "EMLINK"}


@pytest.mark.root
def test_a_disk_without_room_for_a_link_stores_the_file_all_the_same(tmpfs: Callable[[str], Path]) -> None:
    place = tmpfs("size=8m,nr_inodes=60")  # where each link takes one
    with contextlib.closing(Inbox(place / "inbox", Rules())) as inbox:
        storage, bundle = opened(inbox)
        for number in itertools.count():
            if os.statvfs(place).f_favail == 2:  # for the file in staging, and its published name
                break
            (place / str(number)).touch()
        assert store(storage) == Committed(Outcome.STORED, Name.parse("x.py"))
        assert bundle.missing == {"x.py": "ENOSPC"}
        assert held(bundle) == {}
        (place / "last").touch()
        with pytest.raises(NoSpaceError):
            inbox.new_bundle("ana")


def test_more_files_than_it_takes_are_stored_all_the_same(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundles.MAX_FILES == 10_000
    monkeypatch.setattr(bundles, "MAX_FILES", 3)
    storage, bundle = opened(make_inbox())
    results = storage.commit([stage(storage, str(number), CONTENT) for number in range(3)])
    assert not bundle.overfull
    results += storage.commit([stage(storage, "d/e/3", CONTENT)])
    assert [result.outcome for result in results if isinstance(result, Committed)] == [Outcome.STORED] * 4
    assert list(held(bundle)) == ["0", "1", "2"]
    assert bundle.overfull
    assert bundle.missing == {}


def test_more_directories_than_it_takes_are_made_in_the_inbox_alone(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_DIRECTORIES", 5)
    storage, bundle = opened(make_inbox())
    deep = "/".join("abcdef")
    before = descriptors()
    storage.commit([stage(storage, name, CONTENT) for name in ("d/e/1", f"{deep}/2", "d/e/3", f"{deep}/4", "5")])
    assert list(held(bundle)) == ["d/e/1", "d/e/3", "5"]
    assert bundle.overfull
    assert sum(path.is_dir() for path in bundle.path.rglob("*")) == 5
    assert descriptors() == before


def test_of_two_files_by_one_name_the_first_is_in_it(make_inbox: Callable[..., Inbox]) -> None:
    storage, bundle = opened(make_inbox(on_conflict=OnConflict.RENAME))
    storage.commit([stage(storage, "x.py", content) for content in (CONTENT, CONTENT)])
    assert (held(bundle), dict(bundle.missing)) == ({"x.py": CONTENT}, {})
    storage.commit([stage(storage, "x.py", content) for content in (OTHER, CONTENT)])
    assert held(bundle) == {"x.py": CONTENT}
    assert bundle.missing == {"x.py": "EEXIST"}


def test_two_sends_at_once_have_a_bundle_each(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(on_conflict=OnConflict.RENAME)
    sends = [opened(inbox) for _ in range(4)]
    problems: list[object] = []
    barrier = threading.Barrier(4)

    def send(number: int) -> None:
        storage, bundle = sends[number]
        barrier.wait()
        for count in range(20):
            group = [stage(storage, f"d{count % 3}/{count}-{each}", f"{number}".encode()) for each in range(8)]
            problems.extend(result for result in storage.commit(group) if not isinstance(result, Committed))
        if set(held(bundle).values()) != {f"{number}".encode()} or len(bundle.entries) != 160 or bundle.missing:
            problems.append((bundle.entries, bundle.missing))
        bundle.remove()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert staging_of(inbox) == []
    assert len([path for path in (inbox.path / "ana").rglob("*") if path.is_file()]) == 640


# -- what goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(OnConflict))
def test_what_was_known_is_known_when_the_bundle_is_gone(make_inbox: Callable[..., Inbox], policy: OnConflict) -> None:
    inbox = make_inbox(on_conflict=policy)
    with contextlib.suppress(NameTakenError):
        store(inbox.for_user("ana"), "x.py", b"other")
    storage, bundle = opened(inbox)
    store(storage)
    store(storage, "d/e/y.py")
    names = [str(entry.stored_as) for entry in bundle.entries.values()]
    assert names
    assert all(is_known(storage, name) for name in names)
    bundle.remove()
    assert all(is_known(storage, name) for name in names)
    assert all((inbox.path / "ana" / name).stat().st_nlink == 1 for name in names)
    again, its = opened(inbox)
    for name in names:
        keep(again, name)
    its.remove()
    assert all(is_known(storage, name) for name in names)


def append(x: Path) -> None:
    with x.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [alter_and_set_the_times_back, append, put_another_in_its_place])
def test_a_file_that_was_altered_is_not_known_when_the_bundle_is_gone(
    make_inbox: Callable[..., Inbox], home: Path, change: Callable[[Path], None]
) -> None:
    storage, bundle = opened(make_inbox())
    store(storage)
    change(home / "x.py")
    bundle.remove()
    assert not is_known(storage, size=(home / "x.py").stat().st_size)


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_goes_whatever_became_of_the_inbox(
    make_inbox: Callable[..., Inbox], home: Path, change: Callable[[Path], None]
) -> None:
    storage, bundle = opened(make_inbox())
    store(storage)
    change(home / "x.py")
    before = descriptors()
    bundle.remove()
    bundle.remove()
    assert not bundle.path.exists()
    assert descriptors() == before
    assert isinstance(store(storage, "later"), Committed)  # by a send that has not ended
    assert bundle.missing == {"later": "ENOENT"}


def test_only_the_bundle_goes_whatever_is_in_it(make_inbox: Callable[..., Inbox], home: Path, tmp_path: Path) -> None:
    storage, bundle = opened(make_inbox())
    store(storage, "d/x.py")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("the sentinel")
    (bundle.path / "link").symlink_to(outside)
    (bundle.path / "d/link").symlink_to(outside / "file")
    os.link(outside / "file", bundle.path / "d/hard")
    os.mkfifo(bundle.path / "d/pipe")
    (bundle.path / "d/x.py").unlink()
    (bundle.path / "d/x.py").mkdir()
    bundle.remove()
    assert staging_of(storage.inbox) == []
    assert (outside / "file").read_text() == "the sentinel"
    assert (home / "d/x.py").read_bytes() == CONTENT


def test_a_link_in_the_place_of_a_directory_of_it_leads_nowhere(
    make_inbox: Callable[..., Inbox], home: Path, tmp_path: Path
) -> None:
    storage, bundle = opened(make_inbox())
    store(storage, "d/x.py")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.py").write_text("the sentinel")
    (bundle.path / "d").rename(bundle.path / "away")
    (bundle.path / "d").symlink_to(outside)
    with pytest.raises(OSError, match="directory"):
        bundle.open("d/x.py")
    store(storage, "d/y.py")
    assert bundle.missing == {"d/y.py": "ENOTDIR"}
    bundle.remove()
    assert [path.name for path in outside.iterdir()] == ["x.py"]
    assert staging_of(storage.inbox) == []


def test_deep_trees_and_the_longest_names_go_completely(make_inbox: Callable[..., Inbox]) -> None:
    storage, bundle = opened(make_inbox())
    deep = "/".join(["directory"] * 60)
    longest = "/".join(["n" * 255] * 15)
    before = descriptors()
    for name in (f"{deep}/x.py", f"{longest}/y.py", "n" * 254 + "y"):
        assert isinstance(store(storage, name), Committed)
        os.close(bundle.open(name))
    assert list(bundle.entries) == [f"{deep}/x.py", f"{longest}/y.py", "n" * 254 + "y"]
    bundle.remove()
    assert staging_of(storage.inbox) == []
    assert descriptors() == before
    assert is_known(storage, f"{deep}/x.py")


def test_nothing_is_touched_once_the_inbox_is_closed(make_inbox: Callable[..., Inbox]) -> None:
    """The numbers of its handles may be those of other directories by then."""
    inbox = make_inbox()
    storage, bundle = opened(inbox)
    store(storage)
    inbox.close()
    bundle.remove()
    assert (bundle.path / "x.py").read_bytes() == CONTENT
    with pytest.raises(OSError, match="closed"):
        bundle.open("x.py")
    with pytest.raises(StorageFailedError):
        inbox.new_bundle("ana")


KILLED = """
import hashlib, os, signal, sys
from pathlib import Path
from securexfer.names import Name
from securexfer.storage.base import Description
from securexfer.storage.local import Inbox, Rules

inbox = Inbox(Path(sys.argv[1]), Rules())
storage = inbox.for_user("ana", bundle=inbox.new_bundle("ana"))
for name in ("x.py", "d/e/y.py"):
    staging = storage.stage(Description(Name.parse(name), 3))
    staging.write(memoryview(b"abc"))
    staging.seal(hashlib.sha256(b"abc").digest())
    storage.commit([staging])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_server_that_was_killed_left_goes_at_the_next_start(
    make_inbox: Callable[..., Inbox], tmp_path: Path
) -> None:
    root = tmp_path / "inbox"
    done = subprocess.run([sys.executable, "-c", KILLED, root], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (root / STAGING_NAME).iterdir()
    assert (left / "d/e/y.py").read_bytes() == b"abc"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("the sentinel")
    (left / "link").symlink_to(outside)
    (left.parent / "opening-7").symlink_to(outside)
    (left.parent / "opening-8").write_text("no directory")
    inbox = make_inbox()
    assert staging_of(inbox) == []
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (root / "ana/x.py").read_bytes() == (root / "ana/d/e/y.py").read_bytes() == b"abc"
    assert (root / "ana/x.py").stat().st_nlink == 1
    assert isinstance(keep(opened(inbox)[0], "x.py", b"abc"), Committed)
