"""The engine's variables: each device has its own, and what a user has set stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Literal

import pytest

from trustee.engine.vllm_env import (
    ALWAYS,
    ON_CPU,
    ON_CUDA,
    ON_WSL,
    READY,
    UNLESS_SET,
    choose_threads,
    set_variables,
)

EVERY = [*ALWAYS, *ON_CPU, *ON_CUDA, *ON_WSL, *UNLESS_SET, READY]


@pytest.mark.parametrize(
    ("device", "given"), [("cpu", ALWAYS | ON_CPU), ("cuda", ALWAYS | ON_CUDA | UNLESS_SET)]
)
def test_each_device_has_its_own(
    monkeypatch: pytest.MonkeyPatch, device: Literal["cpu", "cuda"], given: dict[str, str]
) -> None:
    """What one device needs is not set for the other."""
    for name in EVERY:
        # Set first, so that what the test sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-generic")
    set_variables(device, start_seconds=3600)
    assert given | {READY: "3660"} == {
        name: os.environ[name] for name in EVERY if name in os.environ
    }


@pytest.mark.parametrize(("device", "given"), [("cpu", {}), ("cuda", ON_WSL)])
def test_wsl_is_asked_for_pinned_memory(
    monkeypatch: pytest.MonkeyPatch, device: Literal["cpu", "cuda"], given: dict[str, str]
) -> None:
    """VLLM leaves it off there; a CPU has no use for it."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(platform, "release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    set_variables(device, start_seconds=1)
    assert given == {name: os.environ[name] for name in ON_WSL if name in os.environ}


def test_vllm_waits_longer_than_this_program() -> None:
    """The limit of the config ends a start that takes too long, and says so by its own name."""
    script = (
        "from trustee.engine.vllm_env import set_variables;"
        "set_variables('cpu', start_seconds=2345.5);"
        "import vllm.envs; print(vllm.envs.VLLM_ENGINE_READY_TIMEOUT_S)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert "2406" == done.stdout.strip()


def test_what_a_user_says_of_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's settings are the user's own affair."""
    monkeypatch.setattr(os, "environ", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"})
    set_variables("cuda", start_seconds=1)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native"


def test_threads_are_set_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's process keeps what the machine gives it."""
    monkeypatch.setattr(os, "environ", {})
    set_variables("cuda", threads=3, start_seconds=1)
    assert "OMP_NUM_THREADS" not in os.environ
    set_variables("cpu", threads=3, start_seconds=1)
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("size", "threads"), [(7_000_000, 1), (269_000_000, 6)])
def test_only_models_of_some_size_get_all_cores(size: int, threads: int) -> None:
    """The built-in model's 7 MB are too little to share, the 269 MB of SmolLM2 are not."""
    assert threads == choose_threads(size, cores=6)
