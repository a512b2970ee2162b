"""The files that `send` is given: plain files that stay as they are; anything else fails by name, the rest goes on."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hostile.chaos import Detour
from lab import SECUREXFER, Lab, Server, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELD_AFTER = 1 << 20
LARGE = 48 << 20  # more than all buffers between the two can hold


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("sources"), lab_source)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve()


def shrink(path: Path) -> None:
    os.truncate(path, LARGE - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    """Change one byte near the end and keep the size; the clock of the file system must have ticked."""
    time.sleep(0.05)
    with path.open("r+b") as file:
        file.seek(LARGE - 10)
        file.write(b"!")


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"x")
    other.replace(path)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "shrinks": (shrink, "became shorter while it was being sent"),
    "grows": (grow, "changed while it was being sent"),
    "is rewritten": (rewrite, "changed while it was being sent"),
    "vanishes": (remove, "was deleted or replaced while it was being sent"),
    "is replaced": (replace, "was deleted or replaced while it was being sent"),
}


# What the log says of a file that the sender gives up: protocol 1 has no word for it, only a digest that is wrong.
GIVEN_UP = {"1": "DIGEST", "2": "ABORTED"}


@pytest.mark.parametrize("protocol", GIVEN_UP)
@pytest.mark.parametrize("change", CHANGES)
def test_F28_a_file_that_changes_on_its_way_is_not_stored_and_the_rest_is(
    place: Lab, server: Server, tmp_path: Path, change: str, protocol: str
) -> None:
    """Exit 7. The transfer is held in the middle of the file while it changes, so this happens every time."""
    there = f"{change}-{protocol}".replace(" ", "-")
    paths = [tmp_path / name for name in ("before", "large", "after")]
    for path in paths:
        path.write_bytes(path.name.encode())
    with paths[1].open("r+b") as file:
        file.truncate(LARGE)
    act, says = CHANGES[change]
    result = send_while(place, server, paths, there, lambda: act(paths[1]), protocol)
    assert result.returncode == 7, result.stderr
    assert {name: data for name, data in place.stored().items() if name.startswith(there)} == {
        f"{there}/before": b"before",
        f"{there}/after": b"after",
    }
    *files, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert {entry["name"].rpartition("/")[2]: entry["status"] for entry in files} == {
        "before": "stored",
        "large": "failed",
        "after": "stored",
    }
    (failed,) = [entry for entry in files if entry["status"] == "failed"]
    assert failed["reason"] == "SOURCE"
    assert failed["detail"] == f"{paths[1]} {says}"
    assert (summary["stored"], summary["failed"], summary["refused"]) == (2, 1, 0)
    assert server.events("file.reject")[-1]["reason"] == GIVEN_UP[protocol]


@pytest.mark.parametrize("protocol", GIVEN_UP)
def test_F28_a_file_that_vanishes_before_its_turn(place: Lab, server: Server, tmp_path: Path, protocol: str) -> None:
    """Its place in the count is taken by nothing that could be stored; and alone, the exit code is 1."""
    there = f"turn-{protocol}"
    large, gone, last = (tmp_path / name for name in ("large", "gone", "last"))
    for path in (gone, last):
        path.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(LARGE)
    result = send_while(place, server, [large, gone, last], there, gone.unlink, protocol)
    assert result.returncode == 7, result.stderr
    assert f"{gone} cannot be opened: No such file or directory" in result.stdout
    assert {name for name in place.stored() if name.startswith(there)} == {
        f"{there}/large",
        f"{there}/last",
    }
    assert server.events("file.reject")[-1]["reason"] == GIVEN_UP[protocol]
    alone = send_while(place, server, [large], f"alone-{protocol}", lambda: grow(large), protocol)
    assert alone.returncode == 1, alone.stderr


def send_while(
    place: Lab, server: Server, paths: list[Path], there: str, act: Callable[[], object], protocol: str
) -> subprocess.CompletedProcess[str]:
    """Send, and do something when a mebibyte has passed and no more can."""
    with (
        Detour(server.port, hold_after=HELD_AFTER) as way,
        subprocess.Popen(
            [SECUREXFER, "send", "--json", "--protocol", protocol, *paths, f"ana@localhost:{way.port}/{there}",
             "--ca", place.ca, "--password-file", place.password_file],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(SECUREXFER_CONFIG=str(place.config)),
        ) as sending,
    ):  # fmt: skip
        assert way.held.wait(30)
        act()
        way.release()
        out, err = sending.communicate(timeout=60)
    return subprocess.CompletedProcess(sending.args, sending.returncode, out, err)


def test_F29_what_is_no_plain_file_is_refused_and_never_waited_for(place: Lab, server: Server, tmp_path: Path) -> None:
    """A pipe without a writer, a device without an end, a link: each is named with what to send instead."""
    good = tmp_path / "good"
    good.write_bytes(b"x")
    made = {name: tmp_path / name for name in ("fifo", "socket", "directory", "link", "dangling", "missing")}
    os.mkfifo(made["fifo"])
    os.mknod(made["socket"], stat.S_IFSOCK | 0o600)
    made["directory"].mkdir()
    made["link"].symlink_to(good)
    made["dangling"].symlink_to("nowhere")
    others = ["/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/status"]
    started = time.monotonic()
    result = place.send(server, "--protocol", "1", *made.values(), *others, good, target="/F29", timeout=20)
    assert result.returncode == 7, result.stderr
    assert time.monotonic() - started < 10
    assert {name for name in place.stored() if name.startswith("F29")} == {"F29/good"}
    for name, kind in (
        (made["fifo"], "is a pipe (FIFO), not a file"),
        (made["socket"], "is a socket, not a file"),
        (made["directory"], "is a directory, not a file"),
        (made["link"], "is a symbolic link, not a file"),
        (made["dangling"], "is a symbolic link, not a file"),
        (made["missing"], "cannot be sent: No such file or directory"),
        ("/dev/zero", "is a device, not a file"),
        ("/dev/null", "is a device, not a file"),
        ("/dev/stdin", "is a symbolic link, not a file"),
        ("/proc/self/status", "changed while it was being sent"),
    ):
        assert f"securexfer: {name} {kind}\n" in result.stderr
    assert f"Send what it points to: {good}\n" in result.stderr
    assert f"Send the files in it ({made['directory']}/*)" in result.stderr


@pytest.mark.ordinary
def test_F29_a_file_that_may_not_be_read_is_named(place: Lab, server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    result = place.send(server, secret)
    assert result.returncode == 1
    assert f"{secret} cannot be opened: Permission denied" in result.stderr
