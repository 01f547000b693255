"""The gate that stops a run whose policy forgets, on scripted parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from scripted_program import Both, hand_in, small_config
from scripts import perfect
from trustee.algorithm.divergence import Divergence
from trustee.checks.forgetting import PROMPTS, ForgettingGate
from trustee.checks.retention import TOGETHER
from trustee.config import Config
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedTrainer, scripted_renderer
from trustee.errors import RunError
from trustee.jobs.assemble import first_leaf
from trustee.jobs.rl import run_training
from trustee.runs.checkpoint import find_checkpoints
from trustee.runs.store import read_lines
from trustee.types import Sample


class Forgetful(Both):
    """A trainer whose policy is as far from the base as is said, step by step."""

    def __init__(self, *kls: float) -> None:
        super().__init__(perfect)
        self.kls = list(kls)
        self.compared: list[Sequence[Sample]] = []

    async def diverge(self, samples: Sequence[Sample]) -> tuple[Divergence, ...]:
        measured = len(self.compared) * TOGETHER // PROMPTS
        self.compared.append(samples)
        kl = self.kls[min(measured, len(self.kls) - 1)]
        return tuple(
            Divergence(kl=(kl,) * count, base=(0.0,) * count, policy=(0.0,) * count)
            for count in (sum(sample.mask) for sample in samples)
        )


def say_numbers(request: Request) -> str:
    """Answer as long as a number in the prompt says."""
    return "x" * (1 + len(request.prompt) % 7)


@pytest.mark.anyio
async def test_the_base_is_asked_once() -> None:
    """A measurement looks at the base's own answers; the second asks the engine for nothing."""
    engine = ScriptedTrainer(say_numbers)
    gate = ForgettingGate(engine, scripted_renderer(), most=0.5)
    assert [0.0, 0.0] == [await gate.measure(), await gate.measure()]
    assert PROMPTS == len(engine.requests)
    assert {None} == {request.adapter for request in engine.requests}
    assert {0.0} == {request.sampling.temperature for request in engine.requests}


@pytest.mark.anyio
async def test_a_gate_that_is_off_costs_nothing() -> None:
    """Without a limit nothing is measured, and nothing is said of it."""
    engine = ScriptedTrainer(say_numbers)
    gate = ForgettingGate(engine, scripted_renderer(), most=None)
    assert await gate.measure() is None
    gate.check(None, step=1)
    assert [] == engine.requests


@pytest.mark.parametrize("kl", [0.6, math.inf, math.nan])
def test_too_far_is_refused(check_error: ErrorCheck, kl: float) -> None:
    """So is what is no number."""
    gate = ForgettingGate(ScriptedTrainer(say_numbers), scripted_renderer(), most=0.5)
    gate.check(0.5, step=1)
    with pytest.raises(RunError) as caught:
        gate.check(kl, step=7)
    check_error(caught, "step 7", f"{kl:.3f}", "gates.forgetting", 0.5)


def forgetting_config(limit: str) -> Config:
    """Give a run of three steps."""
    return small_config(f"gates.forgetting={limit}", "run.steps=3", "eval.tasks=none")


@pytest.mark.anyio
async def test_a_run_that_forgets_stops_before_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's figures say why, and the newest checkpoint is the one before it."""
    engine = Forgetful(0.0, 0.01, 0.3)
    hand_in(monkeypatch, engine)
    with pytest.raises(ExceptionGroup) as caught:
        await run_training(forgetting_config("0.1"), tmp_path / "run", emit=lambda event: None)
    error = first_leaf(caught.value)
    assert isinstance(error, RunError)
    assert "gates.forgetting" in str(error)
    steps = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert 0.3 == steps[-1]["forgetting_kl"]
    assert 3 == steps[-1]["step"]
    assert "step-000002" == find_checkpoints(tmp_path / "run" / "checkpoints")[0].name


@pytest.mark.anyio
@pytest.mark.parametrize(("limit", "measured"), [("0.5", True), ("none", False)])
async def test_a_run_that_keeps_what_it_knew_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, measured: bool
) -> None:
    """Each step says how far it is; without the gate there is no such figure."""
    engine = Forgetful(0.2)
    hand_in(monkeypatch, engine)
    await run_training(forgetting_config(limit), tmp_path / "run", emit=lambda event: None)
    steps = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert 3 == len(steps)
    assert [0.2 if measured else None] * 3 == [step.get("forgetting_kl") for step in steps]
    assert measured == bool(engine.compared)
