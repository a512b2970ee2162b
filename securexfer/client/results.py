"""Where a sender keeps what scripts on the server made of its files: complete, or not there; never over another's file.

The names and the bytes are the server's, which is not believed:

* The directory is opened once, and all else from handles, one component at a time, never through a link. (Windows opens
  nothing from a handle: there it is paths, which are looked at.)
* The bytes are written under a name of our own at the top. Once they are all there, have their digest and are on disk,
  a hard link puts them under their name, which fails where the name is taken.
* There are limits on the files, on the directories made for them, and on the bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import shlex
import stat
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

from securexfer.errors import ConfigurationError, DigestMismatchError, ResultsError, UnsafeNameError
from securexfer.files import sync_directory
from securexfer.names import Name, NamePolicy, numbered, show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MAX_BYTES = 1 << 30  # of all results of one send
MAX_FILES = 10_000  # of one send, and as many directories for them
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # link(2): what says that a disk has none
_AGAIN = "Choose a directory that you can write to, on a disk with room: securexfer send --results DIR"


# -- directories that are held open ----------------------------------------------------------------------------

if sys.platform == "win32":
    _Handle = Path
    _POLICY = NamePolicy.PORTABLE

    def _why_precious(_path: Path) -> str | None:
        return None  # there is no more to know than what `_is_home` knows

    def _hold(path: str, above: _Handle | None = None) -> _Handle:
        handle = above / path if above else Path(path)
        found = handle.lstat()
        if not stat.S_ISDIR(found.st_mode) or getattr(found, "st_reparse_tag", False):  # a junction, as a link
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(handle))
        return handle

    def _release(_handle: _Handle) -> None:
        pass

    def _make(above: _Handle, part: str) -> None:
        (above / part).mkdir()

    def _unmake(above: _Handle, part: str) -> None:
        (above / part).rmdir()

    def _create(above: _Handle, last: str) -> int:
        return os.open(above / last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_BINARY, 0o666)

    def _publish(top: _Handle, own: str, above: _Handle, last: str) -> None:
        os.link(top / own, above / last)

    def _look(above: _Handle, last: str) -> os.stat_result:
        return (above / last).lstat()

    def _read(above: _Handle, last: str) -> int:
        if (above / last).is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), last)
        return os.open(above / last, os.O_RDONLY | os.O_BINARY)

    def _remove(above: _Handle, last: str) -> None:
        (above / last).unlink()

    def _sync(_handle: _Handle) -> None:
        pass

else:
    from securexfer.storage.directories import OPEN, READ

    _Handle = int
    _POLICY = NamePolicy.NATIVE

    def _why_precious(path: Path) -> str | None:
        """Return why nothing of somebody else's may come into a directory, if so."""
        from securexfer.storage.root import why_precious

        return why_precious(path)

    def _hold(path: str, above: _Handle | None = None) -> _Handle:
        """Open a directory that is no link; raises OSError."""
        return os.open(path, OPEN, dir_fd=above)

    def _release(handle: _Handle) -> None:
        os.close(handle)

    def _make(above: _Handle, part: str) -> None:
        """Make a directory with the mode that the umask says; one that sets the group goes on doing so."""
        os.mkdir(part, dir_fd=above)

    def _unmake(above: _Handle, part: str) -> None:
        """Remove a directory if it is empty; raises OSError."""
        os.rmdir(part, dir_fd=above)

    def _create(above: _Handle, last: str) -> int:
        """Create a file, with the mode that the umask says, which nobody may execute; raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(last, flags, 0o666, dir_fd=above)

    def _publish(top: _Handle, own: str, above: _Handle, last: str) -> None:
        """Put a file under its name, unless there is something, which raises FileExistsError."""
        os.link(own, last, src_dir_fd=top, dst_dir_fd=above, follow_symlinks=False)

    def _look(above: _Handle, last: str) -> os.stat_result:
        """Return what stands under a name; raises OSError."""
        return os.stat(last, dir_fd=above, follow_symlinks=False)

    def _read(above: _Handle, last: str) -> int:
        """Open what stands under a name, unless it is a link, without waiting for a pipe's writer; raises OSError."""
        return os.open(last, READ, dir_fd=above)

    def _remove(above: _Handle, last: str) -> None:
        """Remove a name; raises OSError."""
        os.unlink(last, dir_fd=above)

    def _sync(handle: _Handle) -> None:
        """Make the entries of a directory durable; raises OSError."""
        os.fsync(handle)


