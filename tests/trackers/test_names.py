"""The names under which trackers get figures, and that the documentation has all of them."""

from __future__ import annotations

from pathlib import Path

from tracked_steps import FIGURES, trained
from trustee.events import SftStepTrained
from trustee.trackers.names import PRIME_RL, TRL, name_sft_step, name_step

DOCS = Path(__file__).parents[2] / "docs" / "trackers.md"


def test_a_step_has_the_names_of_trl_and_prime_rl() -> None:
    """What is no finite number is left out; what neither has stands below `trustee/`."""
    assert {
        "train/reward": 0.25,
        "train/kl": 0.01,
        "train/completions/clipped_ratio": 0.25,
        "train/step_time": 6.75,
        "train/agg/all/num_turns/mean": 2.5,
        "watcher/policy_version": 2,
        "off_policy/mean": 0.5,
        "time/wait_for_batch": 4.0,
        "time/forward_backward": 2.0,
        "time/broadcast_weights": 0.5,
        "time/save_ckpt": 0.25,
        "time/step": 6.75,
        "perf/peak_memory": 3.0,
        "trustee/difficulty": 40,
        "trustee/moved": 1,
        "trustee/stops/done": 6,
        "trustee/stops/turns": 1,
        "trustee/stops/tokens": 1,
        "trustee/failure_kinds/user_SimulatorError": 2,
        "trustee/tokens/user": 30,
        "trustee/tokens/judge": 12,
    } == name_step(trained(**FIGURES))


def test_a_step_without_figures_has_no_names() -> None:
    """Shares and sums are not made of nothing."""
    assert {} == name_step(trained())


def test_imitation_has_names_of_its_own() -> None:
    """Its steps count from one too, and must not lie over those of the loop."""
    event = SftStepTrained(
        step=1,
        of=2,
        progress=0.5,
        loss=1.5,
        held_out_loss=None,
        figures={"step": 1, "loss": 1.5, "held_out_loss": None, "tokens": 7},
    )
    assert {"sft/loss": 1.5, "sft/tokens": 7} == name_sft_step(event)


def test_the_table_of_names_is_whole() -> None:
    """Each figure that has another name stands in the documentation with it."""
    text = DOCS.read_text(encoding="utf-8")
    assert [] == [
        key
        for key, name in {**TRL, **PRIME_RL}.items()
        if not any(f"`{key}`" in line and f"`{name}`" in line for line in text.splitlines())
    ]
