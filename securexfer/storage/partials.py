"""Files that came in part: kept in the staging directory, one for each user and name, for a later send to resume.

* A partial file is one transfer's at a time. The same send takes it over at once (its connection is gone, and we may
  not know yet), another one after some silence; whoever comes earlier stages apart. What is sealed stays its owner's.
* It counts for as much as may be offered: all of it while the machine runs that it was written on, and after that only
  what was synced and noted. Its bytes are never trusted for that: the sender proves each time that they are its own.
* It goes away when the source has another size or mtime, when it is stored, and some days after it was last written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

from securexfer.errors import BusyError
from securexfer.names import show
from securexfer.storage import bundle
from securexfer.storage.space import Claim

if TYPE_CHECKING:
    from securexfer.storage.base import Description
    from securexfer.storage.ledger import Ledger
    from securexfer.storage.space import FreeSpace, Usage

MIN_SIZE = 1 << 20  # of a file that is kept: less is sent again in a tenth of a second, and costs no more
SILENCE_SECONDS = 5.0  # without a write, after which another send may have it
EXPIRY_SECONDS = 7 * 24 * 3600  # after the last write: a week's holiday, or whoever mends the network
LOOK_SECONDS = 3600.0  # how often expired ones are looked for
_PREFIX = "partial-"  # other names in staging are numbers
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FIND = "SELECT size, mtime_ns, synced, boot FROM partials WHERE user = ? AND name = ?"
_NOTE = "INSERT OR REPLACE INTO partials (size, mtime_ns, synced, boot, user, name) VALUES (?, ?, ?, ?, ?, ?)"
_SYNCED = "UPDATE partials SET synced = ? WHERE user = ? AND name = ?"
_FORGET = "DELETE FROM partials WHERE user = ? AND name = ?"


def file_of(user: str, name: str) -> str:
    """Return what a partial file is called in the staging directory."""
    return _PREFIX + hashlib.sha256(f"{user}\0{name}".encode()).hexdigest()[:32]


class Hold:
    """A transfer's hold on a partial file, until another takes it over.

    Whoever writes to the file has `lock`, and has looked with `check` since: so nothing lands after a takeover.
    """

    def __init__(self, partials: Partials, user: str, file: Description, owner: object, send_id: bytes) -> None:
        self.described = file
        self.user = user
        self.owner = owner
        self.send_id = send_id
        self.file = file_of(user, str(file.name))
        self.descriptor = -1
        self.length = 0  # bytes of it that may be offered
        self.here = 0  # bytes that there are
        self.claim: Claim | None = None  # whoever takes the file over takes it, too
        self.sealed = False
        self.lost = False
        self.touched = time.monotonic()
        self.lock = threading.Lock()
        self._partials = partials

    @property
    def key(self) -> tuple[str, str]:
        """Whose it is, and the name it is to have."""
        return self.user, str(self.described.name)

    def check(self) -> None:
        """Raise BusyError if another transfer has taken the file over."""
        if self.lost:
            raise BusyError(f"another transfer of {show(str(self.described.name))!r} has taken over")

    def claim_room(self, space: FreeSpace, usage: Usage | None) -> None:
        """Set aside what is to come, unless that was taken over, too. Raises NoSpaceError or QuotaExceededError."""
        if self.claim:
            return
        claim = Claim(space, usage, self.described.size, self.here)
        with self.lock:
            if not self.lost:
                self.claim = claim
                return
        claim.settle(self.here)

    def give_back(self, added: int = 0) -> None:
        """Give back what was set aside, unless it was taken over; the user's files have grown by `added` bytes."""
        with self.lock:
            claim, self.claim = self.claim, None
        if claim:
            claim.settle(added)

    def restart(self, offset: int) -> None:
        """Cut the file off at `offset`, where it goes on. Raises OSError, or BusyError."""
        with self.lock:
            self.check()
            os.ftruncate(self.descriptor, offset)
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            if self.claim:
                self.claim.written(offset - self.here)
            self._partials.note(self, offset)

    def touch(self) -> None:
        """Say that the transfer goes on."""
        self.touched = time.monotonic()

    def write(self, data: memoryview) -> int:
        """Append bytes; return how many. Raises OSError, or BusyError."""
        self.touch()
        with self.lock:
            self.check()
            count = os.write(self.descriptor, data)
            if self.claim:
                self.claim.written(count)
        return count

    def seal(self) -> None:
        """See to it that nobody takes the file over any more. Raises BusyError if somebody has."""
        with self.lock:
            self.check()
            self.sealed = True

    def note_synced(self, length: int) -> None:
        """Note that so many bytes are on disk."""
        with self.lock:
            if not self.lost:
                self._partials.note_synced(self.key, length)

    def release(self, *, keep: bool) -> int:
        """Let go of the file, and remove it unless some of it is to be kept; return the bytes that are kept of it.

        The descriptor stays open.
        """
        return self._partials.release(self, keep=keep)


