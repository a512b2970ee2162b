"""Passwords and keys are in our memory, and memory does not go to a core file.

Apart from `privileges`, because every command comes here, `send` too, and starting is a third of a small send.
"""

from __future__ import annotations

import os
import sys

_PR_SET_DUMPABLE = 4  # prctl(2), from <linux/prctl.h>


def forbid_core_files() -> None:
    """Let no core file be written of this process and those that it starts."""
    if sys.platform != "win32":
        import resource

        # Not 0: with 1, Linux keeps a dump from a program that takes dumps as well (core(5), format_corename), and one
        # byte makes no file. Elsewhere, it might.
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        limit = 1 if sys.platform == "linux" and hard != 0 else 0
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def forbid_dumps() -> None:
    """Let nobody but root look into the memory of this process, whatever crashes; called after the last change of ids.

    It holds also where the limit of core files was 0 already, and the system pipes dumps to a program (core(5)). And it
    keeps other processes of the same user from reading our memory. It costs the 2 to 10 ms that ctypes takes to import.
    """
    if sys.platform == "linux":
        prctl(_PR_SET_DUMPABLE, 0)


def prctl(option: int, value: int) -> None:
    """Set an option of this process, of those in the manual page of that name; Linux only. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
