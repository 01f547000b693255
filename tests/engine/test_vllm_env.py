"""The engine's variables: each device has its own, and what a user has set stays."""

from __future__ import annotations

import os
from typing import Literal

import pytest

from trustee.engine.vllm_env import ALWAYS, ON_CPU, ON_CUDA, UNLESS_SET, set_variables

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
