"""A temporary folder for one engine, and the end of what a killed run has left behind.

A run that is killed can remove nothing itself, so the next one does it. Whoever uses a folder holds
a lock on a file in it for life; a folder whose lock is free belongs to nobody any more. Children
that are still alive by then are ended: the kernel should have done that, see
`trainer/die_with_parent.py`.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, set_executable
from pathlib import Path

import structlog

from trustee.trainer import die_with_parent

log = structlog.get_logger()

PREFIX = "trustee-engine-"
OWNER = "owner"
"""The file whose lock says that a folder is in use."""
NEW_SECONDS = 60.0
"""Age below which a folder without that file may be one that is just being made."""


@contextmanager
def open_scratch() -> Iterator[Path]:
    """Yield a new temporary folder, and remove it at the end; remove abandoned ones first."""
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / OWNER).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def tie_children(folder: Path) -> Iterator[None]:
    """Let the kernel kill the processes that multiprocessing spawns in this block with this one.

    Their program is then a script in `folder`, which asks for that and becomes Python. `folder` is
    their temporary folder too, so what they leave there goes with it.
    """
    start_tracker()
    script = folder / "python"
    words = [sys.executable, "-I", "-S", "-B", die_with_parent.__file__]
    words += [str(os.getpid()), str(folder), sys.executable]
    variables = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in child_variables(folder).items()
    )
    script.write_text(f'#!/bin/sh\n{variables}exec {shlex.join(words)} "$@"\n')
    script.chmod(0o700)
    if not os.access(script, os.X_OK):
        # Nothing may be run from this folder. The child asks for it later, see `follow_parent`.
        log.warning("child_not_tied_from_its_start", folder=str(folder))
        yield
        return
    set_executable(str(script))
    try:
        yield
    finally:
        set_executable(sys.executable)


def find_child(folder: Path) -> int:
    """Return the pid of the tied process whose folder this is; 0 if there is none."""
    return next((pid_of(note) for note in folder.glob("child-*")), 0)


def pid_of(note: Path) -> int:
    """Return the pid that a child's note is named by."""
    number = note.name.removeprefix("child-")
    return int(number) if number.isdecimal() else 0


def child_variables(folder: Path) -> dict[str, str]:
    """Return the variables that give a child its temporary folder.

    What torch compiles is worth keeping and stays where torch keeps it.
    """
    compiled = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    return {
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled)),
    }


def start_tracker() -> None:
    """Start multiprocessing's tracker, which removes the semaphores that a killed process leaves.

    So it must outlive this process and its terminal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def remove_abandoned(temporary: Path) -> None:
    """Remove the folders of dead engines of this user, and end their children."""
    for folder in temporary.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
                _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove one folder unless its lock is held.

    Raises:
        OSError: if the lock is held, or the folder is just being removed by another process.
    """
    try:
        file = (folder / OWNER).open("rb")
    except FileNotFoundError:
        if time.time() - folder.lstat().st_mtime > NEW_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for note in folder.glob("child-*"):
            end_stale_child(note)
        shutil.rmtree(folder, ignore_errors=True)
    log.info("removed_abandoned", folder=str(folder))


def end_stale_child(note: Path) -> None:
    """Kill the process that left a note, if that very process still runs."""
    pid = pid_of(note)
    with note.open("rb") as file:
        started = file.read(64)
    if pid and started and die_with_parent.read_start(pid).encode() == started:
        log.warning("ended_stale_child", pid=pid)
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
