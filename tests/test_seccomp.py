"""The filter of system calls, as a program: for each architecture it says what the table in `seccomp.py` says.

Whether the kernel of this machine does as it says is shown by scripts in the sandbox.
"""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from securexfer.errors import SandboxError
from securexfer.opening import seccomp

HEADERS = {
    "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
    "aarch64": ["/usr/include/asm-generic/unistd.h"],
}
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KILLED, ALLOWED = "killed", "allowed"
machines = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def answer(machine: str, number: int, *arguments: int, audit: int | None = None) -> str:
    """Run the filter for a call as the kernel does; return what comes of it."""
    program = seccomp.filter_for(machine)
    data = struct.pack("<IIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *(*arguments, *[0] * 6)[:6])
    accumulator = place = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("<HBBI", program, place * 8)
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            place += operand
        elif code == 0x06:
            found = {0x80000000: KILLED, 0x7FFF0000: ALLOWED}
            return found.get(operand) or errno.errorcode[operand & 0xFFFF]
        else:
            holds = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand}[code]
            place += if_true if holds else if_false


def number_of(machine: str, name: str) -> int | None:
    return seccomp.NUMBERS[name][list(AUDIT).index(machine)]


@pytest.mark.debian
@machines
def test_the_numbers_are_the_kernels(machine: str) -> None:
    found = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if not found:
        pytest.skip("needs the Debian package linux-libc-dev")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", found.read_text())
    numbers = {name: int(number) for name, number in defined}
    assert len(numbers) > 300
    assert {name: number_of(machine, name) for name in seccomp.NUMBERS} == {
        name: numbers.get(name) for name in seccomp.NUMBERS
    }


@machines
def test_H10_every_call_of_the_table_has_its_answer(machine: str) -> None:
    for name in seccomp.NUMBERS:
        number = number_of(machine, name)
        if number is not None and name not in seccomp.LIMITED:
            assert answer(machine, number) == ("ENOSYS" if name == "clone3" else "EPERM"), name


@machines
def test_H27_what_is_not_in_the_table_is_allowed(machine: str) -> None:
    listed = {number_of(machine, name) for name in seccomp.NUMBERS}
    for number in range(452):
        if number not in listed:
            assert answer(machine, number) == ALLOWED


@machines
def test_H10_what_is_newer_than_the_table_is_not_there(machine: str) -> None:
    assert [answer(machine, number) for number in (451, 452, 600, 0x3FFFFFFF)] == [ALLOWED, *["ENOSYS"] * 3]


@machines
def test_H10_another_architecture_or_set_of_numbers_kills(machine: str) -> None:
    for audit in (0x40000003, 0xC000003E, 0xC00000B7, 0):
        expected = ALLOWED if audit == AUDIT[machine] else KILLED
        assert answer(machine, 0, audit=audit) == expected
    assert [answer(machine, number) for number in (0x40000000, 0x40000000 | 41, 0xFFFFFFFF)] == [KILLED] * 3


HIGH = 1 << 32  # what the kernel does not look at


@machines
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (1, 1, 0), ALLOWED),
        ("socket", (2, 1 | 0o2000000, 6), ALLOWED),
        ("socket", (10, 2 | 0o4000, 17), ALLOWED),
        ("socket", (16, 3, 0), "EPERM"),
        ("socket", (16 | HIGH, 3, 0), "EPERM"),
        ("socket", (17, 3, 0), "EPERM"),
        ("socket", (40, 1, 0), "EPERM"),
        ("socket", (0xFFFFFFFF, 1, 0), "EPERM"),
        ("socket", (2, 3, 17), "EPERM"),
        ("socket", (2, 6, 0), "EPERM"),
        ("socket", (2, 1, 132), "EPERM"),
        ("socket", (2, 1, 262 | HIGH), "EPERM"),
        ("socketpair", (1, 1, 0), ALLOWED),
        ("socketpair", (30, 1, 0), "EPERM"),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, 0x5412), "EPERM"),
        ("ioctl", (0, 0x5412 | HIGH), "EPERM"),
        ("ioctl", (0, 0x541C), "EPERM"),
        ("ioctl", (0, 0x5423), "EPERM"),
        ("clone", (0x3D0F00,), ALLOWED),
        ("clone", (17,), ALLOWED),
        *(("clone", (17 | 1 << bit,), "EPERM") for bit in (17, 25, 26, 27, 28, 29, 30)),
        ("clone", (17 | 1 << 28 | HIGH,), "EPERM"),
        ("personality", (0,), ALLOWED),
        ("personality", (0xFFFFFFFF,), ALLOWED),
        ("personality", (0x0040000,), "EPERM"),
        ("prlimit64", (0, 7), ALLOWED),
        ("prlimit64", (1, 7), "EPERM"),
        ("setpriority", (0, 0, 19), ALLOWED),
        ("setpriority", (0, 1, 19), "EPERM"),
        ("setpriority", (2, 0, 19), "EPERM"),
    ],
)
def test_H09_H10_what_depends_on_its_arguments(
    machine: str, name: str, arguments: tuple[int, ...], expected: str
) -> None:
    number = number_of(machine, name)
    assert number is not None
    assert answer(machine, number, *arguments) == expected


def test_H26_there_is_no_filter_for_an_architecture_that_is_not_known() -> None:
    with pytest.raises(SandboxError) as error:
        seccomp.filter_for("riscv64")
    assert "riscv64" in error.value.message
    assert "x86_64 and aarch64" in error.value.hint
