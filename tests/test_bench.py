"""The benchmark programs run, say what they measured, and leave nothing behind. Never how fast anything was."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")

BENCH = Path(__file__).parent.parent / "bench"
DEBIAN = ("scp", "ssh", "ssh-keygen", "sshd", "rsync", "curl", "nginx", "openssl")
TREE_PEERS = ("securexfer", "rsync -a", "rsync -a --fsync", "tar | ssh tar", "scp -r")
SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
needs_peers = pytest.mark.skipif(
    any(shutil.which(name, path=SEARCHED) is None for name in DEBIAN), reason=f"needs {', '.join(DEBIAN)}"
)


def bench(program: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / program), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False
    )


def measured(program: str, *arguments: str | Path, **environment: str) -> dict[str, Any]:
    done = bench(program, *arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.debian
@needs_peers
def test_large_file_compares_every_peer_in_pairs_and_leaves_nothing(tmp_path: Path) -> None:
    found = measured("large_file.py", "--size", "300KiB", "--runs", "1", "--directory", tmp_path)
    assert found["size"] == 300 << 10
    assert found["missing"] == {}
    ours, *peers = found["summaries"]
    assert ours["peer"] == "securexfer"
    assert ours["runs"] == len(peers)
    assert ours["ratio"] is None
    assert [peer["peer"] for peer in peers] == ["scp aes128-gcm", "scp", "rsync", "curl + sha256"]
    for peer in peers:
        assert peer["runs"] == 1
        assert 0 < peer["ratio_least"] == peer["ratio"] == peer["ratio_most"]
        assert peer["client_cpu"] > 0
    assert [run["peer"] for run in found["runs"][:3]] == ["securexfer", "scp aes128-gcm", "securexfer"]
    assert list(tmp_path.iterdir()) == []


def test_large_file_names_and_leaves_out_what_is_not_installed(tmp_path: Path) -> None:
    found = measured("large_file.py", "--size", "1KiB", "--runs", "1", "--directory", tmp_path, PATH="/nonexistent")
    assert [summary["peer"] for summary in found["summaries"]] == ["securexfer"]
    assert "scp" in found["missing"]["scp"]
    assert "curl" in found["missing"]["curl + sha256"]


def test_large_file_prints_a_table_for_people(tmp_path: Path) -> None:
    done = bench("large_file.py", "--size", "1KiB", "--runs", "1", "--directory", tmp_path, "--peers", "securexfer")
    heading, row = done.stdout.splitlines()[-2:]
    assert heading.split()[:3] == ["runs", "seconds", "MB/s"]
    assert row.split()[:2] == ["securexfer", "1"]
    assert len(heading) == len(row)


@pytest.mark.debian
@needs_peers
def test_small_file_compares_with_scp(tmp_path: Path) -> None:
    found = measured("small_file.py", "--runs", "1", "--directory", tmp_path)
    assert [summary["peer"] for summary in found["summaries"]] == ["securexfer", "scp"]
    assert found["summaries"][1]["ratio"] > 0


@pytest.mark.debian
@needs_peers
def test_trees_moves_made_trees_with_every_peer_and_leaves_nothing(tmp_path: Path) -> None:
    works = [option for work in ("small", "tiny", "again") for option in ("--work", work)]
    options = (*works, "--directories", "1", "--runs", "1", "--directory", tmp_path, "--peers", *TREE_PEERS)
    found = measured("trees.py", *options)
    assert {name: (work["files"], work["size"]) for name, work in found["works"].items()} == {
        "small": (100, 100 * 4096),
        "tiny": (100, 100 * 1024),
        "again": (100, 100 * 4096),
    }
    for name, work in found["works"].items():
        assert work["missing"] == {}
        peers = [each["peer"] for each in work["summaries"]]
        assert peers == [peer for peer in TREE_PEERS if name != "again" or peer.startswith(("securexfer", "rsync"))]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.debian
@needs_peers
@pytest.mark.parametrize("again", [False, True])
def test_what_arrived_stays_in_place_for_a_second_send_and_for_no_other(
    bench_module: Any, tmp_path: Path, again: bool
) -> None:
    comparing, sources = bench_module("comparing"), bench_module("sources")
    source = sources.make_tree(tmp_path / "tree", 1, 2, 10)
    found = comparing.compare_moving(source, "a tree", ["rsync -a"], tmp_path, 1, again=again)
    assert (found.files, found.size, len(found.runs)) == (2, 20, 1)
    assert (tmp_path / "ssh" / "inbox" / "tree").exists() == again


@pytest.mark.debian
@needs_peers
def test_trees_moves_packages_that_are_installed_already(bench_module: Any, tmp_path: Path) -> None:
    pinned = bench_module("trees").PINNED
    place = tmp_path / "packages" / "-".join(sorted(pin.replace("==", "-") for pin in pinned))
    (place / "numpy").mkdir(parents=True)
    (place / "numpy" / "__init__.py").write_text("1\n")
    options = ("--runs", "1", "--directory", tmp_path, "--packages", tmp_path / "packages", "--peers", "rsync -a")
    done = bench("trees.py", "--work", "site", *options)
    assert done.returncode == 0, done.stderr
    assert "(1 files, 2 bytes)" in done.stdout
    assert "securexfer / peer" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


@pytest.mark.root
@pytest.mark.debian
@needs_peers
@pytest.mark.parametrize(
    ("works", "peers"),
    [
        (("small", "few"), {"small": ["securexfer", "rsync -a", "tar | ssh tar"], "few": ["scp -r"]}),
        (("file",), {"file": ["securexfer", "scp", "rsync"]}),
    ],
)
def test_wan_compares_over_the_line_that_was_asked_for_and_leaves_nothing(
    works: tuple[str, ...], peers: dict[str, list[str]], tmp_path: Path
) -> None:
    line = ("--rtt", "4", "--loss", "0.001", "--queue", "90000")
    small = ("--directories", "1", "--few", "1", "--size", "20000", "--runs", "1", "--directory", tmp_path)
    chosen = (*(option for work in works for option in ("--work", work)), "--peers", *itertools.chain(*peers.values()))
    found = measured("wan.py", *line, *small, *chosen)
    assert found["relay_bytes_a_second"] > 1e6
    summaries = {name: work["summaries"] for name, work in found["works"].items()}
    assert {name: [each["peer"] for each in of_work] for name, of_work in summaries.items()} == peers
    for work in found["works"].values():
        assert work["line"] == {"rtt": 0.004, "loss": 0.001, "rate": 125_000_000, "queue": 90_000, "seed": 1}
    assert all(each["seconds"] > 0.02 for of_work in summaries.values() for each in of_work), "five round trips or more"
    assert list(tmp_path.iterdir()) == []


def test_chart_draws_a_bar_as_long_as_its_time_beside_ours(tmp_path: Path) -> None:
    def summary(peer: str, seconds: float, ratio: float | None) -> dict[str, Any]:
        return {"peer": peer, "seconds": seconds, "ratio": ratio}

    ours = summary("securexfer", 2.0, None)
    trees = {"small": {"title": "a <tree> & more", "summaries": [ours, summary("rsync", 3.0, 1.5)]}}
    trees["alone"] = {"title": "without a pair", "summaries": [summary("scp -r", 9.0, None)]}
    (tmp_path / "trees").write_text(json.dumps({"works": trees}))
    (tmp_path / "file").write_text(json.dumps({"title": "a file", "summaries": [ours, summary("scp", 40.0, 20.0)]}))
    done = bench("chart.py", tmp_path / "trees", tmp_path / "file")
    assert done.returncode == 0, done.stderr
    drawn = minidom.parseString(done.stdout)  # noqa: S318 - our own
    bars = [path for path in drawn.getElementsByTagName("path") if path.getAttribute("class") in {"ours", "peer"}]
    one, longer, same, cut = (float(re.split("[hvl]", path.getAttribute("d"))[1]) for path in bars)
    assert (longer, same, cut) == pytest.approx((one * 1.5, one, one * 4), abs=0.1)
    words = drawn.getElementsByTagName("desc")[0].firstChild.data
    assert words == done.stderr.strip()
    assert "a <tree> & more: securexfer 2.00 s; rsync 1.50 times, 3.00 s." in words
    assert "scp 20.0 times, 40 s" in words
    assert "without a pair" not in done.stdout
    assert "prefers-color-scheme: dark" in done.stdout
    assert done.stdout.count("http") == 1, "its own name space, and nothing from elsewhere"


def test_chart_says_what_it_cannot_draw(tmp_path: Path) -> None:
    for text, said in (("{}", "is not a document"), ("[", "is not a document"), ('{"works": {}}', "nothing to draw")):
        (tmp_path / "wrong").write_text(text)
        done = bench("chart.py", tmp_path / "wrong")
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_memory_gives_a_peak_of_each_side_for_each_size(tmp_path: Path) -> None:
    found = measured("memory.py", "--sizes", "64KiB", "1MiB", "--directory", tmp_path)
    assert [peak["size"] for peak in found["peaks"]] == [64 << 10, 1 << 20]
    for peak in found["peaks"]:
        assert 5 << 20 < peak["client_peak"] < 1 << 30
        assert 5 << 20 < peak["server_peak"] < 1 << 30
    assert list(tmp_path.iterdir()) == []


def test_many_senders_all_succeed_beside_hanging_connections(tmp_path: Path) -> None:
    options = ("--senders", "4", "--users", "2", "--hanging", "4", "--hanging-sources", "2", "--directory", tmp_path)
    found = measured("many_senders.py", *options)
    assert found["exit_codes"] == {"0": 4}
    assert found["retries"] == 0
    assert found["hanging_opened"] >= 4
    assert found["server_peak"] > 5 << 20


def test_hanging_connections_are_spread_over_their_addresses_and_opened_again(bench_module: Any) -> None:
    many_senders, serving = bench_module("many_senders"), bench_module("serving")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((serving.HOST, 0)))
        hanging = stack.enter_context(many_senders.hang(listener.getsockname()[1], 4, 2))
        assert hanging.opened == 4
        accepted = [listener.accept() for _ in range(4)]
        assert sorted(address for _, (address, _) in accepted) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]
        for connection, _ in accepted:
            stack.enter_context(connection)
        accepted[1][0].close()
        listener.settimeout(30)
        again, (address, _) = listener.accept()
        stack.enter_context(again)
        assert address == accepted[1][1][0]


@pytest.mark.debian
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the transfer, one for the scripts")
def test_openings_runs_every_script_and_moves_the_file_meanwhile() -> None:
    options = ("--size", "64KiB", "--scripts", "6", "--seconds", "1.5", "--turns", "1")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # where somebody who is not root can pass, too
        directory = Path(name)
        directory.chmod(0o755)
        found = measured("openings.py", *options, "--directory", directory)
        assert list(directory.iterdir()) == []
    (turn,) = found["turns"]
    assert {"alone", "beside", "bare", "grown"} == set(turn)
    assert min(turn["alone"], turn["beside"], turn["bare"]) > 0


def test_under_attack_nobody_honest_fails_and_the_server_comes_to_rest(tmp_path: Path) -> None:
    options = (
        "--seconds",
        "4",
        "--senders",
        "2",
        "--size",
        "64KiB",
        "--hanging",
        "20",
        "--guessers",
        "6",
        "--slow",
        "2",
    )
    found = measured("under_attack.py", *options, "--directory", tmp_path)
    for honest in (found["alone"], found["beside"]):
        assert honest["sent"] > 0
        assert honest["failures"] == []
    assert found["throughput_left"] > 0
    kinds = ("descriptors", "threads") if os.geteuid() == 0 else ("threads",)
    for kind in kinds:
        assert found["during"][kind] >= found["before"][kind] + 20
        assert found["after"][kind] <= found["before"][kind]
    assert found["events"]["auth.fail"] > 0
    assert found["events"]["file.abort"] == 2, "each writer is cut off once, at the end"
    assert list(tmp_path.iterdir()) == []


def test_many_senders_counts_retries_by_what_send_says(bench_module: Any, tmp_path: Path) -> None:
    many_senders, peers, sources = map(bench_module, ("many_senders", "peers", "sources"))
    source = sources.make_file(tmp_path / "file", 7)
    with (
        peers.securexfer_server(tmp_path / "server", ["ana"]) as server,
        socket.create_server(("127.0.0.1", 0)) as busy,
    ):
        busy.settimeout(30)
        command = replace(server, port=busy.getsockname()[1]).peer(source, "ana").client
        with bench_module("measuring").running(command) as sending:
            for _ in range(2):
                busy.accept()[0].close()
            with busy.accept()[0]:
                sending.terminate()
                assert sending.stderr.read().decode().count(many_senders.RETRYING) == 2


def test_A02_login_timing_tries_every_kind_and_compares_every_pair(tmp_path: Path) -> None:
    done = bench("login_timing.py", "--tries", "2", "--directory", tmp_path, "--json")
    assert done.returncode in {0, 1}, done.stderr  # two of each say nothing about the time
    found = json.loads(done.stdout)
    assert {kind: len(seconds) for kind, seconds in found["seconds"].items()} == dict.fromkeys(
        ("unknown", "wrong", "disabled", "long"), 2
    )
    assert len(found["pairs"]) == 6
    assert list(tmp_path.iterdir()) == []


def test_A02_the_p_of_two_samples_is_that_of_the_books(bench_module: Any) -> None:
    """Values from scipy.stats.mannwhitneyu(..., method="asymptotic"), with ties and without."""
    p = bench_module("login_timing").mann_whitney
    assert p([19, 22, 16, 29, 24], [20, 11, 17, 12]) == pytest.approx(0.1113468865, abs=1e-9)
    assert p([1, 2, 2, 3, 3, 3, 4], [2, 3, 3, 4, 4, 5, 5]) == pytest.approx(0.0860363144, abs=1e-9)
    assert p(range(50), range(50)) == pytest.approx(1.0)
    assert p([1.0] * 5, [1.0] * 5) == 1.0
    assert p(range(100), range(1000, 1100)) == pytest.approx(2.5621437e-34, rel=1e-6, abs=0)


def test_A02_medians_that_are_apart_are_told_apart(bench_module: Any) -> None:
    pair = bench_module("login_timing").Pair
    assert pair("a", "b", (0.100, 0.102), 0.5).same
    assert pair("a", "b", (0.100, 0.104), 0.5).same  # 4 ms, and within 5 %
    assert not pair("a", "b", (0.100, 0.106), 0.5).same
    assert not pair("a", "b", (0.100, 0.100), 0.01).same


@pytest.mark.parametrize(
    ("program", "option", "value"),
    [
        ("large_file.py", "--size", "0"),
        ("large_file.py", "--size", "65GiB"),
        ("small_file.py", "--runs", "0"),
        ("memory.py", "--sizes", "-1"),
        ("login_timing.py", "--tries", "1"),
        ("many_senders.py", "--senders", "2001"),
        ("under_attack.py", "--seconds", "0"),
        ("many_senders.py", "--directory", "/nonexistent"),
        ("trees.py", "--directories", "0"),
        ("wan.py", "--loss", "1"),
        ("wan.py", "--rtt", "nan"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(program: str, option: str, value: str) -> None:
    done = bench(program, f"{option}={value}")
    assert done.returncode == 2
    assert f"argument {option}" in done.stderr


@pytest.mark.debian
@needs_peers
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        ("large_file.py", "--size", "1MiB", "--peers", "scp", "curl + sha256"),
        ("trees.py", "--work", "small", "--directories", "2", "--peers", "rsync -a", "tar | ssh tar"),
        pytest.param(
            ("wan.py", "--work", "small", "--directories", "2", "--peers", "tar | ssh tar"), marks=pytest.mark.root
        ),
    ],
    ids=lambda value: value[0],
)
def test_an_interrupted_run_leaves_no_process_and_no_file(
    tmp_path: Path, bench_module: Any, command: tuple[str, ...], how: signal.Signals
) -> None:
    program, *options = command
    arguments = (*options, "--runs", "100", "--directory", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, BENCH / program, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as running:
        assert running.stderr
        while b"1/100" not in running.stderr.readline():  # then the first run is over, the second under way
            assert running.poll() is None
        started = bench_module("measuring").descendants(running.pid)[1:]
        assert processes_naming(tmp_path, program)
        for _ in range(5):  # people press twice, and timeout(1) sends twice
            running.send_signal(how)
            time.sleep(0.01)
        running.communicate(timeout=30)
    assert running.returncode == 130
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10  # sshd's own children end when their client is gone
    while (left := processes_left(tmp_path, program, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def processes_left(path: Path, program: str, started: list[int]) -> list[str]:
    return processes_naming(path, program) + [str(pid) for pid in started if Path(f"/proc/{pid}").exists()]


def processes_naming(path: Path, program: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(path) in command and program not in command:
                found.append(command)
    return found


def test_the_ratio_is_the_peers_seconds_over_ours_in_the_same_pair(bench_module: Any) -> None:
    comparing, measuring = bench_module("comparing"), bench_module("measuring")

    def run(peer: str, against: str, turn: int, seconds: float) -> Any:
        return comparing.Run(peer, against, turn, measuring.Cost(seconds, 0, 0, 0, 0))

    runs = [
        *(run("securexfer", "scp", 0, 1.0), run("scp", "scp", 0, 2.0)),
        *(run("securexfer", "rsync", 0, 10.0), run("rsync", "rsync", 0, 1.0)),
        *(run("securexfer", "scp", 1, 4.0), run("scp", "scp", 1, 12.0)),
        *(run("securexfer", "scp", 2, 2.0), run("scp", "scp", 2, 20.0)),
    ]
    found = comparing.summarise(runs, "scp")
    assert (found.ratio_least, found.ratio, found.ratio_most) == (2.0, 3.0, 10.0)
    assert found.ours_over_theirs() == pytest.approx((1 / 3, 1 / 10, 1 / 2))
    assert comparing.summarise(runs, "rsync").ratio == 0.1
    assert comparing.summarise(runs, "rsync").ours_over_theirs()[0] == 10
    assert comparing.summarise(runs, "securexfer").ratio is None


def test_a_received_tree_that_is_not_the_source_stops_the_run(bench_module: Any, tmp_path: Path) -> None:
    sources, measuring = bench_module("sources"), bench_module("measuring")
    source = sources.make_tree(tmp_path / "source", 2, 3, 1000)
    assert (len(source.entries), source.size) == (6, 6000)
    received = tmp_path / "received"
    changed = received / "directory-0001" / "file-0002"

    def afresh() -> int:
        shutil.rmtree(received, ignore_errors=True)
        shutil.copytree(source.path, received)
        source.check(received, mtime_unit=sources.NANOSECOND)
        return changed.stat().st_mtime_ns

    time_ns = afresh() // 10**9 * 10**9
    os.utime(source.path / "directory-0001" / "file-0002", ns=(time_ns, time_ns))
    source = sources.Source(source.path, sources.entries_of(source.path))
    for unit, later in ((sources.NANOSECOND, 1), (sources.SECOND, 10**9)):
        afresh()
        os.utime(changed, ns=(time_ns, time_ns + later - 1))
        source.check(received, mtime_unit=unit)
        os.utime(changed, ns=(time_ns, time_ns + later))
        with pytest.raises(measuring.BenchError, match=r"file-0002 has another time"):
            source.check(received, mtime_unit=unit)
        source.check(received, mtime_unit=None)
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    with pytest.raises(measuring.BenchError, match="file-0002 differs"):
        source.check(received, mtime_unit=None)
    changed.unlink()
    with pytest.raises(measuring.BenchError, match="5 files of 6: directory-0001/file-0002 is missing"):
        source.check(received, mtime_unit=None)
    afresh()
    (received / "extra").touch()
    with pytest.raises(measuring.BenchError, match="7 files of 6: extra is"):
        source.check(received, mtime_unit=None)
    shutil.rmtree(received)
    with pytest.raises(measuring.BenchError, match="was not received"):
        source.check(received, mtime_unit=None)


def test_the_processor_time_of_a_server_includes_children_that_have_ended(bench_module: Any) -> None:
    measuring = bench_module("measuring")
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"{sys.executable} -c '{burn}'; echo done; read line"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout
        server.stdout.readline()
        assert len(measuring.descendants(server.pid)) == 1
        assert measuring.tree_cpu(server.pid) >= 0.25
