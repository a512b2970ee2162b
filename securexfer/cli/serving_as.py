"""What `securexfer serve` does with root's rights: gives them up for --run-as, or says that it should."""

from __future__ import annotations

import os
import pwd
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from securexfer import dumps, privileges
from securexfer.cli.terminal import note
from securexfer.errors import ConfigurationError
from securexfer.events import PrivilegeNotice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securexfer.cli.log import Log
    from securexfer.events import OpeningNotice, StorageNotice
    from securexfer.privileges import ServiceUser

_OWN_PLACE = Path("/srv/securexfer")  # for a server whose files are where people's are


def become(user: ServiceUser | None, certs: Path, users: Path, inbox: Path) -> list[PrivilegeNotice]:
    """Give root's rights up for `user`, if one is named; return what `warn` is to tell.

    To be called when only what needs root is open. Raises ConfigurationError, with the command that mends it, for
    files that the user could not work with.
    """
    told: list[str] = []
    if user:
        # The directories themselves; that a file or the inbox may be no link is checked by whoever opens it.
        certs, users, inbox = certs.resolve(), *(path.parent.resolve() / path.name for path in (users, inbox))
        _check_owners(user, certs, users, inbox)
        privileges.drop(user)
        for path in (certs / "server.key", users, inbox):
            privileges.check_reachable(user, path)
        privileges.check_can_make(user, inbox)
        authority = certs / "ca.key"
        if os.access(authority, os.R_OK):
            told.append(
                f"{user.name} can read the CA's key, which serve never needs; to keep it from a server that was broken "
                f"into: chown root: {shlex.quote(str(authority))}"
            )
    elif os.geteuid() == 0:
        told.append(
            "serve runs as root: whoever breaks into it has this whole machine, and what it stores belongs to root. "
            "Give it a user of its own: securexfer serve --run-as USER"
        )
    dumps.forbid_dumps()
    return [PrivilegeNotice(text) for text in told]


def warn(notices: Sequence[PrivilegeNotice | StorageNotice | OpeningNotice], log: Log) -> None:
    """Tell what `become` returned, and the like: whoever starts the server, then, on its own lines, the log."""
    for notice in notices:
        note(f"WARNING: {notice.detail}")
    for notice in notices:
        log.write(notice)


def _check_owners(user: ServiceUser, certs: Path, users: Path, inbox: Path) -> None:
    home = users.parent
    if _is_for_others(user, home):
        moved = [path for path in (certs, users, inbox) if path.parent == home and os.path.lexists(path)]
        place = f"install -d -m 700 {_OWN_PLACE} && mv {shlex.join(map(str, moved))} {_OWN_PLACE}"
        raise ConfigurationError(
            f"{users.name} needs a directory that is {user.name}'s, and {home} is not one to give away",
            hint=f"{place}\nThen: securexfer serve --home {_OWN_PLACE} --run-as {user.name}",
        )
    companions = [users.with_name(f"{users.name}{suffix}") for suffix in ("-wal", "-shm")]
    # All that it reads, and what it must be able to make or to replace: SQLite's companions beside the database, what a
    # killed renewal left beside the certificates. `ca.key` is not among them, and had better be root's.
    shown = [certs / name for name in ("ca.pem", "server.pem", "server.key", ".lock")]
    privileges.check_owned(user, [home, users, *companions, home / ".lock", certs, *shown], inbox)


def _is_for_others(user: ServiceUser, directory: Path) -> bool:
    """Whether a directory is not the user's and must not be given away: somebody's home, or one of the system's."""
    if not directory.is_dir() or directory.stat().st_uid == user.uid:
        return False
    homes = {Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_uid != user.uid}
    return directory in homes or directory.parent.parent == directory.parent
