"""The seccomp program allows what is listed, refuses all else, and opens files to read only."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.sandbox.filter import ALLOW, ALLOWED, ARCHITECTURES, KILL, REFUSE, build_filter

EVERY_MACHINE = pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
FORBIDDEN = {
    "x86_64": {"socket": 41, "clone": 56, "fork": 57, "execve": 59, "kill": 62, "ptrace": 101}
    | {
        "prctl": 157,
        "io_uring_setup": 425,
        "clone3": 435,
        "openat2": 437,
        "fcntl": 72,
        "ioctl": 16,
        "access": 21,
        "uname": 63,
        "readlink": 89,
        "sysinfo": 99,
        "faccessat": 269,
        "statx": 332,
        "faccessat2": 439,
    },
    "aarch64": {"socket": 198, "clone": 220, "execve": 221, "kill": 129, "ptrace": 117}
    | {
        "prctl": 167,
        "io_uring_setup": 425,
        "clone3": 435,
        "openat2": 437,
        "fcntl": 25,
        "ioctl": 29,
        "faccessat": 48,
        "readlinkat": 78,
        "uname": 160,
        "sysinfo": 179,
        "statx": 291,
        "faccessat2": 439,
    },
}


def numbers(machine: str) -> dict[str, int]:
    """Give the listed calls of a machine."""
    pairs = (entry.partition("=") for entry in ALLOWED[machine].split())
    return {name: int(number) for name, _, number in pairs}


def decide(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter as the kernel does, with the five instructions that it uses."""
    padded = (*arguments, *(6 - len(arguments)) * (0,))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    accumulator, at = 0, 0
    while True:
        code, then, otherwise, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
            case 0x15:
                at += then if accumulator == value else otherwise
            case 0x45:
                at += then if accumulator & value else otherwise
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


@EVERY_MACHINE
@given(number=st.integers(0, 600) | st.integers(0, (1 << 32) - 1))
def test_only_listed_calls_pass(machine: str, number: int) -> None:
    """A number passes exactly when it is on the list; calls of the x32 kind never are."""
    program = build_filter(machine)
    expected = ALLOW if number in numbers(machine).values() else REFUSE | errno.EPERM
    assert expected == decide(program, ARCHITECTURES[machine], number)


@EVERY_MACHINE
def test_dangerous_calls_are_refused(machine: str) -> None:
    """None of what makes processes, sockets or signals, or asks about the machine, is listed."""
    program = build_filter(machine)
    decided = {
        name: decide(program, ARCHITECTURES[machine], number)
        for name, number in FORBIDDEN[machine].items()
    }
    assert dict.fromkeys(FORBIDDEN[machine], REFUSE | errno.EPERM) == decided


@EVERY_MACHINE
@given(flags=st.integers(0, (1 << 32) - 1))
def test_files_are_opened_to_read_only(machine: str, flags: int) -> None:
    """Whatever else is asked for, a file is not written, made, cut, or opened as a mere path."""
    program = build_filter(machine)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    expected = REFUSE | errno.EACCES if flags & (writing | os.O_PATH) else ALLOW
    number = numbers(machine)["openat"]
    assert expected == decide(program, ARCHITECTURES[machine], number, (0, 0, flags))


@EVERY_MACHINE
def test_calls_of_another_machine_kill(machine: str) -> None:
    """A process that speaks to the kernel as a 32-bit one would mean other calls by its numbers."""
    assert KILL == decide(build_filter(machine), 0x40000003, 0)
