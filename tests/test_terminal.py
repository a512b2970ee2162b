"""`send` at a terminal: what a person sees of it, on screens of several widths, and that the terminal is given back."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hostile.chaos import Detour
from lab import SECUREXFER, Lab, Server, environment
from terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PER_CENT = re.compile(r"\b\d{1,3}%")
RATE = re.compile(r"\d+(\.\d)? [kM]?B/s|bytes/s")
TIME_LEFT = re.compile(r"\b\d{1,2}:\d\d\b")
MEGABYTE = 1_000_000
LONG_NAME = "a-very-long-name-of-a-file-that-has-no-room-on-a-narrow-screen-at-all.tar.zst"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("terminal"), lab_source)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve()


def sparse(directory: Path, **megabytes: float) -> list[Path]:
    paths = []
    for name, size in megabytes.items():
        path = directory / name
        with path.open("wb") as file:
            file.truncate(int(size * MEGABYTE))
        paths.append(path)
    return paths


def command(place: Lab, port: int, *paths: Path, there: str = "") -> list[str | Path]:
    return [
        SECUREXFER, "send", *paths, f"ana@localhost:{port}{there}", "--password-file", place.password_file,
        "--ca", place.ca,
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_C06_the_progress_fits_its_screen(place: Lab, server: Server, tmp_path: Path, columns: int) -> None:
    """Per file and in total: what, how much of it, how fast, how long still. One line each, and gone at the end."""
    paths = sparse(tmp_path, empty=0, **{LONG_NAME: 16}, short=10)
    with (
        Detour(server.port, rate=8 * MEGABYTE) as way,
        Terminal(*command(place, way.port, *paths, there=f"/{columns}"), columns=columns) as terminal,
    ):
        wrapped_before = wrapped = 0
        while terminal.process.poll() is None:
            terminal.read(0.05)
            if "Total" not in terminal.shown:
                wrapped_before = terminal.screen.wrapped if not wrapped else wrapped_before
            else:
                wrapped = terminal.screen.wrapped
        assert terminal.finish() == 0, terminal.shown
        assert wrapped == wrapped_before, "a line of the progress did not fit"
        terminal.check_restored()
    progress = [frame.splitlines()[-2:] for frame in terminal.frames if frame.count("%") == 2]
    assert len(progress) >= 5
    full = [(file, total) for file, total in progress if RATE.search(file) and TIME_LEFT.search(file)]
    assert full, "\n".join(map(str, progress))
    for file, total in full:
        assert file.startswith((str(columns), "…"))
        assert total.startswith(("Total ", "Storing "))
        for line in (file, total):
            assert len(line) <= columns
            assert PER_CENT.search(line)
    assert any(RATE.search(total) and TIME_LEFT.search(total) for _, total in full)
    names = {file.split()[0] for file, _ in progress}
    assert any(LONG_NAME[:5] in name for name in names)
    if columns > 40:
        assert f"{columns}/short" in names
    shares = [int(PER_CENT.findall(total)[0][:-1]) for _, total in progress]
    assert shares == sorted(shares)
    assert len(set(shares)) >= 4
    assert "%" not in terminal.shown, "the progress was left on the screen"
    assert re.search(r"3 files, 26\.0 MB, stored\s+and\s+verified\s+on\s+localhost", terminal.shown)


def test_C06_an_interrupt_gives_the_terminal_back_and_says_what_was_stored(
    place: Lab, server: Server, tmp_path: Path
) -> None:
    """Exit 130, no half-drawn line, a cursor that can be seen, no colour left on."""
    small, large = sparse(tmp_path, small=0.001, large=64)
    with (
        Detour(server.port, rate=8 * MEGABYTE) as way,
        Terminal(*command(place, way.port, small, large, there="/ctrl-c"), columns=100) as terminal,
    ):
        terminal.wait_for("Total")
        terminal.wait_for("MB/s")
        assert terminal.screen.cursor.hidden
        terminal.type("\x03")
        assert terminal.finish() == 130, terminal.shown
        terminal.check_restored()
        assert f"securexfer: interrupted: 1 of 2 files was stored on localhost:{way.port}" in terminal.shown
        assert "%" not in terminal.shown
        assert "Traceback" not in terminal.shown
        ended = len(server.events("conn.open"))
    server.wait_for("conn.close", ended)  # what came of it is gone then
    assert not (place.inbox / "ana" / "ctrl-c" / "large").exists()


def test_C06_a_failure_beside_the_progress_is_a_line_above_it(place: Lab, server: Server, tmp_path: Path) -> None:
    taken, large = sparse(tmp_path, taken=0, large=24)
    assert place.send(server, taken, target="/above").returncode == 0
    taken.write_bytes(b"other")
    with (
        Detour(server.port, rate=8 * MEGABYTE) as way,
        Terminal(*command(place, way.port, large, taken, there="/above"), columns=120) as terminal,
    ):
        assert terminal.finish() == 7, terminal.shown
        terminal.check_restored()
    assert "securexfer: the server did not store 'above/taken'" in terminal.shown
    assert "%" not in terminal.shown


def test_C06_a_send_that_is_over_at_once_draws_nothing(place: Lab, server: Server, tmp_path: Path) -> None:
    paths = sparse(tmp_path, empty=0)
    with Terminal(*command(place, server.port, *paths, there="/quick"), columns=120) as terminal:
        assert terminal.finish() == 0, terminal.shown
        terminal.check_restored()
    assert b"\x1b" not in terminal.raw
    assert "1 file, 0 B, stored and verified" in terminal.shown


@pytest.mark.parametrize("how", ["a pipe", "--quiet", "--json"])
def test_C06_no_escape_where_nobody_looks(place: Lab, server: Server, tmp_path: Path, how: str) -> None:
    """Not when stderr is no terminal, whatever the environment says of colours; not when only data is wanted."""
    paths = sparse(tmp_path, large=12)
    there = "/" + how.strip("-").replace(" ", "")
    with Detour(server.port, rate=8 * MEGABYTE) as way:
        arguments = command(place, way.port, *paths, there=there)
        if how == "a pipe":
            env = environment(FORCE_COLOR="1", TTY_COMPATIBLE="1", CLICOLOR_FORCE="1", TERM="xterm-256color")
            result = subprocess.run(arguments, capture_output=True, env=env, timeout=60, check=False)
            code, text = result.returncode, result.stdout + result.stderr
        else:
            with Terminal(*arguments, how) as terminal:
                code, text = terminal.finish(), terminal.raw
    assert code == 0, text
    assert b"\x1b" not in text
    assert b"%" not in text


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_C06_no_colour_and_dumb_terminals_are_respected(
    place: Lab, server: Server, tmp_path: Path, env: dict[str, str]
) -> None:
    """NO_COLOR: nothing but movements of the cursor; a dumb terminal gets no escape at all."""
    paths = sparse(tmp_path, large=20)
    with (
        Detour(server.port, rate=8 * MEGABYTE) as way,
        Terminal(*command(place, way.port, *paths, there="/" + "".join(env)), columns=80, **env) as terminal,
    ):
        assert terminal.finish() == 0, terminal.shown
        terminal.check_restored()
    colours = re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw)
    assert {part for colour in colours for part in colour.split(b";")} <= {b"", b"0", b"1", b"2"}
    if "TERM" in env:
        assert b"\x1b" not in terminal.raw


DRIVE = """
import sys, time
from securexfer.cli.report import Report
from securexfer.cli.tally import Selection
from securexfer.transfer.items import Item

