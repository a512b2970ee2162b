"""What must hold after every case, whatever somebody did to a running server: seven oracles, O1 to O7.

O1  an honest transfer of 1 MiB from another address succeeds, soon
O2  the inbox holds exactly the files that were acknowledged, with their digests, and nothing else
O3  what lies outside of the inbox is as it was
O4  descriptors, threads and children go back to where they were
O5  memory stayed within its bound
O6  the log is whole lines of JSON without control characters, secrets or tracebacks; each connection has one end
O7  it is still the same process

Each raises AssertionError with its name in front. tests/test_oracles.py shows each of them red.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lab as lab_module
import stranger_client as stranger

from securexfer.accounts.passwords import CURRENT, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab import Lab, Server

MIB = 1 << 20
STAGING = ".securexfer-staging"
SERVERS_OWN = {".securexfer-lock", ".securexfer-index", ".securexfer-index-wal"}
HONEST, HONEST_SOURCE = "bruno", "127.0.0.2"
HONEST_CONTENT = hashlib.shake_256(b"honest").digest(MIB)
# The promise is 2 s, on a machine that does nothing else; tests/test_serve.py holds it so. Here a dozen of other tests
# may run at the same time on two cores, and what is looked for is a server that no longer serves.
HONEST_SECONDS = 15.0
SETTLE_SECONDS = 15.0  # the server reads on for 5 s after a session's end; and see above
MAX_MEMORY = 64 * MIB  # over what was there before the first case, besides what connections and Argon2 take
CONNECTION_MEMORY = MIB
SESSION_ENDS = {"conn.open": 1, "conn.close": -1}


class Oracles:
    """Watches one server, from the moment it is made; `check` after every case."""

    def __init__(self, lab: Lab, server: Server, secrets: tuple[str, ...] = (lab_module.PASSWORD,)) -> None:
        """Put a sentinel tree beside the inbox, and note how the server is when it has served somebody."""
        self._lab = lab
        self._server = server
        self._secrets = secrets
        self.ledger: dict[str, str] = {}  # acknowledged: USER/NAME and digest, from the log
        self.directories: set[str] = set()  # that were sent
        self.planted: set[str] = set()  # what a test has put into the inbox itself
        self.partials = 0  # files in staging that a later send may resume: so many are allowed
        self._seen = 0  # bytes of the log
        self._tail = b""
        self._open: Counter[int] = Counter()
        self._quiet: set[str] = set()  # sources that the log has left lines out of
        self._case_connections = 0
        self._spoiled = False
        self.outside = plant_sentinels(lab.home / "outside")
        self._outside_before = snapshot(self.outside, lab.home / "certs")
        self.honest_transfer()
        self._read_log_until_quiet()
        self.before = Signs.of(server.process.pid)
        self._started = start_time(server.process.pid)
        forget_peak(server.process.pid)

    def check(self, told: dict[str, bytes] | None = None) -> None:
        """Hold all seven. `told` is what a client was told is stored in this case: USER/NAME and content.

        After one was red, the server is not what it was: all later cases fail at once.
        """
        assert not self._spoiled, "an earlier case has spoiled this server"
        self._spoiled = True
        self.same_process()
        self.log_is_whole()
        self.inbox_is_what_was_acknowledged(told or {})
        self.outside_is_unchanged()
        self.nothing_is_held()
        self.memory_is_bounded()
        self.honest_transfer()
        self._spoiled = False

    # -- O1 ------------------------------------------------------------------------------------------------------

    def honest_transfer(self, seconds: float = HONEST_SECONDS) -> None:
        """O1: an honest transfer from another source; the file is taken away again."""
        try:
            started = time.monotonic()
            port, ca = self._server.port, str(self._lab.ca)
            with stranger.connect(port, ca, source=HONEST_SOURCE, timeout=seconds) as tls:
                accepted = stranger.log_in(tls, HONEST, lab_module.PASSWORD)
                stored = accepted and stranger.send(tls, [("honest", HONEST_CONTENT)]) == [True]
            took = time.monotonic() - started
        except OSError as error:
            raise AssertionError(f"O1: an honest transfer failed: {error!r}") from error
        assert stored, "O1: an honest transfer was refused"
        assert took < seconds, f"O1: an honest transfer took {took:.1f} s"
        path = self._lab.inbox / HONEST / "honest"
        assert path.read_bytes() == HONEST_CONTENT, "O1: what was sent is not what is stored"
        path.unlink()

    # -- O2 ------------------------------------------------------------------------------------------------------

    def inbox_is_what_was_acknowledged(self, told: dict[str, bytes]) -> None:
        """O2: files as acknowledged; their directories, their users' and an empty staging area; nothing else."""
        for name, content in told.items():
            digest = hashlib.sha256(content).hexdigest()
            assert self.ledger.get(name) == digest, f"O2: {name} was acknowledged, and the log does not know of it"
        expected = set(self.ledger) | self.planted
        parents = {str(parent) for name in expected for parent in Path(name).parents} | self.directories
        partials = 0
        for path, status in walk(self._lab.inbox):
            name = str(path.relative_to(self._lab.inbox))
            if stat.S_ISDIR(status.st_mode):
                assert name in parents or "/" not in name, f"O2: an empty directory was left: {name}"
                continue
            if name in SERVERS_OWN:
                continue
            if name.startswith(f"{STAGING}/partial-"):
                partials += 1
                assert partials <= self.partials, f"O2: a partial file too many was left: {name}"
                continue
            assert name in expected, f"O2: nobody acknowledged what stands in the inbox as {name}"
            expected.remove(name)
            if name in self.ledger:
                assert stat.S_ISREG(status.st_mode), f"O2: {name} is not a plain file"
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert digest == self.ledger[name], f"O2: {name} is not what was acknowledged"
        assert not expected, f"O2: acknowledged and not there: {sorted(expected)}"

    # -- O3 ------------------------------------------------------------------------------------------------------

    def outside_is_unchanged(self) -> None:
        """O3: content, mode, times, links and attributes of the sentinel tree and of the certificates."""
        now = snapshot(self.outside, self._lab.home / "certs")
        changed = {
            path for path in now.keys() | self._outside_before if now.get(path) != self._outside_before.get(path)
        }
        assert not changed, f"O3: changed outside of the inbox: {sorted(changed)}"

    # -- O4, O5 --------------------------------------------------------------------------------------------------

    def nothing_is_held(self, seconds: float = SETTLE_SECONDS) -> None:
        """O4: descriptors, threads and children, as they were before the first case."""
        pid = self._server.process.pid
        settle(lambda: not Signs.of(pid).more_than(self.before), seconds)
        more = Signs.of(pid).more_than(self.before)
        assert not more, f"O4: the server holds more than before: {more}"

    def memory_is_bounded(self) -> None:
        """O5: the peak since the last case."""
        argon2 = usable_cores() * CURRENT.memory * 1024
        allowed = self.before.memory + MAX_MEMORY + CONNECTION_MEMORY * self._case_connections + argon2
        peak = self._server.status("VmHWM") * 1024
        assert peak <= allowed, f"O5: {peak / MIB:.0f} MiB were used; allowed were {allowed / MIB:.0f}"
        forget_peak(self._server.process.pid)
        self._case_connections = 0

    # -- O6 ------------------------------------------------------------------------------------------------------

    def log_is_whole(self, seconds: float = SETTLE_SECONDS) -> None:
        """O6: what is new in it; waits until each connection has its end."""
        self._read_log_until_quiet(seconds)
        left = sorted(number for number, count in self._open.items() if count)
        assert not left, f"O6: these connections have not exactly one conn.close: {left}"

    def _read_log_until_quiet(self, seconds: float = SETTLE_SECONDS) -> None:
        def quiet() -> bool:
            self._read_log()
            return not any(self._open.values())

        settle(quiet, seconds)

    def _read_log(self) -> None:
        with self._server.log_path.open("rb") as log:
            log.seek(self._seen)
            new = log.read()
        self._seen += len(new)
        whole, _, self._tail = (self._tail + new).rpartition(b"\n")
        for event in parse_log(whole, self._secrets):
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        kind, number = event["event"], event.get("connection", 0)
        if kind == "log.suppressed":
            self._quiet.add(event.get("address", ""))
        elif kind in SESSION_ENDS:
            self._open[number] += SESSION_ENDS[kind]
            self._case_connections += kind == "conn.open"
            assert self._open[number] >= 0 or event["address"] in self._quiet, f"O6: connection {number} ended twice"
            if not self._open[number] or event["address"] in self._quiet:
                del self._open[number]
        elif kind == "file.ok" and (event["user"], event["name"]) != (HONEST, "honest"):
            self.ledger[f"{event['user']}/{event['stored_as']}"] = event["sha256"]

    # -- O7 ------------------------------------------------------------------------------------------------------

    def same_process(self) -> None:
        """O7: neither dead nor another one."""
        process = self._server.process
        assert process.poll() is None, f"O7: the server has ended with exit code {process.returncode}"
        assert start_time(process.pid) == self._started, "O7: the server is another process"


