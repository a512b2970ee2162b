"""Full, failing and dying disks under a real `serve`: what was acknowledged is there, what was not leaves nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lab as lab_module
import pytest
import stranger_client as stranger
from hostile.speaking import FINISH, eager, ready
from lab import wait_until

from securexfer.storage import nameless
from securexfer.storage.syncing import Rest, Whole
from securexfer.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab import Lab, Server

    LogIn = Callable[[Server, int], stranger.Tls]
    Traced = Callable[..., tuple[Server, Path]]
    Tmpfs = Callable[[str], Path]

STAGING = ".securexfer-staging"
REFUSED = b"\x00"
FIRST = "2"  # what the first file is called in staging; 1 is the rehearsal when the server starts
ANSWERS = 22  # bytes of a TLS record beside its content: header 5, content type 1, tag 16


@functools.cache
def cannot_trace() -> str:
    """Return why system calls cannot be traced here, if so."""
    if shutil.which("strace") is None:
        return "needs strace"
    command = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, "-e", "trace=openat", "true"]
    return "" if not subprocess.run(command, capture_output=True, check=False).returncode else "strace may not trace"


def needs_strace(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.debian(pytest.mark.skipif(bool(cannot_trace()), reason=cannot_trace())(test))


@pytest.fixture
def traced(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """Start a server whose system calls are traced, and failed, as the options of strace say."""

    def start(*options: str) -> tuple[Server, Path]:
        trace, program = tmp_path / "trace", tmp_path / "traced"
        # Quick, but signals that are injected get lost with it (strace 6.1).
        filtering = [] if "signal=" in options[-1] else ["--seccomp-bpf"]
        words = ["strace", "-D", "-f", "-y", "-qq", *filtering, "-s", "0", "-o", str(trace), *options]
        watched = [sys.executable, "-c", lab_module.WATCHED]
        program.write_text(f'#!/bin/sh\nexec {shlex.join([*words, "--", *watched])} "$@"\n')
        program.chmod(0o700)
        with monkeypatch.context() as patch:
            patch.setattr(lab_module, "SECUREXFER", str(program))
            # With another mode than files have when they are made, so that it has to be set.
            return lab.serve("--file-mode", "0640"), trace

    return start


@pytest.fixture
def log_in(lab: Lab) -> Iterator[LogIn]:
    """Begin a session of ana's that announces so many files; it is closed with the test."""
    with contextlib.ExitStack() as stack:

        def begin(server: Server, files: int) -> stranger.Tls:
            tls = stack.enter_context(stranger.connect(server.port, str(lab.ca)))
            assert stranger.log_in(tls, "ana", lab_module.PASSWORD)
            tls.sendall(stranger.count(files))
            return tls

        yield begin


def send(tls: stranger.Tls, name: str, content: bytes) -> bytes:
    """Send one file and return its answer."""
    tls.sendall(stranger.file(name, content))
    return stranger.answers(tls, 1)


# -- failing calls ---------------------------------------------------------------------------------------------

FAULTS = {
    "write EIO": ("write:error=EIO:when=1", f"{STAGING}/{FIRST}", "IO"),
    "write EDQUOT": ("write:error=EDQUOT:when=1", f"{STAGING}/{FIRST}", "NOSPACE"),
    "fsync EIO": ("fsync:error=EIO:when=1", f"{STAGING}/{FIRST}", "IO"),
    "fsync ENOSPC": ("fsync:error=ENOSPC:when=1", f"{STAGING}/{FIRST}", "NOSPACE"),
    "fchmod EPERM": ("fchmod:error=EPERM:when=1", f"{STAGING}/{FIRST}", "IO"),
    "linkat EIO": ("linkat:error=EIO:when=1", "ana", "IO"),
    "linkat ENOSPC": ("linkat:error=ENOSPC:when=1", "ana", "NOSPACE"),
    "linkat EROFS": ("linkat:error=EROFS:when=1", "ana", "IO"),
    "fsync of the directory EIO": ("fsync:error=EIO:when=1", "ana", "IO"),
    "fsync of the directory ENOSPC": ("fsync:error=ENOSPC:when=1", "ana", "NOSPACE"),
    "write ENOSPC": ("write:error=ENOSPC:when=1", f"{STAGING}/{FIRST}", "NOSPACE"),
    "linkat EACCES": ("linkat:error=EACCES:when=1", "ana", "IO"),
    "close EIO": ("close:error=EIO:when=1", f"{STAGING}/{FIRST}", None),
}


