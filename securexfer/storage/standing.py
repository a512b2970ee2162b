"""What stands under a name is read, so that it can be compared with what a sender has; and is made durable meanwhile.

Whoever wrote it, and whether or not it was on disk: "unchanged" means that it is, like "stored".
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from securexfer.storage import directories
from securexfer.storage.index import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from securexfer.names import Name
    from securexfer.storage.local import Inbox

# What open(2) says of a link, a socket, a device without a driver, a file of somebody else's, one that is gone again.
_NOT_READABLE = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.ENOENT}
_BUFFER = 1 << 20  # bytes read at a time


def digest_of(inbox: Inbox, user: str, name: Name, directory: int, size: int, tick: Callable[[], None]) -> bytes | None:
    """Return the SHA-256 of what stands under a name, in a directory that is open; None if no plain file of that size.

    Takes no time if the index knows it; else as long as reading it, and `tick` runs often. Raises OSError.
    """
    try:
        descriptor = os.open(name.parts[-1], directories.READ, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOT_READABLE:
            return None
        raise  # no descriptors left, a disk that fails: that says nothing about the content
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return None
        known = inbox.index.find(user, str(name), found)
        if known is not None:
            return known
        digest = hash_of(descriptor, size, tick)
        if digest is None:
            return None
        if inbox.rules.durable:
            os.fsync(descriptor)
            os.fsync(directory)
        if identity(os.fstat(descriptor)) == identity(found):
            inbox.index.note(user, [(str(name), found, digest.digest())])
        return digest.digest()
    finally:
        os.close(descriptor)


def hash_of(descriptor: int, length: int, tick: Callable[[], None]) -> hashlib._Hash | None:
    """Return SHA-256 over the first `length` bytes of an open file; None if it is shorter. Raises OSError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_BUFFER, length)))
    offset = 0
    while offset < length:
        count = os.preadv(descriptor, [buffer[: length - offset]], offset)
        if not count:
            return None
        digest.update(buffer[:count])
        offset += count
        tick()
    return digest
