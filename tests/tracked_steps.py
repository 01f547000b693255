"""A step as trackers are told of it."""

from __future__ import annotations

import math
from typing import Any

from trustee.events import StepTrained

FIGURES = {
    "step": 3,
    "version": 2,
    "reward": 0.25,
    "difficulty": 40,
    "moved": True,
    "stops": {"done": 6, "turns": 1, "tokens": 1},
    "failure_kinds": {"user SimulatorError": 2},
    "rolled_back_to": None,
    "mismatch_abs": None,
    "loss": math.nan,
    "kl": 0.01,
    "turns": 2.5,
    "lag_mean": 0.5,
    "waited_s": 4.0,
    "train_s": 2.0,
    "publish_s": 0.5,
    "checkpoint_s": 0.25,
    "tokens": {"user": 30, "judge": 12},
    "memory": 3 << 30,
}


def trained(**figures: Any) -> StepTrained:
    """Return a step with these figures."""
    return StepTrained(
        step=figures.get("step", 3),
        version=2,
        progress=0.5,
        reward=0.25,
        frac_reward_zero_std=0.0,
        clip_ratio=0.0,
        mismatch_abs=None,
        lag_mean=0.5,
        lag_max=1,
        waited_s=4.0,
        train_s=2.0,
        publish_s=0.5,
        checkpoint_s=0.25,
        tokens={},
        figures=figures,
    )