@needs_strace
@pytest.mark.parametrize("fault", FAULTS)
def test_D01_D06_D07_a_call_that_fails_once_costs_one_file(lab: Lab, log_in: LogIn, traced: Traced, fault: str) -> None:
    """The file is neither stored nor visible; the call is not tried again; the next file and session are served."""
    injected, path, reason = FAULTS[fault]
    call = injected.partition(":")[0]
    server, trace = traced("-P", str(lab.inbox / path), "-e", f"trace={call}", "-e", f"inject={injected}")
    tls = log_in(server, 3)
    large = b"first" * 100_000
    assert send(tls, "x", large) == (REFUSED if reason else stranger.ACCEPTED)
    assert send(tls, "y", b"second") == stranger.ACCEPTED
    assert lab.stored() == ({"y": b"second"} if reason else {"x": large, "y": b"second"})
    lines = trace.read_text().splitlines()
    assert sum("(INJECTED)" in line for line in lines) == 1
    assert send(tls, "x", large) == stranger.ACCEPTED
    if call == "fsync" and path != "ana":
        assert len([line for line in trace.read_text().splitlines() if "fsync(" in line]) == 1, "it was tried again"
    tls.close()
    assert server.stop() == 0
    rejected = server.events("file.reject")
    assert [(event["name"], event["reason"]) for event in rejected] == ([("x", reason)] if reason else [])
    assert all(fault.rsplit(maxsplit=1)[-1] in event["detail"] for event in rejected)


@needs_strace
@pytest.mark.parametrize("error", ["EACCES", "EROFS", "ENOSPC"])
def test_D06_a_file_that_cannot_be_begun_costs_itself_alone(
    lab: Lab, log_in: LogIn, traced: Traced, error: str
) -> None:
    # The first in each thread passes: in the main thread, that is the rehearsal when the server starts.
    inject = f"inject=openat:error={error}:when=2"
    server, _ = traced("-P", str(lab.inbox / STAGING), "-e", "trace=openat", "-e", inject)
    tls = log_in(server, 3)
    assert [send(tls, name, b"1") for name in ("a", "x", "y")] == [b"\x01", b"\x00", b"\x01"]
    assert lab.stored() == {"a": b"1", "y": b"1"}
    assert server.stop() == 0
    (rejected,) = server.events("file.reject")
    assert (rejected["name"], rejected["reason"]) == ("x", "NOSPACE" if error == "ENOSPC" else "IO")
    assert error in rejected["detail"]


@needs_strace
def test_D07_in_a_group_only_the_file_whose_sync_failed_is_lost(lab: Lab, log_in: LogIn, traced: Traced) -> None:
    inject = "inject=fsync:error=EIO:when=1"
    server, _ = traced("-P", str(lab.inbox / STAGING / "3"), "-e", "trace=fsync", "-e", inject)
    tls = log_in(server, 3)
    tls.sendall(b"".join(stranger.file(name, name.encode()) for name in ("a", "b", "c")))
    assert stranger.answers(tls, 3) == b"\x01\x00\x01"
    assert lab.stored() == {"a": b"a", "c": b"c"}


@needs_strace
def test_D01_a_directory_whose_sync_failed_shows_none_of_its_group(lab: Lab, log_in: LogIn, traced: Traced) -> None:
    server, _ = traced("-P", str(lab.inbox / "ana"), "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1")
    tls = log_in(server, 3)
    tls.sendall(b"".join(stranger.file(name, name.encode()) for name in ("a", "d/b", "c")))
    assert stranger.answers(tls, 3) == b"\x00\x00\x00"
    assert lab.stored() == {}
    assert not list((lab.inbox / "ana").iterdir())
    assert server.stop() == 0  # the fault comes back in each thread that syncs
    tls = log_in(lab.serve(), 3)
    assert [send(tls, name, name.encode()) for name in ("a", "d/b", "c")] == [stranger.ACCEPTED] * 3


@needs_strace
def test_P21_a_disk_without_hard_links_is_refused_at_the_start(lab: Lab, traced: Traced) -> None:
    with pytest.raises(AssertionError, match=r"has no hard links.*\n.*serve --inbox"):
        traced("-e", "trace=linkat", "-e", "inject=linkat:error=EPERM")
    assert not list((lab.inbox / STAGING).iterdir())


