"""How much opening files may take, and a script use up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What opening may take. Sizes are in bytes; of processes, threads count too, and the supervisor is one."""

    seconds: float = 30.0  # from a script's start, whatever it does
    cpu_seconds: int = 10  # of processor time, for each process
    address_space: int = 512 << 20  # for each process
    memory: int = 1 << 30  # in use by all processes together, looked at twenty times a second
    processes: int = 32
    descriptors: int = 64  # for each process
    file_size: int = 16 << 20  # for each file that is written
    tmp: int = 16 << 20  # in /tmp
    results: int = 16 << 20  # in /out; also of what is taken from there, holes in files counted
    files: int = 100  # taken from /out
    entries: int = 10_000  # files and directories in /tmp and /out together
    output: int = 64 << 10  # kept of what it writes to its standard output and error
    script: int = 1 << 20  # its own size
    show: int = 64 << 10  # of a file that is shown
    queue: int = 100  # openings that wait, of all users
