"""What a commit does to the disk, and in which order, as the system calls tell: groups, times, modes, directories."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from test_disk_faults import Call, calls, needs_strace

from securexfer.names import STAGING_NAME
from securexfer.storage.ledger import LEDGER_NAME

if TYPE_CHECKING:
    from pathlib import Path

TRACED = "trace=write,pwrite64,fsync,fdatasync,syncfs,linkat,renameat,renameat2,mkdirat,fchmod,utimensat,unlinkat"
ANSWER = "stdout"  # what the child writes there stands for what a session answers

# Files of 3 KiB in groups, with an mtime and now and then an x bit; a large one that is resumed; directories.
CHILD = """
import hashlib, os, sys
from pathlib import Path
from securexfer.errors import TruncatedError
from securexfer.names import Name
from securexfer.storage import resumable
from securexfer.storage.base import Description, OnConflict, in_one
from securexfer.storage.local import Inbox, Rules

resumable.SYNC_BYTES = 1 << 20
inbox = Inbox(Path(sys.argv[1]), Rules(durable=sys.argv[2] == "full"))
answers = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT)
storage = inbox.for_user("ana", policy=OnConflict.REPLACE, send_id=b"1" * 16)

def sealed(staging, content, rest):
    with staging:
        staging.write(memoryview(rest))
        staging.seal(hashlib.sha256(content).digest())
    return staging

def commit(group):
    results = storage.commit(group)
    assert {type(result).__name__ for result in results} == {"Committed"}, results
    os.write(answers, b"." * len(results))

def file(name, size, number):
    return Description(Name.parse(name), size, 10**18 + number, number % 3 == 0)

content = bytes(3000)
for first in (0, 40):
    group = []
    for number in range(first, first + 40):
        offered = storage.offer(file(f"d{number % 5}/{number}", 3000, number), fresh=False)
        group.append(sealed(offered.stage(resume=False), content, content))
    commit(group)
def take(number):
    found = file(f"d{number % 5}/{number}", 3000, number)
    return storage.take(found, memoryview(content), hashlib.sha256(content).digest())

commit([take(number) for number in range(80, 120)])  # files that have no name until they are linked
commit([sealed(storage.stage(file("d0/0", 3001, 1)), content + b"1", content + b"1")])  # takes the place of another
large = bytes(3 << 20)
staging = storage.offer(file("large", len(large), 0), fresh=False).stage(resume=False)
try:
    with staging:
        staging.write(memoryview(large)[: 2 << 20])
        raise TruncatedError("the end")
except TruncatedError:
    offered = storage.offer(file("large", len(large), 0), fresh=False)
assert offered.have == 2 << 20
commit([sealed(offered.stage(resume=True), large, large[2 << 20 :])])
for name in ("d0", "empty/deep"):
    assert in_one(storage.make_directories([Description(Name.parse(name), 0, 10**18)]))
    os.write(answers, b".")
"""


def traced(tmp_path: Path, durability: str) -> tuple[list[Call], Path]:
    trace, inbox = tmp_path / "trace", tmp_path / "inbox"
    (tmp_path / "child.py").write_text(CHILD)
    command = ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-s", "0", "-e", TRACED, "-o", str(trace)]
    child = [sys.executable, str(tmp_path / "child.py"), str(inbox), durability, str(tmp_path / ANSWER)]
    done = subprocess.run([*command, *child], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [call for call in calls(trace) if not any(LEDGER_NAME in path for path in call.paths)]
    return found, inbox


@needs_strace
def test_D09_D17_content_mode_and_times_are_synced_before_the_link_and_the_directory_before_the_answer(
    tmp_path: Path,
) -> None:
    everything, inbox = traced(tmp_path, "full")
    changed: dict[str, set[str]] = {}  # files: what was done to them since they were synced
    entries: set[str] = set()  # directories with an entry, or a time, that may not be on disk
    published = told = 0
    for call in everything:
        path = call.paths[0] if call.paths else ""
        if call.name == "write" and path.endswith(f"/{ANSWER}"):
            told += call.result
            assert not entries, "answered before the directories were synced"
            assert told <= published
        elif call.name in {"write", "fchmod", "utimensat"} and STAGING_NAME in path:
            changed.setdefault(path, set()).add(call.name)
        elif call.name == "utimensat":
            entries.add(path)
            published += path == str(inbox / "ana/d0")
        elif call.name == "mkdirat":
            entries.add(path)
            published += call.strings == ["deep"]
        elif call.name == "fsync":
            assert call.result == 0
            if STAGING_NAME in path:
                changed[path] = set()
            entries.discard(path)
        elif call.name == "syncfs":
            assert call.result == 0
            changed = {path: set() for path in changed}
            entries.clear()
        elif call.name in {"linkat", "renameat"} and not call.result and str(inbox / "ana") in call.paths[1]:
            file = f"{path}/{call.strings[0]}" if call.strings[0] else path  # or what had no name until now
            assert changed[file] == set(), "visible before all of it was synced"
            entries.add(call.paths[1])
            published += 1
    assert told == published == 124
    assert {(inbox / "ana" / name).stat().st_mtime_ns for name in ("d0", "empty/deep")} == {10**18}
    for number in range(1, 120):
        found = (inbox / f"ana/d{number % 5}/{number}").stat()
        assert (found.st_mtime_ns, found.st_mode & 0o777) == (10**18 + number, 0o600 if number % 3 else 0o700)


@needs_strace
def test_the_syncs_of_a_group_are_shared_and_a_partial_file_is_synced_on_its_way(tmp_path: Path) -> None:
    everything, inbox = traced(tmp_path, "full")
    synced = Counter(call.paths[0] for call in everything if call.name == "fsync")
    # One for each group; but a sync of the whole file system may do for that of files that have had no name.
    assert synced[str(inbox / "ana/d1")] in {2, 3}
    (partial,) = [path for path in synced if "/partial-" in path]
    assert synced[partial] >= 2


@needs_strace
def test_without_durability_nothing_is_synced_at_all(tmp_path: Path) -> None:
    """Not even the database: but once, so that its rows are known not to outlive the machine's run."""
    trace = tmp_path / "trace"
    traced(tmp_path, "none")
    begun = re.findall(r"f(?:data)?sync\(\d+<([^>]*)>", trace.read_text())
    assert [path for path in begun if LEDGER_NAME not in path and path != str(tmp_path / "inbox")] == []
    before = len(begun)
    (tmp_path / "inbox/ana").rename(tmp_path / "before")
    traced(tmp_path, "none")
    assert re.findall(r"f(?:data)?sync\(|syncfs\(", trace.read_text()) == [], f"{before} for a database that is new"
