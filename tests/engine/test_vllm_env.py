"""The engine's variables: each device has its own, and what a user has set stays."""

from __future__ import annotations

import os
from typing import Literal

import pytest

from trustee.engine.vllm_env import (
    ALWAYS,
    ON_CPU,
    ON_CUDA,
    UNLESS_SET,
    choose_threads,
    set_variables,
)

EVERY = [*ALWAYS, *ON_CPU, *ON_CUDA, *UNLESS_SET]


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
    set_variables(device)
    assert given == {name: os.environ[name] for name in EVERY if name in os.environ}


def test_what_a_user_says_of_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's settings are the user's own affair."""
    monkeypatch.setattr(os, "environ", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"})
    set_variables("cuda")
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native"


def test_threads_are_set_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's process keeps what the machine gives it."""
    monkeypatch.setattr(os, "environ", {})
    set_variables("cuda", threads=3)
    assert "OMP_NUM_THREADS" not in os.environ
    set_variables("cpu", threads=3)
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("size", "threads"), [(7_000_000, 1), (269_000_000, 6)])
def test_only_models_of_some_size_get_all_cores(size: int, threads: int) -> None:
    """The built-in model's 7 MB are too little to share, the 269 MB of SmolLM2 are not."""
    assert threads == choose_threads(size, cores=6)