@needs_strace
@pytest.mark.root
@pytest.mark.parametrize("failing", ["2", "2..3"])
def test_P21_a_system_that_cannot_link_a_descriptor_does_it_another_way(
    lab: Lab, traced: Traced, tmpfs: Callable[..., Path], failing: str
) -> None:
    """The second link of all is the first try to give a file a name by its descriptor, the third is one by /proc."""
    tmpfs("mode=0700", lab.inbox)
    server, trace = traced("-e", "trace=linkat", "-e", f"inject=linkat:error=ENOENT:when={failing}")
    with ready(server.port, lab.ca, "ana", lab_module.PASSWORD) as speaker:
        speaker.say(eager(1, "x", b"content"), FINISH)
        assert speaker.until(messages.Committed, messages.Refuse) == messages.STORED
        speaker.until(messages.Summary)
        stranger.leave_in_order(speaker.tls)
    assert server.stop() == 0
    assert lab.stored() == {"x": b"content"}
    (line,) = [line for line in trace.read_text().splitlines() if f"<{lab.inbox / 'ana'}>" in line]
    assert ('"/proc/self/fd/' in line, f"<{lab.inbox / STAGING}>" in line) == (failing == "2", failing == "2..3")


# -- the order of things ---------------------------------------------------------------------------------------


SYNCS = {"fsync", "syncfs"}


@dataclass(eq=False)
class Call:
    """A system call of one thread: the paths of its descriptors, the strings among its arguments, when it began."""

    began: int
    thread: str
    name: str
    paths: list[str]
    strings: list[str]
    result: int


def calls(trace: Path) -> list[Call]:
    """Return what a trace holds in its order: a sync where it had ended, everything else where it began."""
    found: list[Call] = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(trace.read_text().splitlines()):
        thread, text = re.fullmatch(r"(\d+) +(.*)", line).groups()
        resumed = re.fullmatch(r"<\.\.\. \w+ resumed>.*\) += (-?\d+).*", text)
        if resumed:
            unfinished[thread].result = int(resumed[1])
            if unfinished[thread].name in SYNCS:
                found.remove(unfinished[thread])
                found.append(unfinished[thread])
            continue
        made = re.fullmatch(r"(\w+)\((.*?)(?:\) += (-?\d+).*| <unfinished \.\.\.>)", text)
        if made:
            paths, strings = re.findall(r"\d+<([^>]*)>", made[2]), re.findall(r'"([^"]*)"', made[2])
            found.append(Call(number, thread, made[1], paths, strings, int(made[3] or 0)))
            unfinished[thread] = found[-1]
    return found


def is_synced_whole(directory: Path) -> bool:
    """Whether the server syncs the file system of a directory with one call."""
    handle = os.open(directory, os.O_RDONLY)
    whole = Whole(handle, Rest())
    usable = whole.usable
    whole.close()
    os.close(handle)
    return usable


def answered(of_session: list[Call], files: int, protocol: int = 1) -> dict[int, int]:
    """Return at which of the calls how many files were answered for, from the sizes of the TLS records."""
    size, last = (1, None) if protocol == 1 else (12, messages.HEADER_SIZE + 16)  # of an answer, of a Summary
    sent = [
        (index, call.result - ANSWERS)
        for index, call in enumerate(of_session)
        if call.name == "write" and call.paths[0].startswith("socket:")
    ]
    assert sent.pop()[1] == 2, "the last is close_notify"
    assert last is None or sent.pop()[1] == last
    found: dict[int, int] = {}
    while sum(found.values()) < files:
        index, count = sent.pop()
        found[index] = count // size
        assert count == found[index] * size
    assert sum(found.values()) == files
    assert protocol == 2 or sent.pop()[1] == 1, "before the answers comes the login's"
    return found


def check_order(trace: Path, inbox: Path, files: int, protocol: int = 1) -> Counter[int]:
    """Assert write -> sync -> link -> sync of the directory, and of the parents of directories made -> answer.

    A sync of the whole file system is one of everything that was written before it began.
    Returns how many files each write to the socket answered for.
    """
    everything = calls(trace)
    (thread,) = {call.thread for call in everything if call.name == "linkat" and str(inbox / "ana") in call.paths[1]}
    of_session = [call for call in everything if call.thread == thread or call.name in SYNCS]  # threads help to sync
    answers = answered(of_session, files, protocol)
    unwritten: dict[str, int] = {}  # files with content that may not be on disk, and since when
    made: dict[str, int] = {}  # directories with one that was made in them, of which the same is to be said
    published: list[dict[str, int]] = []  # of each file that is linked: the directories that have to be synced for it
    told = 0
    for index, call in enumerate(of_session):
        match call.name:
            case "write" if STAGING in call.paths[0]:
                unwritten[call.paths[0]] = call.began
            case "mkdirat":
                made[call.paths[0]] = call.began
            case "linkat":
                file = f"{call.paths[0]}/{call.strings[0]}" if call.strings[0] else call.paths[0]
                assert STAGING in file
                assert file not in unwritten, "linked before it was synced"
                above = {str(parent) for parent in Path(call.paths[1]).parents}
                published.append({path: made[path] for path in above & made.keys()} | {call.paths[1]: call.began})
            case "fsync" | "syncfs":
                assert call.result == 0
                for waiting in (unwritten, made, *published):
                    for path in list(waiting):
                        if waiting[path] < call.began and (call.name == "syncfs" or path == call.paths[0]):
                            del waiting[path]
        if index in answers:
            told += answers[index]
            assert told <= len(published), "answered before it was linked"
            assert not any(published[:told]), "answered before its directory was synced"
    assert told == files == len(published)
    return Counter(answers.values())