# -- results -----------------------------------------------------------------------------------------------------


class Results:
    """A directory of results, held open for one send. Used by one thread."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Open the directory, or make it, not its parents; `max_bytes` is the limit of all results together.

        Raises ConfigurationError where nothing could be stored, or where files could be more than files: in a home, a
        result called .profile would be run. A link is refused, as for an inbox: in a place like /tmp it may be somebody
        else's. That others may write into the directory is the user's to decide: groups share their results.
        """
        self.path = directory
        self._left = self._max_bytes = max_bytes
        self._files = self._directories = 0
        problem = "is your home directory" if _is_home(directory) else _why_precious(directory)
        if problem:
            raise ConfigurationError(
                f"the directory for results {directory.resolve()} {problem}",
                hint="Files like .bashrc would take effect there. Use one of its own: securexfer send --results DIR",
            )
        if directory.is_symlink():
            raise ConfigurationError(
                f"the directory for results {directory} is a link",
                hint=f"Name the directory itself: securexfer send --results {shlex.quote(str(directory.resolve()))}",
            )
        try:
            self._top = self._open()
        except OSError as error:
            raise ConfigurationError(
                f"the directory for results {directory} cannot be used: {_said(error)}", hint=_AGAIN
            ) from error

    def store(self, name: str) -> ResultFile:
        """Begin a file by the name that the server says. Raises ResultsError."""
        try:
            parsed = Name.parse(name, _POLICY)
        except UnsafeNameError as error:
            raise ResultsError(
                f"a result was not stored: {error.message}",
                hint="Have the script call it something else: letters, digits, dots, dashes and underscores work.",
            ) from error
        if self._files >= MAX_FILES:
            raise self._too_much(parsed, f"{MAX_FILES} files")
        self._files += 1
        with _explained(parsed):
            own = _own_name()
            return ResultFile(self, parsed, own, _create(self._top, own))

    def count(self, name: Name, size: int) -> None:
        """Count bytes that came. Raises ResultsError if there are more in all than there may be."""
        if size > self._left:
            raise self._too_much(name, f"{self._max_bytes} bytes")
        self._left -= size

    def discard(self, own: str) -> None:
        """Remove a file that is not to be a result, if it is there."""
        with contextlib.suppress(OSError):
            _remove(self._top, own)

    def place(self, own: str, name: Name, found: os.stat_result, digest: bytes) -> str:
        """Put a file that was found whole and durable under its name, or another; return that.

        Raises ResultsError, or OSError; nothing that was made for it is left then.
        """
        handles = [self._top]
        made: list[tuple[_Handle, str]] = []
        try:
            for part in name.parts[:-1]:
                above = handles[-1]
                try:
                    handles.append(_hold(part, above))
                except FileNotFoundError:
                    self._make(name, above, part, made)
                    _sync(above)
                    handles.append(_hold(part, above))
            for candidate in chain([name], numbered(name)):
                if self._put(own, handles[-1], candidate.parts[-1], found, digest):
                    return str(candidate)
            raise ResultsError(
                f"the result {show(str(name))!r} was not stored: the name and all with a number are taken"
            )
        except BaseException:
            for above, part in reversed(made):
                with contextlib.suppress(OSError):
                    _unmake(above, part)
            raise
        finally:
            for handle in handles[1:]:
                _release(handle)

    def close(self) -> None:
        """Let the directory go."""
        _release(self._top)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> _Handle:
        """Open or make the directory, and try in it what each file needs: that is better said before a send."""
        try:
            top = _hold(str(self.path))
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir()
            sync_directory(self.path.parent)
            top = _hold(str(self.path))
        own, linked = _own_name(), _own_name()
        try:
            os.close(_create(top, own))
            try:
                _publish(top, own, top, linked)
            finally:
                for name in (own, linked):
                    with contextlib.suppress(OSError):
                        _remove(top, name)
        except BaseException:
            _release(top)
            raise
        return top

    def _make(self, name: Name, above: _Handle, part: str, made: list[tuple[_Handle, str]]) -> None:
        if self._directories >= MAX_FILES:
            raise self._too_much(name, f"{MAX_FILES} directories")
        with contextlib.suppress(FileExistsError):  # somebody else was quicker, and it is theirs
            _make(above, part)
            made.append((above, part))
            self._directories += 1

    def _put(self, own: str, above: _Handle, last: str, found: os.stat_result, digest: bytes) -> bool:
        """Put a file under a name, unless its content stands there; return False if something else does."""
        try:
            _publish(self._top, own, above, last)
        except FileExistsError:
            return _stands(above, last, found.st_size, digest)
        try:
            _sync(above)
        except OSError:
            with contextlib.suppress(OSError):
                if os.path.samestat(found, _look(above, last)):  # not another that came after it
                    _remove(above, last)
            raise
        return True

    def _too_much(self, name: Name, limit: str) -> ResultsError:
        return ResultsError(
            f"the result {show(str(name))!r} was not stored: a send takes no more than {limit} of results",
            hint="Have the scripts leave less. What was stored before is complete.",
        )


