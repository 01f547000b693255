"""The system calls that a tool's process may make, as a seccomp program.

The list names what is allowed, so calls that later kernels add are refused too. Nothing on it
creates a process, thread, socket or file, sends a signal, or reaches into another process. Files
can only be opened for reading; Landlock or bubblewrap determine which ones. `stat` by path stays,
because Python's imports need it and a filter cannot read the path; what they can do without, such
as `access`, `statx`, and opening a path without its contents, is refused.
Source: `seccomp(2)`, `linux/filter.h`, the kernel's tables of system calls.
"""

from __future__ import annotations

import errno
import os
import struct

X86_64 = """
read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11
brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 readv=19 writev=20
select=23 sched_yield=24 mremap=25 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36
alarm=37 setitimer=38 getpid=39 exit=60 getcwd=79 gettimeofday=96 getrusage=98
times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110 sigaltstack=131
gettid=186 time=201 futex=202 sched_getaffinity=204 getdents64=217 restart_syscall=219
clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 openat=257 newfstatat=262
pselect6=270 ppoll=271 dup3=292 getrandom=318
"""
AARCH64 = """
getcwd=17 dup=23 dup3=24 openat=56 close=57 getdents64=61 lseek=62 read=63 write=64
readv=65 writev=66 pread64=67 pselect6=72 ppoll=73 newfstatat=79 fstat=80 exit=93 exit_group=94
futex=98 nanosleep=101 getitimer=102 setitimer=103 clock_gettime=113 clock_getres=114
clock_nanosleep=115 sched_getaffinity=123 sched_yield=124 restart_syscall=128 sigaltstack=132
rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 times=153 getrusage=165
gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178
brk=214 munmap=215 mremap=216 mmap=222 mprotect=226 madvise=233 getrandom=278
"""
ALLOWED = {"x86_64": X86_64, "aarch64": AARCH64}
"""Allowed system calls and their numbers, by machine."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

FLAGS_OF_OPEN = {"open": 1, "openat": 2}
"""Index of the argument that holds the flags of an open."""
O_PATH = 0o10000000
"""The flag on both machines. `os` has it only where this runs on Linux."""
REFUSED_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | O_PATH
"""Flags of an open that writes, or that tells whether a file exists without reading it."""

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
"""`BPF_LD|W|ABS`, `BPF_JMP|JEQ|K`, `BPF_JMP|JSET|K`, `BPF_RET|K`."""
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; an argument has eight bytes, the low four first."""
ALLOW = 0x7FFF0000
KILL = 0x80000000
REFUSE = 0x00050000
"""Combined (or) with the error number that the caller gets."""


def build_filter(machine: str) -> bytes:
    """Return the filter for a machine, named as by `platform.machine()`.

    It consists of instructions of eight bytes each, in the layout of `struct sock_filter`.

    Raises:
        KeyError: if this machine's system calls are not listed.
    """
    refuse = _instruction(RETURN, REFUSE | errno.EPERM)
    allow = _instruction(RETURN, ALLOW)
    program = [
        _instruction(LOAD, ARCHITECTURE_AT),
        _instruction(EQUAL, ARCHITECTURES[machine], then=1),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER_AT),
    ]
    for entry in ALLOWED[machine].split():
        name, _, value = entry.partition("=")
        number = int(value)
        if name not in FLAGS_OF_OPEN:
            program += [_instruction(EQUAL, number, otherwise=1), allow]
            continue
        program += [
            _instruction(EQUAL, number, otherwise=4),
            _instruction(LOAD, ARGUMENTS_AT + 8 * FLAGS_OF_OPEN[name]),
            _instruction(ANY_BIT, REFUSED_FLAGS, otherwise=1),
            _instruction(RETURN, REFUSE | errno.EACCES),
            allow,
        ]
    return b"".join([*program, refuse])


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Return one instruction; `then` and `otherwise` are numbers of instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
