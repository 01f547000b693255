"""Names of a run's figures in a tracker: those of TRL and prime-rl where they measure the same.

TRL's stand below `train/`, where its trackers show them; prime-rl's are used where TRL has none.
All other figures stand below `trustee/` under the names of `metrics.jsonl`. `docs/trackers.md` has
the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trustee.events import HeldOutPlayed, SftStepTrained, StepTrained
from trustee.types import GIB, Stop

TRL = {
    "reward": "train/reward",
    "frac_reward_zero_std": "train/frac_reward_zero_std",
    "completion_tokens": "train/completions/mean_length",
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "entropy": "train/entropy",
    "kl": "train/kl",
    "clip_ratio": "train/clip_ratio/region_mean",
    "mismatch_abs": "train/sampling/sampling_logp_difference/mean",
    "mismatch_max": "train/sampling/sampling_logp_difference/max",
}
"""Names of TRL's `GRPOTrainer`, by key of `metrics.jsonl`."""
PRIME_RL = {
    "mismatch_kl": "mismatch_kl/all/mean",
    "turns": "train/agg/all/num_turns/mean",
    "episodes": "progress/rollouts",
    "lag_mean": "off_policy/mean",
    "lag_max": "off_policy/max",
    "dropped": "off_policy/dropped",
    "version": "watcher/policy_version",
    "waited_s": "time/wait_for_batch",
    "train_s": "time/forward_backward",
    "publish_s": "time/broadcast_weights",
    "checkpoint_s": "time/save_ckpt",
}
"""Names of prime-rl, by key of `metrics.jsonl` and `timing.jsonl`."""
CLIPPED = "train/completions/clipped_ratio"
STEP_SECONDS = "time/step"
STEP_TIME = "train/step_time"
PEAK_MEMORY = "perf/peak_memory"
TRUNCATED = {Stop.TURNS, Stop.TOKENS, Stop.CONTEXT, Stop.RESPONSE, Stop.TIME}
PARTS = ("waited_s", "train_s", "publish_s", "checkpoint_s")
SFT = {"loss": "sft/loss", "held_out_loss": "sft/eval_loss", "learning_rate": "sft/learning_rate"}


def name_step(event: StepTrained) -> dict[str, float]:
    """Return the figures of a step by their names in a tracker, without what is not a number."""
    named = {}
    for key, value in _numbers(event.figures, ""):
        if key not in ("step", "memory"):
            named[TRL.get(key) or PRIME_RL.get(key) or f"trustee/{key}"] = value
    figures = event.figures
    stops: Mapping[str, int] = figures.get("stops") or {}
    if stops:
        named[CLIPPED] = sum(stops.get(stop, 0) for stop in TRUNCATED) / sum(stops.values())
    if all(key in figures for key in PARTS):
        named[STEP_SECONDS] = named[STEP_TIME] = sum(figures[key] for key in PARTS)
    if figures.get("memory"):
        named[PEAK_MEMORY] = figures["memory"] / GIB
    return named


def name_sft_step(event: SftStepTrained) -> dict[str, float]:
    """Return the figures of a step of imitation."""
    return {
        SFT.get(key, f"sft/{key}"): value
        for key, value in _numbers(event.figures, "")
        if key != "step"
    }


def name_held_out(event: HeldOutPlayed) -> dict[str, float]:
    """Return the success on the held-out tasks, with its interval."""
    return {
        "eval/success": event.success,
        "eval/success_low": event.low,
        "eval/success_high": event.high,
        "eval/tasks": event.count,
        "eval/failed": event.failed,
    }


def _numbers(figures: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield all finite numbers of nested figures, by path."""
    for key, value in figures.items():
        match value:
            case Mapping():
                yield from _numbers(value, f"{prefix}{key}/")
            case bool() | int() | float() if math.isfinite(value):
                yield f"{prefix}{key}".replace(" ", "_"), float(value)
