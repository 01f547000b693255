"""Become another program that the kernel kills as soon as the parent is gone.

    python die_with_parent.py PARENT NOTE PROGRAM [ARGUMENT ...]

It is run by path, without site-packages and without this package, so that nothing can take long
before the kernel has been asked. PARENT is the pid of the process that must be alive. NOTE is a
folder in which this process leaves its pid and start time, for `engine/scratch.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

DEATH_SIGNAL = 1
"""prctl's PR_SET_PDEATHSIG; the request outlives `exec`."""


def ask_for_death(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end now if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    # A parent that died before the request sends no signal any more.
    if os.getppid() != parent:
        os._exit(1)


def read_start(pid: int) -> str:
    """Return when a process started, in ticks since the machine did; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def main(parent: str, note: str, program: str, *arguments: str) -> None:
    """Ask, leave the terminal's signals to the parent, leave the note, become the program."""
    ask_for_death(int(parent))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with open(os.path.join(note, f"child-{os.getpid()}"), "w", encoding="ascii") as file:
        file.write(read_start(os.getpid()))
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
