"""Root's rights: given up for good by `serve --run-as`, laid aside by a command that works on somebody else's files.

* A server needs root for its port alone. It binds, becomes an ordinary user, and opens everything else as that user:
  what could be opened at the start can be opened again later (a renewed key, the users' database once more).
* Whoever owns a directory can put links into it at any moment. So root's commands do not work there with root's
  rights: they act as the owner, to whom what they make belongs.

The seam for these calls: elsewhere than on Linux there is no `--run-as`, and elsewhere than on POSIX nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from securexfer.dumps import prctl
from securexfer.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_PR_SET_NO_NEW_PRIVS = 38  # prctl(2), from <linux/prctl.h>

# Lines of /proc/self/status (proc(5)), and what they say once no right is left. What may be inherited or is in the
# bounding set counts for nothing with NoNewPrivs: no program that we could start gets any of it.
_NO_RIGHTS = {"CapPrm": 0, "CapEff": 0, "CapAmb": 0, "NoNewPrivs": 1}


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """A user of this machine that a server can become; `groups` are all that the user is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def find(cls, name: str) -> Self:
        """Return the user of that name; raise UsageError if there is none, it is root or close to it, or we are not."""
        if sys.platform != "linux":
            raise UsageError("--run-as works on Linux only", hint="Start `securexfer serve` as that user.")
        if os.geteuid() != 0:
            raise UsageError(
                "only root can become another user",
                hint="Leave --run-as out, or start it as root: sudo securexfer serve --run-as " + shlex.quote(name),
            )
        import pwd

        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise UsageError(
                f"there is no user {name!r} on this machine",
                hint=f"Make one: useradd --system --shell /usr/sbin/nologin {shlex.quote(name)}",
            ) from None
        groups = os.getgrouplist(name, entry.pw_gid)
        if entry.pw_uid == 0 or 0 in groups:
            raise UsageError(
                f"--run-as is to get away from root, and {name} is {'root' if entry.pw_uid == 0 else 'in its group'}",
                hint="Make a user for it: useradd --system --shell /usr/sbin/nologin securexfer",
            )
        return cls(name, entry.pw_uid, entry.pw_gid, tuple(groups))


def drop(user: ServiceUser) -> None:
    """Become `user` for good, with exactly that user's groups, and prove that there is no way back.

    To be called before a second thread is started: `no_new_privs` holds for this one and those that it starts. Raises
    ConfigurationError if any right is left.
    """
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        left = _rights_left(user)
    except OSError as error:
        raise ConfigurationError(
            f"cannot become {user.name}: {error.strerror}", hint="Start it as root, with all of root's capabilities."
        ) from error
    if left:
        raise ConfigurationError(
            f"root's rights could not be given up: as {user.name}, {left}",
            hint="Start it without the securebits that keep rights: capsh --print shows them.",
        )


def _rights_left(user: ServiceUser) -> str:
    """Return what root could still do, in words, or nothing."""
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3 or {*os.getgroups()} != {*user.groups}:
        return "the ids are not all that user's"
    ways: dict[str, Callable[[], None]] = {
        "setuid(0)": lambda: os.setuid(0),
        "seteuid(0)": lambda: os.seteuid(0),
        "setgid(0)": lambda: os.setgid(0),
        "setegid(0)": lambda: os.setegid(0),
        "setgroups([0])": lambda: os.setgroups([0]),
    }
    for way, take in ways.items():
        with contextlib.suppress(PermissionError):
            take()
            return f"{way} still works"
    lines = (line.partition(":\t") for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    said = {name: value for name, _, value in lines}
    for name, expected in _NO_RIGHTS.items():
        if int(said[name], 16) != expected:
            return f"{name} is {said[name]}"
    return ""


# -- what the server's user needs ------------------------------------------------------------------------------


def check_owned(user: ServiceUser, files: Iterable[Path], tree: Path) -> None:
    """Raise ConfigurationError, with one command that mends it all, unless `files` and `tree` belong to `user`.

    What is not there is not looked at. Of the tree, the directory and what stands directly in it are. Called as root,
    who sees every file.
    """
    wrong = [path for path in files if _owner(path) not in {None, user.uid}]
    trees = [tree] if any(_owner(path) not in {None, user.uid} for path in (tree, *_entries(tree))) else []
    if wrong or trees:
        commands = [("chown -h", wrong), ("chown -hR", trees)]
        raise ConfigurationError(
            f"{[*wrong, *trees][0]} does not belong to {user.name}, who is to serve it",
            hint=" && ".join(f"{chown} {user.name}: {_quoted(paths)}" for chown, paths in commands if paths),
        )


def check_reachable(user: ServiceUser, path: Path) -> None:
    """Raise ConfigurationError, with the mending command, unless `user` can get to `path`. Called as that user."""
    for directory in reversed(path.parents):
        try:
            os.stat(f"{directory}/.")  # noqa: PTH116 - a Path would drop the dot, which asks for the right to enter
        except PermissionError:
            raise ConfigurationError(
                f"{user.name} cannot reach {path}: {directory} does not let that user in",
                hint=f"chmod o+x {_quoted([directory])}\n"
                "Or keep the server's files where everybody may pass: securexfer serve --home DIR",
            ) from None
        except OSError:  # not there: whoever needs it says so
            return


def check_can_make(user: ServiceUser, directory: Path) -> None:
    """Raise ConfigurationError, with the command that mends it, unless `directory` is there or `user` can make it."""
    there = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if there != directory and not os.access(there, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{user.name} cannot make {directory}: {there} belongs to somebody else",
            hint=f"install -d -m 700 -o {user.name} {_quoted([directory])}",
        )


def _owner(path: Path) -> int | None:
    try:
        found = path.lstat()
    except OSError:  # not there, or on a file system that does not know root: opening it as the user tells
        return None
    return None if stat.S_ISLNK(found.st_mode) else found.st_uid  # whoever opens it refuses links


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _quoted(paths: Iterable[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)


# -- root in a directory of somebody else ----------------------------------------------------------------------


@contextlib.contextmanager
def acting_for(directory: Path) -> Iterator[None]:
    """As root, act for the block as the owner of `directory`, or of where it is to be made; otherwise change nothing.

    Import before it what the block uses: the owner may not be able to read where this program is installed.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    there = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.is_dir())
    owner = there.lstat()  # of the link, if it is one that an ordinary user made: where that leads is that user's doing
    if owner.st_uid == 0:
        owner = there.stat()
    if owner.st_uid == 0:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    try:
        _set_effective_groups(owner)
        os.seteuid(owner.st_uid)
    except OSError as error:  # root of a container that holds no other user
        raise ConfigurationError(
            f"{there} belongs to another user (uid {owner.st_uid}), for whom root cannot act here: {error.strerror}",
            hint="Run this as that user.",
        ) from error
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


@contextlib.contextmanager
def as_ourselves() -> Iterator[None]:
    """Inside `acting_for`, be root again for the block: for what root alone may read, or what is to be root's."""
    if not hasattr(os, "geteuid") or os.geteuid() == os.getuid():
        yield
        return
    owner = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(owner)


def _set_effective_groups(owned: os.stat_result) -> None:
    import pwd

    try:
        entry = pwd.getpwuid(owned.st_uid)
        gid, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:  # a user of another machine, on a disk that was moved here
        gid, groups = owned.st_gid, [owned.st_gid]
    os.setgroups(groups)
    os.setegid(gid)
