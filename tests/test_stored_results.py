"""What scripts made comes to the sender complete, under its name or one beside it, and never anywhere else."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import itertools
import os
import pwd
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from securexfer import names
from securexfer.client import results as module
from securexfer.client.results import Results
from securexfer.errors import ConfigurationError, DigestMismatchError, ResultsError, SecurexferError
from securexfer.names import STAGING_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = b"1,2\n"
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def results(place: Path) -> Iterator[Results]:
    with Results(place) as opened:
        yield opened


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Return a tree that is looked at afterwards: nothing may have come into it, or gone."""
    tree = tmp_path / "outside"
    tree.mkdir()
    (tree / "secret").write_text("the sentinel")
    yield tree
    assert {path.name: path.read_text() for path in tree.iterdir()} == {"secret": "the sentinel"}
    assert (tree / "secret").stat().st_nlink == 1


def store(results: Results, name: str, content: bytes = CONTENT) -> str:
    with results.store(name) as file:
        for start in range(0, len(content), 3):
            file.write(memoryview(content)[start : start + 3])
        return file.commit(hashlib.sha256(content).digest())


def stored(place: Path) -> dict[str, bytes]:
    """Return all that is there: name -> content, and nothing for a directory."""
    return {
        f"{path.relative_to(place)}{'/' * path.is_dir()}": b"" if path.is_dir() else path.read_bytes()
        for path in sorted(place.rglob("*"))
    }


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- complete, or not there --------------------------------------------------------------------------------------


def test_a_result_is_there_when_it_is_complete(results: Results, place: Path) -> None:
    before = descriptors()
    file = results.store("d/e/x.csv")
    file.write(memoryview(CONTENT))
    assert [path for path in place.rglob("*") if not path.name.startswith(".securexfer-")] == []
    assert file.commit(hashlib.sha256(CONTENT).digest()) == "d/e/x.csv"
    assert stored(place) == {"d/": b"", "d/e/": b"", "d/e/x.csv": CONTENT}
    assert (place / "d/e/x.csv").stat().st_nlink == 1
    assert descriptors() == before


def test_results_share_directories_and_may_be_empty_or_large(results: Results, place: Path) -> None:
    large = os.urandom(3 << 20)
    for name, content in {"a/b/1": b"", "a/2": CONTENT, "a/b/3": large}.items():
        with results.store(name) as file:
            file.write(memoryview(content))
            assert file.commit(hashlib.sha256(content).digest()) == name
    assert stored(place) == {"a/": b"", "a/b/": b"", "a/2": CONTENT, "a/b/1": b"", "a/b/3": large}


def test_every_way_out_leaves_nothing(results: Results, place: Path) -> None:
    before = descriptors()
    with results.store("a/x") as file:
        file.write(memoryview(CONTENT))
    with contextlib.suppress(ZeroDivisionError), results.store("x"):
        1 / 0  # noqa: B018
    results.store("y").discard()
    assert stored(place) == {}
    assert descriptors() == before


@pytest.mark.parametrize(
    "digest", [hashlib.sha256(b"other").digest(), bytes(32), b"", hashlib.sha256(CONTENT).digest()[:31]]
)
def test_other_bytes_than_the_server_made_leave_nothing(results: Results, place: Path, digest: bytes) -> None:
    with results.store("a/x") as file:
        file.write(memoryview(CONTENT))
        with pytest.raises(DigestMismatchError, match="'a/x'"):
            file.commit(digest)
    assert stored(place) == {}


def test_after_its_end_a_result_takes_nothing(results: Results, place: Path) -> None:
    file = results.store("x")
    file.write(memoryview(CONTENT))
    file.commit(hashlib.sha256(CONTENT).digest())
    with pytest.raises(ResultsError):
        file.write(memoryview(CONTENT))
    file.discard()
    assert stored(place) == {"x": CONTENT}


