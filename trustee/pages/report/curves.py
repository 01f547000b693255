"""The curves of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trustee.pages.report.document import Markup
from trustee.pages.report.drawing import Line, Mark, draw_lines
from trustee.pages.report.findings import Findings, config_of
from trustee.runs.curves import Row

PARTS = {
    "waited_s": "waiting for episodes",
    "train_s": "training",
    "publish_s": "publishing",
    "checkpoint_s": "saving",
}
INTERIM = {"success": "success", "low": "from", "high": "to (95 % interval)"}


def points_of(steps: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """Return a figure by step, where it is known."""
    return [
        (float(step["step"]), float(value))
        for step in steps
        if isinstance(value := step.get(key), int | float)
    ]


def draw_curves(run: Findings) -> Iterator[Markup | None]:
    """Yield the charts of a run."""
    steps = run.steps
    marks = [
        Mark(float(step["step"]), "rollback", f"rolled back to version {step['rolled_back_to']}")
        for step in steps
        if step.get("rolled_back_to") is not None
    ]
    config = config_of(run)
    plain = {
        "difficulty": "Difficulty",
        "entropy": "Entropy, nats per token",
        "mismatch_abs": "Engine against trainer, nats",
        "completion_tokens": "Tokens per episode",
    }
    yield draw_lines(
        "Reward",
        [Line("reward", points_of(steps, "reward"))],
        show=lambda v: f"{v:+.2f}",
        marks=marks,
    )
    if run.interim:
        yield draw_lines(
            "Success on held-out tasks",
            [
                Line(name, points_of(run.interim, key), at)
                for at, (key, name) in enumerate(INTERIM.items())
            ],
            show=lambda v: f"{v:.0%}",
            low=0,
            high=1,
            marks=marks,
        )
    mixed = [(x, 1 - y) for x, y in points_of(steps, "frac_reward_zero_std")]
    yield draw_lines(
        "Mixed groups",
        [Line("share", mixed)],
        show=lambda v: f"{v:.0%}",
        low=0,
        high=1,
        marks=marks,
    )
    limit = config.get("watch.clip_ratio")
    yield draw_lines(
        "Clipped tokens",
        [Line("share", points_of(steps, "clip_ratio"))],
        show=lambda v: f"{v:.1%}",
        low=0,
        limit=float(limit) if isinstance(limit, int | float) else None,
        marks=marks,
    )
    for at, (key, title) in enumerate(plain.items()):
        yield draw_lines(
            title,
            [Line(title, points_of(steps, key), at)],
            show=lambda v: f"{v:.3g}",
            low=0,
            marks=marks,
        )
    yield from _draw_work(steps)


def _draw_work(steps: Sequence[Row]) -> Iterator[Markup | None]:
    """Yield the charts of speed and time."""
    roles = sorted({role for step in steps for role in step.get("rates") or ()})
    yield draw_lines(
        "Tokens per second, by role",
        [
            Line(
                role,
                [(float(s["step"]), float(s["rates"][role])) for s in steps if role in s["rates"]],
                at,
            )
            for at, role in enumerate(roles)
        ],
        show=lambda v: f"{v:.0f}",
        low=0,
    )
    yield draw_lines(
        "Seconds of a step, by part",
        [Line(name, points_of(steps, key), at) for at, (key, name) in enumerate(PARTS.items())],
        show=lambda v: f"{v:.3g}",
        low=0,
    )
