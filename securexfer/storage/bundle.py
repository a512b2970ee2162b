"""The files of one send, kept as they were verified for as long as they are opened, whatever becomes of their names.

A bundle is a directory beside the unfinished files, which no peer can name. It holds a hard link to each file that the
send stored, under the name that it was offered by: `x.py`, also where that was stored as `x (1).py`.

* A link is made from the file's name in staging, which is nobody else's. A file that was never staged, because it
  stands there, is linked by its name, and then has to be the one whose digest was proved.
* What is removed, renamed or replaced in the inbox stays in the bundle. (Whoever writes into a file of the inbox, as
  its administrator can and nothing here does, writes into the bundle: who runs a file compares its digest.)
* A link that comes or goes changes the ctime, by which the index knows a file. What the index knew right before is
  noted again right after; a file that was altered it did not know, so that it does not know it then either.
* Nothing that goes wrong here fails a commit, and nothing is synced: what is left of a bundle, the next server removes.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import itertools
import os
import shutil
import stat
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from securexfer.storage import directories
from securexfer.storage.failures import Translated, errno_name
from securexfer.storage.index import identity
from securexfer.wire.messages import MAX_BESIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from securexfer.names import Name
    from securexfer.storage.base import Committed
    from securexfer.storage.index import Index
    from securexfer.storage.staged import LocalStaging

PREFIX = "opening-"  # other names in staging are numbers and partial files
MAX_FILES = MAX_BESIDE  # in one bundle: 6 MB of memory, and a second to link and remove them
MAX_DIRECTORIES = 10_000  # in one bundle: with names of 64 components, 160 files could ask for as many
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE = 128  # files that are removed while other bundles wait


class Entry(NamedTuple):
    """A file in a bundle: its name as offered, below the send's directory; as stored; its bytes; its SHA-256."""

    name: str
    stored_as: Name
    size: int
    digest: bytes


class _LeftOutError(Exception):
    """A file does not come into the bundle. Says why; nothing, where it is only that no more are taken."""


class Bundles:
    """The bundles of an inbox, and what they share. Safe to use from many threads."""

    def __init__(self, root: int, staging: int, index: Index, place: Path) -> None:
        """Take handles on the root and on the staging directory, whose path is `place`; they stay the caller's."""
        self.index = index
        self.place = place
        self._root = root
        self._staging = staging
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closed = False

    def new(self, user: str, prefix: tuple[str, ...]) -> Bundle:
        """Make a bundle for one send of a user. Raises StorageFailedError or NoSpaceError."""
        name = f"{PREFIX}{next(self._numbers)}"
        with Translated("the bundle of what is to be opened"), self.held() as (_, staging):
            os.mkdir(name, 0o700, dir_fd=staging)
        return Bundle(self, name, user, prefix)

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[int, int]]:
        """Hold the handles on the root and on staging. Raises OSError once they are closed.

        One thread at a time: a link that comes or goes, and what is noted of it, belong together.
        """
        with self._lock:
            if self._closed:  # their numbers may be other files' by now
                raise OSError(errno.EBADF, "the inbox is closed")
            yield self._root, self._staging

    def close(self) -> None:
        """Do without the handles from now on: what is left is for the next server to remove."""
        with self._lock:
            self._closed = True


