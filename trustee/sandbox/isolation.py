"""How a worker is isolated: by Landlock through `sandlock`, by bubblewrap, or only by limits.

In both locks every call also applies the same seccomp filter to itself. This module holds what
differs: the command that starts a worker, what it may read, and why a lock is not available.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
import zoneinfo
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trustee.errors import InputError
from trustee.sandbox.calls import Isolation
from trustee.sandbox.filter import ARCHITECTURES, build_filter
from trustee.types import Record

WORKER = Path(__file__).with_name("worker.py")
FLAGS = ("-S", "-s", "-P", "-B", "-X", "utf8")
"""No site-packages, user folder or script folder, and no bytecode is written. `-I` is not used
because it would also ignore the hash seed, which fixes the order of sets."""
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""The only environment variable of a worker, which removes it when it has started."""
KEPT_OUT = ("site-packages", "dist-packages")
"""Folders of the standard library's folder that stay hidden."""
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
SWITCH = '--unsafe-local-tools, or isolation = "none" in [sandbox]'


class Lock(Record, frozen=True):
    """A way to isolate a worker."""

    isolation: Isolation
    command: tuple[str, ...]
    environment: dict[str, str]
    library: str = ""
    """Folder from which the worker loads `sandlock`."""
    readable: tuple[str, ...] = ()
    """Paths that a call may read without a breach; with Landlock it cannot read any others."""
    filter: bytes = b""
    """The seccomp program; empty for none."""

    def frame(self) -> dict[str, Any]:
        """Return the part of the worker's first frame that describes the lock."""
        return {
            "library": self.library,
            "readable": self.readable,
            "filter": self.filter.hex(),
        }


def find_locks(wanted: Isolation) -> tuple[Lock, ...]:
    """Return the locks to try, best first; only starting a worker shows whether one works.

    Raises:
        InputError: if no wanted lock is available on this machine.
    """
    if wanted == "none":
        command = (real_python(), *FLAGS, str(WORKER))
        return (Lock(isolation="none", command=command, environment=ENVIRONMENT),)
    locks, missing = [], []
    makers = {"landlock": lock_by_landlock, "bubblewrap": lock_by_bubblewrap}
    for name, make in makers.items():
        if wanted in ("auto", name):
            try:
                locks.append(make())
            except InputError as error:
                missing.append(str(error))
    if not locks:
        raise refuse(wanted, missing)
    return tuple(locks)


def refuse(wanted: Isolation, missing: list[str]) -> InputError:
    """Return the error for a machine without a sandbox, with reasons and remedies."""
    return InputError(
        f"no sandbox for tools with code: isolation {wanted!r} was requested, but "
        f"{'; '.join(missing)}. Use kernel 5.13 or later with Landlock, or install bubblewrap; "
        f"on a disposable machine, you can run the tools unprotected: {SWITCH}"
    )


def lock_by_landlock() -> Lock:
    """Return a lock with Landlock and seccomp.

    Raises:
        InputError: if `sandlock` or a filter for this machine is missing.
    """
    spec = find_spec("sandlock")
    if spec is None or spec.origin is None:
        raise InputError("landlock needs the package sandlock, which is not installed")
    return Lock(
        isolation="landlock",
        environment=ENVIRONMENT,
        command=(real_python(), *FLAGS, str(WORKER)),
        library=str(Path(spec.origin).parents[1]),
        readable=tuple(readable_paths()),
        filter=make_filter(),
    )


def lock_by_bubblewrap() -> Lock:
    """Return a lock with seccomp and namespaces that contain only Python's own files.

    Raises:
        InputError: if bubblewrap or a filter for this machine is missing.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise InputError("bubblewrap's program bwrap is not on the PATH")
    standard = sysconfig.get_path("stdlib")
    shown = [real_python(), standard, *LIBRARIES, *zoneinfo.TZPATH, *shared_python()]
    hidden = [f"{standard}/{name}" for name in KEPT_OUT]
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for path in filter(os.path.exists, shown):
        command += ["--ro-bind", path, path]
    for path in filter(os.path.exists, hidden):
        command += ["--tmpfs", path]
    for file in (WORKER, WORKER.with_name("inside.py")):
        command += ["--ro-bind", str(file), f"/{file.name}"]
    command += ["--dev", "/dev", "--chdir", "/"]
    return Lock(
        isolation="bubblewrap",
        command=(*command, real_python(), *FLAGS, "/worker.py"),
        environment={},
        readable=tuple(readable_paths()),
        filter=make_filter(),
    )


def make_filter() -> bytes:
    """Return the seccomp filter for this machine.

    Raises:
        InputError: if this machine's system calls are not listed.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise InputError(
            f"the system calls of {machine} are not listed, only those of "
            f"{', '.join(ARCHITECTURES)}"
        )
    return build_filter(machine)


def real_python() -> str:
    """Return the path of the real interpreter; a virtual environment has only a link to it."""
    return os.path.realpath(sys.executable)


def readable_paths() -> list[str]:
    """Return what an isolated worker may read: the standard library's entries and time zones."""
    standard = Path(sysconfig.get_path("stdlib"))
    entries = (path for path in standard.iterdir() if path.exists())
    own = sorted(str(path) for path in entries if path.name not in KEPT_OUT)
    return [*own, *filter(os.path.isdir, zoneinfo.TZPATH)]


def shared_python() -> list[str]:
    """Return the interpreter's shared library, if it has one."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    return [f"{folder}/{name}"] if str(name).find(".so") >= 0 else []