items = [Item("x", f"results/{number}.csv", 100) for number in range(50_000)]
report = Report("lab1:9090", Selection(items, lambda: items), as_json=False, quiet=False)
spent = 0.0
with report:
    report.connected("ana", "lab1:9090")
    time.sleep(1)  # until it is drawn
    for number, item in enumerate(report.follow(items)):
        item.sent = item.size
        started = time.perf_counter()
        report.sent(item, item.size)
        item.outcome = "stored"
        report.ended(item)
        spent += time.perf_counter() - started
        if number % 100 == 0:
            time.sleep(0.002)  # what sending takes: a second in all
print(f"spent {spent:.3f}")
"""


def test_C06_fifty_thousand_tiny_files_are_not_held_up_by_drawing() -> None:
    """Telling the display of one file costs less than reading it: 10 us; and it is drawn meanwhile."""
    with Terminal(sys.executable, "-c", DRIVE, columns=100) as terminal:
        assert terminal.finish() == 0, terminal.shown
    spent = re.search(rb"spent ([0-9.]+)", terminal.raw)
    assert spent
    assert float(spent[1]) < 0.5
    drawn = {int(share) for frame in terminal.frames for share in re.findall(r"(\d+)%", frame)}
    assert len(drawn) >= 4


SLOWLY = """
import sys, time
from securexfer.cli.report import Report
from securexfer.cli.tally import Selection
from securexfer.transfer.items import Item