class ResultFile:
    """A result on its way in: nothing is under its name before `commit`, and nothing is left without it."""

    def __init__(self, results: Results, name: Name, own: str, descriptor: int) -> None:
        """Take a new file that is open, and its name at the top of the results."""
        self.name = name
        self._results = results
        self._own = own
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._open = True

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises ResultsError."""
        with _explained(self.name):
            self._results.count(self.name, len(data))
            self._digest.update(data)
            while data:
                data = data[os.write(self._descriptor, data) :]

    def commit(self, digest: bytes) -> str:
        """Make it durable, then visible; return the name that it has, below the directory.

        That is `x (1).csv` where other content stands under `x.csv`, and what stands there where it is the same.
        Raises DigestMismatchError unless its SHA-256 is `digest`, and ResultsError.
        """
        try:
            if not hmac.compare_digest(self._digest.digest(), digest):
                raise DigestMismatchError(
                    f"the result {show(str(self.name))!r} is not what the server made: digests differ"
                )
            with _explained(self.name):
                os.fsync(self._descriptor)
                found = os.fstat(self._descriptor)
                self._close()
                return self._results.place(self._own, self.name, found, digest)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what came, unless it has its name by now; once is enough."""
        if self._own:
            self._close()
            self._results.discard(self._own)
            self._own = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def _close(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):  # what is to stay was synced before
                os.close(self._descriptor)


def _is_home(directory: Path) -> bool:
    """Whether shells and the like look for their files in a directory; storage/root.py knows what else is precious."""
    with contextlib.suppress(RuntimeError):  # a user without one
        return directory.resolve() == Path.home().resolve()
    return False


def _own_name() -> str:
    """Return a name that nobody else uses, for a file that is not complete."""
    return f".securexfer-{os.urandom(8).hex()}"


def _stands(above: _Handle, last: str, size: int, digest: bytes) -> bool:
    """Whether a plain file with this content stands under a name."""
    try:
        descriptor = _read(above, last)
    except OSError:  # a link, a socket, somebody else's: whatever it is, it stays
        return False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return False
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return hmac.compare_digest(hashlib.file_digest(file, "sha256").digest(), digest)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(name: Name) -> Iterator[None]:
    """Turn an OSError of the block into a ResultsError."""
    try:
        yield
    except OSError as error:
        raise ResultsError(f"the result {show(str(name))!r} was not stored: {_said(error)}", hint=_AGAIN) from error


def _said(error: OSError) -> str:
    if error.errno in _NO_LINKS:
        return "its disk has no hard links, without which a file could overwrite another"
    if error.errno in {errno.ENOTDIR, errno.ELOOP}:
        return "a part of its path is a link, or no directory"
    return str(error.strerror)