TRACED_CALLS = "trace=write,sendto,fsync,fdatasync,syncfs,linkat,renameat,renameat2,mkdirat"


@needs_strace
def test_D09_every_file_is_synced_linked_and_its_directory_synced_before_its_answer(
    lab: Lab, log_in: LogIn, traced: Traced
) -> None:
    server, trace = traced("-e", TRACED_CALLS)
    names = ["x", "d/e/y", "d/z", "large"]
    tls = log_in(server, len(names))
    for name in names:
        assert send(tls, name, name.encode() * (1 + 200_000 * (name == "large"))) == stranger.ACCEPTED
    assert stranger.rest(tls) == b""
    tls.close()
    assert server.stop() == 0
    assert check_order(trace, lab.inbox, len(names)) == Counter({1: len(names)})


@needs_strace
def test_D09_the_same_holds_for_a_hundred_files_streamed_at_once(lab: Lab, log_in: LogIn, traced: Traced) -> None:
    server, trace = traced("-e", TRACED_CALLS)
    names = [f"d{number % 7}/{number % 3}/{number}" for number in range(100)]
    tls = log_in(server, len(names))
    tls.sendall(b"".join(stranger.file(name, name.encode()) for name in names))
    assert stranger.answers(tls, len(names)) == stranger.ACCEPTED * len(names)
    assert stranger.rest(tls) == b""
    tls.close()
    assert server.stop() == 0
    assert max(check_order(trace, lab.inbox, len(names))) > 10, "they were not committed in groups"


def stream_eagerly(lab: Lab, server: Server, count: int) -> None:
    """Have so many small files stored by protocol 2, and end the server."""
    files = [eager(number, f"d{number % 3}/{number}", b"%d" % number) for number in range(1, count + 1)]
    with ready(server.port, lab.ca, "ana", lab_module.PASSWORD) as speaker:
        for first in range(0, len(files), 100):
            speaker.say(*files[first : first + 100])
        for _ in files:
            assert speaker.until(messages.Committed, messages.Refuse) == messages.STORED
        speaker.say(FINISH)
        speaker.until(messages.Summary)
        stranger.leave_in_order(speaker.tls)
    assert server.stop() == 0


@needs_strace
def test_D09_and_while_more_of_them_come_than_one_group_takes(lab: Lab, traced: Traced) -> None:
    """In protocol 2, where others are received while those before them are made durable."""
    server, trace = traced("-e", TRACED_CALLS)
    stream_eagerly(lab, server, 500)
    assert len(check_order(trace, lab.inbox, 500, protocol=2)) > 1
    assert ("syncfs" in {call.name for call in calls(trace)}) == is_synced_whole(lab.inbox)


@needs_strace
@pytest.mark.root
def test_D09_it_holds_for_files_that_have_no_name_before_they_are_linked(
    lab: Lab, traced: Traced, tmpfs: Callable[..., Path]
) -> None:
    tmpfs("mode=0700", lab.inbox)
    server, trace = traced("-e", TRACED_CALLS)
    stream_eagerly(lab, server, 300)
    check_order(trace, lab.inbox, 300, protocol=2)
    linked = {call.strings[0] for call in calls(trace) if call.name == "linkat" and "/ana/d" in call.paths[1]}
    assert linked == {""}, "they have had names in staging"


@needs_strace
@pytest.mark.parametrize("count", [500, 2000])
def test_what_has_arrived_whole_is_stored_and_in_the_log_although_its_sender_vanishes(
    lab: Lab, traced: Traced, count: int
) -> None:
    """Each sync takes its time, so that the answers for most of them find nobody; of the larger number in the midst."""
    server, _ = traced("-e", "trace=fsync,syncfs", "-e", "inject=fsync,syncfs:delay_enter=100000")
    names = {f"{number}" for number in range(1, count)}
    with ready(server.port, lab.ca, "ana", lab_module.PASSWORD) as speaker:
        os.kill(server.process.pid, signal.SIGSTOP)  # so that all has arrived before any of it is read
        speaker.say(*(eager(int(name), name, name.encode()) for name in sorted(names, key=int)))
        os.kill(server.process.pid, signal.SIGCONT)
        speaker.until(messages.Committed)  # by then the others were read as well
        stranger.leave_by_reset(speaker.tls)
    server.wait_for("conn.close")
    assert set(lab.stored()) == names
    assert {event["name"] for event in server.events("file.ok")} == names


