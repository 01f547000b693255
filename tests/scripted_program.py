"""The whole program on scripted parts: what jobs are tested on.

Only the engine and the renderer are replaced, so config, store and loop are the real
ones. The scripted engine is also the learner, as the real one is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import Policy, cast, perfect, silent
from trustee.config import Config, read_config
from trustee.engine.script import Request, find_script
from trustee.engine.scripted import ScriptedTrainer

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.toml"
BASE = Path("/models/base")
HAND_IN = (
    "engine.kind=scripted",
    "engine.script=scripted_program:HANDED",
    f"model.path={BASE}",
)
"""Changes of a config with which a program plays with the engine that a test has handed in."""
SMALL = (
    *HAND_IN,
    "run.steps=2",
    "run.minutes=none",
    "engine.context=8192",
    "rollout.group_size=2",
    "rollout.groups_per_step=2",
    "rollout.limits.tokens=600",
    "simulator.writer.max_tokens=900",
    "simulator.user.max_tokens=900",
    "simulator.tool.max_tokens=900",
    "simulator.judge.max_tokens=900",
    "eval.tasks=6",
)


def small_config(*changes: str) -> Config:
    """Give the built-in model's config, cut down to what scripts can play at once."""
    return read_config(CONFIG, (*SMALL, *changes))


def tiny_config(*changes: str) -> Config:
    """Return the same config with the real engine and model, for what is refused before a start."""
    return read_config(CONFIG, (*SMALL[len(HAND_IN) :], *changes))


def learnt(request: Request) -> str:
    """Play as a policy that learns everything in its first step."""
    return (silent if request.adapter is None else perfect)(request)


class Both(ScriptedTrainer):
    """A scripted engine whose roles play the micro-world around a policy."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(cast(policy))


HANDED: ScriptedTrainer = Both(silent)
"""The engine that `HAND_IN` names: the one that a test has handed in."""


def hand_in(monkeypatch: pytest.MonkeyPatch, engine: ScriptedTrainer) -> None:
    """Have the next program with `HAND_IN` in its config open this engine."""
    monkeypatch.setattr(f"{__name__}.HANDED", engine)
    # As if the run that a test continues had been begun in this process.
    find_script(f"{__name__}:HANDED")


def play_with(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> Both:
    """Hand in an engine whose policy is a script."""
    engine = Both(policy)
    hand_in(monkeypatch, engine)
    return engine
