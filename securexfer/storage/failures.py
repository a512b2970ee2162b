"""What the system says about a file becomes what its sender can be told."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from securexfer.errors import NameTakenError, NoSpaceError, SkippedError, StorageFailedError, UnsafeNameError
from securexfer.names import show
from securexfer.storage.base import OnConflict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from securexfer.names import Name


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an OSError of the block into NoSpaceError, NameTakenError, UnsafeNameError or StorageFailedError."""
    try:
        yield
    except OSError as error:
        said = f"{what} was not stored: "
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpaceError(f"{said}no room on the server's disk ({errno_name(error)})") from error
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise NameTakenError(f"{said}a part of its path is not a directory") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UnsafeNameError(f"{said}the name is too long for the server's disk") from error
        raise StorageFailedError(f"{said}{errno_name(error)}") from error


def taken(name: Name, why: str, policy: OnConflict = OnConflict.REFUSE) -> NameTakenError | SkippedError:
    """Return the error that says why a name is not free, under the policy that is in force."""
    kind = SkippedError if policy is OnConflict.SKIP else NameTakenError
    return kind(f"the name {show(str(name))!r} is taken: {why}")


def errno_name(error: OSError) -> str:
    """Return the symbol of an error's number, as in ENOSPC."""
    return errno.errorcode.get(error.errno or 0, str(error))
