"""What the storage promises, on real directories: complete or not there, never over another's file, never elsewhere."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import resource
import shutil
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from securexfer import names
from securexfer.errors import (
    ConfigurationError,
    NameTakenError,
    NoSpaceError,
    QuotaExceededError,
    SecurexferError,
    SkippedError,
    StorageFailedError,
    UnsafeNameError,
)
from securexfer.names import STAGING_NAME, Name, NamePolicy
from securexfer.storage import directories, folding, local, nameless, publishing, space, staged, syncing
from securexfer.storage import root as roots
from securexfer.storage.base import Committed, Description, OnConflict, Outcome, in_one
from securexfer.storage.ledger import LEDGER_NAME
from securexfer.storage.local import Inbox, Rules
from securexfer.storage.root import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from securexfer.storage.base import Steps
    from securexfer.storage.user import UserStorage

POLICIES = list(OnConflict)
TAKEN = {OnConflict.REFUSE: NameTakenError, OnConflict.REPLACE: NameTakenError, OnConflict.SKIP: SkippedError}
IS_ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Inbox]]:
    """Open an inbox with the rules given, closed at the end of the test."""
    umask = os.umask(0o022)

    with contextlib.ExitStack() as stack:

        def opened(path: Path = tmp_path / "inbox", **rules: Any) -> Inbox:
            made = Inbox(path, Rules(**rules))
            stack.callback(made.close)  # harmless if the test has closed it
            return made

        yield opened
    os.umask(umask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a tree that no test may change; it is compared at the end with `untouched`."""
    tree = tmp_path / "outside"
    tree.mkdir()
    (tree / "secret").write_text("the sentinel")
    return tree


def untouched(tree: Path) -> bool:
    found = {path.name: path.read_text() for path in tree.iterdir()}
    return found == {"secret": "the sentinel"} and (tree / "secret").stat().st_nlink == 1


def stage(storage: UserStorage, name: str, content: bytes) -> staged.LocalStaging:
    """Stage a file whose bytes have all arrived."""
    with storage.stage(Description(Name.parse(name), len(content))) as staging:
        staging.write(memoryview(content))
        staging.seal(hashlib.sha256(content).digest())
    return staging


def store(storage: UserStorage, name: str, content: bytes = b"new") -> Committed | SecurexferError:
    """Store one file; return what became of it, wherever it was refused."""
    try:
        staging = stage(storage, name, content)
    except SecurexferError as error:
        return error
    (result,) = storage.commit([staging])
    return result


def stored(root: Path, user: str = "ana") -> dict[str, bytes]:
    """Return name -> content of a user's plain files; fails if anything is left in staging."""
    assert not list((root / STAGING_NAME).iterdir())
    place = root / user
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- stage, commit, discard ----------------------------------------------------------------------------------


def test_a_file_is_invisible_until_it_is_committed(make: Callable[..., Inbox], root: Path) -> None:
    storage = make().for_user("ana")
    staging = stage(storage, "results/x.csv", b"1,2\n")
    assert not list((root / "ana").iterdir())
    assert storage.commit([staging]) == [Committed(Outcome.STORED, Name.parse("results/x.csv"))]
    assert stored(root) == {"results/x.csv": b"1,2\n"}


def test_every_way_out_of_a_staging_leaves_nothing(make: Callable[..., Inbox], root: Path) -> None:
    inbox = make(quota=100)
    storage = inbox.for_user("ana")
    before = descriptors()
    with storage.stage(Description(Name.parse("a"), 10)) as staging:
        staging.write(memoryview(b"12345"))
    with contextlib.suppress(ZeroDivisionError), storage.stage(Description(Name.parse("b"), 10)):
        1 / 0  # noqa: B018
    assert stored(root) == {}
    assert descriptors() == before
    assert inbox.space._promised == 0
    assert isinstance(store(storage, "whole", bytes(100)), Committed)


