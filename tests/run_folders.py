"""Run folders as a page meets them, with texts that want to be markup where asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "</pre></textarea><svg onload=\"document.title='owned'\">\u202e'\"&amp;{{7*7}}${7*7}"
)
"""A text that changes the title of any page that takes it for markup."""


def make_turn(content: str, *, version: int = 0, tool: str = "set_lamp") -> dict[str, object]:
    """Return a turn that says a text and calls a tool once."""
    call = {"type": "call", "id": "a", "name": tool, "arguments": {"room": content, "level": 7}}
    return {
        "rendered_ids": [1, 2],
        "completion": {"ids": [1, 2, 3], "logprobs": [-0.1, -2.5, 0.0], "version": version},
        "message": {"role": "assistant", "content": content, "thinking": content, "calls": [call]},
        "replies": [{"role": "tool", "content": json.dumps({"told": content}), "call_id": "a"}],
    }


def make_episode(
    group: int, member: int, *, reward: float | None = 1.0, text: str = "the lamp is on"
) -> dict[str, object]:
    """Return a line of `episodes.jsonl`; without a reward the user's role failed."""
    failure = {"source": "user", "kind": "SimulatorError", "message": text}
    played = {
        "id": f"{group}/{member}",
        "task_id": f"task-{group}",
        "turns": [make_turn(text, version=group)],
        "stop": "done",
        "rewards": {} if reward is None else {"verdict": reward},
        "outcome": {"criteria": {"fulfilled": reward == 1.0, text: False}},
        "notes": {"evidence": {"fulfilled": text}, "facts": text},
        "failure": failure if reward is None else None,
    }
    return {"group": group, "member": member, "trajectory": played}


def make_task(group: int, *, text: str = "turn the lamp on") -> dict[str, object]:
    """Return a task."""
    return {
        "id": f"task-{group}",
        "messages": [{"role": "system", "content": text}, {"role": "user", "content": text}],
        "tools": [{"name": "set_lamp", "description": text, "parameters": {"properties": {}}}],
        "difficulty": 40 + group,
        "hidden": {"intent": text},
    }


def make_step(step: int) -> dict[str, object]:
    """Return a line of `metrics.jsonl`."""
    return {
        "step": step,
        "version": step,
        "reward": step / 10 - 0.5,
        "difficulty": 40 + step,
        "most_tools": 2,
        "frac_reward_zero_std": 0.25,
        "clip_ratio": 0.01,
        "mismatch_abs": 0.001,
        "lag_mean": 0.5,
        "lag_max": 1,
        "entropy": 0.4,
        "rolled_back_to": 2 if step == 4 else None,
        "memory_fallbacks": 0,
        "episodes": 2,
    }


def write_lines(path: Path, rows: Sequence[object]) -> None:
    """Add rows to a file of lines."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def make_run(
    folder: Path, *, text: str = "the lamp is on", groups: int = 3, steps: int = 5, lr: float = 1e-3
) -> Path:
    """Write a run folder that is finished, with held-out tasks; return it."""
    folder.mkdir(parents=True)
    config = {
        "model": {"path": "tiny"},
        "env": {"kind": "simulated"},
        "run": {"steps": steps},
        "learner": {"lr": lr},
    }
    (folder / "run.json").write_text(json.dumps({"config": config, "platform": text}))
    write_lines(folder / "metrics.jsonl", [make_step(step + 1) for step in range(steps)])
    write_lines(
        folder / "timing.jsonl",
        [
            {"step": n + 1, "waited_s": 2.0, "train_s": 1.0, "publish_s": 0.1, "checkpoint_s": 0.1}
            | {"tokens": {"user": 90 * n + 90}, "memory": 1 << 30}
            for n in range(steps)
        ],
    )
    rewards = (1.0, -1.0, None)
    write_lines(
        folder / "episodes.jsonl",
        [make_episode(g, m, reward=rewards[m], text=text) for g in range(groups) for m in range(3)],
    )
    write_lines(
        folder / "tasks.jsonl",
        [{"group": g, "version": g, "task": make_task(g, text=text)} for g in range(groups)],
    )
    held_out = [make_task(g, text=text) for g in range(4)]
    write_lines(folder / "held-out-tasks.jsonl", held_out)
    for name, solved in (("before", 1), ("after", 3)):
        played = [
            make_episode(g, 0, reward=1.0 if g < solved else -1.0, text=text) for g in range(4)
        ]
        write_lines(folder / f"held-out-{name}.jsonl", [line["trajectory"] for line in played])
    events = [
        {"at": 1e9, "told": {"event": "stage", "name": text}},
        {"at": 1e9 + 1, "told": {"event": "note", "text": text, "about": "gate"}},
        {"at": 1e9 + 9, "told": {"event": "ended", "code": 0}},
    ]
    write_lines(folder / "events.jsonl", events)
    return folder
