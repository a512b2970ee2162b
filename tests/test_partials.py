"""A large file that comes in part is kept, for a week, for whoever sends it again: one transfer at a time goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from securexfer.errors import (
    BusyError,
    ChangedError,
    DigestMismatchError,
    NoSpaceError,
    PeerTimeoutError,
    QuotaExceededError,
    SessionEndedError,
    ShuttingDownError,
    StorageFailedError,
    TruncatedError,
)
from securexfer.names import STAGING_NAME, Name
from securexfer.storage import ledger as ledgers
from securexfer.storage import partials, resumable
from securexfer.storage.base import Committed, Description, OnConflict, Outcome
from securexfer.storage.local import Inbox, Rules
from securexfer.storage.resumable import ResumableStaging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from securexfer.storage.base import Staging
    from securexfer.storage.offers import LocalOffered
    from securexfer.storage.user import UserStorage

MIB = 1 << 20
X = Name.parse("d/x")
CONTENT = os.urandom(3 * MIB)
DIGEST = hashlib.sha256(CONTENT).digest()
FIRST, SECOND = b"1" * 16, b"2" * 16


@pytest.fixture
def reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the machine be started anew, as far as an inbox can tell."""
    place = tmp_path / "boot_id"
    place.write_text("boot 0\n")
    monkeypatch.setattr(ledgers, "_BOOT_ID", place)

    def start_anew() -> None:
        place.write_text(f"{place.read_text().strip()}+1\n")

    return start_anew


def described(size: int = len(CONTENT), mtime_ns: int | None = 10**18, name: Name = X) -> Description:
    return Description(name, size, mtime_ns)


def offer(storage: UserStorage, file: Description | None = None, *, fresh: bool = False) -> LocalOffered:
    return storage.offer(file or described(), fresh=fresh)


def here(storage: UserStorage, file: Description | None = None, *, fresh: bool = False) -> int:
    """Return how much of a file is here, and leave it."""
    offered = offer(storage, file, fresh=fresh)
    offered.drop()
    return offered.have


def begin(storage: UserStorage, length: int, *, file: Description | None = None) -> Staging:
    """Begin a file, as far as `length`; nothing of it is here."""
    offered = offer(storage, file)
    assert offered.have == 0
    staging = offered.stage(resume=False)
    staging.write(memoryview(CONTENT)[:length])
    return staging


def end(staging: Staging, error: Exception) -> None:
    with contextlib.suppress(type(error)), staging:
        raise error


def break_off(storage: UserStorage, length: int = 2 * MIB, *, file: Description | None = None) -> None:
    """Leave the beginning of a file, as when its connection ends."""
    end(begin(storage, length, file=file), TruncatedError("the end"))


def finish(storage: UserStorage, staging: Staging, rest: bytes) -> Committed:
    with staging:
        staging.write(memoryview(rest))
        staging.seal(DIGEST)
    (result,) = storage.commit([staging])
    assert isinstance(result, Committed), result
    return result


def staged(inbox: Inbox) -> list[str]:
    return [path.name for path in (inbox.path / STAGING_NAME).iterdir()]


def no_tick() -> None:
    """Do nothing, often."""


# -- kept, and resumed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TruncatedError, SessionEndedError, PeerTimeoutError, ShuttingDownError])
def test_what_came_before_the_connection_ended_is_resumed_and_stored(
    make_inbox: Callable[..., Inbox], error: type[Exception]
) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    end(begin(storage, 2 * MIB), error("the end"))
    assert not [path for path in (inbox.path / "ana").rglob("*") if path.is_file()]
    storage = inbox.for_user("ana", send_id=SECOND)
    offered = offer(storage)
    assert (offered.have, offered.stands, offered.known) == (2 * MIB, False, False)
    digest = offered.prefix(no_tick)
    assert digest.digest() == hashlib.sha256(CONTENT[: 2 * MIB]).digest()
    digest.update(memoryview(CONTENT)[2 * MIB :])
    assert digest.digest() == DIGEST
    assert finish(storage, offered.stage(resume=True), CONTENT[2 * MIB :]) == Committed(Outcome.STORED, X)
    stored = inbox.path / "ana/d/x"
    assert stored.read_bytes() == CONTENT
    assert (stored.stat().st_mtime_ns, stored.stat().st_nlink) == (10**18, 1)
    assert staged(inbox) == []
    again = offer(storage)
    assert (again.have, again.stands, again.known) == (len(CONTENT), True, True)
    assert inbox.space._promised == 0


