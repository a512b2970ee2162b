"""The sender's cache of digests: what did not change is known again, what may have changed is not; nothing fails."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from securexfer.transfer import digests
from securexfer.transfer.digests import SETTLED_NS, DigestCache, clock_ns
from securexfer.transfer.sources import SourceFile

if TYPE_CHECKING:
    from collections.abc import Callable

LATER_NS = 10 * SETTLED_NS  # what was made by a test has settled by then


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a cache will be, in directories that are not there yet."""
    return tmp_path / "cache" / "securexfer" / "digests.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def remember(place: Path, *paths: Path) -> None:
    with DigestCache(place) as cache:
        for path in paths:
            cache.add(path.stat(), digest_of(path), clock_ns() + LATER_NS)


def known(place: Path, path: Path) -> bytes | None:
    with DigestCache(place) as cache:
        return cache.find(path.stat())


# -- what is known, and what is not -----------------------------------------------------------------------------


def test_a_file_that_did_not_change_is_known_again(place: Path, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"content")
    assert known(place, file) is None
    remember(place, file)
    assert known(place, file) == digest_of(file)
    assert known(place, other) is None
    file.rename(tmp_path / "under another name")  # which changes its ctime, so it is read again
    assert known(place, tmp_path / "under another name") is None


def test_a_file_that_was_altered_and_given_its_old_time_is_not_known(place: Path, file: Path) -> None:
    before = file.stat()
    remember(place, file)
    time.sleep(0.02)  # a tick of the clock that stamps files
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert known(place, file) is None
    remember(place, file)
    assert known(place, file) == hashlib.sha256(b"CONTENT").digest()
    with sqlite3.connect(place) as connection:
        assert connection.execute("SELECT count(*) FROM digests").fetchone() == (1,)  # the old row is gone
    connection.close()


