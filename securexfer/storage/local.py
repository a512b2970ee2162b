"""Received files in a directory tree: the root of it, held by one server alone, and how it stores.

The rules of the whole tree:

* The root is opened once (root.py); everything else is opened from a directory handle we hold (directories.py).
* An unfinished file lives in a directory of the root that no peer can name and only one server may use (staged.py); a
  large one stays there when its connection ends, for a later send to resume (partials.py).
* A file is published under its name only when it is complete, verified and on disk (publishing.py).
* What is known of the content of files is a help, and never believed against the disk (index.py).
* The files of a send that may be opened are kept as they were verified (bundle.py).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securexfer.errors import ConfigurationError
from securexfer.names import STAGING_NAME, Name, NamePolicy
from securexfer.storage import directories, nameless, root
from securexfer.storage.base import OnConflict
from securexfer.storage.bundle import Bundles
from securexfer.storage.failures import Translated
from securexfer.storage.folding import FoldedNames
from securexfer.storage.index import Index
from securexfer.storage.ledger import Ledger
from securexfer.storage.partials import Partials
from securexfer.storage.space import FreeSpace, Usage
from securexfer.storage.syncing import Rest, Syncer, Whole
from securexfer.storage.user import UserStorage

if TYPE_CHECKING:
    from pathlib import Path

    from securexfer.storage.bundle import Bundle
    from securexfer.storage.nameless import Way

QUICK_SECONDS = 0.0001  # for a sync: a disk takes ten times as long, a memory file system a hundredth
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # link(2): what says that there are none


@dataclass(frozen=True, slots=True)
class Rules:
    """How a server stores: its conflict policy, names, modes and limits (sizes in bytes).

    `allowed` are the policies that a sender may ask for. Without `durable` nothing is synced: a file that was
    acknowledged survives the server's end, but not the machine's.
    """

    on_conflict: OnConflict = OnConflict.REFUSE
    names: NamePolicy = NamePolicy.NATIVE
    file_mode: int = 0o600
    directory_mode: int = 0o700
    group: int | None = None
    quota: int | None = None
    reserve: int | None = None
    allowed: frozenset[OnConflict] = frozenset(OnConflict)
    durable: bool = True


class Inbox:
    """The root directory, held by this server alone; hands out each user's part of it."""

    def __init__(self, path: Path, rules: Rules) -> None:
        """Open or make the root, take hold of it, and clear what an earlier server left unfinished.

        Sets the process's umask. Raises ConfigurationError if the root is a link, ``/``, a home directory or what
        holds some, in use by another server, or on a disk that could not store a file as the rules want it.
        What its administrator should know beside, is in `notices`.
        """
        self.path = path
        self.rules = rules
        self._folded = FoldedNames() if rules.names is NamePolicy.PORTABLE else None
        self._usages: dict[str, Usage] = {}
        self._rest = Rest()
        self._numbers = itertools.count(1)
        root.refuse_precious(path)
        root.refuse_link(path)
        os.umask(0o077)  # each mode is set to the bit later; until then what we make is ours to use, and only ours
        with contextlib.ExitStack() as stack:
            with root.explained(path):
                self._root = directories.open_root(path, rules)
                stack.callback(os.close, self._root)
                root.refuse_shared(path, self._root, rules.directory_mode)
                stack.callback(os.close, root.lock(path, self._root))
                with contextlib.suppress(FileExistsError):
                    os.mkdir(STAGING_NAME, 0o700, dir_fd=self._root)
                self._staging = os.open(STAGING_NAME, directories.OPEN, dir_fd=self._root)
                stack.callback(os.close, self._staging)
                ledger = Ledger(path.absolute(), durable=rules.durable)
                stack.callback(ledger.close)
                self.index = Index(ledger)
                self.partials = Partials(ledger, self._staging)
                self.partials.sweep()
                self.quick = False  # whether a sync takes no time worth mentioning
                self.made_with: int | None = None  # the mode that a file has here when it is made, if that is known
                self.give_name: Way | None = None  # to a file that was created without one; None where there are none
                self.links_last = True  # whether such a file is durable with its directory
                self._rehearse()
                self._bundles = Bundles(self._root, self._staging, self.index, path.absolute() / STAGING_NAME)
                stack.callback(self._bundles.close)  # before the handles that it has
            self.space = FreeSpace(self._root, rules.reserve)
            self._held = stack.pop_all()
        self.notices = [ledger.notice] if ledger.notice else []

    def for_user(
        self, user: str, *, policy: OnConflict | None = None, send_id: bytes = b"", bundle: Bundle | None = None
    ) -> UserStorage:
        """Return the part of the inbox that is `user`'s, for one send, making its directory where missing.

        A `policy` of None is the server's own; whether another is allowed is the caller's to ask. With a `send_id`,
        which is the same when a send is tried again, large files are kept to be resumed. With a `bundle` of that user,
        what is stored is linked there as well.
        Raises NameTakenError (a link or a file stands there), StorageFailedError or NoSpaceError.
        """
        for whose, size in self.partials.expire():
            if whose in self._usages:
                self._usages[whose].settle(0, -size)
        with Translated("the user's directory"):
            home, made = directories.enter(self._root, user, self.rules)
            try:
                if made:
                    directories.sync(self._root, self.rules)
                syncer = Syncer(None if self.quick else Whole(home, self._rest))
            except OSError:
                os.close(home)
                raise
        usage = None
        if self.rules.quota is not None:
            usage = self._usages.setdefault(user, Usage(user, self.rules.quota, lambda: self._count(user)))
        return UserStorage(self, user, home, syncer, usage, policy or self.rules.on_conflict, send_id, bundle)

    def new_bundle(self, user: str, directory: str = "") -> Bundle:
        """Return an empty bundle for one send of a user, whose names there are below `directory`, "" for none.

        Raises UnsafeNameError, StorageFailedError or NoSpaceError.
        """
        return self._bundles.new(user, Name.parse(directory).parts if directory else ())

    def create_staging(self, *, named: bool = True) -> tuple[int, str]:
        """Create an empty file where no peer can name it; return its descriptor and its name there, "" without."""
        if not named:
            return nameless.create(self._staging), ""
        name = str(next(self._numbers))
        return os.open(name, os.O_WRONLY | os.O_EXCL | root.CREATE, 0o600, dir_fd=self._staging), name

    @property
    def folds(self) -> bool:
        """Whether a name has to be claimed before it is made."""
        return self._folded is not None

    def claim(self, directory: int, name: str) -> contextlib.AbstractContextManager[bool]:
        """Return what to hold while making `name`; it says whether the name policy lets it stand beside the others."""
        return self._folded.claim(directory, name) if self._folded else contextlib.nullcontext(enter_result=True)

    def publish(self, staged: str, name: str, directory: int) -> None:
        """Make a staged file visible as `name`; raises FileExistsError if that is taken."""
        os.link(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory, follow_symlinks=False)

    def name_staging(self, descriptor: int, give: Way) -> str:
        """Give a file without a name one where no peer can name it; return it. Raises OSError."""
        name = str(next(self._numbers))
        give(descriptor, name, self._staging)
        return name

    def replace(self, staged: str, name: str, directory: int) -> None:
        """Put a staged file in the place of the one that stands under `name`, in one step."""
        os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory)

    def name_again(self, staged: str) -> str:
        """Give a staged file a second name, to be used up; return it, or the first where the disk takes no other."""
        again = f"{staged}-again"
        try:
            self.publish(staged, again, self._staging)
        except OSError:
            return staged
        return again

    def remove_staging(self, name: str) -> None:
        """Remove a staged file, if it is still there."""
        try:  # noqa: SIM105 - there is one for each of many files, and this costs them nothing
            os.unlink(name, dir_fd=self._staging)
        except OSError:  # a leftover is swept when the next server starts
            pass

    def close(self) -> None:
        """Let go of the root, so that another server can take it."""
        self._held.close()

    def _rehearse(self) -> None:
        """Stage, link and sync a file as if it had come: what would fail for every file is better said now."""
        try:
            descriptor, name = self.create_staging()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return  # there may be room when a file comes; until then each is refused with that reason
            raise
        try:
            self.made_with = stat.S_IMODE(os.fstat(descriptor).st_mode)
            self._rehearse_access(descriptor)
            self._rehearse_link(name)
            self.give_name = nameless.way(self._staging, f"{name}-nameless")
            self.links_last = nameless.links_last(self._staging)
            self.quick = self._rehearse_sync(descriptor) < QUICK_SECONDS
        finally:
            os.close(descriptor)
            self.remove_staging(name)

    def _rehearse_sync(self, descriptor: int) -> float:
        """Return the seconds that a sync takes."""
        began = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk's, perhaps: each file hears it when its turn comes
            directories.sync(descriptor, self.rules)
        return time.monotonic() - began

    def _rehearse_access(self, descriptor: int) -> None:
        try:
            directories.set_access(descriptor, self.rules.group, self.rules.file_mode)
        except PermissionError:
            raise ConfigurationError(
                f"this user cannot give files in the inbox {self.path} to the group {self.rules.group}",
                hint="Make the user that runs `securexfer serve` a member of the group, or leave --group out.",
            ) from None

    def _rehearse_link(self, name: str) -> None:
        linked = f"{name}-linked"
        try:
            self.publish(name, linked, self._staging)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise ConfigurationError(
                f"the disk of the inbox {self.path} has no hard links, without which a file could overwrite another",
                hint="Choose a directory on another file system: securexfer serve --inbox DIR",
            ) from None
        self.remove_staging(linked)

    def _count(self, user: str) -> int:
        """Return the bytes that are a user's, partial files too; files that go away meanwhile do not count."""
        total = self.partials.size_of(user)
        for _, _, files, handle in os.fwalk(user, dir_fd=self._root, follow_symlinks=False):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    total += found.st_size if stat.S_ISREG(found.st_mode) else 0
        return total