def test_modes_are_as_the_umask_says_and_nothing_can_be_executed(tmp_path: Path) -> None:
    os.umask(0o027)
    with Results(tmp_path / "results") as results:
        store(results, "d/x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("results", "results/d", "results/d/x")]
    assert modes == [0o750, 0o750, 0o640]


def test_each_is_on_disk_before_it_has_its_name(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for call in ("fsync", "link"):
        real = getattr(os, call)

        def noting(*arguments: Any, call: str = call, real: Any = real, **keywords: Any) -> None:
            directory = call == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append(f"{call} of a directory" if directory else call)
            real(*arguments, **keywords)

        monkeypatch.setattr(os, call, noting)
    store(results, "d/x")
    assert done == ["fsync", "fsync of a directory", "link", "fsync of a directory"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_directory_that_cannot_be_synced_leaves_nothing(
    results: Results, place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync
    synced: list[int] = []

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(descriptor)
            if len(synced) == number + 1:
                raise OSError(errno.EIO, "as asked")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ResultsError, match="as asked"):
            store(results, "d/x")
    assert stored(place) == {}


# -- names that are taken ----------------------------------------------------------------------------------------


def test_other_content_is_never_overwritten(results: Results, place: Path) -> None:
    place.joinpath("d").mkdir()
    place.joinpath("d/x.csv").write_bytes(b"mine")
    assert store(results, "d/x.csv", b"one") == "d/x (1).csv"
    assert store(results, "d/x.csv", b"two!") == "d/x (2).csv"
    assert store(results, ".hidden") == ".hidden"
    assert store(results, ".hidden", b"other") == ".hidden (1)"
    assert stored(place) == {
        "d/": b"",
        "d/x.csv": b"mine",
        "d/x (1).csv": b"one",
        "d/x (2).csv": b"two!",
        ".hidden": CONTENT,
        ".hidden (1)": b"other",
    }


def test_the_same_content_is_left_as_it_is(results: Results, place: Path) -> None:
    store(results, "x.csv", b"one!")
    store(results, "x.csv", b"two!")

    def standing() -> dict[Path, tuple[int, ...]]:  # but for when each was read, which comparing them changes
        found = {path: path.stat() for path in place.iterdir()}
        return {path: (each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for path, each in found.items()}

    before = standing()
    assert store(results, "x.csv", b"two!") == "x (1).csv"
    assert store(results, "x.csv", b"one!") == "x.csv"
    assert standing() == before


def stand_link(x: Path, outside: Path) -> None:
    x.symlink_to(outside / "secret")


def stand_dangling_link(x: Path, outside: Path) -> None:
    x.symlink_to(outside / "new")


def stand_directory(x: Path, outside: Path) -> None:
    x.mkdir()


def stand_pipe(x: Path, outside: Path) -> None:
    os.mkfifo(x)


@pytest.mark.parametrize("content", [b"the sentinel", b""])
@pytest.mark.parametrize("stand", [stand_link, stand_dangling_link, stand_directory, stand_pipe])
def test_what_is_no_file_is_left_alone_and_not_read_through(
    results: Results, place: Path, outside: Path, stand: Callable[[Path, Path], None], content: bytes
) -> None:
    stand(place / "x", outside)
    before = (place / "x").lstat()
    assert store(results, "x", content) == "x (1)"
    assert (place / "x").lstat()[:2] == before[:2]


def test_when_all_names_are_taken_it_says_so(results: Results, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_NUMBER", 2)
    for content in (b"1", b"2", b"3"):
        store(results, "x", content)
    with pytest.raises(ResultsError, match="taken"):
        store(results, "x", b"4")
    with pytest.raises(ResultsError, match="taken"):
        store(results, "new/" + "n" * 255, b"5") + store(results, "new/" + "n" * 255, b"6")
    assert stored(place) == {"x": b"1", "x (1)": b"2", "x (2)": b"3", "new/": b"", "new/" + "n" * 255: b"5"}


# -- hostile names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "d/../../x",
        ".",
        "./x",
        "",
        "/etc/cron.d/x",
        "//x",
        "x/",
        "a//b",
        "x\0.csv",
        "a\\b",
        "x\x1b[2J",
        "x\u202efdp.exe",
        "\ud800",
        "n" * 256,
        "/".join("a" * 65),
        f"{STAGING_NAME}/x",
    ],
)
def test_a_hostile_name_is_refused_before_anything_is_made(results: Results, place: Path, name: str) -> None:
    with pytest.raises(ResultsError) as raised:
        results.store(name)
    assert raised.value.message.isprintable()
    assert raised.value.hint
    assert stored(place) == {}


@pytest.mark.parametrize("level", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("kind", ["link", "file", "link up"])
def test_a_link_or_a_file_on_the_way_leads_nowhere(
    results: Results, place: Path, outside: Path, level: str, kind: str
) -> None:
    (place / level).parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        (place / level).write_text("a file")
    else:
        (place / level).symlink_to(outside if kind == "link" else "..")
    before = stored(place)
    with pytest.raises(ResultsError, match="a link, or no directory"):
        store(results, "a/b/c/x")
    assert stored(place) == before


def test_a_link_swapped_in_at_any_moment_leads_nowhere(results: Results, place: Path, outside: Path) -> None:
    (place / "d").mkdir()
    done = threading.Event()
    swapped = itertools.count()

    def swap() -> None:
        for number in swapped:
            with contextlib.suppress(OSError):  # the results were quicker, and have made a `d` or removed it
                (place / "d").rename(place / f"real {number}")
                (place / "d").symlink_to(outside)
                (place / "d").unlink()
                (place / f"real {number}").rename(place / "d")
            if done.is_set():
                return
            with contextlib.suppress(FileExistsError):
                (place / "d").mkdir()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(300):
            with contextlib.suppress(ResultsError):
                store(results, f"d/{number}")
    finally:
        done.set()
        swapper.join()
    assert next(swapped) > 10


def test_it_goes_on_where_it_is_when_its_path_is_another(results: Results, place: Path, outside: Path) -> None:
    place.rename(place.with_name("moved"))
    place.symlink_to(outside)
    store(results, "x")
    assert stored(place.with_name("moved")) == {"x": CONTENT}


# -- the directory -----------------------------------------------------------------------------------------------


def test_a_link_in_its_place_is_refused_and_the_hint_names_where_it_leads(place: Path, outside: Path) -> None:
    place.symlink_to(outside)
    with pytest.raises(ConfigurationError, match="is a link") as raised:
        Results(place)
    assert str(outside) in raised.value.hint
    assert raised.value.exit_code == 2


def test_its_parents_are_not_made_but_may_be_links(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Results(tmp_path / "no/results")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Results(tmp_path / "link/results") as results:
        store(results, "x")
    assert stored(tmp_path / "real") == {"results/": b"", "results/x": CONTENT}


def test_what_is_no_directory_is_refused(place: Path) -> None:
    place.write_text("a file")
    before = descriptors()
    with pytest.raises(ConfigurationError, match="no directory"):
        Results(place)
    assert place.read_text() == "a file"
    assert descriptors() == before


def test_a_home_is_refused_where_a_result_could_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    for precious in (Path("/"), home, home.parent):
        with pytest.raises(ConfigurationError, match=r"root directory|home director"):
            Results(precious)
    real, named = tmp_path / "real", tmp_path / "named"
    real.mkdir()
    named.symlink_to(real)
    monkeypatch.setenv("HOME", str(named))  # where shells look, whatever the system's list of users says
    with pytest.raises(ConfigurationError, match="is your home directory"):
        Results(real)
    Results(real / "results").close()


def test_a_directory_that_was_there_keeps_what_is_in_it_and_its_mode(place: Path) -> None:
    place.mkdir(mode=0o775)
    (place / "x").write_text("mine")
    before = place.stat().st_mode
    with Results(place) as results:
        assert stored(place) == {"x": b"mine"}
        store(results, "y")
    assert stored(place) == {"x": b"mine", "y": CONTENT}
    assert place.stat().st_mode == before


def test_a_disk_without_links_is_refused_before_anything_is_sent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "as asked")

    monkeypatch.setattr(os, "link", none)
    before = descriptors()
    with pytest.raises(ConfigurationError, match="no hard links"):
        Results(place)
    assert stored(place) == {}
    assert descriptors() == before


@pytest.mark.ordinary
def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_sent(place: Path) -> None:
    place.mkdir(mode=0o500)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        Results(place)


# -- limits ------------------------------------------------------------------------------------------------------


def test_more_bytes_than_there_may_be_are_refused(place: Path) -> None:
    assert module.MAX_BYTES == 1 << 30
    with Results(place, max_bytes=10) as results:
        store(results, "x", b"123456")
        with pytest.raises(ResultsError, match="no more than 10 bytes"):
            store(results, "d/y", b"12345")
        assert stored(place) == {"x": b"123456"}


def test_more_files_than_there_may_be_are_refused(
    results: Results, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.MAX_FILES == 10_000
    monkeypatch.setattr(module, "MAX_FILES", 2)
    store(results, "x")
    store(results, "y")
    with pytest.raises(ResultsError, match="no more than 2 files"):
        results.store("z")
    assert stored(place) == {"x": CONTENT, "y": CONTENT}


def test_more_directories_than_there_may_be_are_refused(
    results: Results, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    store(results, "a/b/x")
    with pytest.raises(ResultsError, match="no more than 3 directories"):
        store(results, "c/d/x")
    assert stored(place) == {"a/": b"", "a/b/": b"", "a/b/x": CONTENT}


@pytest.mark.root
def test_a_full_disk_leaves_nothing_and_says_so(tmpfs: Callable[[str], Path]) -> None:
    place = tmpfs("size=1m")
    with Results(place) as results:
        store(results, "small")
        with pytest.raises(ResultsError, match="No space left") as raised:
            store(results, "d/large", bytes(2 << 20))
        assert raised.value.hint
        assert raised.value.exit_code == 1
        assert stored(place) == {"small": CONTENT}
        store(results, "d/small")
        assert set(stored(place)) == {"small", "d/", "d/small"}


@pytest.mark.root
def test_a_disk_without_room_for_directories_leaves_none(tmpfs: Callable[[str], Path]) -> None:
    place = tmpfs("nr_inodes=6")  # the top and five more: two files are in the way of themselves
    with Results(place) as results:
        with pytest.raises(ResultsError, match="No space left"):
            store(results, "a/b/c/d/e/f/x")
        assert stored(place) == {}
        store(results, "a/b/x")


# -- another system ----------------------------------------------------------------------------------------------


def test_a_system_without_handles_has_paths_and_portable_names(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("securexfer.client.results")
    assert spec
    assert spec.loader
    elsewhere = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(os, "O_BINARY", 0, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        for missing in ("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"):
            patch.delattr(os, missing)
        patch.delitem(sys.modules, "securexfer.storage.directories")  # which cannot be imported there
        spec.loader.exec_module(elsewhere)
    with elsewhere.Results(tmp_path / "results") as results:
        assert store(results, "d/x") == store(results, "d/x") == "d/x"
        assert store(results, "d/x", b"other") == "d/x (1)"
        for name in ("nul.txt", "a:b", "x.", "../x", "c:/x"):
            with pytest.raises(ResultsError):
                results.store(name)
        (tmp_path / "results/link").symlink_to(outside)
        with pytest.raises(ResultsError, match="a link, or no directory"):
            store(results, "link/x")
        (tmp_path / "results/secret").symlink_to(outside / "secret")
        assert store(results, "secret", b"the sentinel") == "secret (1)"
        with pytest.raises(SecurexferError), results.store("y") as file:
            file.commit(bytes(32))
    (tmp_path / "results/link").unlink()
    (tmp_path / "results/secret").unlink()
    assert stored(tmp_path / "results") == {
        "d/": b"",
        "d/x": CONTENT,
        "d/x (1)": b"other",
        "secret (1)": b"the sentinel",
    }