# -- the log -----------------------------------------------------------------------------------------------------


def parse_log(data: bytes, secrets: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the events of whole lines of a log; raise AssertionError, O6, for what must not be in one.

    The lines for people in front of the first event are looked at as well, but need not be JSON.
    """
    assert b"Traceback" not in data, "O6: a traceback in the log"
    for secret in secrets:
        assert secret.encode() not in data, "O6: a secret in the log"
    text = data.decode()
    odd = set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text))
    assert not odd, f"O6: control characters in the log: {sorted(odd)}"
    events = []
    for line in text.splitlines():
        if not line.startswith("{"):
            assert not events, f"O6: a line of the log is not JSON: {line!r}"
            assert line.startswith((" ", "Listening", "Files", "On another", "WARNING: serve runs as root")), (
                f"O6: a line is not JSON: {line!r}"
            )
            continue
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise AssertionError(f"O6: a line of the log is not JSON: {line!r}") from error
        assert {"time", "level", "event"} <= events[-1].keys(), f"O6: a line is no event: {line!r}"
        assert events[-1].get("reason") != "error", f"O6: a connection ended by an error inside securexfer: {line!r}"
    return events


# -- files outside -----------------------------------------------------------------------------------------------


def plant_sentinels(place: Path) -> Path:
    """Make a small tree that has one of everything; return it."""
    (place / "directory").mkdir(parents=True)
    for name, mode in (("plain", 0o644), ("secret", 0o600), ("script", 0o755), ("directory/deep", 0o640)):
        (place / name).write_text(f"the content of {name}\n")
        (place / name).chmod(mode)
    os.link(place / "plain", place / "second name")
    (place / "link").symlink_to("plain")
    if hasattr(os, "setxattr"):
        with contextlib.suppress(OSError):  # not every file system has them
            os.setxattr(place / "plain", "user.sentinel", b"1")
    return place


def snapshot(*places: Path) -> dict[Path, tuple[object, ...]]:
    """Return what can be told about everything in some directories without changing it."""
    return {
        path: _describe(path, status) for place in places for path, status in [(place, place.lstat()), *walk(place)]
    }


def _describe(path: Path, status: os.stat_result) -> tuple[object, ...]:
    content: object = None
    if stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = path.readlink()
    attributes = {}
    if hasattr(os, "listxattr"):
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    return content, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, attributes


def walk(place: Path) -> list[tuple[Path, os.stat_result]]:
    """Return everything below a directory, links not followed."""
    found = []
    for directory, directories, files in os.walk(place):
        found += [(path, path.lstat()) for path in (Path(directory, name) for name in (*directories, *files))]
    return found


# -- the process -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signs:
    """What a process holds: counts, and bytes of memory."""

    descriptors: int
    threads: int
    children: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> Signs:
        """Look at a process. Its users' database is left out: how many connections its pool has depends on chance."""
        place = Path(f"/proc/{pid}")
        descriptors = 0
        for path in (place / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                descriptors += "users.db" not in str(path.readlink())
        children = 0
        for task in (place / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                children += len((task / "children").read_text().split())
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return cls(descriptors, int(status["Threads"]), children, int(status["VmRSS"].split()[0]) * 1024)

    def more_than(self, before: Signs) -> list[str]:
        """Say of what there is more; memory has a bound of its own."""
        names = ("descriptors", "threads", "children")
        pairs = {name: (getattr(before, name), getattr(self, name)) for name in names}
        return [f"{name}: {had}, now {has}" for name, (had, has) in pairs.items() if has > had]


def start_time(pid: int) -> int:
    """Return when a process was started, in ticks: with its number that names it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def forget_peak(pid: int) -> None:
    """Let VmHWM count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def settle(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until something holds, for so long at most."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def remove(lab: Lab, user: str) -> None:
    """Take away all of a user's files, as whoever runs the server may."""
    shutil.rmtree(lab.inbox / user, ignore_errors=True)