@needs_strace
def test_who_sends_faster_than_the_disk_takes_it_hears_that_the_server_lives(lab: Lab, traced: Traced) -> None:
    """The third group waits for room, longer than a sign of life may take, and before the first answer."""
    server, _ = traced("-e", "trace=fsync,syncfs", "-e", "inject=fsync,syncfs:delay_enter=3s")
    with contextlib.ExitStack() as stack:
        stack.callback(server.process.kill)  # it would take its time
        speaker = stack.enter_context(ready(server.port, lab.ca, "ana", lab_module.PASSWORD))
        speaker.say(*(eager(number, f"{number}", b"%d" % number) for number in range(1, 400)))
        heard = speaker.hear()
        assert heard
        assert heard[1] == messages.Alive()


@needs_strace
def test_D07_where_the_whole_cannot_be_synced_each_file_of_a_group_is_asked_for(
    lab: Lab, log_in: LogIn, traced: Traced
) -> None:
    server, trace = traced("-e", "trace=fsync,syncfs", "-e", "inject=syncfs:error=EIO")
    names = "abcdefghij"
    tls = log_in(server, len(names))
    tls.sendall(b"".join(stranger.file(name, name.encode()) for name in names))
    assert stranger.answers(tls, len(names)) == stranger.ACCEPTED * len(names)
    assert lab.stored() == {name: name.encode() for name in names}
    synced = [call for call in calls(trace) if call.name == "fsync" and STAGING in call.paths[0]]
    assert len({call.paths[0] for call in synced}) == len(names) + 1  # and the server's trial
    assert [call.result for call in calls(trace) if call.name == "syncfs"] == [-1] * is_synced_whole(lab.inbox)


@needs_strace
def test_D09_D12_what_stands_there_already_is_synced_before_its_answer(lab: Lab, log_in: LogIn, traced: Traced) -> None:
    """Whoever wrote it, and whether or not it was on disk: "stored" means that it is."""
    (lab.inbox / "ana").mkdir(parents=True, mode=0o700)
    (lab.inbox / "ana" / "x").write_bytes(b"the same")
    server, trace = traced("-e", TRACED_CALLS)
    tls = log_in(server, 1)
    assert send(tls, "x", b"the same") == stranger.ACCEPTED
    assert stranger.rest(tls) == b""
    tls.close()
    assert server.stop() == 0
    assert [event["outcome"] for event in server.events("file.ok")] == ["unchanged"]
    everything = calls(trace)
    synced = [call for call in everything if call.name == "fsync" and call.paths[0] == str(lab.inbox / "ana" / "x")]
    of_session = [call for call in everything if call.thread == synced[0].thread]
    assert [call.result for call in synced] == [0]
    assert of_session.index(synced[0]) < min(answered(of_session, 1))


# -- kill -9 ---------------------------------------------------------------------------------------------------


@needs_strace
def test_the_files_before_a_large_one_are_published_before_it_is_written(lab: Lab, traced: Traced) -> None:
    server, trace = traced("-e", TRACED_CALLS)
    large = stranger.file("large", bytes(8 << 20))
    begin = stranger.login("ana", lab_module.PASSWORD) + stranger.count(2) + stranger.file("small", b"x")
    with stranger.connect(server.port, str(lab.ca)) as tls:
        tls.sendall(begin + large[: 1 << 20])  # there while the password is verified, so that the server need not wait
        tls.sendall(large[1 << 20 :])
        assert stranger.answers(tls, 3) == stranger.ACCEPTED * 3
    assert server.stop() == 0
    of_large = [call.name == "write" and call.result > 1 and STAGING in call.paths[0] for call in calls(trace)]
    linked = [call.name == "linkat" and call.paths[1] == str(lab.inbox / "ana") for call in calls(trace)]
    assert linked.index(True) < of_large.index(True)


def content_of(name: str) -> bytes:
    """Return the content that the file of this name has: another for each, up to 300 KiB, now and then 2 MiB."""
    chance = random.Random(name)
    return chance.randbytes(2 << 20 if chance.random() < 0.05 else chance.randrange(300 << 10))