size = int(sys.argv[1])
items = [Item("x", f"results/{number}.csv", size) for number in range(20)]
report = Report("lab1:9090", Selection(items, lambda: items), as_json=False, quiet=False)
with report:
    report.connected("ana", "lab1:9090")
    for item in report.follow(items):
        time.sleep(0.1)  # so that it is drawn
        item.sent = item.size
        report.sent(item, item.size)
        item.outcome = "stored"
        report.ended(item)
"""


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize("columns", [1, 10, 30])
def test_C06_files_of_no_bytes_and_a_handful_of_columns_break_nothing(size: int, columns: int) -> None:
    with Terminal(sys.executable, "-c", SLOWLY, str(size), columns=columns) as terminal:
        assert terminal.finish() == 0, terminal.shown
        terminal.check_restored()
    assert b"Traceback" not in terminal.raw
    assert b"\x1b" in terminal.raw, "nothing was drawn"


TREE = """
import sys, time
from securexfer.cli.report import Report
from securexfer.cli.tally import Selection
from securexfer.transfer.items import Item

def scan(pause):
    for number in range(1, 3001):
        if pause and number % 1000 == 0:
            time.sleep(0.4)
        yield Item("x", f"results/{number}.csv", 1000)
    yield Item("x", "results/model.bin", 10_000_000)
    yield Item("x", "results", directory=True)

report = Report("lab1:9090", Selection(scan(0), lambda: scan(1)), as_json=False, quiet=False)
with report:
    report.connected("ana", "lab1:9090")
    for item in report.follow(scan(0)):
        if item.size > 1000:
            item.sent = item.resumed = 4_000_000
            report.sent(item, item.sent)
        while item.sent < item.size and not item.name.endswith("00.csv"):
            item.sent += min(item.size - item.sent, 1_000_000)
            report.sent(item, min(item.size, 1_000_000))
            time.sleep(0.25 if item.size > 1000 else 0.001)
        item.outcome = "unchanged" if item.name.endswith("00.csv") else "stored"
        report.ended(item)
report.finish(None)
"""


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_C06_a_tree_is_counted_while_it_is_sent_and_until_then_no_time_is_promised(columns: int) -> None:
    """Neither a share nor a time before the total is known; then both, what was unchanged, and where it was resumed."""
    with Terminal(sys.executable, "-c", TREE, columns=columns) as terminal:
        assert terminal.finish() == 0, terminal.shown
        terminal.check_restored()
    totals = [line for frame in terminal.frames for line in frame.splitlines()[-1:] if line.startswith("Total")]
    known = [bool(PER_CENT.search(line)) for line in totals]
    assert known == sorted(known), "a total that was known is not any more"
    assert known.count(False) >= 3
    assert known.count(True) >= 3
    for line, is_known in zip(totals, known, strict=True):
        assert is_known or "-:--" in line
        if columns > 40:
            assert ("+" in line) != is_known
    assert any(TIME_LEFT.search(line) for line in totals)
    if columns > 40:
        assert re.search(r"Total \d \d{3}/3 002, (\d )?\d+ unchanged", "\n".join(totals))
        assert any("model.bin (resumed at 40%)" in frame for frame in terminal.frames)
    assert "3 001 files, 13.0 MB, stored and verified on lab1:9090" in terminal.shown.replace("\n", "")


def test_C06_the_second_half_of_a_steady_send_knows_its_end_within_a_fifth(
    place: Lab, server: Server, tmp_path: Path
) -> None:
    """A real one, of 8 s; a second more or less is what the display rounds to, and what buffers on the way hold."""
    paths = sparse(tmp_path, **{f"part{number}": 10 for number in range(8)})
    shown: list[tuple[float, float]] = []  # when, and the seconds that were left
    with (
        Detour(server.port, rate=10 * MEGABYTE) as way,
        Terminal(*command(place, way.port, *paths, there="/steady"), columns=100) as terminal,
    ):
        while terminal.process.poll() is None:
            terminal.read(0.05)
            lines = terminal.shown.splitlines()
            left = re.search(r"(\d+):(\d\d)$", lines[-1]) if lines and lines[-1].startswith("Total") else None
            if left:
                shown.append((time.monotonic(), int(left[1]) * 60 + int(left[2])))
        end = time.monotonic()
        assert terminal.finish() == 0, terminal.shown
    second_half = [(end - when, left) for when, left in shown if end - when < (end - shown[0][0]) / 2]
    assert len(second_half) > 5
    for truth, left in second_half:
        assert abs(left - truth) <= 0.2 * truth + 1, f"{left} s were shown where {truth:.1f} s were left"
