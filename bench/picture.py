"""Draw a run as an SVG: the judge's reward and the difficulty by step, success before and after.

python bench/picture.py RUN OUT.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP = 720, 300, 60, 50
INNER = HEIGHT - 100


def draw_line(values: Sequence[float], *, low: float, high: float, color: str) -> str:
    """Return a line plot of values by step, from `low` at the bottom to `high` at the top."""
    step = (WIDTH - 2 * LEFT) / max(1, len(values) - 1)
    points = " ".join(
        f"{LEFT + index * step:.1f},{TOP + INNER * (1 - (value - low) / (high - low)):.1f}"
        for index, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'


def draw_text(x: float, y: float, text: str, *, color: str = "#333", anchor: str = "start") -> str:
    """Return a line of text as SVG."""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" fill="{color}" text-anchor="{anchor}" '
        f'font-family="sans-serif" font-size="13">{text}</text>'
    )


def draw_run(folder: Path) -> str:
    """Return the picture of a run folder."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    outcome = json.loads((folder / "outcome.json").read_text())
    rewards = [row["reward"] for row in rows]
    window = 5
    smooth = [
        sum(rewards[max(0, i - window + 1) : i + 1]) / len(rewards[max(0, i - window + 1) : i + 1])
        for i in range(len(rewards))
    ]
    before, after = (outcome[key]["value"] for key in ("before", "after"))
    title = (
        f"held-out success {before:.0%} before, {after:.0%} after {outcome['steps']} steps "
        f"({outcome['seconds'] / 60:.1f} minutes, {outcome['after']['count']} tasks)"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        draw_text(LEFT, 26, title),
        *(
            f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>'
            + draw_text(LEFT - 8, y + 4, f"{value:+g}", color="#06c", anchor="end")
            + draw_text(WIDTH - LEFT + 8, y + 4, f"{level}", color="#c60")
            for value, level, y in (
                (1, 100, TOP),
                (0, 50, TOP + INNER / 2),
                (-1, 0, TOP + INNER),
            )
        ),
        draw_line([row["difficulty"] for row in rows], low=0, high=100, color="#c60"),
        draw_line(smooth, low=-1, high=1, color="#06c"),
        draw_text(LEFT, HEIGHT - 16, f"judge's reward, mean of {window} steps", color="#06c"),
        draw_text(WIDTH - LEFT, HEIGHT - 16, "difficulty", color="#c60", anchor="end"),
        draw_text(WIDTH / 2, HEIGHT - 16, f"steps 1 to {len(rows)}", anchor="middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw_run(Path(sys.argv[1])), encoding="utf-8")