def stream_until_killed(tls: stranger.Tls, names: Iterator[str]) -> list[str]:
    """Send one file after the other without waiting; return those whose answer came."""
    sent: list[str] = []
    answered = b""
    with contextlib.suppress(OSError):  # the end comes at any moment
        for name in names:
            tls.sendall(stranger.file(name, content_of(name)))
            sent.append(name)
            while tls.pending() or select.select([tls], [], [], 0)[0]:
                answered += tls.recv(1)
        answered += stranger.answers(tls, len(sent) - len(answered))
    assert set(answered) <= {1}
    return sent[: len(answered)]


def check_after_death(lab: Lab, acknowledged: set[str]) -> None:
    """Assert that what is visible is complete, and that all that was acknowledged is visible."""
    place = lab.inbox / "ana"
    found = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    for name, path in found.items():
        assert path.read_bytes() == content_of(name), f"{name} is not what was sent"
    assert acknowledged <= set(found)


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_any_moment_loses_nothing_acknowledged_and_shows_nothing_incomplete(
    lab: Lab, log_in: LogIn, seed: int
) -> None:
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    server = lab.serve()
    for round_number in range(5):
        tls = log_in(server, 100_000)
        killer = threading.Timer(chance.uniform(0.01, 0.4), server.process.kill)
        killer.start()
        acknowledged |= set(stream_until_killed(tls, (f"{round_number}/{number}" for number in range(100_000))))
        killer.join()
        server.process.wait(10)
        check_after_death(lab, acknowledged)
        server = lab.serve()
        assert not list((lab.inbox / STAGING).iterdir()), "what was left has to be swept at the start"
        check_after_death(lab, acknowledged)
    assert acknowledged
    assert server.stop() == 0


MOMENTS = {
    "write": ("write", f"{STAGING}/3", 1),
    "fsync of the file": ("fsync", f"{STAGING}/3", 1),
    "link": ("linkat", "ana", 2),
    "fsync of the directory": ("fsync", "ana", 2),
    "unlink from staging": ("unlinkat", STAGING, 3),  # those before are the rehearsal's, in another thread
}


