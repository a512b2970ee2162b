"""What was typed on the command line becomes a stream of items: the first are on their way while the rest is found.

* One directory is read at a time, and of the tree only the names of directories still to be read are held.
* A directory is opened from its parent, which is held open, and never through a link. Whoever can rename things in the
  tree leads this nowhere else, which a path would (measured for `storage/directories.py`); nor is a path ever too long.
  It takes a handle a level, and a name has at most 64 of those. Windows opens nothing from a handle: there it is paths.
* What cannot be sent is an item with its error. Nothing that happens in a tree while it is scanned raises.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from securexfer.errors import SecurexferError, SourceError, UnsafeNameError
from securexfer.names import Name, Parent, show
from securexfer.transfer.items import Item, top_name
from securexfer.transfer.sources import unsendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class ScanRules:
    """Below which directory names begin there ("" for none), what is left out, whether links are followed.

    `exclude` holds patterns of the shell (`*`, `?`, `[seq]`, `[!seq]`), which match whole names, in the case given:

    * without a slash, the last component of a file, a link or a directory, anywhere, arguments included: `*.tmp`;
    * with one, the path from where the argument is: `results/tmp/*`, if `results` was typed. Of `.`, `..` and `/`,
      which have no name, the path inside of them: `tmp/*`. A `*` matches slashes too.

    A slash at the end of a pattern changes nothing. What is in an excluded directory is not looked at, nor counted.
    """

    directory: str = ""
    exclude: tuple[str, ...] = ()
    follow: bool = False


@dataclass(slots=True)
class LeftOut:
    """How much was left out on purpose: symbolic links in a tree, and what the patterns exclude."""

    skipped_links: int = 0
    excluded: int = 0


def scan(paths: Sequence[Path], rules: ScanRules, left_out: LeftOut) -> Iterator[Item]:
    """Yield what is to be sent, of each argument the files, and each directory after what is in it.

    In a directory the files come first, then the directories, both sorted, so that files of one directory follow each
    other. An argument without a name gives what is in it, but no item of its own. Never raises an error of the file
    system or of a name: what cannot be sent is an item with its error, a directory that cannot be read is one.
    """
    walk = _Walk(rules, left_out)
    for path in paths:
        yield from walk.argument(path)


# -- directories that are held open ----------------------------------------------------------------------------

if sys.platform == "win32":
    _Handle = str

    def _hold(path: str, within: _Handle = "") -> _Handle:
        return os.path.join(within, path)

    def _look(handle: _Handle, last: str = "") -> os.stat_result:
        return os.lstat(os.path.join(handle, last))

    def _release(handle: _Handle) -> None:
        pass

    def _pin(_found: os.stat_result) -> tuple[int, int] | None:
        return None  # what a path says is believed here anyway

else:
    _Handle = int

    def _hold(path: str, within: _Handle | None = None) -> _Handle:
        """Open a directory that is no link; raises OSError."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)

    def _look(handle: _Handle, last: str = "") -> os.stat_result:
        """Return what an entry of a directory is, or the directory itself; raises OSError."""
        return os.stat(last, dir_fd=handle, follow_symlinks=False) if last else os.fstat(handle)

    def _release(handle: _Handle) -> None:
        os.close(handle)

    def _pin(found: os.stat_result) -> tuple[int, int] | None:
        """Return what a file must be when it is opened by its path, later."""
        return found.st_dev, found.st_ino


