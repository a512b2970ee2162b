"""Send one large file while scripts of another send are run on another core; say how much slower that makes it.

Both ends of the transfer have one core for themselves, with the scripts and without. A third run has the same scripts
on the other core, started two at a time by xargs without a server or a sandbox: what two cores of a machine cost each
other anyway. README.md says how to read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError, Command, finish, peak_memory, reset_peaks, run, running
from options import between, end_with, machine, mib, parser, size
from peers import securexfer_server
from sources import make_file, workplace

if TYPE_CHECKING:
    import subprocess

    from peers import Peer

USERS = ("transfer", "scripts")
START_SECONDS = 1.0  # until the first scripts run
SCRIPT = "import time\nuntil = time.process_time() + {seconds}\nwhile time.process_time() < until:\n    pass\n"
PYTHON = "/usr/bin/python3"  # which the server's sandbox takes, too


def main() -> None:
    """Measure, then print a table or JSON; exit code 1 if a script was not answered for."""
    options = parser(__doc__)
    options.add_argument("--size", type=size, default=size("1GiB"), help="of the file (default: 1GiB)")
    options.add_argument("--scripts", type=between(2, 1000), default=100, help="sent at once (default: 100)")
    options.add_argument("--turns", type=between(1, 100), default=5, help="pairs of runs (default: 5)")
    options.add_argument("--seconds", type=float, default=0.2, help="that each keeps its core busy (default: 0.2)")
    chosen = options.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("this needs two cores")
    ours, theirs = cores[0], cores[-1]
    turns: list[dict[str, float]] = []
    with workplace(chosen.directory, chosen.size) as place:
        source = make_file(place / "large.bin", chosen.size)
        scripts = [place / f"script{number}.py" for number in range(chosen.scripts)]
        for script in scripts:
            script.write_text(SCRIPT.format(seconds=chosen.seconds))
        with securexfer_server(place / "securexfer", USERS, opens=True) as server:
            pid = server.server.pid
            _pin(_threads(pid), ours)
            before = _threads(pid)
            _seconds(server.sending(scripts[:2], USERS[1]))  # which starts the threads that open
            _pin(_threads(pid) - before, theirs)
            peer = server.peer(source, USERS[0])
            sending = ("taskset", "-c", str(ours), *peer.client.arguments)
            large = Command(sending, peer.client.stdin, peer.client.environment)
            for number in range(chosen.turns + 1):
                reset_peaks(pid)
                alone = _moved(large, peer)
                memory = peak_memory(pid)
                with running(server.sending(scripts, USERS[1])) as opening:
                    time.sleep(START_SECONDS)
                    beside = _moved(large, peer)
                    _check_runs(opening)
                    finish(opening).checked(server.sending([], USERS[1]))
                grown = peak_memory(pid) - memory
                with running(_bare(scripts, theirs)) as plain:
                    time.sleep(START_SECONDS)
                    bare = _moved(large, peer)
                    _check_runs(plain)
                if number:  # the first turn does not count
                    turns.append({"alone": alone, "beside": beside, "bare": bare, "grown": grown})
            _check(server.server.log, chosen.scripts * (chosen.turns + 1) + 2)
    if chosen.json:
        print(json.dumps({"machine": machine(), "turns": turns}, indent=2))
        return
    for turn in turns:
        print(f"  alone {turn['alone']:.2f} s  bare scripts {turn['bare']:.2f} s  opened {turn['beside']:.2f} s")
    for what, other in (("alone", "alone"), ("beside bare ones", "bare")):
        ratios = [turn[other] / turn["beside"] for turn in turns]
        print(f"speed beside {chosen.scripts} scripts, of that {what}: {statistics.median(ratios):.2f}", end=" ")
        print(f"({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"the server's peak grew by {mib(int(max(turn['grown'] for turn in turns)))} MiB at most")


def _bare(scripts: list[Path], core: int) -> Command:
    """Return what runs scripts on a core, two at a time and with the priority that they have in a sandbox."""
    each = f"printf '%s\\0' \"$@\" | xargs -0 -n 1 -P 2 nice -n 10 {PYTHON} -I -S"
    return Command(("taskset", "-c", str(core), "sh", "-c", each, "sh", *map(str, scripts)))


def _check_runs(scripts: subprocess.Popen[bytes]) -> None:
    if scripts.poll() is not None:
        raise BenchError("the scripts ended before the file was sent: use more of them, or a smaller file")


def _threads(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}


def _pin(threads: set[int], core: int) -> None:
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread, {core})


def _seconds(command: Command) -> float:
    started = time.perf_counter()
    run(command)
    return time.perf_counter() - started


def _moved(command: Command, peer: Peer) -> float:
    """Send the file; return the seconds that took, having checked and removed what arrived."""
    seconds = _seconds(command)
    peer.source.check(peer.received, mtime_unit=peer.mtime_unit)
    peer.received.unlink()
    return seconds


def _check(log: Path, count: int) -> None:
    """Raise BenchError unless so many scripts have run to their end."""
    ran = sum('"handler.run"' in line and '"how": "exit", "code": 0' in line for line in log.read_text().splitlines())
    if ran != count:
        raise BenchError(f"{ran} of {count} scripts ran to their end")


if __name__ == "__main__":
    end_with(main)