@pytest.mark.parametrize("field", range(5))
def test_each_thing_that_identifies_a_file_counts(place: Path, file: Path, field: int) -> None:
    class Found:
        def __init__(self, values: list[int]) -> None:
            self.st_dev, self.st_ino, self.st_size, self.st_mtime_ns, self.st_ctime_ns = values

    values = [64513, 1234, 10, 1_700_000_000_123_456_789, 1_700_000_001_123_456_789]
    with DigestCache(place) as cache:
        cache.add(Found(values), b"d" * 32, clock_ns())  # type: ignore[arg-type]
    with DigestCache(place) as cache:
        assert cache.find(Found(values)) == b"d" * 32  # type: ignore[arg-type]
        values[field] += 1
        assert cache.find(Found(values)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_numbers_of_64_bits_are_kept_and_larger_ones_are_not_known(place: Path, number: int) -> None:
    with DigestCache(place) as cache:
        for inode, digest in ((number, b"d" * 32), (number ^ (1 << 63), b"e" * 32), (1 << 90, b"f" * 32)):
            with DigestCache(place) as each:
                each.add(made(inode, 5), digest, clock_ns())
        assert cache.find(made(number, 5)) == b"d" * 32
        assert cache.find(made(number ^ (1 << 63), 5)) == b"e" * 32
        assert cache.find(made(1 << 90, 5)) is None


def made(inode: int, stamp: int, size: int = 1) -> os.stat_result:
    """Return what a file with this inode and these times (seconds) would be."""
    return os.stat_result(
        (stat.S_IFREG, inode, 1, 1, 0, 0, size, stamp, stamp, stamp),
        {"st_mtime_ns": stamp * 10**9, "st_ctime_ns": stamp * 10**9},
    )


# -- rows that are read ahead -------------------------------------------------------------------------------------

INODES = [*range(1000, 1400), 5, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, *range(2000, 2400, 3)]


def content_of(inode: int) -> bytes:
    return hashlib.sha256(str(inode).encode()).digest()


@pytest.fixture
def filled(place: Path) -> Path:
    """Return a cache that knows these inodes, written in some other order than theirs."""
    with DigestCache(place) as cache:
        for inode in sorted(INODES, key=content_of):
            cache.add(made(inode, 5), content_of(inode), clock_ns())
    return place


class Counting:
    """A connection of SQLite that counts the rows that are asked for."""

    def __init__(self, connection: sqlite3.Connection, counts: list[int]) -> None:
        self._connection = connection
        self._counts = counts

    def execute(self, statement: str, values: tuple[int, ...] = ()) -> sqlite3.Cursor:
        if values:
            self._counts.append(values[-1])
        return self._connection.execute(statement, values)

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


def looked_up(place: Path, inodes: list[int]) -> list[int]:
    """Look up inodes, and those between them, which must not be known; return how many rows were read at a time."""
    counts: list[int] = []
    with DigestCache(place) as cache:
        cache._connection = Counting(cache._connect(), counts)  # type: ignore[arg-type, assignment]
        for inode in inodes:
            assert cache.find(made(inode, 5)) == (content_of(inode) if inode in INODES else None), inode
            assert len(cache._ahead) <= digests._BATCH + digests._MOST_AHEAD
    return counts


@pytest.mark.parametrize(
    "order",
    [
        sorted,
        lambda inodes: sorted(inodes, reverse=True),
        lambda inodes: sorted(inodes, key=lambda inode: content_of(inode + 1)),
        lambda inodes: [inode + each for inode in inodes for each in (0, 1, 0) if inode < 1 << 61],
    ],
)
def test_rows_that_are_read_ahead_are_those_of_their_files(filled: Path, order: Callable[..., list[int]]) -> None:
    looked_up(filled, order(INODES))


def test_files_side_by_side_take_few_statements_and_others_two_rows_each(filled: Path) -> None:
    assert looked_up(filled, list(range(1000, 1400))) == [2, 4, 8, 16, 32, 64, 128, 128, 128]
    assert set(looked_up(filled, list(range(1399, 999, -1)))) == {2}


def test_rows_of_other_devices_are_not_taken_for_ours(filled: Path) -> None:
    elsewhere = os.stat_result(
        (stat.S_IFREG, 1001, 2, 1, 0, 0, 1, 5, 5, 5), {"st_mtime_ns": 5 * 10**9, "st_ctime_ns": 5 * 10**9}
    )
    with DigestCache(filled) as cache:
        assert cache.find(made(1000, 5)) == content_of(1000)
        assert cache.find(elsewhere) is None
        assert cache.find(made(1001, 5)) == content_of(1001)


def test_rows_that_are_old_by_now_say_nothing(filled: Path) -> None:
    with DigestCache(filled) as cache:
        for inode in range(1000, 1010):
            assert cache.find(made(inode, 5))
        assert cache._ahead
        assert [cache.find(made(inode, 6)) for inode in range(1010, 1020)] == [None] * 10


def test_who_reads_many_rows_does_not_keep_others_from_writing(filled: Path) -> None:
    with (
        DigestCache(filled) as cache,
        contextlib.closing(sqlite3.connect(filled, timeout=0, isolation_level=None)) as other,
    ):
        for inode in range(1000, 1100):
            cache.find(made(inode, 5))
        assert cache._ahead
        other.execute("BEGIN EXCLUSIVE")
        assert cache.find(made(1100, 5)) == content_of(1100)
        other.execute("ROLLBACK")


def test_a_file_that_changed_just_before_it_was_read_is_not_remembered(place: Path) -> None:
    """It may change again within the clock's tick, and look the same. Nor is one from the future."""
    began = 1_000 * 10**9
    for inode, stamp in enumerate((997, 998, 999, 1000, 1001, 5000), start=1):
        with DigestCache(place) as cache:
            cache.add(made(inode, stamp), b"d" * 32, began)
        with DigestCache(place) as cache:
            assert (cache.find(made(inode, stamp)) is not None) == (stamp <= 998)


def test_rows_that_are_written_together_are_those_that_were_added(place: Path) -> None:
    """However many; of those about one file the last one counts, and numbers of 64 bits are kept."""
    for count in (1, 63, 64, 65, 200):
        with DigestCache(place) as cache:
            for inode in range(count):
                cache.add(made(2**64 - 1 - inode, 1), b"o" * 32, 10**12)
                cache.add(made(2**64 - 1 - inode, 1), inode.to_bytes(32), 10**12)
        with DigestCache(place) as cache:
            for inode in range(count):
                assert cache.find(made(2**64 - 1 - inode, 1)) == inode.to_bytes(32)
            assert cache.find(made(2**64 - 1 - count, 1)) is None


def test_a_file_says_when_its_reading_began(file: Path) -> None:
    """Before its times were looked at: a change in between is one in the two seconds."""
    before = clock_ns()
    source = SourceFile(file)
    source.close()
    assert before <= source.opened_ns <= clock_ns()
    with DigestCache(file.with_name("cache")) as cache:
        cache.add(source.found, digest_of(file), source.opened_ns)
    assert known(file.with_name("cache"), file) is None


def test_either_time_tells_that_a_file_is_too_young(place: Path, file: Path) -> None:
    """An old mtime that was set a moment ago has a young ctime."""
    os.utime(file, (1, 1))
    with DigestCache(place) as cache:
        cache.add(file.stat(), digest_of(file), clock_ns())
    assert known(place, file) is None
    remember(place, file)
    assert known(place, file)
    os.utime(file, (2_000_000_000, 4_000_000_000))
    remember(place, file)
    assert known(place, file) is None


def test_the_oldest_rows_go_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MAX_ROWS", 100)
    for start in range(0, 300, 50):
        with DigestCache(place) as cache:
            for inode in range(start, start + 50):
                cache.add(made(inode, 5), b"d" * 32, clock_ns())
            cache.add(made(0, 5), b"d" * 32, clock_ns())  # written again each time, so it is never old
    with DigestCache(place) as cache:
        found = [inode for inode in range(300) if cache.find(made(inode, 5))]
    assert found == [0, *range(202, 300)]  # and one number of a hundred was the row of 0 that was replaced


def test_what_is_added_is_written_in_batches(place: Path) -> None:
    """A process that is killed loses the last batch, not everything."""
    cache = DigestCache(place)
    for inode in range(5000):
        cache.add(made(inode, 5), b"d" * 32, clock_ns())
    with DigestCache(place) as other:
        assert other.find(made(0, 5)) == b"d" * 32
        assert other.find(made(4999, 5)) is None
    cache.close()
    with DigestCache(place) as other:
        assert other.find(made(4999, 5)) == b"d" * 32


# -- where it is ------------------------------------------------------------------------------------------------


def test_nobody_else_can_read_it(place: Path, file: Path) -> None:
    old = os.umask(0)
    try:
        remember(place, file)
    finally:
        os.umask(old)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert [path.name for path in place.parent.iterdir()] == ["digests.db"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "{0}/caches"}, "caches/securexfer/digests.db"),
        ({}, "home/.cache/securexfer/digests.db"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache/securexfer/digests.db"),
        ({"XDG_CACHE_HOME": "relative"}, "home/.cache/securexfer/digests.db"),
    ],
    ids=str,
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep caches elsewhere")
def test_it_is_in_the_users_cache_directory(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    with DigestCache() as cache:
        cache.add(file.stat(), digest_of(file), clock_ns() + LATER_NS)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.db")] == [expected]


def test_nothing_is_imported_or_opened_before_it_is_used(place: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from securexfer.transfer.digests import DigestCache\n"
        "with DigestCache(Path(sys.argv[1])): pass\n"
        "print({'sqlite3', 'shutil'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, place], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert not place.exists()


# -- what may be wrong with it ----------------------------------------------------------------------------------


def truncated(place: Path) -> None:
    os.truncate(place, place.stat().st_size // 2)


def garbage(place: Path) -> None:
    place.write_bytes(os.urandom(20_000))


def text(place: Path) -> None:
    place.write_text("not a database\n" * 1000, encoding="ascii")


def overwritten(place: Path) -> None:
    """The first page, which holds the schema, stays; all others are noise."""
    with place.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(place.stat().st_size - 4096))


def let_go(cache: DigestCache, _file: Path) -> None:
    cache.let_go()


def add(cache: DigestCache, file: Path) -> None:
    cache.add(file.stat(), digest_of(file), clock_ns() + LATER_NS)


def write(cache: DigestCache, _file: Path) -> None:
    cache.write()


@pytest.mark.parametrize("last", [let_go, add, write])
def test_who_may_be_about_to_wait_keeps_nobody_from_remembering(
    place: Path, file: Path, tmp_path: Path, last: Callable[[DigestCache, Path], None]
) -> None:
    remember(place, file)
    other = tmp_path / "other"
    other.write_bytes(b"of another send")
    with DigestCache(place) as cache:
        assert cache.find(file.stat())
        last(cache, file)
        remember(place, other)
        assert known(place, other) == digest_of(other)
        assert cache.find(file.stat())


def test_what_is_written_early_is_written_once_and_known(place: Path, file: Path) -> None:
    with DigestCache(place) as cache:
        cache.write()
        assert not place.exists()
        add(cache, file)
        cache.write()
        assert known(place, file) == digest_of(file)
        before = place.read_bytes()
    assert place.read_bytes() == before


@pytest.mark.parametrize("damage", [truncated, garbage, text, overwritten])
def test_a_damaged_cache_is_begun_anew(place: Path, file: Path, damage: object) -> None:
    with DigestCache(place) as cache:
        for inode in range(2000):
            cache.add(made(inode, 5), b"d" * 32, clock_ns())
    damage(place)  # type: ignore[operator]
    assert known(place, file) is None
    remember(place, file)
    assert known(place, file) == digest_of(file)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_a_cache_that_is_damaged_while_it_is_used_is_begun_anew(place: Path, file: Path) -> None:
    remember(place, file)
    with DigestCache(place) as cache:
        assert cache.find(file.stat())
        cache.let_go()
        garbage(place)
        assert cache.find(file.stat()) is None
        cache.add(file.stat(), digest_of(file), clock_ns() + LATER_NS)
    assert known(place, file) == digest_of(file)


@pytest.mark.parametrize(
    "change", ["PRAGMA user_version = 99", "DROP TABLE digests", "ALTER TABLE digests RENAME TO x"]
)
def test_a_cache_of_another_version_is_left_alone(place: Path, file: Path, change: str) -> None:
    remember(place, file)
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute(change)
    before = place.read_bytes()
    assert known(place, file) is None
    remember(place, file)
    assert place.read_bytes() == before


@pytest.mark.parametrize("value", ["d", b"d", None, 7])
def test_what_cannot_be_a_digest_is_not_taken_for_one(place: Path, file: Path, value: object) -> None:
    remember(place, file)
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.executescript(  # without the schema's own checks
            "CREATE TABLE new AS SELECT * FROM digests; DROP TABLE digests; ALTER TABLE new RENAME TO digests"
        )
        connection.execute("UPDATE digests SET sha256 = ?", (value,))
        connection.commit()
    assert known(place, file) is None


def test_what_cannot_be_an_inode_is_passed_over(place: Path, file: Path) -> None:
    remember(place, file)
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute(
            "INSERT INTO digests (device, inode, size, mtime_ns, ctime_ns, sha256) VALUES (?, 'x', 1, 5, 5, 'd')",
            (file.stat().st_dev,),
        )
        connection.commit()
    assert known(place, file) == digest_of(file)


def a_file_in_the_way(place: Path) -> None:
    place.parent.parent.write_text("x", encoding="ascii")


def a_directory_in_its_place(place: Path) -> None:
    place.mkdir(parents=True)


def a_link_in_its_place(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to(place.parent.parent.parent / "target")


def readable_by_others(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.touch()
    place.chmod(0o666)


def a_pipe(place: Path) -> None:
    place.parent.mkdir(parents=True)
    os.mkfifo(place)


@pytest.mark.parametrize(
    "obstacle", [a_file_in_the_way, a_directory_in_its_place, a_link_in_its_place, readable_by_others, a_pipe]
)
def test_where_no_cache_can_be_nothing_is_known_and_nothing_fails(
    place: Path, file: Path, tmp_path: Path, obstacle: object
) -> None:
    obstacle(place)  # type: ignore[operator]
    remember(place, file)
    assert known(place, file) is None
    assert not (tmp_path / "target").exists()


def test_without_a_home_nothing_is_known_and_nothing_fails(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with DigestCache() as cache:
        cache.add(file.stat(), digest_of(file), clock_ns() + LATER_NS)
        assert cache.find(file.stat()) is None


@pytest.mark.ordinary
def test_a_cache_that_may_only_be_read_is_read(place: Path, file: Path) -> None:
    remember(place, file)
    place.chmod(0o400)
    place.parent.chmod(0o500)
    try:
        assert known(place, file) == digest_of(file)
        remember(place, file)
    finally:
        place.parent.chmod(0o700)


@pytest.mark.root
def test_a_full_disk_only_means_that_nothing_is_remembered(tmpfs: object, file: Path) -> None:
    place = tmpfs("size=64k") / "digests.db"  # type: ignore[operator]
    with DigestCache(place) as cache:
        for inode in range(10_000):
            cache.add(made(inode, 5), b"d" * 32, clock_ns())
    assert known(place, file) is None


# -- several processes ------------------------------------------------------------------------------------------


def test_a_cache_that_is_locked_is_done_without(place: Path, file: Path) -> None:
    """At once, not after a wait for each file."""
    remember(place, file)
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        with DigestCache(place) as cache:
            assert [cache.find(file.stat()) for _ in range(25)] == [None] * 25
        assert time.monotonic() - started < 5
        holder.execute("ROLLBACK")
    assert known(place, file) == digest_of(file)


def test_what_cannot_be_written_now_is_written_later(place: Path, file: Path) -> None:
    """Somebody reads for longer than we wait: the rows are kept for the next time."""
    remember(place, file)
    with DigestCache(place) as cache, contextlib.closing(sqlite3.connect(place, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM digests").fetchone()
        for inode in range(5000):
            cache.add(made(inode, 5), b"d" * 32, clock_ns())
        reader.execute("ROLLBACK")
    with DigestCache(place) as cache:
        assert [bool(cache.find(made(inode, 5))) for inode in (0, 4095, 4096, 4999)] == [True] * 4


def test_rows_that_wait_for_ever_do_not_fill_the_memory(
    place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_LOCK_SECONDS", 0.01), ("_BATCH", 100), ("_MAX_WAITING", 400)):
        monkeypatch.setattr(digests, name, value)
    remember(place, file)
    with DigestCache(place) as cache, contextlib.closing(sqlite3.connect(place, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM digests").fetchone()
        most = 0
        for inode in range(2000):
            cache.add(made(inode, 5), b"d" * 32, clock_ns())
            most = max(most, len(cache._waiting))
    assert most == 399


WORKER = """
import os, sys
from pathlib import Path
from securexfer.transfer.digests import DigestCache, clock_ns
place, start, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
class Found:
    st_dev, st_size, st_mtime_ns, st_ctime_ns = 1, 1, 5, 5
for turn in range(4):
    with DigestCache(place) as cache:
        for Found.st_ino in range(start, stop):
            found = cache.find(Found)
            assert found in {None, Found.st_ino.to_bytes(32, "big")}, (found, Found.st_ino)
            cache.add(Found, Found.st_ino.to_bytes(32, "big"), clock_ns())
with DigestCache(place) as cache:
    hits = 0
    for Found.st_ino in range(start, stop):
        hits += cache.find(Found) == Found.st_ino.to_bytes(32, "big")
print(hits)
"""


def test_processes_that_use_one_cache_at_once_do_not_disturb_each_other(place: Path) -> None:
    """They make it at the same moment, too. A row may be lost to somebody who holds a lock, never be another's."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, place, str(start), str(start + 10_000)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for start in (0, 5_000, 10_000)
    ]  # fmt: skip
    results = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], results
    assert [err for _, err in results] == ["", "", ""]
    assert all(int(out) >= 5_000 for out, _ in results), results
    with contextlib.closing(sqlite3.connect(place)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    shutil.rmtree(place.parent)