class Partials:
    """The partial files of an inbox. Safe to use from many threads."""

    def __init__(self, ledger: Ledger, staging: int) -> None:
        """Take the ledger and a handle on the staging directory."""
        self._ledger = ledger
        self._staging = staging
        self._lock = threading.Lock()
        self._live: dict[tuple[str, str], Hold] = {}
        self._looked_at = time.monotonic()

    def take(self, user: str, file: Description, owner: object, send_id: bytes, *, fresh: bool) -> Hold | None:
        """Return a hold on what is here of a file; None if there is nothing to resume, or another transfer is at it.

        What came of it with another size or mtime is removed, and with `fresh` all that came. Raises OSError.
        """
        hold = Hold(self, user, file, owner, send_id)
        if not fresh and not self._ledger.read(_FIND, hold.key):
            return None
        try:
            with self._lock:
                if not self._take_over(hold):
                    return None
                if not fresh and self._look_into(hold):
                    self._live[hold.key] = hold
                    return hold
                self._remove(hold)
        finally:
            if hold.descriptor < 0:
                hold.give_back()
        return None

    def begin(self, user: str, file: Description, owner: object, send_id: bytes) -> Hold | None:
        """Return a hold on a new file, empty; None if another transfer is at it. Raises OSError."""
        hold = Hold(self, user, file, owner, send_id)
        try:
            with self._lock:
                if not self._take_over(hold):
                    return None
                self._remove(hold)
                hold.descriptor = os.open(hold.file, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._staging)
                self._live[hold.key] = hold
                self.note(hold, 0)
        finally:
            hold.give_back()
        return hold

    def release(self, hold: Hold, *, keep: bool) -> int:
        """Let go of a file; see Hold.release."""
        with self._lock, hold.lock:
            if hold.lost:
                return 0
            hold.lost = True
            del self._live[hold.key]
            with contextlib.suppress(OSError):
                length = os.fstat(hold.descriptor).st_size if keep else 0
                if length:
                    return length
            self._remove(hold)
        return 0

    def note(self, hold: Hold, synced: int) -> None:
        """Note a file that is being written, `synced` bytes of which are on disk."""
        size, mtime_ns = hold.described.size, hold.described.mtime_ns
        synced = min(synced, self._synced(hold.key))
        self._ledger.write(_NOTE, [(size, mtime_ns, synced, self._ledger.boot, *hold.key)])

    def note_synced(self, key: tuple[str, str], length: int) -> None:
        """Note that so many bytes of a file are on disk."""
        self._ledger.write(_SYNCED, [(length, *key)])

    def size_of(self, user: str) -> int:
        """Return the bytes that a user's partial files take, but for those that a transfer has claimed room for."""
        total = 0
        for (name,) in self._ledger.read("SELECT name FROM partials WHERE user = ?", (user,)):
            hold = self._live.get((user, name))
            if not hold or not hold.claim:
                with contextlib.suppress(OSError):
                    total += self._stat(file_of(user, name)).st_size
        return total

    def sweep(self) -> None:
        """Remove what an earlier server left in staging, but for what can be resumed. Raises OSError.

        No file is opened: it may be a published one (a crash between link and unlink), which has a second link. So may
        those in the bundles, which all go.
        """
        noted = {file_of(user, name): (user, name) for user, name in self._all()}
        for leftover in os.listdir(self._staging):  # noqa: PTH208 - by handle
            if leftover in noted and _may_stay(self._stat(leftover)):
                del noted[leftover]
            elif leftover.startswith(bundle.PREFIX):
                bundle.remove_tree(self._staging, leftover)
            else:
                os.unlink(leftover, dir_fd=self._staging)
        self._ledger.write(_FORGET, list(noted.values()))

    def expire(self) -> list[tuple[str, int]]:
        """Remove those that nobody came back for; return whose they were and how many bytes. Looks now and then."""
        removed: list[tuple[str, int]] = []
        with self._lock:
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return removed
            self._looked_at = time.monotonic()
            for key in self._all():
                if key not in self._live:
                    with contextlib.suppress(OSError):
                        found = self._stat(file_of(*key))
                        if not _may_stay(found):
                            os.unlink(file_of(*key), dir_fd=self._staging)
                            removed.append((key[0], found.st_size))
                            self._ledger.write(_FORGET, [key])
        return removed

    def _take_over(self, hold: Hold) -> bool:
        """Take a file, and its claim, from the transfer that is at it, if one is; return False if that may not be."""
        before = self._live.get(hold.key)
        if not before:
            return True
        silent = time.monotonic() - before.touched >= SILENCE_SECONDS
        # A send that offers one name twice does not take it from itself.
        if before.owner is hold.owner or not (silent or before.send_id == hold.send_id):
            return False
        with before.lock:
            if before.sealed:
                return False
            before.lost = True
            hold.claim, before.claim = before.claim, None
        del self._live[hold.key]
        return True

    def _look_into(self, hold: Hold) -> bool:
        """Find out how much of a file can be resumed, and open it; return False if nothing can."""
        file = hold.described
        for size, mtime_ns, synced, boot in self._ledger.read(_FIND, hold.key):
            try:
                found = self._stat(hold.file)
            except FileNotFoundError:
                return False
            whole = boot == self._ledger.boot != ""
            # Never all of it: that would mean that it stands under its name.
            length = min(found.st_size if whole else min(found.st_size, synced), file.size - 1)
            if _may_stay(found) and (size, mtime_ns) == (file.size, file.mtime_ns) and length > 0:
                hold.descriptor = os.open(hold.file, _OPEN, dir_fd=self._staging)
                hold.length, hold.here = length, found.st_size
                return True
        return False

    def _remove(self, hold: Hold) -> None:
        """Remove what is here of a file, and what is noted of it."""
        with contextlib.suppress(OSError):  # a leftover is swept when the next server starts
            os.unlink(hold.file, dir_fd=self._staging)
        self._ledger.write(_FORGET, [hold.key])

    def _synced(self, key: tuple[str, str]) -> int:
        return max((row[2] for row in self._ledger.read(_FIND, key)), default=0)

    def _all(self) -> list[tuple[str, str]]:
        return self._ledger.read("SELECT user, name FROM partials")

    def _stat(self, file: str) -> os.stat_result:
        return os.stat(file, dir_fd=self._staging, follow_symlinks=False)


def _may_stay(found: os.stat_result) -> bool:
    """Whether it is a plain file of ours, under no other name, that was written to not too long ago."""
    ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
    # By ctime, which says when it was last written to, whatever its mtime was set to before a commit that was cut off.
    return ours and time.time() - found.st_ctime < EXPIRY_SECONDS
