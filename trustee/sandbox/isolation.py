"""How a worker is locked in: by Landlock through `sandlock`, by bubblewrap, or only by limits.

Both locks are tightened by the same seccomp filter, which every call puts on itself. Here stands
what differs: the command that starts a worker, what it may read, and why a lock cannot be had.
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
"""No site-packages, no user folder, no script folder, no bytecode written; not `-I`, which would
also ignore the hash seed that fixes the order of sets."""
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""All that a worker is started with; it clears this too."""
KEPT_OUT = ("site-packages", "dist-packages")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
SWITCH = '--unsafe-local-tools, or isolation = "none" in [sandbox]'


class Lock(Record, frozen=True):
    """A way to lock a worker in."""

    isolation: Isolation
    command: tuple[str, ...]
    environment: dict[str, str]
    library: str = ""
    """Folder from which the worker loads `sandlock`."""
    readable: tuple[str, ...] = ()
    """What a call may read without being named for it; with Landlock also all that it can."""
    filter: bytes = b""

    def frame(self) -> dict[str, Any]:
        """Say to the worker what concerns the lock."""
        return {
            "library": self.library,
            "readable": self.readable,
            "filter": self.filter.hex(),
        }


def find_locks(wanted: Isolation) -> tuple[Lock, ...]:
    """Give the locks to try, best first; whether one holds is known when a worker has started.

    Raises:
        InputError: where nothing of what is wanted can be had here.
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
    """Say that no tool will be run, why, and what would change that."""
    return InputError(
        f"no sandbox for tools with code: isolation {wanted!r} was wanted, but "
        f"{'; '.join(missing)}. Use a kernel of 5.13 or later with Landlock, or install "
        f"bubblewrap; on a machine that may be harmed, run them unprotected: {SWITCH}"
    )


def lock_by_landlock() -> Lock:
    """Lock by Landlock and seccomp.

    Raises:
        InputError: where the library or the machine's filter is missing.
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
    """Lock by namespaces that hold Python's own files and nothing else, and seccomp.

    Raises:
        InputError: where the program or the machine's filter is missing.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise InputError("bubblewrap's program bwrap is not on the path")
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
    """Write this machine's seccomp filter.

    Raises:
        InputError: for a machine whose system calls are not listed.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise InputError(
            f"the list of system calls knows {', '.join(ARCHITECTURES)}, not {machine}"
        )
    return build_filter(machine)


def real_python() -> str:
    """Give the interpreter itself: a virtual environment has only a link to it."""
    return os.path.realpath(sys.executable)


def readable_paths() -> list[str]:
    """Name what a locked worker may read: the standard library, file by file, and time zones."""
    standard = Path(sysconfig.get_path("stdlib"))
    entries = (path for path in standard.iterdir() if path.exists())
    own = sorted(str(path) for path in entries if path.name not in KEPT_OUT)
    return [*own, *filter(os.path.isdir, zoneinfo.TZPATH)]


def shared_python() -> list[str]:
    """Name the interpreter's own shared library, where it has one."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    return [f"{folder}/{name}"] if str(name).find(".so") >= 0 else []