def _hold_inside(top: _Handle, parts: Sequence[str]) -> _Handle:
    """Open a directory inside of another, passing no link on the way; raises OSError."""
    handle = _hold(".", top)
    for part in parts:
        try:
            deeper = _hold(part, handle)
        finally:
            _release(handle)
        handle = deeper
    return handle


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Return what tells a file or directory from all others at this moment."""
    return found.st_dev, found.st_ino


# -- the walk --------------------------------------------------------------------------------------------------


class _Below(NamedTuple):
    """A directory still to be read: its last component, and where it really is in the tree if that is a link."""

    last: str
    parts: tuple[str, ...] | None = None


class _Directory:
    """A directory that is being read: held open, with what is below it and still to be read, last first."""

    __slots__ = ("below", "found", "handle", "name", "path", "prefix")

    def __init__(self, path: str, name: str, handle: _Handle, prefix: Parent) -> None:
        self.path = os.path.join(path, "")  # so that entries' names can be appended
        self.name = name
        self.handle = handle
        self.prefix = prefix
        self.found = _look(handle)
        self.below: list[_Below] = []


class _Walk:
    """The walk through all arguments, one after the other."""

    def __init__(self, rules: ScanRules, left_out: LeftOut) -> None:
        self._rules = rules
        self._left_out = left_out
        self._excluded = _excluder(rules)
        self._open: list[_Directory] = []  # from the argument down to what is being read
        self._root = ""  # where the argument really is, for links that point into it

    def argument(self, path: Path) -> Iterator[Item]:
        """Yield the items of one argument."""
        last = top_name(path)
        name = "/".join(filter(None, (self._rules.directory, last)))
        place = str(path)
        if last and self._excluded(last, name):
            self._left_out.excluded += 1
            return
        try:
            found = os.lstat(place)
            if stat.S_ISLNK(found.st_mode) and self._rules.follow:
                place = os.path.realpath(place, strict=True)
                found = os.lstat(place)
            if stat.S_ISREG(found.st_mode):
                # Whatever stands there when its turn comes is what was typed: no identity.
                yield self._file(place, str(Name.parse(name)), found)
                return
            if not stat.S_ISDIR(found.st_mode):
                raise unsendable(place, found.st_mode)
        except OSError as error:
            yield self._failed(place, name, SourceError(f"{show(place)} cannot be sent: {error.strerror}"))
        except SecurexferError as error:
            yield self._failed(place, name, error)
        else:
            self._root = os.path.realpath(place) if self._rules.follow else ""
            yield from self._tree(place, name, named=bool(last))

    def _tree(self, path: str, name: str, *, named: bool) -> Iterator[Item]:
        """Yield what a directory that was typed holds, at whatever depth, and itself at the end if it has a name."""
        try:
            yield from self._enter(path, name, lambda: _hold(path))
            while self._open:
                directory = self._open[-1]
                if directory.below:
                    yield from self._descend(directory, directory.below.pop())
                else:
                    _release(self._open.pop().handle)
                    if self._open or named:
                        yield self._ended(directory)
        finally:
            while self._open:
                _release(self._open.pop().handle)

    def _descend(self, directory: _Directory, below: _Below) -> Iterator[Item]:
        last, parts = below
        place = directory.path + last
        name = f"{directory.name}/{last}" if directory.name else last
        if parts is None:
            return self._enter(place, name, lambda: _hold(last, directory.handle))
        place = os.path.join(self._root, *parts)
        return self._enter(place, name, lambda: _hold_inside(self._open[0].handle, parts))

    def _enter(self, path: str, name: str, hold: Callable[[], _Handle]) -> Iterator[Item]:
        """Begin a directory, and return what `_entries` yields of it; or why it cannot be read.

        That is no generator itself, for each item passes through all that stand one above the other.
        """
        handle = None
        try:
            prefix = Parent(name)
            handle = hold()
            directory = _Directory(path, name, handle, prefix)
            entries = sorted(os.listdir(handle))
            self._check(directory, entries)
        except OSError as error:
            problem = SourceError(
                f"{show(path)} cannot be read: {error.strerror}",
                hint="Make the directory readable for yourself, or leave it out with --exclude.",
            )
            return iter((self._failed(path, name or ".", problem, directory=True),))
        except SecurexferError as error:
            return iter((self._failed(path, name, error, directory=True),))
        else:
            handle = None
            self._open.append(directory)
            return self._entries(directory, entries)
        finally:
            if handle is not None:
                _release(handle)

    def _check(self, directory: _Directory, entries: list[str]) -> None:
        """Raise SourceError for a directory that contains itself, UnsafeNameError if nothing in it can have a name."""
        if any(_identity(other.found) == _identity(directory.found) for other in self._open):
            raise SourceError(
                f"{show(directory.path)} contains itself: a symbolic link in it leads back to it",
                hint="Remove that link, or leave it out with --exclude.",
            )
        if entries and directory.prefix.full:
            try:
                directory.prefix.name(entries[0])
            except UnsafeNameError as error:
                raise UnsafeNameError(
                    f"nothing in {show(directory.path)} can be sent: {error.message}",
                    hint="Send that directory by itself, or pack it with tar.",
                ) from error

    def _entries(self, directory: _Directory, entries: list[str]) -> Iterator[Item]:
        """Yield the items of a directory that are no directories; note those."""
        handle, path, prefix = directory.handle, directory.path, directory.prefix
        text = f"{directory.name}/" if directory.name else ""
        look_for_patterns = bool(self._rules.exclude)
        for last in entries:
            if look_for_patterns and self._excluded(last, text + last):
                self._left_out.excluded += 1
                continue
            try:
                found = _look(handle, last)
                kind = stat.S_IFMT(found.st_mode)
                if kind == stat.S_IFLNK and not self._rules.follow:
                    self._left_out.skipped_links += 1
                    continue
                name = prefix.name(last)
                if kind == stat.S_IFREG:
                    yield self._file(path + last, name, found, _pin(found))
                elif kind == stat.S_IFDIR:
                    directory.below.append(_Below(last))
                elif kind == stat.S_IFLNK:
                    yield from self._follow(directory, last, name)
                else:
                    raise unsendable(path + last, kind)
            except OSError as error:
                problem = SourceError(f"{show(path + last)} cannot be sent: {error.strerror}")
                yield self._failed(path + last, text + last, problem)
            except SecurexferError as error:
                yield self._failed(path + last, text + last, error)
        directory.below.reverse()

    def _follow(self, directory: _Directory, last: str, name: str) -> Iterator[Item]:
        """Yield the file that a link points to, or note the directory. Raises SourceError, and OSError."""
        path = directory.path + last
        try:
            target = Path(os.path.realpath(path, strict=True))
        except OSError as error:
            raise SourceError(
                f"{show(path)} is a symbolic link that leads nowhere: {error.strerror}",
                hint="Mend or remove the link, or leave it out with --exclude.",
            ) from error
        try:
            parts = target.relative_to(self._root).parts
        except ValueError:
            raise SourceError(
                f"{show(path)} is a symbolic link that points outside of {show(self._root)}, to {show(str(target))}",
                hint="Send what it points to as an argument of its own, or leave the link out with --exclude.",
            ) from None
        # The path has said where it is; from here on, handles alone.
        above = _hold_inside(self._open[0].handle, parts[:-1])
        try:
            found = _look(above, parts[-1]) if parts else directory.found
        finally:
            _release(above)
        if stat.S_ISDIR(found.st_mode):
            directory.below.append(_Below(last, parts))
        elif stat.S_ISREG(found.st_mode):
            yield self._file(str(target), name, found, _pin(found))
        else:
            raise unsendable(path, found.st_mode)

    # -- items -------------------------------------------------------------------------------------------------

    def _file(self, path: str, name: str, found: os.stat_result, identity: tuple[int, int] | None = None) -> Item:
        executable = found.st_mode & stat.S_IXUSR != 0
        return Item(path, name, found.st_size, found.st_mtime_ns, executable, identity, found)

    def _ended(self, directory: _Directory) -> Item:
        mtime_ns = directory.found.st_mtime_ns
        return Item(directory.path, directory.name, mtime_ns=mtime_ns, directory=True)

    def _failed(self, path: str, name: str, error: SecurexferError, *, directory: bool = False) -> Item:
        return Item(path, name, directory=directory, error=error)


def _excluder(rules: ScanRules) -> Callable[[str, str], bool]:
    """Return what says of a last component and a whole name whether a pattern matches them."""
    patterns = [pattern.rstrip("/") for pattern in rules.exclude]
    anywhere = _any_of([pattern for pattern in patterns if "/" not in pattern])
    whole = _any_of([pattern for pattern in patterns if "/" in pattern])
    start = len(rules.directory) + 1 if rules.directory else 0
    return lambda last, name: bool(anywhere.match(last) or whole.match(name, start))


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or "(?!)")