def test_a_commit_that_dies_leaves_nothing(
    make: Callable[..., Inbox], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make(quota=100)
    storage = inbox.for_user("ana")
    before = descriptors()
    group = [stage(storage, name, b"12345") for name in ("a", "b", "c")]

    def no_memory(_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(staged.LocalStaging, "sync", no_memory)
        with pytest.raises(MemoryError):
            storage.commit(group)
    assert stored(root) == {}
    assert descriptors() == before
    assert isinstance(store(storage, "whole", bytes(100)), Committed)


def test_a_group_is_committed_in_order_each_file_for_itself(make: Callable[..., Inbox], root: Path) -> None:
    storage = make().for_user("ana")
    before = descriptors()
    files = [("a", b"1"), ("d/b", b"2"), ("a", b"other"), ("a", b"1"), ("a/c", b"3"), ("d/e/f", b"4")]
    results = storage.commit([stage(storage, name, content) for name, content in files])
    assert [result.outcome if isinstance(result, Committed) else result.reason for result in results] == [
        Outcome.STORED,
        Outcome.STORED,
        "EXISTS",
        Outcome.UNCHANGED,
        "EXISTS",
        Outcome.STORED,
    ]
    assert stored(root) == {"a": b"1", "d/b": b"2", "d/e/f": b"4"}
    assert descriptors() == before


def test_a_file_that_fails_leaves_no_directories(make: Callable[..., Inbox], root: Path) -> None:
    storage = make().for_user("ana")
    too_long = "n" * 256  # stands for any failure after the directories were made
    group = []
    for parts in (("new", "a", "b", too_long), ("shared", "x"), ("shared", "c", too_long)):
        with storage.stage(Description(Name(parts), 1)) as staging:
            staging.write(memoryview(b"1"))
            staging.seal(hashlib.sha256(b"1").digest())
        group.append(staging)
    results = storage.commit(group)
    assert [isinstance(result, Committed) for result in results] == [False, True, False]
    assert [str(path.relative_to(root)) for path in sorted((root / "ana").rglob("*"))] == ["ana/shared", "ana/shared/x"]


def test_D04_a_thousand_aborted_files_leave_no_promise_of_space_or_quota(
    make: Callable[..., Inbox], root: Path
) -> None:
    inbox = make(quota=1000)
    storage = inbox.for_user("ana")
    for number in range(1000):
        with storage.stage(Description(Name.parse(f"d/{number}"), 999)) as staging:
            staging.write(memoryview(b"some"))
    assert inbox.space._promised == 0
    assert stored(root) == {}
    assert isinstance(store(storage, "whole", bytes(1000)), Committed)


def test_F05_an_empty_file_is_a_file(make: Callable[..., Inbox], root: Path) -> None:
    assert isinstance(store(make().for_user("ana"), "empty", b""), Committed)
    assert stored(root) == {"empty": b""}


def test_the_deepest_name_is_stored(make: Callable[..., Inbox], root: Path) -> None:
    storage = make().for_user("ana")
    before = descriptors()
    name = "/".join(f"{number:010}" for number in range(64))
    assert isinstance(store(storage, name), Committed)
    assert stored(root) == {name: b"new"}
    assert descriptors() == before


@pytest.mark.parametrize("name", ["-rf", "~root", "$HOME", "`id`", "%s%n", "{0.__class__}", ".ssh/authorized_keys"])
def test_P12_names_are_stored_to_the_letter(make: Callable[..., Inbox], root: Path, name: str) -> None:
    store(make().for_user("ana"), name)
    assert stored(root) == {name: b"new"}


def test_P13_a_component_of_255_bytes_is_stored(make: Callable[..., Inbox], root: Path) -> None:
    name = "é" * 127 + "a"
    store(make().for_user("ana"), name)
    assert stored(root) == {name: b"new"}


def test_P25_the_same_name_of_two_users_is_two_files(make: Callable[..., Inbox], root: Path) -> None:
    inbox = make()
    ana, bruno = inbox.for_user("ana"), inbox.for_user("bruno")
    assert store(ana, "x", b"ana's") == store(bruno, "x", b"bruno's") == Committed(Outcome.STORED, Name.parse("x"))
    assert stored(root, "ana") == {"x": b"ana's"}
    assert stored(root, "bruno") == {"x": b"bruno's"}


# -- conflicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_content_is_unchanged_under_every_policy(
    make: Callable[..., Inbox], root: Path, policy: OnConflict
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    store(storage, "x", b"same")
    inode = (root / "ana/x").stat().st_ino
    assert store(storage, "x", b"same") == Committed(Outcome.UNCHANGED, Name.parse("x"))
    assert (root / "ana/x").stat().st_ino == inode
    assert stored(root) == {"x": b"same"}


@pytest.mark.parametrize("policy", POLICIES)
def test_content_that_cannot_be_compared_is_not_taken_for_other_content(
    make: Callable[..., Inbox], root: Path, policy: OnConflict
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    store(storage, "x", b"same")
    staging = stage(storage, "x", b"same")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        (result,) = storage.commit([staging])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(result, StorageFailedError)
    assert "EMFILE" in result.message
    assert stored(root) == {"x": b"same"}


@pytest.mark.parametrize("policy", [OnConflict.REFUSE, OnConflict.SKIP])
@pytest.mark.parametrize("content", [b"diff", b"longer"])
def test_other_content_is_refused_and_the_old_stays(
    make: Callable[..., Inbox], root: Path, policy: OnConflict, content: bytes
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    store(storage, "x", b"same")
    assert isinstance(store(storage, "x", content), TAKEN[policy])
    assert stored(root) == {"x": b"same"}


@pytest.mark.parametrize("policy", [OnConflict.REFUSE, OnConflict.SKIP])
def test_what_cannot_be_stored_is_refused_before_its_bytes_come(
    make: Callable[..., Inbox], root: Path, policy: OnConflict
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    store(storage, "x", b"same")
    (root / "ana/d").mkdir()
    for name, size, error in (("x", 5, TAKEN[policy]), ("d", 4, TAKEN[policy]), ("x/y", 4, NameTakenError)):
        with pytest.raises(error):
            storage.stage(Description(Name.parse(name), size))


@pytest.mark.parametrize(
    ("name", "second", "third"),
    [
        ("x.csv", "x (1).csv", "x (2).csv"),
        (".bashrc", ".bashrc (1)", ".bashrc (2)"),
        ("a.tar.gz", "a.tar (1).gz", "a.tar (2).gz"),
        ("plain", "plain (1)", "plain (2)"),
        ("d.x/y", "d.x/y (1)", "d.x/y (2)"),
        ("dot.", "dot (1).", "dot (2)."),
        ("n" * 251, "n" * 251 + " (1)", "n" * 251 + " (2)"),
    ],
)
def test_rename_takes_the_first_candidate_that_is_free_or_has_the_content(
    make: Callable[..., Inbox], root: Path, name: str, second: str, third: str
) -> None:
    storage = make(on_conflict=OnConflict.RENAME).for_user("ana")
    store(storage, name, b"one")
    assert store(storage, name, b"two") == Committed(Outcome.RENAMED, Name.parse(second))
    assert store(storage, name, b"three") == Committed(Outcome.RENAMED, Name.parse(third))
    assert store(storage, name, b"two") == Committed(Outcome.UNCHANGED, Name.parse(second))
    assert stored(root) == {name: b"one", second: b"two", third: b"three"}


def test_rename_never_cuts_a_name_that_has_no_room_for_its_number(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(on_conflict=OnConflict.RENAME).for_user("ana")
    store(storage, "n" * 255, b"one")
    assert isinstance(store(storage, "n" * 255, b"two"), NameTakenError)
    assert stored(root) == {"n" * 255: b"one"}


def test_rename_gives_up_after_its_last_number(
    make: Callable[..., Inbox], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MAX_NUMBER", 2)
    storage = make(on_conflict=OnConflict.RENAME).for_user("ana")
    results = [store(storage, "x", content) for content in (b"1", b"2", b"3", b"4")]
    assert isinstance(results.pop(), NameTakenError)
    assert all(isinstance(result, Committed) for result in results)
    assert stored(root) == {"x": b"1", "x (1)": b"2", "x (2)": b"3"}


def test_P18_replace_makes_a_new_inode_and_leaves_other_links_alone(
    make: Callable[..., Inbox], root: Path, outside: Path
) -> None:
    storage = make(on_conflict=OnConflict.REPLACE).for_user("ana")
    os.link(outside / "secret", root / "ana/x")
    with (root / "ana/x").open() as reader:
        assert store(storage, "x", b"new") == Committed(Outcome.REPLACED, Name.parse("x"))
        assert reader.read() == "the sentinel"
    assert stored(root) == {"x": b"new"}
    assert untouched(outside)


def test_P18_replace_is_one_step_for_who_reads_meanwhile(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(on_conflict=OnConflict.REPLACE).for_user("ana")
    contents = [bytes([letter]) * (1000 + letter) for letter in b"abcdefghij"]
    store(storage, "x", contents[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add((root / "ana/x").read_bytes())  # raises if it is not there for a moment

    with contextlib.ExitStack() as stack:
        failures: list[BaseException] = []
        reader = threading.Thread(target=_noting(read, failures))
        stack.callback(reader.join)
        stack.callback(done.set)
        reader.start()
        for content in contents * 5:
            assert isinstance(store(storage, "x", content), Committed)
    assert not failures
    assert len(seen) > 1
    assert seen <= set(contents)


def _noting(act: Callable[[], None], failures: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failures.append(error)

    return run


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("aim", ["directory", "file", "dangling", "itself"])
def test_P14_a_link_under_the_name_is_never_followed(
    make: Callable[..., Inbox], root: Path, outside: Path, aim: str, policy: OnConflict
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    target = {"directory": outside, "file": outside / "secret", "dangling": outside / "none", "itself": "x"}[aim]
    (root / "ana/x").symlink_to(target)
    result = store(storage, "x", b"the sentinel")
    below = store(storage, "x/y")
    assert isinstance(below, NameTakenError)
    if policy is OnConflict.RENAME:
        assert result == Committed(Outcome.RENAMED, Name.parse("x (1)"))
    else:
        assert isinstance(result, TAKEN[policy])
    assert (root / "ana/x").readlink() == Path(target)
    assert untouched(outside)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)  # by the short name: sun_path has 108 bytes


def _character_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def _block_device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "obstacle",
    [
        _fifo,
        _socket,
        _directory,
        pytest.param(_character_device, marks=pytest.mark.root),
        pytest.param(_block_device, marks=pytest.mark.root),
    ],
)
def test_P17_what_is_no_plain_file_stays_and_nobody_waits_for_it(
    make: Callable[..., Inbox], root: Path, obstacle: Callable[[Path], None], policy: OnConflict
) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    staging = stage(storage, "x", b"")  # staged before the obstacle came: the commit has to notice, too
    obstacle(root / "ana/x")
    before = (root / "ana/x").lstat()
    results: list[object] = []
    act = threading.Thread(target=lambda: results.extend([*storage.commit([staging]), store(storage, "x", b"")]))
    act.daemon = True
    act.start()
    act.join(1)
    assert not act.is_alive(), "it waits for whoever is at the other end"
    if policy is OnConflict.RENAME:
        assert [isinstance(result, Committed) and str(result.stored_as) for result in results] == ["x (1)", "x (1)"]
    else:
        assert all(isinstance(result, TAKEN[policy]) for result in results)
    assert os.path.samestat((root / "ana/x").lstat(), before)


@pytest.mark.root
@pytest.mark.debian
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr (e2fsprogs)")
@pytest.mark.parametrize("policy", [OnConflict.REFUSE, OnConflict.REPLACE])
def test_P17_an_immutable_file_stays(make: Callable[..., Inbox], root: Path, policy: OnConflict) -> None:
    storage = make(on_conflict=policy).for_user("ana")
    (root / "ana/x").write_text("fixed")
    if subprocess.run(["chattr", "+i", str(root / "ana/x")], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        assert isinstance(store(storage, "x"), SecurexferError)
    finally:
        subprocess.run(["chattr", "-i", str(root / "ana/x")], check=True)
    assert stored(root) == {"x": b"fixed"}


def test_P15_a_user_directory_that_is_a_link_is_refused(make: Callable[..., Inbox], root: Path, outside: Path) -> None:
    inbox = make()
    (root / "ana").symlink_to(outside)
    with pytest.raises(NameTakenError):
        inbox.for_user("ana")
    assert untouched(outside)


def test_P15_a_directory_replaced_by_a_link_during_a_session_gets_nothing(
    make: Callable[..., Inbox], root: Path, outside: Path, tmp_path: Path
) -> None:
    inbox = make()
    storage = inbox.for_user("ana")
    (root / "ana").rename(root / "moved")
    (root / "ana").symlink_to(outside)
    assert isinstance(store(storage, "x"), Committed)
    root.rename(tmp_path / "moved")
    root.symlink_to(outside)
    assert isinstance(store(storage, "y"), Committed)
    assert stored(tmp_path / "moved", "moved") == {"x": b"new", "y": b"new"}
    assert untouched(outside)


def test_a_link_swapped_in_at_any_moment_leads_nowhere(make: Callable[..., Inbox], root: Path, outside: Path) -> None:
    storage = make().for_user("ana")
    (root / "ana/d").mkdir()
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (root / "ana/d").rename(root / "ana/real")
            (root / "ana/d").symlink_to(outside)
            (root / "ana/d").unlink()
            (root / "ana/real").rename(root / "ana/d")

    failures: list[BaseException] = []
    swapper = threading.Thread(target=_noting(swap, failures))
    swapper.start()
    try:
        for number in range(200):
            store(storage, f"d/{number}")
    finally:
        done.set()
        swapper.join()
    assert untouched(outside)


# -- modes, owners, the root -----------------------------------------------------------------------------------


@contextlib.contextmanager
def as_somebody(place: Path) -> Iterator[None]:
    """Work in `place` as a user whom permissions hold, also where root runs the tests."""
    with contextlib.chdir(place):
        if not IS_ROOT:
            yield
            return
        os.chown(place, NOBODY, NOBODY)
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_P22_modes_are_exact_whatever_the_umask(make: Callable[..., Inbox], tmp_path: Path, umask: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with as_somebody(place):
        os.umask(umask)
        assert isinstance(store(make(Path("above/inbox")).for_user("ana"), "d/e/x"), Committed)
    modes = {str(path.relative_to(place)): mode_of(path) for path in place.rglob("*")}
    index = {mode for name, mode in modes.items() if LEDGER_NAME in name}  # none, where `place` cannot be reached
    assert index <= {0o600}
    assert {name: mode for name, mode in modes.items() if LEDGER_NAME not in name} == {
        "above": 0o700,
        "above/inbox": 0o700,
        f"above/inbox/{LOCK_NAME}": 0o600,
        f"above/inbox/{STAGING_NAME}": 0o700,
        "above/inbox/ana": 0o700,
        "above/inbox/ana/d": 0o700,
        "above/inbox/ana/d/e": 0o700,
        "above/inbox/ana/d/e/x": 0o600,
    }


def test_modes_and_group_let_a_teacher_read_and_nobody_else(make: Callable[..., Inbox], root: Path) -> None:
    group = 12345 if IS_ROOT else [os.getgid(), *os.getgroups()][-1]
    storage = make(root / "deep", file_mode=0o640, directory_mode=0o2750, group=group).for_user("ana")
    store(storage, "d/x")
    for path in (root, root / "deep", root / "deep/ana", root / "deep/ana/d"):
        assert (mode_of(path), path.stat().st_gid) == (0o2750, group), path
    file = root / "deep/ana/d/x"
    assert (mode_of(file), file.stat().st_gid) == (0o640, group)
    assert mode_of(root / "deep" / STAGING_NAME) & 0o777 == 0o700


def test_a_directory_that_was_there_keeps_its_mode(make: Callable[..., Inbox], root: Path) -> None:
    (root / "ana/d").mkdir(parents=True)
    for path in (root, root / "ana", root / "ana/d"):
        path.chmod(0o755)
    store(make(directory_mode=0o750).for_user("ana"), "d/e/x")
    assert [mode_of(root / name) for name in ("", "ana", "ana/d", "ana/d/e")] == [0o755, 0o755, 0o755, 0o750]


def test_D17_a_new_file_has_no_bits_beyond_the_rules(make: Callable[..., Inbox], root: Path) -> None:
    store(make().for_user("ana"), "x")
    assert (mode_of(root / "ana/x"), (root / "ana/x").stat().st_uid) == (0o600, os.geteuid())


def test_a_group_that_files_cannot_be_given_to_is_said_at_the_start(make: Callable[..., Inbox], root: Path) -> None:
    root.mkdir()
    strange = max({0, NOBODY, *os.getgroups(), os.getgid()}) + 1
    with as_somebody(root), pytest.raises(ConfigurationError, match="cannot give files in the inbox") as caught:
        make(Path(), group=strange)
    assert "member of the group" in caught.value.hint
    assert not list((root / STAGING_NAME).iterdir())


def test_P15_a_root_that_is_a_link_is_refused(make: Callable[..., Inbox], root: Path, outside: Path) -> None:
    root.symlink_to(outside)
    with pytest.raises(ConfigurationError, match="it is a link, not a directory") as caught:
        make()
    assert caught.value.hint.endswith(f"securexfer serve --inbox {outside}")
    assert untouched(outside)
    make(outside)


@pytest.mark.parametrize(
    ("which", "mode", "mend"),
    [("root", 0o777, "chmod go-w"), ("root", 0o770, "chmod go-w"), ("above", 0o775, "chmod go-w")],
)
def test_P15_a_root_that_others_could_change_is_refused_and_the_hint_mends_it(
    make: Callable[..., Inbox], root: Path, which: str, mode: int, mend: str
) -> None:
    root.mkdir()
    changed = root if which == "root" else root.parent
    changed.chmod(mode)
    with pytest.raises(ConfigurationError, match="others can change the") as caught:
        make()
    assert caught.value.hint == f"{mend} {changed}"
    assert not list(root.iterdir())
    subprocess.run(caught.value.hint.split(), check=True)
    make()


def test_P15_a_root_may_be_the_groups_if_directories_are_to_be(make: Callable[..., Inbox], root: Path) -> None:
    root.mkdir()
    root.chmod(0o2770)
    make(directory_mode=0o2770)
    root.chmod(0o2772)
    with pytest.raises(ConfigurationError, match="others can change the inbox") as caught:
        make(directory_mode=0o2770)
    assert caught.value.hint == f"chmod o-w {root}"


@pytest.mark.root
def test_P15_a_root_of_another_user_is_refused_and_the_hint_mends_it(make: Callable[..., Inbox], root: Path) -> None:
    root.mkdir()
    os.chown(root, NOBODY, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user") as caught:
        make()
    assert not list(root.iterdir())
    subprocess.run(caught.value.hint.split(), check=True)
    make()


def test_links_above_the_root_are_the_administrators_and_followed(make: Callable[..., Inbox], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "srv").symlink_to("disk")
    store(make(tmp_path / "srv/lab/inbox").for_user("ana"), "x")
    assert stored(tmp_path / "disk/lab/inbox") == {"x": b"new"}


def test_a_dangling_link_above_the_root_is_refused(make: Callable[..., Inbox], tmp_path: Path) -> None:
    (tmp_path / "srv").symlink_to("disk-that-is-not-mounted")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        make(tmp_path / "srv/inbox")
    assert not (tmp_path / "disk-that-is-not-mounted").exists()


@pytest.fixture
def users_list(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this machine's users have these homes, and no others; the first is ours."""

    def put(*homes: Path) -> None:
        entries = [pwd.struct_passwd(("ana", "x", os.geteuid(), 0, "", str(home), "/bin/sh")) for home in homes]
        monkeypatch.setattr(pwd, "getpwall", lambda: entries)
        monkeypatch.setattr(pwd, "getpwuid", {os.geteuid(): entries[0]}.__getitem__)

    return put


def test_P11_the_root_directory_is_no_inbox() -> None:
    with pytest.raises(ConfigurationError, match="is the root directory"):
        roots.refuse_precious(Path("/"))  # not by a whole Inbox: if this were broken, it would use it


@pytest.mark.parametrize(
    ("inbox", "problem"),
    [
        ("home/bruno", "is a home directory"),
        ("link", "is a home directory"),
        ("home", "holds home directories"),
        ("home/bruno/inbox", ""),
        ("home/nobody", ""),
    ],
)
def test_P11_a_root_where_files_would_take_effect_is_refused(
    make: Callable[..., Inbox], tmp_path: Path, users_list: Callable[..., None], inbox: str, problem: str
) -> None:
    (tmp_path / "home/bruno").mkdir(parents=True)
    (tmp_path / "link").symlink_to("home/bruno")
    users_list(tmp_path / "elsewhere/ana", tmp_path / "home/bruno")
    if not problem:
        make(tmp_path / inbox)
        return
    with pytest.raises(ConfigurationError, match=problem) as caught:
        make(tmp_path / inbox)
    assert ".bashrc would take effect" in caught.value.hint
    assert not (tmp_path / inbox / STAGING_NAME).exists()


def test_P11_a_home_that_the_users_list_knows_by_a_link_is_refused(
    make: Callable[..., Inbox], root: Path, tmp_path: Path, users_list: Callable[..., None]
) -> None:
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    users_list(tmp_path / "link")
    with pytest.raises(ConfigurationError, match="is a home directory"):
        make()


def test_a_second_server_cannot_take_the_same_inbox(make: Callable[..., Inbox], root: Path) -> None:
    first = make()
    staging = stage(first.for_user("ana"), "x", b"on its way")
    with pytest.raises(ConfigurationError, match="another `securexfer serve` is using"):
        make()
    assert isinstance(first.for_user("ana").commit([staging])[0], Committed)  # nothing of the first one was swept
    first.close()
    make()
    assert stored(root) == {"x": b"on its way"}


def test_what_an_earlier_server_left_is_swept_and_what_it_published_stays(
    make: Callable[..., Inbox], root: Path
) -> None:
    inbox = make()
    storage = inbox.for_user("ana")
    unfinished = storage.stage(Description(Name.parse("unfinished"), 100))
    unfinished.write(memoryview(b"half"))
    published = stage(storage, "published", b"whole")
    os.link(root / STAGING_NAME / published.file, root / "ana/published")  # a crash between link and unlink
    assert len(list((root / STAGING_NAME).iterdir())) == 2
    inbox.close()
    make()
    assert stored(root) == {"published": b"whole"}
    assert (root / "ana/published").stat().st_nlink == 1
    unfinished.settle()
    published.settle()


def test_a_root_that_cannot_be_written_is_refused(make: Callable[..., Inbox], root: Path) -> None:
    root.mkdir(mode=0o500)
    with as_somebody(root), pytest.raises(ConfigurationError, match="cannot be used: Permission denied"):
        make(Path())


# -- the portable name policy ----------------------------------------------------------------------------------

PAIRS = [("README", "readme"), ("straße", "STRASSE"), ("café", "cafe\u0301"), ("ﬁle", "file")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_P09_P10_names_that_collide_after_folding(
    make: Callable[..., Inbox], tmp_path: Path, first: str, second: str
) -> None:
    native = make(tmp_path / "native").for_user("ana")
    assert all(isinstance(store(native, name), Committed) for name in (first, second))
    assert stored(tmp_path / "native") == {first: b"new", second: b"new"}
    portable = make(tmp_path / "portable", names=NamePolicy.PORTABLE).for_user("ana")
    assert isinstance(store(portable, first), Committed)
    assert isinstance(store(portable, second), NameTakenError)
    assert store(portable, first) == Committed(Outcome.UNCHANGED, Name.parse(first))
    assert stored(tmp_path / "portable") == {first: b"new"}


@pytest.mark.parametrize("policy", [OnConflict.REFUSE, OnConflict.REPLACE])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_P10_directories_collide_like_files(
    make: Callable[..., Inbox], root: Path, first: str, second: str, policy: OnConflict
) -> None:
    storage = make(names=NamePolicy.PORTABLE, on_conflict=policy).for_user("ana")
    store(storage, f"{first}/x")
    assert isinstance(store(storage, f"{second}/y"), NameTakenError)
    assert isinstance(store(storage, second), NameTakenError)
    assert isinstance(store(storage, f"{first}/y"), Committed)
    assert stored(root) == {f"{first}/x": b"new", f"{first}/y": b"new"}


def test_P10_rename_finds_a_name_that_does_not_collide(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(names=NamePolicy.PORTABLE, on_conflict=OnConflict.RENAME).for_user("ana")
    for name in ("README", "readme (1)", "ReadMe"):
        store(storage, name, name.encode())
    assert stored(root) == {"README": b"README", "readme (1)": b"readme (1)", "ReadMe (2)": b"ReadMe"}


def test_P10_a_name_that_somebody_made_by_hand_counts(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(names=NamePolicy.PORTABLE).for_user("ana")
    store(storage, "first")
    time.sleep(0.02)  # beyond the tick of the file system's clock
    (root / "ana/README").touch()
    assert isinstance(store(storage, "readme"), NameTakenError)


def test_P10_twins_made_by_hand_are_still_recognised(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(names=NamePolicy.PORTABLE).for_user("ana")
    for name in ("README", "readme"):
        (root / "ana" / name).write_bytes(b"new")
    assert [store(storage, name) for name in ("README", "readme")] == [
        Committed(Outcome.UNCHANGED, Name.parse(name)) for name in ("README", "readme")
    ]


def test_P10_of_two_senders_at_the_same_moment_one_gets_the_name(make: Callable[..., Inbox], root: Path) -> None:
    inbox = make(names=NamePolicy.PORTABLE)
    barrier = threading.Barrier(2)
    outcomes: dict[str, list[bool]] = {"File": [], "file": []}

    def send(spelling: str) -> None:
        storage = inbox.for_user("ana")
        for number in range(100):
            barrier.wait(10)
            outcomes[spelling].append(isinstance(store(storage, f"{spelling}-{number}"), Committed))

    threads = [threading.Thread(target=send, args=(spelling,)) for spelling in outcomes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(pair) for pair in zip(*outcomes.values(), strict=True)] == [1] * 100
    assert len(stored(root)) == 100


@pytest.mark.parametrize("policy", list(NamePolicy))
def test_D15_one_more_file_does_not_cost_a_look_at_all_the_others(
    make: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch, policy: NamePolicy
) -> None:
    looks: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: looks.append(place) or scandir(place))
    storage = make(names=policy).for_user("ana")
    for number in range(100):
        store(storage, f"d/{number}")
    assert len(looks) <= 3


def test_D15_what_is_remembered_of_names_is_bounded(
    make: Callable[..., Inbox], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "MAX_NAMES", 50)
    inbox = make(names=NamePolicy.PORTABLE)
    storage = inbox.for_user("ana")
    for number in range(100):
        store(storage, f"{number % 10}/{number}")
    assert inbox._folded is not None
    assert sum(len(names) for _, names in inbox._folded._seen.values()) <= 70
    assert isinstance(store(storage, "1/99"), Committed)
    assert isinstance(store(storage, "Ab"), Committed)
    assert isinstance(store(storage, "aB"), NameTakenError)


# -- quota and room --------------------------------------------------------------------------------------------


@pytest.fixture
def recount_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "RECOUNT_SECONDS", 0.0)


def test_F22_a_send_for_which_there_is_no_descriptor_left_is_refused_and_leaves_none(
    make: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make()
    inbox.for_user("ana").close()
    before = descriptors()
    inbox.quick = False

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(local, "Whole", none_left)
    with pytest.raises(StorageFailedError, match="EMFILE"):
        inbox.for_user("ana")
    assert descriptors() == before


def test_F07_the_quota_can_be_filled_to_the_byte(make: Callable[..., Inbox]) -> None:
    storage = make(quota=100).for_user("ana")
    assert isinstance(store(storage, "x", bytes(60)), Committed)
    assert isinstance(store(storage, "y", bytes(41)), QuotaExceededError)
    assert isinstance(store(storage, "y", bytes(40)), Committed)
    assert isinstance(store(storage, "empty", b""), Committed)
    assert isinstance(store(storage, "z", bytes(1)), QuotaExceededError)


def test_F07_files_that_are_taken_in_one_step_count_as_well(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(quota=100).for_user("ana")

    def take(name: str, content: bytes) -> Committed | SecurexferError:
        file = Description(Name.parse(name), len(content))
        return storage.commit([storage.take(file, memoryview(content), hashlib.sha256(content).digest())])[0]

    assert isinstance(take("x", bytes(60)), Committed)
    for name in ("y", "z"):
        with pytest.raises(QuotaExceededError):
            take(name, bytes(41))
    assert isinstance(take("y", bytes(40)), Committed)
    assert stored(root) == {"x": bytes(60), "y": bytes(40)}


@pytest.mark.parametrize("size", [101, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_F06_more_than_the_quota_is_refused_before_anything_is_written(
    make: Callable[..., Inbox], root: Path, size: int
) -> None:
    storage = make(quota=100).for_user("ana")
    with pytest.raises((QuotaExceededError, NoSpaceError)):
        storage.stage(Description(Name.parse("x"), size))
    assert stored(root) == {}


def test_the_quota_counts_what_stood_there_before(make: Callable[..., Inbox], root: Path) -> None:
    inbox = make(quota=100)
    (root / "ana/d").mkdir(parents=True)
    (root / "ana/d/old").write_bytes(bytes(70))
    (root / "bruno").mkdir()
    (root / "bruno/big").write_bytes(bytes(1000))
    (root / "ana/link").symlink_to(root / "bruno/big")
    storage = inbox.for_user("ana")
    assert isinstance(store(storage, "x", bytes(31)), QuotaExceededError)
    assert isinstance(store(storage, "x", bytes(30)), Committed)


def test_the_quota_is_one_for_all_sessions_of_a_user(make: Callable[..., Inbox]) -> None:
    inbox = make(quota=100)
    first, second = inbox.for_user("ana"), inbox.for_user("ana")
    with first.stage(Description(Name.parse("on-its-way"), 60)):
        assert isinstance(store(second, "x", bytes(41)), QuotaExceededError)
        assert isinstance(store(second, "x", bytes(40)), Committed)
    assert isinstance(store(second, "y", bytes(60)), Committed)
    assert isinstance(store(inbox.for_user("bruno"), "x", bytes(100)), Committed)


@pytest.mark.usefixtures("recount_at_once")
def test_the_quota_is_counted_again_after_a_deletion(make: Callable[..., Inbox], root: Path) -> None:
    storage = make(quota=100).for_user("ana")
    store(storage, "x", bytes(100))
    assert isinstance(store(storage, "y", bytes(1)), QuotaExceededError)
    (root / "ana/x").unlink()
    assert isinstance(store(storage, "y", bytes(100)), Committed)


def test_a_user_over_the_quota_cannot_make_the_server_count_at_every_file(
    make: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make(quota=10)
    counts: list[str] = []
    count = inbox._count
    monkeypatch.setattr(inbox, "_count", lambda user: counts.append(user) or count(user))
    storage = inbox.for_user("ana")
    for number in range(50):
        assert isinstance(store(storage, str(number), bytes(11)), QuotaExceededError)
    assert counts == ["ana"]


@pytest.mark.parametrize("policy", [OnConflict.REFUSE, OnConflict.REPLACE, OnConflict.SKIP])
def test_D12_with_the_quota_used_up_the_same_file_again_is_still_a_success(
    make: Callable[..., Inbox], root: Path, policy: OnConflict
) -> None:
    storage = make(quota=100, on_conflict=policy).for_user("ana")
    store(storage, "x", bytes(100))
    assert store(storage, "x", bytes(100)) == Committed(Outcome.UNCHANGED, Name.parse("x"))
    assert isinstance(store(storage, "y", bytes(1)), QuotaExceededError)
    assert stored(root) == {"x": bytes(100)}


def test_replacing_a_file_counts_only_what_it_adds(make: Callable[..., Inbox]) -> None:
    storage = make(quota=100, on_conflict=OnConflict.REPLACE).for_user("ana")
    store(storage, "x", b"a" * 40)
    for letter in b"bcd":
        assert isinstance(store(storage, "x", bytes([letter]) * 41), Committed)
    assert isinstance(store(storage, "y", bytes(59)), Committed)
    assert isinstance(store(storage, "z", bytes(1)), QuotaExceededError)


def test_D05_the_reserve_is_a_gibibyte_or_a_twentieth_of_the_disk(make: Callable[..., Inbox], root: Path) -> None:
    inbox = make()
    found = os.statvfs(root)
    assert inbox.space.reserve == min(1 << 30, found.f_blocks * found.f_frsize // 20)


def test_D05_the_reserve_stays_free(make: Callable[..., Inbox], root: Path) -> None:
    root.mkdir()
    found = os.statvfs(root)
    free = found.f_bavail * found.f_frsize
    storage = make(reserve=free // 2).for_user("ana")
    with pytest.raises(NoSpaceError, match="kept in reserve"):
        storage.stage(Description(Name.parse("x"), free * 3 // 4))
    with storage.stage(Description(Name.parse("x"), free // 4)), pytest.raises(NoSpaceError):
        storage.stage(Description(Name.parse("y"), free * 3 // 8))  # what is on its way counts
    with storage.stage(Description(Name.parse("y"), free * 3 // 8)):
        pass
    assert stored(root) == {}


def test_what_the_disk_cannot_hold_as_a_name_is_refused_as_a_name(make: Callable[..., Inbox], root: Path) -> None:
    storage = make().for_user("ana")
    with pytest.raises(UnsafeNameError):
        storage.stage(Description(Name(("n" * 256,)), 1))
    assert stored(root) == {}


# -- in steps ----------------------------------------------------------------------------------------------------


def taken(storage: UserStorage, name: str, content: bytes) -> staged.LocalStaging:
    file = Description(Name.parse(name), len(content))
    return storage.take(file, memoryview(content), hashlib.sha256(content).digest())


WAYS = {"by its descriptor": nameless.by_descriptor, "by /proc": nameless.by_proc, "with a name": None}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, root: Path) -> nameless.Way | None:
    """How small files get their names; those ways that this system has."""
    found = WAYS[request.param]
    root.mkdir(mode=0o700)
    handle = os.open(root, directories.OPEN)
    try:
        if found and not nameless.works(found, handle, "probe"):
            pytest.skip("this system, or this disk, does not have that (open(2), O_TMPFILE; linkat(2))")
    finally:
        os.close(handle)
    return found


@pytest.mark.parametrize("policy", OnConflict)
def test_P21_small_files_are_stored_the_same_however_they_get_their_names(
    make: Callable[..., Inbox], root: Path, way: nameless.Way | None, policy: OnConflict
) -> None:
    inbox = make()
    inbox.give_name = way
    (root / "ana").mkdir(mode=0o700)
    for name in ("taken", "same"):
        (root / "ana" / name).write_bytes(name.encode())
    storage = inbox.for_user("ana", policy=policy)
    group = [taken(storage, *each) for each in (("new", b"1"), ("taken", b"other"), ("same", b"same"), ("d/e", b""))]
    assert len(list((root / STAGING_NAME).iterdir())) == (0 if way else 4)
    taken(storage, "given up", b"2").discard()
    results = storage.commit(group)
    expected = {
        OnConflict.REPLACE: (Outcome.REPLACED, {"taken": b"other"}),
        OnConflict.RENAME: (Outcome.RENAMED, {"taken": b"taken", "taken (1)": b"other"}),
        OnConflict.SKIP: ("SKIPPED", {"taken": b"taken"}),
        OnConflict.REFUSE: ("EXISTS", {"taken": b"taken"}),
    }[policy]
    assert [each.outcome if isinstance(each, Committed) else each.reason for each in results] == [
        *(Outcome.STORED, expected[0], Outcome.UNCHANGED, Outcome.STORED)
    ]
    assert stored(root) == {"new": b"1", "same": b"same", "d/e": b"", **expected[1]}
    assert {path.stat().st_nlink for path in (root / "ana").rglob("*") if path.is_file()} == {1}
    assert not list((root / STAGING_NAME).iterdir())
    assert mode_of(root / "ana" / "new") == 0o600


def test_P21_a_system_without_nameless_files_does_with_names(
    make: Callable[..., Inbox], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    inbox = make()
    assert inbox.give_name is None
    storage = inbox.for_user("ana")
    assert isinstance(storage.commit([taken(storage, "x", b"1")])[0], Committed)
    assert stored(root) == {"x": b"1"}


@pytest.mark.parametrize(
    ("kind", "journal", "nameless_there", "last"),
    [
        pytest.param(syncing.TMPFS, False, True, True, id="memory"),
        pytest.param(syncing.XFS, False, True, True, id="XFS"),
        pytest.param(syncing.EXT, True, True, True, id="ext4"),
        pytest.param(syncing.EXT, False, True, False, id="ext4 without a journal, ext2"),
        pytest.param(0x9123683E, True, False, True, id="btrfs"),
        pytest.param(0x794C7630, True, False, True, id="overlayfs"),
        pytest.param(0, True, False, True, id="unknown"),
    ],
)
def test_D09_files_have_no_name_before_they_are_published_only_where_somebody_has_looked(
    monkeypatch: pytest.MonkeyPatch, kind: int, *, journal: bool, nameless_there: bool, last: bool
) -> None:
    """Whatever a file system can: on btrfs, or on one that nobody knows, an entry may be more durable than its file."""
    monkeypatch.setattr(nameless, "works", lambda *_: True)
    monkeypatch.setattr(syncing, "kind_of", lambda _: kind)
    monkeypatch.setattr(nameless, "_has_journal", lambda _: journal)
    assert (nameless.way(0, "x") is not None) is nameless_there
    assert nameless.links_last(0) is last


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., tuple[Path, Callable[[], Path]]]]:
    """Make a disk with a file system, mounted; and what returns it as it is after the power was cut just now."""
    mounted: list[Path] = []

    def mount(image: Path) -> Path:
        place = image.with_suffix(".mounted")
        place.mkdir()
        done = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {os.fsdecode(done.stderr).strip()}")
        mounted.append(place)
        return place

    def make(kind: str) -> tuple[Path, Callable[[], Path]]:
        image = tmp_path / "disk"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", *kind.split(), str(image)], check=True)

        def cut() -> Path:
            after = tmp_path / "after"
            shutil.copyfile(image, after)  # what was not flushed is not in there
            checked = subprocess.run(["e2fsck", "-f", "-y", str(after)], capture_output=True, text=True, check=False)
            assert checked.returncode in {0, 1}, checked.stdout  # nothing was wrong, or it was mended
            return mount(after)

        return mount(image), cut

    yield make
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", str(place)], check=True)  # although a test that failed has it open still


@pytest.mark.root
@pytest.mark.debian
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4 (e2fsprogs)")
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("kind", ["-t ext4", "-t ext4 -O ^has_journal", "-t ext2"])
def test_D09_what_was_acknowledged_is_there_after_a_power_cut(
    disk: Callable[..., tuple[Path, Callable[[], Path]]], monkeypatch: pytest.MonkeyPatch, kind: str, *, together: bool
) -> None:
    """Whether a group is synced as a whole, or each of its files."""
    place, cut = disk(kind)
    expected = {}
    with contextlib.closing(Inbox(place / "inbox", Rules())) as inbox:
        assert inbox.give_name
        assert inbox.links_last is (kind == "-t ext4"), "a journal has both the entry and the file"
        if not together:
            monkeypatch.setattr(syncing, "_KINDS", set())
        with contextlib.closing(inbox.for_user("ana", policy=OnConflict.REPLACE)) as storage:
            for group in range(3):
                names = {f"d{group}/{number}": b"%d" % number * 1000 for number in range(20)}
                results = storage.commit([taken(storage, *each) for each in names.items()])
                assert all(isinstance(result, Committed) for result in results)
                expected |= names
            assert isinstance(storage.commit([taken(storage, "d0/0", b"in its place")])[0], Committed)
            ana = cut() / "inbox" / "ana"
    expected["d0/0"] = b"in its place"
    assert {f"{path.relative_to(ana)}": path.read_bytes() for path in ana.rglob("*") if path.is_file()} == expected


def test_what_stands_under_a_name_is_read_in_a_step_that_waits_and_the_order_stays(
    make: Callable[..., Inbox], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make().for_user("ana")
    (root / "ana").mkdir(exist_ok=True)
    (root / "ana" / "b").write_bytes(b"known to nobody")
    reading: list[Any] = []
    under_way: list[Any] = []
    real = publishing.digest_of

    def digest_of(*args: Any) -> bytes | None:
        assert under_way, "read by who asked for a step"
        reading.append(args)
        return real(*args)

    def driven(steps: Steps) -> list[Committed | SecurexferError]:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found: list[Committed | SecurexferError] = end.value
                return found
            under_way.append(step)
            step()
            under_way.clear()

    monkeypatch.setattr(publishing, "digest_of", digest_of)
    names = {"a": b"1", "b": b"known to nobody", "c": b"2", "d": b"3"}
    group = [*(taken(storage, *each) for each in names.items()), taken(storage, "d", b"4")]
    results = driven(storage.commit_in_steps(group))
    assert [each.outcome if isinstance(each, Committed) else each.reason for each in results] == [
        *(Outcome.STORED, Outcome.UNCHANGED, Outcome.STORED, Outcome.STORED),
        "EXISTS",
    ]
    assert reading
    assert stored(root) == names


def test_all_sends_of_an_inbox_rest_together_while_the_disk_is_busy(make: Callable[..., Inbox]) -> None:
    inbox = make()
    inbox.quick = False
    ana, bruno = (inbox.for_user(user)._syncer._whole for user in ("ana", "bruno"))
    assert ana
    assert bruno
    ana._rest.until = time.monotonic() + 60
    assert not ana.usable
    assert not bruno.usable


def test_D07_a_file_for_which_the_disk_has_no_blocks_is_not_stored(
    make: Callable[..., Inbox], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 says so to nobody but who syncs that file by itself. Here the space is never given to it: it is a hole."""
    storage = make().for_user("ana")
    monkeypatch.setattr(
        storage._syncer, "sync_all", lambda syncs, **_: syncing.Synced([None] * len(syncs), together=True)
    )
    group = [taken(storage, f"{number}", bytes(10_000)) for number in range(10)]
    os.ftruncate(group[3]._descriptor, 0)
    os.ftruncate(group[3]._descriptor, 10_000)
    results = storage.commit(group)
    assert [number for number, result in enumerate(results) if isinstance(result, StorageFailedError)] == [3]
    assert set(stored(root)) == {f"{number}" for number in range(10) if number != 3}


def test_directories_of_another_file_system_are_synced_each(
    make: Callable[..., Inbox], root: Path, tmpfs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make().for_user("ana")
    together = []
    real = storage._syncer.sync_all

    def noted(syncs: Any, *, together: bool = True) -> syncing.Synced:
        asked.append(together)
        return real(syncs, together=together)

    asked: list[bool] = together
    monkeypatch.setattr(storage._syncer, "sync_all", noted)
    place = root / "ana" / "mounted"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(tmpfs("size=1m")), str(place)], check=True)
    try:
        in_one(storage.make_directories([Description(Name.parse(f"here/{number}"), 0) for number in range(10)]))
        in_one(storage.make_directories([Description(Name.parse(f"mounted/{number}"), 0) for number in range(10)]))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert asked == [True, False]