def test_a_file_that_is_resumed_has_the_mode_of_the_rules(make_inbox: Callable[..., Inbox]) -> None:
    """Whatever a server before made of it, with other rules perhaps, before it was ended."""
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    (kept,) = (path for path in (inbox.path / STAGING_NAME).iterdir() if path.is_file())
    kept.chmod(0o640)
    staging = offer(storage).stage(resume=True)
    finish(storage, staging, CONTENT[2 * MIB :])
    assert (inbox.path / "ana/d/x").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [DigestMismatchError, NoSpaceError, StorageFailedError, ZeroDivisionError])
def test_what_ends_by_anything_else_is_not_kept(make_inbox: Callable[..., Inbox], error: type[Exception]) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    end(begin(storage, 2 * MIB), error("no end of the connection"))
    assert staged(inbox) == []
    assert here(storage) == 0
    with begin(storage, 2 * MIB):
        pass  # left in order, and not sealed
    assert staged(inbox) == []
    assert inbox.space._promised == 0


def test_small_files_and_sends_without_an_id_and_what_was_not_offered_are_not_kept(
    make_inbox: Callable[..., Inbox],
) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage, MIB - 1, file=described(MIB - 1))
    break_off(inbox.for_user("ana"))
    end(storage.stage(described()), TruncatedError("the end"))
    break_off(storage, 0)  # nothing came
    assert staged(inbox) == []


def test_a_partial_file_counts_for_less_than_a_whole_one(make_inbox: Callable[..., Inbox]) -> None:
    """So that "all of it is here" means one thing: it stands under its name."""
    storage = make_inbox().for_user("ana", send_id=FIRST)
    break_off(storage, len(CONTENT))
    offered = offer(storage)
    assert (offered.have, offered.stands) == (len(CONTENT) - 1, False)
    assert finish(storage, offered.stage(resume=True), CONTENT[-1:]).outcome is Outcome.STORED


