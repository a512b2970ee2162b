"""The benchmark programs run, say what they measured, and leave nothing behind. Never how fast anything was."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")

BENCH = Path(__file__).parent.parent / "bench"
DEBIAN = ("scp", "ssh", "ssh-keygen", "sshd", "rsync", "curl", "nginx", "openssl")
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


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


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


def test_hanging_connections_are_spread_over_their_addresses_and_opened_again(module: Any) -> None:
    many_senders, peers = module("many_senders"), module("peers")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((peers.HOST, 0)))
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


def test_many_senders_counts_retries_by_what_send_says(module: Any, tmp_path: Path) -> None:
    many_senders, peers = module("many_senders"), module("peers")
    (tmp_path / "file").write_bytes(b"content")
    with peers.securexfer_server(tmp_path / "server", ["ana"]) as server, socket.create_server((peers.HOST, 0)) as busy:
        busy.settimeout(30)
        command = replace(server, port=busy.getsockname()[1]).peer(tmp_path / "file", "ana").client
        with module("measuring").running(command) as sending:
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


def test_A02_the_p_of_two_samples_is_that_of_the_books(module: Any) -> None:
    """Values from scipy.stats.mannwhitneyu(..., method="asymptotic"), with ties and without."""
    p = module("login_timing").mann_whitney
    assert p([19, 22, 16, 29, 24], [20, 11, 17, 12]) == pytest.approx(0.1113468865, abs=1e-9)
    assert p([1, 2, 2, 3, 3, 3, 4], [2, 3, 3, 4, 4, 5, 5]) == pytest.approx(0.0860363144, abs=1e-9)
    assert p(range(50), range(50)) == pytest.approx(1.0)
    assert p([1.0] * 5, [1.0] * 5) == 1.0
    assert p(range(100), range(1000, 1100)) == pytest.approx(2.5621437e-34, rel=1e-6, abs=0)


def test_A02_medians_that_are_apart_are_told_apart(module: Any) -> None:
    pair = module("login_timing").Pair
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
    ],
)
def test_options_out_of_bounds_are_refused_by_name(program: str, option: str, value: str) -> None:
    done = bench(program, f"{option}={value}")
    assert done.returncode == 2
    assert f"argument {option}" in done.stderr


@pytest.mark.debian
@needs_peers
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_no_file(tmp_path: Path, how: signal.Signals) -> None:
    arguments = ("--size", "1MiB", "--runs", "100", "--peers", "scp", "curl + sha256", "--directory", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, BENCH / "large_file.py", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as running:
        assert running.stderr
        running.stderr.readline()  # the first run is over, the second under way
        assert processes_naming(tmp_path)
        for _ in range(5):  # people press twice, and timeout(1) sends twice
            running.send_signal(how)
            time.sleep(0.01)
        running.communicate(timeout=30)
    assert running.returncode == 130
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10  # sshd's own children end when their client is gone
    while (left := processes_naming(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def processes_naming(path: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(path) in command and "large_file.py" not in command:
                found.append(command)
    return found


def test_the_ratio_is_the_peers_seconds_over_ours_in_the_same_pair(module: Any) -> None:
    comparing, measuring = module("comparing"), module("measuring")

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
    assert comparing.summarise(runs, "rsync").ratio == 0.1
    assert comparing.summarise(runs, "securexfer").ratio is None


def test_a_received_file_that_differs_or_is_missing_stops_the_run(module: Any, tmp_path: Path) -> None:
    sources, measuring = module("sources"), module("measuring")
    digest = sources.make_source(tmp_path / "source", 100_000)
    sources.check_received(tmp_path / "source", digest)
    content = bytearray((tmp_path / "source").read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed").write_bytes(content)
    for name in ("changed", "missing"):
        with pytest.raises(measuring.BenchError, match=name):
            sources.check_received(tmp_path / name, digest)


def test_the_processor_time_of_a_server_includes_children_that_have_ended(module: Any) -> None:
    measuring = module("measuring")
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"{sys.executable} -c '{burn}'; echo done; read line"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout
        server.stdout.readline()
        assert len(measuring.descendants(server.pid)) == 1
        assert measuring.tree_cpu(server.pid) >= 0.25
