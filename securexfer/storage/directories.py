"""Directories are opened one component at a time, each from a handle that we hold, never through a link.

A check of the path's string is not enough: it loses races (measured, 33 in 441 against somebody swapping links).
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import TYPE_CHECKING

from securexfer.storage.failures import errno_name, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from securexfer.names import Name
    from securexfer.storage.local import Inbox, Rules
    from securexfer.storage.syncing import Synced, Syncer

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TRUST_SECONDS = 0.05  # as old as a group of files may become before it is committed


def open_root(path: Path, rules: Rules, *, follow: bool = False) -> int:
    """Return a handle on `path`, made where missing, its parents too, with the modes of the rules, and durable.

    The path itself may not be a link unless `follow` is set; its parents are the administrator's, links or not.
    """
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, OPEN & ~os.O_NOFOLLOW if follow else OPEN)
    above = open_root(path.parent, rules, follow=True)
    try:
        handle, made = enter(above, path.name, rules)
        if made:
            sync(above, rules)
    finally:
        os.close(above)
    return handle


def enter(above: int, part: str, rules: Rules) -> tuple[int, bool]:
    """Return a handle on one directory in another, made where missing, and whether it was; then sync `above`."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(part, OPEN, dir_fd=above), False
    with contextlib.suppress(FileExistsError):  # another session may be quicker; its parent is synced twice then
        os.mkdir(part, 0o700, dir_fd=above)
    handle = os.open(part, OPEN, dir_fd=above)
    try:
        set_access(handle, rules.group, rules.directory_mode)
    except BaseException:
        os.close(handle)
        raise
    return handle, True


def walk(home: int, parts: Sequence[str]) -> int:
    """Return a handle on a directory below `home`, or on `home` itself. Raises OSError where there is none."""
    handle = os.dup(home)
    for part in parts:
        try:
            below = os.open(part, OPEN, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


class Finder:
    """Says what stands under the names of one user. Used by one thread.

    The directory of the last name is kept open: the next one is in it, most of the time. It is opened anew after a
    moment, so that what was moved away meanwhile is not looked into any longer than a walk there could have taken.
    """

    def __init__(self, home: int) -> None:
        self._home = home
        self._parts: tuple[str, ...] = ()
        self._handle: int | None = None
        self._until = 0.0

    def find(self, name: Name) -> os.stat_result | None:
        """Return what stands under a name, if anything. Raises OSError."""
        parts = name.parts[:-1]
        try:
            if not parts:
                return os.stat(name.parts[-1], dir_fd=self._home, follow_symlinks=False)
            now = time.monotonic()
            if self._handle is None or parts != self._parts or now >= self._until:
                self.close()
                self._handle = walk(self._home, parts)
                self._parts, self._until = parts, now + _TRUST_SECONDS
            return os.stat(name.parts[-1], dir_fd=self._handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Let the directory go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def set_access(descriptor: int, group: int | None, mode: int) -> None:
    """Give what is open to a group, with exactly this mode, whatever the umask says."""
    if group is not None:
        os.fchown(descriptor, -1, group)  # first: it clears the set-group-id bit
    os.fchmod(descriptor, mode)


def sync(directory: int, rules: Rules) -> None:
    """Make a directory's entries durable, unless the rules do without."""
    if rules.durable:
        os.fsync(directory)


class Handles:
    """The directories of one group of files: each walked and made once, synced together, closed together.

    The next group walks anew: what was moved away meanwhile gets nothing any more, and that costs less than a
    microsecond a file where files come in the order of a tree (8 where each is in another directory than the last).
    """

    def __init__(self, inbox: Inbox, home: int) -> None:
        """Take the inbox and, in it, the user's directory."""
        self._inbox = inbox
        self._rules = inbox.rules
        self._open: dict[tuple[str, ...], int] = {(): home}
        self._made: list[tuple[int, str, tuple[int, int]]] = []
        self._touched: set[int] = set()

    def parent(self, name: Name) -> int:
        """Return a handle on the directory that `name` is in, made where missing; it will be synced.

        Raises OSError, or NameTakenError if a directory to make would collide with another name.
        """
        directory = self._open.get(name.parts[:-1])
        if directory is None:
            directory = self._home_or_below(name, len(name.parts) - 1)
        self._touched.add(directory)
        return directory

    @property
    def made(self) -> set[tuple[int, int]]:
        """Device and inode of each directory that was made here."""
        return {identity for _, _, identity in self._made}

    def directory(self, name: Name) -> int:
        """Return a handle on the directory `name` itself, made where missing. Raises as `parent` does."""
        return self._home_or_below(name, len(name.parts))

    def sync(
        self, syncer: Syncer, also: Sequence[Callable[[], None]] = ()
    ) -> Generator[Callable[[], None], None, str | None]:
        """Make the entries of all directories that changed durable, in steps; return the first error's name.

        What is to be synced with them, if anything, is done by `also`, or by a sync of the whole file system.
        """
        if not self._rules.durable:
            return None
        synced: list[Synced] = []
        syncs: list[Callable[[], None]] = [*also]
        syncs += [functools.partial(os.fsync, directory) for directory in self._touched]
        # Somebody may have mounted another file system somewhere in it.
        together = len({os.fstat(directory).st_dev for directory in (*self._touched, self._open[()])}) == 1
        yield lambda: synced.append(syncer.sync_all(syncs, together=together))
        return next((errno_name(error) for error in synced[0].errors if isinstance(error, OSError)), None)

    def touch(self, directory: int) -> None:
        """Have a directory of these synced, too: something of it was changed."""
        self._touched.add(directory)

    def remove_unused(self) -> None:
        """Remove the directories that were made here and have stayed empty: a file that failed leaves nothing."""
        for above, part, _ in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(part, dir_fd=above)

    def close(self) -> None:
        """Let go of all but the home, which is the caller's."""
        for parts, handle in self._open.items():
            if parts:
                os.close(handle)

    def _home_or_below(self, name: Name, depth: int) -> int:
        parts = name.parts[:depth]
        if parts in self._open:
            return self._open[parts]
        above = self._home_or_below(name, depth - 1)
        with self._inbox.claim(above, parts[-1]) as free:
            if not free:
                raise taken(name, f"a name that other systems cannot tell from {parts[-1]!r} stands there")
            handle, made = enter(above, parts[-1], self._rules)
        self._open[parts] = handle
        if made:
            found = os.fstat(handle)
            self._made.append((above, parts[-1], (found.st_dev, found.st_ino)))
            self._touched.add(above)
        return handle
