"""The system calls that a script in the sandbox may not make, as a program for the kernel's filter (seccomp(2)).

The namespaces decide what a script can reach; this decides how much of the kernel it can talk to. What honest scripts
use is allowed (files, threads, processes, sockets that lead nowhere); what has been the way out of other sandboxes, or
takes memory that no limit counts, is refused. In this order:

1. calls of another architecture or of another set of numbers: the process is killed, for the numbers below would mean
   something else;
2. `NEVER`: refused with EPERM, whatever the arguments;
3. `LIMITED`: refused with EPERM unless the arguments are among those given;
4. `ABSENT`, and every number newer than `LAST_KNOWN`: ENOSYS, as a kernel answers that does not have it. Libraries then
   do the same in an older way; clone(2) has flags that a filter can see, clone3(2) has them in memory;
5. everything else is allowed.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys
from dataclasses import dataclass

from securexfer.errors import SandboxError

# Each call's number on x86_64 and on aarch64 (None: there is none), from <asm/unistd_64.h> and <asm-generic/unistd.h>.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # other processes, and the kernel's own memory of them
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "prlimit64": (302, 261),
    # parts of the kernel that no script needs, and whose faults have been ways out
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "inotify_add_watch": (254, 27),  # each watch takes kernel memory, from what the server's user may have
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "iopl": (172, None),
    "ioperm": (173, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "syslog": (103, 116),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "settimeofday": (164, 170),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    # memory that belongs to no process, and so to no limit; and where memory lies
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # what is allowed with some arguments only
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
}
LAST_KNOWN = 451  # cachestat, Linux 6.5; from 424 on the numbers are the same everywhere


@dataclass(frozen=True, slots=True)
class Argument:
    """What an argument may be: of its bits in `mask`, one of `values`; or if `but` is set, anything but those.

    Of an argument its lower 32 bits are looked at, because for these calls that is what the kernel does: all of them
    take an int or an unsigned int, or flags below 2**32.
    """

    number: int  # 0 for the first
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    but: bool = False


_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: all that a network without devices is harmless with
_KINDS = (1, 2, 5)  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET; others make the kernel load modules
_PROTOCOLS = (0, 6, 17)  # the family's own, TCP, UDP; likewise
_SOCKET = (Argument(0, _FAMILIES), Argument(1, _KINDS, mask=0xF), Argument(2, _PROTOCOLS))
_NAMESPACES = 0x7E020000  # CLONE_NEW*: NS, CGROUP, UTS, IPC, USER, PID, NET, from <linux/sched.h>
_TERMINALS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD, from <asm-generic/ioctls.h> and <linux/tiocl.h>

LIMITED: dict[str, tuple[Argument, ...]] = {
    "socket": _SOCKET,
    "socketpair": _SOCKET,
    "ioctl": (Argument(1, _TERMINALS, but=True),),
    "clone": (Argument(0, (0,), mask=_NAMESPACES),),
    "personality": (Argument(0, (0, 0xFFFFFFFF)),),  # the usual one, and which it is
    "prlimit64": (Argument(0, (0,)),),  # the caller's own: not those of who watches it
    "setpriority": (Argument(0, (0,)), Argument(1, (0,))),  # the same
}
ABSENT = ("clone3",)
NEVER = tuple(name for name in NUMBERS if name not in LIMITED and name not in ABSENT)

# -- the program: struct sock_filter of <linux/filter.h>, over struct seccomp_data of <linux/seccomp.h> ---------------

_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _ABOVE, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x25, 0x06
_NR, _ARCH = (
    0,
    4,
)  # where the number and the architecture stand; arguments follow from 16 on, of 8 bytes, low half first
_KILL_PROCESS, _ALLOW = 0x80000000, 0x7FFF0000
_ERRNO = 0x00050000  # with the number in the lower half
_REFUSE = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
_LACK = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
_X32 = 0x40000000  # __X32_SYSCALL_BIT; no real number is as large, on any architecture

# AUDIT_ARCH_* from <linux/audit.h>, and the column of NUMBERS. Little-endian both, which the offsets rely on.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

Instruction = tuple[int, int, int, int]  # code, how far to jump if true, and if false, operand


def filter_for(machine: str) -> bytes:
    """Return the program for an architecture as `uname -m` says it; raise SandboxError if there is none for it."""
    if machine not in _MACHINES:
        raise SandboxError(
            f"there is no list of system calls for the architecture {machine}",
            hint=f"Scripts can be run on {' and '.join(_MACHINES)} only.",
        )
    audit, column = _MACHINES[machine]
    numbers = {name: pair[column] for name, pair in NUMBERS.items()}
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_ABOVE, 0, 1, LAST_KNOWN),
        _LACK,
    ]
    for name, number in numbers.items():
        if number is not None:
            answer = _limited(LIMITED[name]) if name in LIMITED else [_LACK if name in ABSENT else _REFUSE]
            program += [(_EQUAL, 0, len(answer), number), *answer]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def filter_for_this_machine() -> bytes:
    """Return the program for this machine; raise SandboxError if there is none for it."""
    if sys.platform != "linux":
        raise SandboxError("scripts can be run on Linux only", hint="Leave them stored: start without running scripts.")
    return filter_for(platform.machine())


def _limited(arguments: tuple[Argument, ...]) -> list[Instruction]:
    """Return what refuses a call unless each of its arguments is as it may be."""
    found: list[Instruction] = []
    for argument in arguments:
        found += [(_LOAD, 0, 0, 16 + 8 * argument.number), (_AND, 0, 0, argument.mask)]
        # A hit jumps over the one instruction after the last comparison: over the refusal, or over the jump over it.
        count = len(argument.values)
        found += [(_EQUAL, count - place, 0, value) for place, value in enumerate(argument.values)]
        found += [(_JUMP, 0, 0, 1), _REFUSE] if argument.but else [_REFUSE]
    return [*found, (_RETURN, 0, 0, _ALLOW)]