class Bundle:
    """The files of one send, for whoever opens them. Safe to use from many threads.

    `user` is whose they are. It is `overfull` if more files came, or more directories, than it takes: then it lacks
    those, and `missing` does not say which.
    """

    def __init__(self, bundles: Bundles, directory: str, user: str, prefix: tuple[str, ...]) -> None:
        """Take a directory in staging by its name; `prefix` is the directory that the send's names begin with."""
        self.user = user
        self.overfull = False
        self._bundles = bundles
        self._directory = directory
        self._prefix = prefix
        self._entries: dict[str, Entry] = {}
        self._missing: dict[str, str] = {}
        self._made = 0  # directories in it

    @property
    def path(self) -> Path:
        """The absolute path of its directory, for a mount."""
        return self._bundles.place / self._directory

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The files in it, by the names that they were offered by, in the order in which they were stored."""
        return MappingProxyType(self._entries)

    @property
    def missing(self) -> Mapping[str, str]:
        """Which files are not in it although they were stored, and why. Of two by one name the first is in it."""
        return MappingProxyType(self._missing)

    def add(self, staging: LocalStaging, committed: Committed) -> None:
        """Link a file that was committed, and still has its name in staging. Raises nothing if that fails."""

        def link(parts: tuple[str, ...]) -> None:
            with self._bundles.held() as (_, handle):
                self._link(staging.file, handle, handle, parts)

        self._take(staging.name, committed.stored_as, staging.size, staging.digest, link)

    def keep(self, home: int, name: Name, found: os.stat_result, digest: bytes) -> None:
        """Link a file that stands under its name, below a handle on the user's directory; see `add`.

        It was `found` so, and then proved to have this digest.
        """
        index = self._bundles.index

        def link(parts: tuple[str, ...]) -> None:
            with self._bundles.held() as (_, handle):
                directory = directories.walk(home, name.parts[:-1])
                try:
                    now = os.stat(name.parts[-1], dir_fd=directory, follow_symlinks=False)
                    known = index.find(self.user, str(name), now)
                    # Another bundle with it may have come or gone since: then the index says that it is the same.
                    if identity(now) != identity(found) and not (known and hmac.compare_digest(known, digest)):
                        raise _LeftOutError("it was changed meanwhile")
                    linked = self._link(name.parts[-1], directory, handle, parts)
                finally:
                    os.close(directory)
                if not _is_same(linked, now):  # another was put under its name in this moment
                    self._unlink(handle, parts)
                    raise _LeftOutError("it was changed meanwhile")
                if known:
                    index.note(self.user, [(str(name), linked, known)])

        self._take(name, name, found.st_size, digest, link)

    def open(self, name: str) -> int:
        """Return a descriptor to read one of the `entries` from. Raises KeyError where there is none, and OSError."""
        *above, last = self._entries[name].name.split("/")
        with self._bundles.held() as (_, staging):
            directory = directories.walk(staging, (self._directory, *above))
            try:
                return os.open(last, _READ, dir_fd=directory)
            finally:
                os.close(directory)

    def remove(self) -> None:
        """Remove it from the disk, and see to it that the index knows what it knew; once is enough. Never raises.

        What cannot be removed is left for the next server.
        """
        entries = list(self._entries.values())
        with contextlib.suppress(OSError):
            for start in range(0, len(entries), _AT_ONCE):
                with self._bundles.held() as (root, staging):
                    self._remove(root, staging, entries[start : start + _AT_ONCE])
        with contextlib.suppress(OSError), self._bundles.held() as (_, staging):
            remove_tree(staging, self._directory)

    def _take(
        self, name: Name, stored_as: Name, size: int, digest: bytes, link: Callable[[tuple[str, ...]], None]
    ) -> None:
        """Have a file linked under its name in here, unless it may not; note that it is in here, or why not."""
        depth = len(self._prefix)
        parts = name.parts[depth:]
        key = "/".join(parts)
        if not parts or name.parts[:depth] != self._prefix:
            self._missing[str(name)] = "it is not below the directory of its send"
            return
        before = self._entries.get(key)
        if before and hmac.compare_digest(before.digest, digest):
            return
        try:
            if len(self._entries) + len(self._missing) >= MAX_FILES:
                raise _LeftOutError
            link(parts)
        except OSError as error:
            self._missing[key] = errno_name(error)
        except _LeftOutError as reason:
            if reason.args:
                self._missing[key] = str(reason)
            else:
                self.overfull = True
        else:
            self._entries[key] = Entry(key, stored_as, size, digest)

    def _link(self, file: str, directory: int, staging: int, parts: tuple[str, ...]) -> os.stat_result:
        """Link a file of a directory into here; return what was linked. Raises OSError or _LeftOutError."""
        above = self._enter(staging, parts[:-1])
        try:
            os.link(file, parts[-1], src_dir_fd=directory, dst_dir_fd=above, follow_symlinks=False)
            return os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
        finally:
            os.close(above)

    def _unlink(self, staging: int, parts: Sequence[str]) -> None:
        above = directories.walk(staging, (self._directory, *parts[:-1]))
        try:
            os.unlink(parts[-1], dir_fd=above)
        finally:
            os.close(above)

    def _enter(self, staging: int, parts: tuple[str, ...]) -> int:
        """Return a handle on a directory in here, made where missing, each in one that is held."""
        with contextlib.suppress(FileNotFoundError):
            return directories.walk(staging, (self._directory, *parts))
        handle = directories.walk(staging, (self._directory,))
        for part in parts:
            try:
                with contextlib.suppress(FileExistsError):
                    if self._made >= MAX_DIRECTORIES:
                        raise _LeftOutError
                    os.mkdir(part, 0o700, dir_fd=handle)
                    self._made += 1
                below = os.open(part, directories.OPEN, dir_fd=handle)
            finally:
                os.close(handle)
            handle = below
        return handle

    def _remove(self, root: int, staging: int, entries: Sequence[Entry]) -> None:
        """Unlink some of its files, and note in the index anew those that it knew until then."""
        notes = []
        index, home = self._bundles.index, directories.walk(root, (self.user,))
        finder = directories.Finder(home)
        try:
            for entry in entries:
                with contextlib.suppress(OSError):  # what is left goes with the whole tree
                    before = finder.find(entry.stored_as)
                    known = before and index.find(self.user, str(entry.stored_as), before)
                    self._unlink(staging, entry.name.split("/"))
                    after = finder.find(entry.stored_as)
                    if known and before and after and _is_same(after, before):
                        notes.append((str(entry.stored_as), after, known))
        finally:
            finder.close()
            os.close(home)
        if notes:
            index.note(self.user, notes)


def remove_tree(staging: int, name: str) -> None:
    """Remove what has a name in staging, and all that is in it, never through a link. Raises OSError."""
    if stat.S_ISDIR(os.stat(name, dir_fd=staging, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=staging)  # by handles, which it checks; published files have another name each
    else:
        os.unlink(name, dir_fd=staging)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether both are one file, whose content nobody is seen to have changed: what has another link has its ctime."""
    return os.path.samestat(one, other) and (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