def test_sent_from_the_start_after_all(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(quota=len(CONTENT))
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    assert finish(storage, offer(storage).stage(resume=False), CONTENT).outcome is Outcome.STORED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT
    assert inbox.space._promised == 0


def test_other_bytes_are_discarded_and_the_file_is_offered_anew(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    assert isinstance(offer(storage).differs(), ChangedError)
    assert staged(inbox) == []
    assert here(storage, fresh=True) == 0
    break_off(storage)
    offered = offer(storage, fresh=True)
    assert (offered.have, staged(inbox)) == (0, [])
    offered.drop()
    assert inbox.space._promised == 0


@pytest.mark.parametrize(
    "other", [described(len(CONTENT) + 1), described(mtime_ns=10**18 + 1), described(mtime_ns=None)]
)
def test_a_source_of_another_size_or_mtime_begins_anew(make_inbox: Callable[..., Inbox], other: Description) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    assert here(storage, other) == 0
    assert staged(inbox) == []


def test_each_user_and_name_has_its_own(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    ana, bruno = (inbox.for_user(user, send_id=FIRST) for user in ("ana", "bruno"))
    break_off(ana)
    assert here(bruno) == here(ana, described(name=Name.parse("d/y"))) == 0
    break_off(bruno, MIB)
    assert [here(each) for each in (ana, bruno)] == [2 * MIB, MIB]


def test_a_dropped_offer_leaves_what_is_here(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(quota=len(CONTENT))
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    for _ in range(3):
        offered = offer(storage)
        assert offered.have == 2 * MIB
        offered.drop()
    assert storage.room() == (MIB, None)
    assert inbox.space._promised == 0


# -- one transfer at a time ------------------------------------------------------------------------------------


def test_the_same_send_takes_a_file_over_and_no_byte_of_the_old_one_lands_after(
    make_inbox: Callable[..., Inbox],
) -> None:
    inbox = make_inbox(quota=len(CONTENT))
    old = begin(inbox.for_user("ana", send_id=FIRST), MIB)
    storage = inbox.for_user("ana", send_id=FIRST)
    offered = offer(storage)
    assert offered.have == MIB
    with pytest.raises(BusyError, match="another transfer of 'd/x' has taken over"):
        old.write(memoryview(b"x" * MIB))
    with pytest.raises(BusyError):
        old.seal(DIGEST)
    end(old, TruncatedError("the end"))
    assert finish(storage, offered.stage(resume=True), CONTENT[MIB:]).outcome is Outcome.STORED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT
    assert staged(inbox) == []
    assert inbox.space._promised == 0


def test_a_takeover_at_any_moment_of_a_write(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    for _ in range(30):
        old = begin(inbox.for_user("ana", send_id=FIRST), 1)
        taken = threading.Event()
        ended = threading.Event()

        def write(old: Staging = old, taken: threading.Event = taken, ended: threading.Event = ended) -> None:
            with contextlib.suppress(BusyError), old:
                while not taken.is_set():
                    old.write(memoryview(b"o"))
                old.write(memoryview(b"LATE"))
            ended.set()

        thread = threading.Thread(target=write)
        thread.start()
        storage = inbox.for_user("ana", send_id=FIRST)
        offered = offer(storage)
        (name,) = staged(inbox)
        length = (inbox.path / STAGING_NAME / name).stat().st_size
        assert length == offered.have
        taken.set()
        assert ended.wait(10)
        thread.join()
        assert (inbox.path / STAGING_NAME / name).stat().st_size == length
        offered.differs()
    assert staged(inbox) == []


def test_another_send_stages_apart_until_the_first_has_been_silent(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make_inbox()
    first = begin(inbox.for_user("ana", send_id=FIRST), MIB)
    storage = inbox.for_user("ana", send_id=SECOND)
    apart = offer(storage).stage(resume=False)
    assert not isinstance(apart, ResumableStaging)
    apart.discard()
    monkeypatch.setattr(partials, "SILENCE_SECONDS", 0.0)
    offered = offer(storage)
    assert offered.have == MIB
    with pytest.raises(BusyError):
        first.write(memoryview(b"x"))
    first.discard()
    assert finish(storage, offered.stage(resume=True), CONTENT[MIB:]).outcome is Outcome.STORED


def test_what_is_sealed_is_taken_over_by_nobody(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "SILENCE_SECONDS", 0.0)
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    sealed = begin(storage, len(CONTENT))
    with sealed:
        sealed.seal(DIGEST)
    again = offer(inbox.for_user("ana", send_id=FIRST))
    assert again.have == 0
    again.drop()
    assert [type(result) for result in storage.commit([sealed])] == [Committed]
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT


def test_a_send_that_offers_a_name_twice_does_not_take_it_from_itself(make_inbox: Callable[..., Inbox]) -> None:
    storage = make_inbox().for_user("ana", send_id=FIRST)
    first = begin(storage, MIB)
    second = begin(storage, MIB)
    assert not isinstance(second, ResumableStaging)
    second.discard()
    assert finish(storage, first, CONTENT[MIB:]).outcome is Outcome.STORED


def test_who_is_taken_over_before_the_first_byte_is_told(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(quota=len(CONTENT))
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    old = offer(storage)
    new = offer(inbox.for_user("ana", send_id=FIRST))
    assert new.have == 2 * MIB
    with pytest.raises(BusyError):
        old.prefix(no_tick)
    with pytest.raises(BusyError):
        old.stage(resume=True)
    old.drop()
    new.drop()
    assert storage.room() == (MIB, None)
    assert inbox.space._promised == 0


# -- room ------------------------------------------------------------------------------------------------------


def test_partial_files_count_towards_the_quota_and_are_no_obstacle_to_themselves(
    make_inbox: Callable[..., Inbox],
) -> None:
    for restart in (False, True):  # counted up, and counted anew
        inbox = make_inbox(quota=len(CONTENT))
        storage = inbox.for_user("ana", send_id=FIRST)
        if not restart:
            break_off(storage)
        assert storage.room() == (MIB, None)
        with pytest.raises(QuotaExceededError):
            offer(storage, described(MIB + 1, name=Name.parse("y")))
        offer(storage).drop()
    assert finish(storage, offer(storage).stage(resume=True), CONTENT[2 * MIB :]).outcome is Outcome.STORED
    assert storage.room() == (0, None)
    assert inbox.space._promised == 0


def test_no_room_for_the_rest_leaves_what_is_here(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(quota=len(CONTENT))
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage, MIB)
    other = offer(storage, described(2 * MIB, name=Name.parse("y")))
    with pytest.raises(QuotaExceededError):
        offer(storage)
    other.drop()
    assert here(storage) == MIB


@pytest.mark.root
def test_D01_a_disk_that_fills_up_leaves_nothing_of_a_large_file(tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("size=8m")
    inbox = Inbox(disk / "inbox", Rules())
    storage = inbox.for_user("ana", send_id=FIRST)
    staging = begin(storage, MIB)
    (disk / "somebody else's").write_bytes(bytes(5 * MIB))
    with pytest.raises(NoSpaceError), staging:
        staging.write(memoryview(bytes(8 * MIB)))
    assert staged(inbox) == []
    assert inbox.space._promised == 0
    inbox.close()


# -- restarts --------------------------------------------------------------------------------------------------


def test_the_next_server_keeps_what_can_be_resumed_and_removes_the_rest(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    for name in ("stray", "partial-" + "0" * 32, "7"):
        (inbox.path / STAGING_NAME / name).write_bytes(b"left")
    inbox = make_inbox()
    assert staged(inbox) == [partials.file_of("ana", str(X))]
    storage = inbox.for_user("ana", send_id=SECOND)
    assert finish(storage, offer(storage).stage(resume=True), CONTENT[2 * MIB :]).outcome is Outcome.STORED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT


def put_a_second_link(path: Path) -> None:
    os.link(path, path.parent.parent / "published")


def put_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [put_a_second_link, put_a_link, put_a_pipe, remove])
@pytest.mark.parametrize("restart", [True, False])
def test_what_is_no_file_of_ours_alone_is_only_ever_unlinked(
    make_inbox: Callable[..., Inbox], change: Callable[[Path], None], restart: bool
) -> None:
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    change(inbox.path / STAGING_NAME / partials.file_of("ana", str(X)))
    if restart:
        inbox = make_inbox()
        assert staged(inbox) == []
    storage = inbox.for_user("ana", send_id=FIRST)
    assert here(storage) == 0
    assert staged(inbox) == []
    assert not inbox.partials._all()
    if change is put_a_second_link:
        assert (inbox.path / "published").read_bytes() == CONTENT[: 2 * MIB]


def test_after_a_reboot_only_what_was_synced_is_offered(
    make_inbox: Callable[..., Inbox], reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SYNC_BYTES", MIB)
    storage = make_inbox().for_user("ana", send_id=FIRST)
    staging = begin(storage, MIB + 10)
    staging.write(memoryview(CONTENT)[MIB + 10 : 2 * MIB])
    end(staging, TruncatedError("the end"))
    offered = offer(make_inbox().for_user("ana", send_id=FIRST))
    assert offered.have == 2 * MIB
    offered.drop()
    reboot()
    inbox = make_inbox(quota=len(CONTENT))
    storage = inbox.for_user("ana", send_id=FIRST)
    offered = offer(storage)
    assert offered.have == MIB + 10
    assert finish(storage, offered.stage(resume=True), CONTENT[MIB + 10 :]).outcome is Outcome.STORED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT
    assert storage.room() == (0, None)
    assert inbox.space._promised == 0


def test_without_durability_nothing_is_offered_after_a_reboot(
    make_inbox: Callable[..., Inbox], reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SYNC_BYTES", MIB)
    break_off(make_inbox(durable=False).for_user("ana", send_id=FIRST))
    offered = offer(make_inbox(durable=False).for_user("ana", send_id=FIRST))
    assert offered.have == 2 * MIB
    offered.drop()
    reboot()
    inbox = make_inbox(durable=False)
    assert offer(inbox.for_user("ana", send_id=FIRST)).have == 0
    assert staged(inbox) == []


@pytest.mark.parametrize("beside", [0, 20])
def test_D07_a_sync_that_failed_on_the_way_fails_the_file(
    make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch, beside: int
) -> None:
    """What the system says of it once it does not say again, so the commit's own sync would report success."""
    monkeypatch.setattr(resumable, "SYNC_BYTES", MIB)
    inbox = make_inbox()
    storage = inbox.for_user("ana", send_id=FIRST)
    real, failed = os.fsync, threading.Event()

    def fsync(descriptor: int) -> None:
        if threading.current_thread().name == "partial":
            failed.set()
            raise OSError(5, "EIO")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        staging = begin(storage, 2 * MIB)
        assert failed.wait(10)
        with staging:
            staging.write(memoryview(CONTENT)[2 * MIB : 2 * MIB + 10])
            staging.seal(DIGEST)
        small = Description(Name.parse("small"), 1)
        others = [
            storage.take(small._replace(name=Name.parse(f"{number}")), memoryview(b"1"), hashlib.sha256(b"1").digest())
            for number in range(beside)
        ]
        result, *results = storage.commit([staging, *others])
    assert isinstance(result, StorageFailedError)
    assert all(isinstance(other, Committed) for other in results)
    assert staged(inbox) == []
    assert not (inbox.path / "ana/d/x").exists()


def test_they_go_away_after_a_week(make_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = make_inbox(quota=len(CONTENT))
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    inbox.for_user("ana")
    assert len(staged(inbox)) == 1
    monkeypatch.setattr(partials, "EXPIRY_SECONDS", 0.0)
    inbox.for_user("ana")
    assert len(staged(inbox)) == 1, "it is looked for now and then only"
    live = begin(storage, MIB, file=described(MIB, name=Name.parse("live")))
    monkeypatch.setattr(partials, "LOOK_SECONDS", 0.0)
    inbox.for_user("ana")
    assert staged(inbox) == [partials.file_of("ana", "live")]
    live.discard()
    assert storage.room() == (len(CONTENT), None)
    monkeypatch.setattr(partials, "EXPIRY_SECONDS", 60.0)
    break_off(storage)
    assert len(staged(make_inbox())) == 1
    monkeypatch.setattr(partials, "EXPIRY_SECONDS", 0.0)
    assert staged(make_inbox()) == []


CHILD = """
import sys, time
from pathlib import Path
from securexfer.names import Name
from securexfer.storage.base import Description
from securexfer.storage.local import Inbox, Rules
storage = Inbox(Path(sys.argv[1]), Rules()).for_user("ana", send_id=b"1" * 16)
staging = storage.offer(Description(Name.parse("d/x"), 3 << 20, 10**18), fresh=False).stage(resume=False)
nameless = storage.stage(Description(Name.parse("y"), 3 << 20))
nameless.write(memoryview(b"lost"))
staging.write(memoryview(sys.stdin.buffer.read(2 << 20)))
print("written", flush=True)
time.sleep(60)
"""


def test_kill_9_of_the_server_leaves_what_came_to_the_next_one(
    make_inbox: Callable[..., Inbox], tmp_path: Path
) -> None:
    (tmp_path / "inbox").mkdir(mode=0o700)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "inbox")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    child.stdin.write(CONTENT[: 2 * MIB])
    child.stdin.close()
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    inbox = make_inbox()
    assert not inbox.notices
    assert staged(inbox) == [partials.file_of("ana", str(X))]
    storage = inbox.for_user("ana", send_id=FIRST)
    offered = offer(storage)
    assert offered.have == 2 * MIB
    assert finish(storage, offered.stage(resume=True), CONTENT[2 * MIB :]).outcome is Outcome.STORED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT


def test_a_replaced_file_is_resumed_like_any_other(make_inbox: Callable[..., Inbox]) -> None:
    inbox = make_inbox(on_conflict=OnConflict.REPLACE)
    storage = inbox.for_user("ana", send_id=FIRST)
    break_off(storage)
    (inbox.path / "ana/d").mkdir()
    (inbox.path / "ana/d/x").write_bytes(b"old")
    assert finish(storage, offer(storage).stage(resume=True), CONTENT[2 * MIB :]).outcome is Outcome.REPLACED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT
    assert staged(inbox) == []


def test_what_came_in_part_is_gone_on_with_before_what_stands_there_is_compared(
    make_inbox: Callable[..., Inbox],
) -> None:
    """Of the same size: it was compared when the first bytes were asked for, and is something else."""
    inbox = make_inbox(on_conflict=OnConflict.REPLACE)
    storage = inbox.for_user("ana", send_id=FIRST)
    (inbox.path / "ana/d").mkdir()
    (inbox.path / "ana/d/x").write_bytes(bytes(len(CONTENT)))
    assert offer(storage).have == len(CONTENT)
    staging = offer(storage, fresh=True).stage(resume=False)
    staging.write(memoryview(CONTENT)[: 2 * MIB])
    end(staging, TruncatedError("the end"))
    offered = offer(storage)
    assert (offered.have, offered.stands) == (2 * MIB, False)
    assert finish(storage, offered.stage(resume=True), CONTENT[2 * MIB :]).outcome is Outcome.REPLACED
    assert (inbox.path / "ana/d/x").read_bytes() == CONTENT