def rehearses_nameless(directory: Path) -> bool:
    """Whether a server makes a file without a name, and gives it one, on the file system of a directory."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        return nameless.way(handle, "probe") is not None
    finally:
        os.close(handle)


@needs_strace
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_just_before_each_step_of_a_commit(lab: Lab, log_in: LogIn, traced: Traced, moment: str) -> None:
    call, path, when = MOMENTS[moment]
    when += call == "unlinkat" and rehearses_nameless(lab.home)
    names = ["a", "b", "c", "d", "e"]
    server, _ = traced(
        *("-P", str(lab.inbox / path), "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}")
    )
    tls = log_in(server, len(names))
    acknowledged = []
    with contextlib.suppress(OSError):
        acknowledged = [name for name in names if send(tls, name, content_of(name)) == stranger.ACCEPTED]
    server.process.wait(10)
    assert len(acknowledged) < len(names), "it was not killed"
    check_after_death(lab, set(acknowledged))
    if moment == "unlink from staging":
        (left,) = (lab.inbox / STAGING).iterdir()
        assert left.stat().st_nlink == 2
    again = lab.serve()
    assert not list((lab.inbox / STAGING).iterdir())
    tls = log_in(again, len(names))
    assert [send(tls, name, content_of(name)) for name in names] == [stranger.ACCEPTED] * len(names)
    assert lab.stored() == {name: content_of(name) for name in names}


# -- the log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["deleted", "moved"])
def test_D13_a_log_that_is_deleted_or_moved_holds_nobody_up(lab: Lab, log_in: LogIn, fate: str) -> None:
    """As `rm` and logrotate do it: the server writes on into the file that it has, wherever that is now."""
    server = lab.serve()
    tls = log_in(server, 200)
    assert send(tls, "before", b"1") == stranger.ACCEPTED
    moved = server.log_path.rename(lab.home / "moved.log")
    if fate == "deleted":
        moved.unlink()
    tls.sendall(b"".join(stranger.file(str(number), b"1") for number in range(199)))
    assert stranger.answers(tls, 199) == stranger.ACCEPTED * 199
    assert stranger.rest(tls) == b""
    tls.close()
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert len(lab.stored()) == 200
    if fate == "moved":
        server.log_path = moved
        assert len(server.events("file.ok")) == 200
        assert server.events("server.stop")


# -- the same name, the same file ------------------------------------------------------------------------------


def test_D11_of_two_senders_with_one_name_at_the_same_moment_exactly_one_is_stored(lab: Lab, log_in: LogIn) -> None:
    rounds = 100
    server = lab.serve()
    barrier = threading.Barrier(2)
    answers: dict[bytes, list[bytes]] = {b"A": [], b"B": []}

    def run(letter: bytes) -> None:
        tls = log_in(server, rounds)
        for number in range(rounds):
            content = letter * (1 + 1000 * number)
            barrier.wait(20)
            answers[letter].append(send(tls, str(number), content))

    threads = [threading.Thread(target=run, args=(letter,)) for letter in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = lab.stored()
    for number, pair in enumerate(zip(answers[b"A"], answers[b"B"], strict=True)):
        assert sorted(pair) == [REFUSED, stranger.ACCEPTED], f"round {number}"
        winner = (b"A", b"B")[pair.index(stranger.ACCEPTED)]
        assert stored[str(number)] == winner * (1 + 1000 * number)
    assert len(stored) == rounds


def test_D12_a_sender_that_died_before_its_answer_sends_again_with_success(
    lab: Lab, log_in: LogIn, tmp_path: Path
) -> None:
    server = lab.serve()
    tls = log_in(server, 1)
    tls.sendall(stranger.file("x.csv", b"results"))
    server.wait_for("file.ok")
    stranger.leave_by_reset(tls)
    source = tmp_path / "x.csv"
    source.write_bytes(b"results")
    done = lab.send(server, source)
    assert done.returncode == 0, done.stderr
    assert server.stop() == 0
    assert [event["outcome"] for event in server.events("file.ok")] == ["stored", "unchanged"]
    assert lab.stored() == {"x.csv": b"results"}


# -- full disks ------------------------------------------------------------------------------------------------


def free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bfree * found.f_frsize


@pytest.mark.root
def test_D01_a_disk_that_fills_up_in_the_middle_of_a_file(lab: Lab, log_in: LogIn, tmpfs: Tmpfs) -> None:
    disk = tmpfs("size=16m")
    server = lab.serve("--inbox", str(disk / "inbox"))
    lab.inbox = disk / "inbox"
    tls = log_in(server, 3)
    assert send(tls, "first", bytes(1000)) == stranger.ACCEPTED
    before = free_bytes(disk)
    whole = stranger.file("large", os.urandom(12 << 20))
    tls.sendall(whole[: 8 << 20])
    wait_until(lambda: any(path.stat().st_size > 1 << 20 for path in (disk / "inbox" / STAGING).iterdir()))
    with contextlib.suppress(OSError), (disk / "somebody else's").open("wb", buffering=0) as other:
        while other.write(bytes(65536)):
            pass
    tls.sendall(whole[8 << 20 :])
    assert stranger.answers(tls, 1) == REFUSED
    (disk / "somebody else's").unlink()
    assert lab.stored() == {"first": bytes(1000)}
    assert free_bytes(disk) == before
    assert send(tls, "small", b"next") == stranger.ACCEPTED
    assert lab.stored() == {"first": bytes(1000), "small": b"next"}
    tls.close()
    assert server.stop() == 0
    assert [(event["reason"], event["name"]) for event in server.events("file.reject")] == [("NOSPACE", "large")]


@pytest.mark.root
@pytest.mark.parametrize("name", ["x", "a/b/c/d/e/f/g/h/x"])
def test_D02_a_disk_without_inodes(lab: Lab, log_in: LogIn, tmpfs: Tmpfs, name: str) -> None:
    """With none left a file is refused before it comes; with too few for its directories, none of them stays."""
    disk = tmpfs("size=8m,nr_inodes=20")
    server = lab.serve("--inbox", str(disk / "inbox"))
    lab.inbox = disk / "inbox"
    tls = log_in(server, 3)
    assert send(tls, "first", b"1") == stranger.ACCEPTED
    left = 0 if name == "x" else 4
    number = 0
    while os.statvfs(disk).f_ffree > left:
        (disk / f"somebody else's {number}").touch()
        number += 1
    assert send(tls, name, b"2") == REFUSED
    assert lab.stored() == {"first": b"1"}
    assert [path.name for path in (disk / "inbox/ana").rglob("*")] == ["first"]
    assert os.statvfs(disk).f_ffree == left
    for number in range(2):  # there a link takes an inode, too
        (disk / f"somebody else's {number}").unlink()
    assert send(tls, "y", b"3") == stranger.ACCEPTED
    assert lab.stored() == {"first": b"1", "y": b"3"}
    tls.close()
    assert server.stop() == 0
    assert [event["reason"] for event in server.events("file.reject")] == ["NOSPACE"]


@pytest.mark.root
def test_D05_a_disk_of_64_MiB_works_and_its_reserve_stays_free(lab: Lab, tmpfs: Tmpfs, tmp_path: Path) -> None:
    disk = tmpfs("size=64m")
    server = lab.serve("--inbox", str(disk / "inbox"))
    lab.inbox = disk / "inbox"
    for name, size in (("fits", 50 << 20), ("too-much", 12 << 20), ("small", 1 << 20)):
        (tmp_path / name).write_bytes(bytes(size))
        done = lab.send(server, tmp_path / name)
        assert done.returncode == (5 if name == "too-much" else 0), done.stderr
    assert {name: len(content) for name, content in lab.stored().items()} == {"fits": 50 << 20, "small": 1 << 20}
    assert free_bytes(disk) >= (64 << 20) // 20
    assert server.stop() == 0
    assert [event["reason"] for event in server.events("file.reject")] == ["NOSPACE"]


@pytest.mark.root
def test_D06_a_disk_that_is_read_only_is_refused_at_the_start(lab: Lab, tmpfs: Tmpfs) -> None:
    disk = tmpfs("size=8m")
    (disk / "inbox").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(AssertionError, match=r"inbox cannot be used: Read-only file system"):
        lab.serve("--inbox", str(disk / "inbox"))


@pytest.mark.root
@pytest.mark.parametrize("policy", ["refuse", "replace"])
@pytest.mark.parametrize("kind", ["another disk", "a bind mount of the same disk"])
def test_P23_a_mount_inside_the_inbox_gets_nothing_and_harms_nobody(
    lab: Lab, log_in: LogIn, tmpfs: Tmpfs, tmp_path: Path, kind: str, policy: str
) -> None:
    """A file is linked from staging, and link(2) does not lead into another mount; nothing is copied there instead."""
    with contextlib.ExitStack() as stack:
        (lab.inbox / "ana" / "m").mkdir(parents=True)
        lab.inbox.chmod(0o700)
        outside = tmpfs("size=8m") if kind == "another disk" else tmp_path / "outside"
        outside.mkdir(exist_ok=True)
        (outside / "theirs").write_text("as it was")
        subprocess.run(["mount", "--bind", str(outside), str(lab.inbox / "ana/m")], check=True)
        stack.callback(subprocess.run, ["umount", "-l", str(lab.inbox / "ana/m")], check=True)
        server = lab.serve("--on-conflict", policy)
        tls = log_in(server, 4)
        for name in ("m/x", "m/d/e/x", "m/theirs"):
            assert send(tls, name, b"1") == REFUSED
        assert send(tls, "x", b"1") == stranger.ACCEPTED
        tls.close()
        assert server.stop() == 0
        assert [path.name for path in outside.rglob("*")] == ["theirs"]
        assert (outside / "theirs").read_text() == "as it was"
        found = {(event["name"], event["reason"]) for event in server.events("file.reject")}
        taken = ("m/theirs", "IO" if policy == "replace" else "EXISTS")
        assert found == {("m/x", "IO"), ("m/d/e/x", "IO"), taken}
        assert "EXDEV" in server.events("file.reject")[0]["detail"]
    assert lab.stored() == {"x": b"1"}


@pytest.mark.root
def test_P23_an_inbox_that_is_a_mount_works(lab: Lab, log_in: LogIn, tmpfs: Tmpfs) -> None:
    lab.inbox = tmpfs("size=8m,mode=0700")
    tls = log_in(lab.serve("--inbox", str(lab.inbox)), 1)
    assert send(tls, "d/x", b"1") == stranger.ACCEPTED
    assert lab.stored() == {"d/x": b"1"}


@pytest.mark.parametrize("target", ["/proc/self/root", "/proc/self/cwd", "/proc/self/fd/1", "/dev/stderr"])
def test_P23_a_magic_link_inside_leads_nowhere(lab: Lab, log_in: LogIn, target: str) -> None:
    """The kernel's own links, which need no path to exist, are links like any other: not followed."""
    (lab.inbox / "ana").mkdir(parents=True)
    lab.inbox.chmod(0o700)
    (lab.inbox / "ana/link").symlink_to(target)
    (lab.inbox / "bruno").symlink_to(target)
    server = lab.serve("--on-conflict", "replace")
    tls = log_in(server, 2)
    assert send(tls, "link/x", b"1") == REFUSED
    assert send(tls, "x", b"1") == stranger.ACCEPTED
    with stranger.connect(server.port, str(lab.ca)) as other:
        assert stranger.log_in(other, "bruno", lab_module.PASSWORD)
        assert not any(stranger.send(other, [("x", b"1")]))
    tls.close()
    assert server.stop() == 0
    assert (lab.inbox / "ana/link").readlink() == Path(target)
    (lab.inbox / "ana/link").unlink()
    assert lab.stored() == {"x": b"1"}
