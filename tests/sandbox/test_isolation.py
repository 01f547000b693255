"""What a worker is started with, and which lock is taken or refused."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from trustee.errors import InputError
from trustee.sandbox import isolation
from trustee.sandbox.isolation import find_locks, readable_paths
from trustee.sandbox.probe import ATTEMPTS, IsolationReport, probe_isolation


@pytest.fixture
def bwrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a program named bwrap on the path."""
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(program)


def forget_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the Landlock library away."""
    monkeypatch.setattr(isolation, "find_spec", lambda _: None)


def test_best_lock_comes_first(bwrap: str) -> None:
    """Landlock is tried before bubblewrap, and nothing is never tried on its own."""
    pytest.importorskip("sandlock")
    assert ["landlock", "bubblewrap"] == [lock.isolation for lock in find_locks("auto")]


def test_bubblewrap_stands_in(bwrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library bubblewrap is what is left; its worker gets an empty environment."""
    forget_library(monkeypatch)
    [lock] = find_locks("auto")
    assert (bwrap, "--unshare-all", "bubblewrap", {}) == (
        *lock.command[:2],
        lock.isolation,
        lock.environment,
    )


def test_nothing_to_lock_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both are missing both are named, with the switch that runs tools all the same."""
    forget_library(monkeypatch)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError) as caught:
        find_locks("auto")
    for part in ("sandlock", "bwrap", "--unsafe-local-tools", 'isolation = "none"'):
        assert part in str(caught.value)


def test_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a list of system calls cannot be locked."""
    pytest.importorskip("sandlock")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(
        InputError, match="of riscv64 are not listed, only those of x86_64, aarch64"
    ):
        find_locks("landlock")


def test_installed_packages_are_not_readable() -> None:
    """The standard library is named entry by entry, so that what is installed in it is left out."""
    readable = readable_paths()
    standard = sysconfig.get_path("stdlib")
    assert f"{standard}/json" in readable
    assert [] == [path for path in readable if Path(path).name in ("site-packages", standard)]


@pytest.mark.anyio
async def test_probe_finds_everything_refused() -> None:
    """Under the lock that this machine has, every attempt fails."""
    probe = await probe_isolation()
    if probe.isolation is None:
        pytest.skip(probe.why)
    assert (True, tuple(ATTEMPTS), ()) == (probe.holds, probe.refused, probe.allowed)
    assert (("metadata",) if probe.isolation == "landlock" else ()) == probe.visible


@pytest.mark.anyio
async def test_probe_finds_what_limits_alone_allow() -> None:
    """Without a lock files and sockets are open, and the probe says so."""
    probe = await probe_isolation("none")
    assert not probe.holds
    assert {"read_a_file", "write_a_file", "open_a_socket", "start_a_program"} <= set(probe.allowed)


@pytest.mark.anyio
async def test_probe_of_a_missing_lock_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that cannot be had is not an error of the probe."""
    monkeypatch.setenv("PATH", "")
    probe = await probe_isolation("bubblewrap")
    assert IsolationReport(isolation=None, why=probe.why) == probe
    assert "bwrap is not on the PATH" in probe.why
