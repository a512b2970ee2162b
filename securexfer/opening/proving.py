"""Whether a sandbox holds on this machine, and if not, what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from securexfer.errors import SandboxError
from securexfer.names import show

if TYPE_CHECKING:
    from securexfer.opening.running import Ran

# Tries what must be refused, and says what was not. Any Python 3 runs it.
SCRIPT = b"""
import errno, os, socket

def refused(deed, *numbers):
    try:
        deed()
    except OSError as error:
        if error.errno in numbers:
            return
        raise SystemExit("refused, but differently: %s" % error)
    raise SystemExit("not refused: %s" % deed.__name__)

def write_to_the_root():
    open("/usr/x", "w")

def reach_the_network():
    socket.create_connection(("192.0.2.1", 9), 1)

def talk_to_the_kernel():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

lines = (line.partition(":") for line in open("/proc/self/status"))
status = {name: value.split() for name, _, value in lines}
devices = [line.partition(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
for name, found, expected in (
    ("uid", (os.getuid(), os.geteuid(), os.getgid()), (65534, 65534, 65534)),
    ("rights", {int(status[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, {0}),
    ("new rights", status["NoNewPrivs"], ["1"]),
    ("filter", status["Seccomp"], ["2"]),
    ("network", devices, ["lo"]),
    ("directories", sorted({"etc", "home", "root", "run", "sys", "var"} & set(os.listdir("/"))), []),
    ("descriptors", sorted(os.listdir("/proc/self/fd"))[:3] + os.listdir("/proc/self/fd")[4:], ["0", "1", "2"]),
    ("environment", sorted(os.environ), ["HOME", "LANG", "PATH"]),
):
    if found != expected:
        raise SystemExit("%s: %s" % (name, found))
refused(write_to_the_root, errno.EROFS)
refused(reach_the_network, errno.ENETUNREACH)
refused(talk_to_the_kernel, errno.EPERM)
print("it holds")
"""

_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_MOST = Path("/proc/sys/user/max_user_namespaces")
_UNPRIVILEGED = Path("/proc/sys/kernel/unprivileged_userns_clone")  # Debian's own

# Ubuntu 24.04 has the profile that lets bubblewrap alone make namespaces, but does not load it; 25.04 and later do.
_LOAD_PROFILE = (
    "apt install apparmor-profiles && "
    "install -m 644 /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && "
    "apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict"
)


def judge(ran: Ran) -> None:
    """Raise SandboxError, with what mends it, unless `SCRIPT` came to its end."""
    if ran.how == "exit" and ran.exit_code == 0 and ran.output == b"it holds\n" and not ran.results:
        return
    if ran.how != "failed":
        said = show(ran.output.decode(errors="backslashreplace").strip()[-200:]) or ran.detail or ran.how
        raise SandboxError(
            f"the sandbox does not hold: {said}",
            hint="Do not run scripts here. Report it, with the output of: uname -a; bwrap --version",
        )
    raise SandboxError(f"no sandbox can be made: {ran.detail}", hint=_mend(ran.detail))


def _mend(said: str) -> str:
    if "nknown option" in said:
        return "bubblewrap is older than 0.8: upgrade it (Debian 12, Ubuntu 24.04 and later have it)."
    if _number(_MOST) == 0:
        return "sysctl -w user.max_user_namespaces=15000"
    if _number(_UNPRIVILEGED) == 0:
        return "sysctl -w kernel.unprivileged_userns_clone=1"
    if _number(_APPARMOR) == 1:
        return _LOAD_PROFILE
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "namespace" in said or "mount" in said:
        return (
            "In a container, the one who starts it must allow namespaces: for Docker, "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
        )
    return "As the user who serves, this says more: bwrap --unshare-all --ro-bind / / true"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
