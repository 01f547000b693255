"""The whole program on scripted parts: what `launch` and `compare` are tested on.

The one idea: only the engine and the renderer are replaced, so config, store and loop are the real
ones. The scripted engine is also the learner, as the real one is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest

from scripts import Policy, cast, perfect, silent
from trustee.config import Config, read_config
from trustee.engine.scripted import Request, ScriptedEngine, ScriptedLearner, scripted_renderer
from trustee.jobs import evaluate, rl

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.toml"
BASE = Path("/models/base")
SMALL = (
    "run.steps=2",
    "run.minutes=0",
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


def learnt(request: Request) -> str:
    """Play as a policy that learns everything in its first step."""
    return (silent if request.adapter is None else perfect)(request)


class Both(ScriptedEngine):
    """An engine that is its own learner."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(cast(policy))
        self.learner = ScriptedLearner(self)
        self.accumulate = self.learner.accumulate
        self.finish = self.learner.finish
        self.save = self.learner.save
        self.load = self.learner.load
        self.load_adapter = self.learner.load_adapter
        self.adjust = self.learner.adjust
        self.built: list[tuple[Any, Any]] = []

    def dump_stacks(self) -> None:
        """Have no process to ask."""

    async def publish(self, adapter: Any) -> None:
        adapter.path.mkdir(parents=True, exist_ok=True)
        (adapter.path / "adapter_config.json").write_text(json.dumps({}))
        (adapter.path / "adapter_model.safetensors").touch()
        await super().publish(adapter)

    def __call__(self, config: Any, spec: Any, *, observer: Any = None) -> Self:
        """Stand where the real engine is built."""
        self.built.append((config, spec))
        return self


def play_with(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> Both:
    """Put a scripted engine into the program's place for the real one."""
    engine = Both(policy)
    for module in (rl, evaluate):
        monkeypatch.setattr(module, "VllmEngine", engine)
        monkeypatch.setattr(module, "prepare_model", lambda config: (BASE, scripted_renderer()))
    return engine
