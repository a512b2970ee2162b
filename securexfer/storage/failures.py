"""What the system says about a file becomes what its sender can be told."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from securexfer.errors import NameTakenError, NoSpaceError, SkippedError, StorageFailedError, UnsafeNameError
from securexfer.names import show
from securexfer.storage.base import OnConflict

if TYPE_CHECKING:
    from types import TracebackType

    from securexfer.errors import SecurexferError
    from securexfer.names import Name


class Translated:
    """Turns an OSError of its block into NoSpaceError, NameTakenError, UnsafeNameError or StorageFailedError.

    A class with slots, as it is entered several times for each file.
    """

    __slots__ = ("_what",)

    def __init__(self, what: Name | str) -> None:
        """Say what was to be done: store a file of that name, or, in words, what was to be stored."""
        self._what = what

    def __enter__(self) -> None:
        """Nothing is done until something fails."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise translation(error, self._what) from error


def translation(error: OSError, what: Name | str) -> SecurexferError:
    """Return what `Translated` makes of an error, for who meets one for each of many files."""
    said = f"{what if isinstance(what, str) else repr(show(str(what)))} was not stored: "
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpaceError(f"{said}no room on the server's disk ({errno_name(error)})")
    if error.errno in {errno.ENOTDIR, errno.ELOOP}:
        return NameTakenError(f"{said}a part of its path is not a directory")
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeNameError(f"{said}the name is too long for the server's disk")
    return StorageFailedError(f"{said}{errno_name(error)}")


def taken(name: Name, why: str, policy: OnConflict = OnConflict.REFUSE) -> NameTakenError | SkippedError:
    """Return the error that says why a name is not free, under the policy that is in force."""
    kind = SkippedError if policy is OnConflict.SKIP else NameTakenError
    return kind(f"the name {show(str(name))!r} is taken: {why}")


def errno_name(error: OSError) -> str:
    """Return the symbol of an error's number, as in ENOSPC."""
    return errno.errorcode.get(error.errno or 0, str(error))
