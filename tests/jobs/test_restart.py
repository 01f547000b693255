"""The real engine's death: in mid-episode, in mid-step, twice; and a step that does not fit."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustee.config import Config, read_config
from trustee.engine import vllm
from trustee.engine.vllm import VllmEngine
from trustee.errors import EngineDied, RunError
from trustee.events import EpisodeBegun, EpisodePlayed, Event, Note, Stage
from trustee.jobs.rl import run_training
from trustee.runs.store import EpisodeLine, read_lines

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(600)]

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.toml"
SHORT = (
    "run.steps=2",
    "run.minutes=none",
    "engine.kv_bytes=67108864",
    "rollout.group_size=4",
    "rollout.groups_per_step=2",
    "rollout.limits.turns=3",
    "eval.tasks=none",
    "learn.threads=1",
)


def short_config(*changes: str) -> Config:
    """Give the built-in model's config for two small steps."""
    return read_config(CONFIG, (*SHORT, *changes))


def kill_at(
    monkeypatch: pytest.MonkeyPatch, method: str, wanted: Callable[[int, Any], bool]
) -> list[int]:
    """Kill the engine's process when a method is called as wanted; give the calls so far."""
    stock = getattr(VllmEngine, method)
    calls: list[int] = []

    async def call(self: VllmEngine, *args: Any, **keywords: Any) -> Any:
        calls.append(len(calls) + 1)
        if wanted(len(calls), keywords.get("adapter")):
            os.kill(self._process, signal.SIGKILL)
        return await stock(self, *args, **keywords)

    monkeypatch.setattr(VllmEngine, method, call)
    return calls


async def run(config: Config, folder: Path, **how: Any) -> tuple[list[Event], int]:
    """Run; give what was told and the number of steps."""
    events: list[Event] = []
    outcome = await run_training(config, folder, emit=events.append, **how)
    return events, outcome.steps


def said(events: list[Event]) -> str:
    """Give all that a user reads."""
    texts = [
        event.text if isinstance(event, Note) else event.name
        for event in events
        if isinstance(event, Note | Stage)
    ]
    return "\n".join(texts)


def episode_ids(folder: Path) -> list[tuple[int, int]]:
    """List the episodes on disk."""
    lines = read_lines(folder / "episodes.jsonl", EpisodeLine)
    return [(line.group, line.member) for line in lines]


async def test_an_engine_killed_in_mid_episode_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished episodes stay on disk and the run ends as if nothing had happened."""
    voices: list[int] = []

    def twelfth_turn_of_the_trained(count: int, adapter: Any) -> bool:
        voices.append(0 if adapter is None else adapter.version)
        return adapter is not None and len(list(filter(None, voices))) == 12

    kill_at(monkeypatch, "generate", twelfth_turn_of_the_trained)
    events, steps = await run(short_config("rollout.max_off_policy_steps=0"), tmp_path)
    assert 2 == steps
    assert "the engine died; its last output is in engine.log; starting the engine again" in said(
        events
    )
    assert "continuing after step 1" in said(events)
    assert [1, 2] == [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    ids = episode_ids(tmp_path)
    assert len(set(ids)) == len(ids)


async def test_two_deaths_in_mid_step_stop_the_run_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is taken again with its finished episodes; one restart is all; then it is resumed.

    One test, because starting the engine takes longer than all that is asked of it.
    """
    events: list[Event] = []
    # Groups of equal rewards are trained on too, so that each step has something to train.
    kept = ("learn.keep_flat=true", "learn.loss.kl_coef=0.001")
    config = short_config("rollout.max_off_policy_steps=0", *kept)
    metrics = tmp_path / "metrics.jsonl"
    with monkeypatch.context() as patch:
        # The first call is the probe; the second begins the first step.
        calls = kill_at(patch, "accumulate", lambda count, adapter: count == 2)
        kill_at(
            patch,
            "finish",
            lambda count, adapter: metrics.exists() and bool(read_lines(metrics)),
        )
        with pytest.raises(ExceptionGroup) as caught:
            await run_training(config, tmp_path, emit=events.append)
        died = r"the engine died during trainer\.finish"
        assert caught.group_contains(EngineDied, match=died)
    assert len(calls) > 3
    text = said(events)
    assert "the engine died during trainer.accumulate" in text
    assert "continuing after step 0" in text
    ids = episode_ids(tmp_path)
    assert len(set(ids)) == len(ids)
    death = next(
        place
        for place, event in enumerate(events)
        if isinstance(event, Note) and "died" in event.text
    )
    finished = {event.group for event in events[:death] if isinstance(event, EpisodePlayed)}
    begun = {event.group for event in events[death:] if isinstance(event, EpisodeBegun)}
    assert (True, set()) == (len(finished) >= 2, finished & begun)
    (trained,) = read_lines(metrics)
    assert (1, 8) == (trained["step"], trained["episodes"])

    events, steps = await run(config, tmp_path, resume=True)
    assert 2 == steps
    assert "continuing after step 1" in said(events)
    assert [1, 2] == [line["step"] for line in read_lines(metrics)]
    ids = episode_ids(tmp_path)
    assert len(set(ids)) == len(ids)


MICRO = [
    "micro-batches of 2048 instead of 4096 ids (learn.micro_tokens)",
    "micro-batches of 1024 instead of 2048 ids (learn.micro_tokens)",
    "micro-batches of 640 instead of 1024 ids (learn.micro_tokens)",
]
MODES = [
    "recompute layer inputs (learn.activation_checkpointing)",
    "offload layer inputs (learn.activation_checkpointing)",
]
SHORTER = [
    "episodes of at most 512 instead of 640 ids (engine.context)",
    "micro-batches of 512 instead of 640 ids (learn.micro_tokens)",
]


@pytest.mark.parametrize(
    ("room", "changes", "length"),
    [(2000, MICRO[:2], 640), (700, MICRO + MODES, 640), (600, MICRO + MODES + SHORTER[:1], 512)],
)
async def test_what_does_not_fit_goes_down_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, changes: list[str], length: int
) -> None:
    """Torch's own error in the engine's process gives up one thing after another."""
    monkeypatch.setattr(vllm, "EXTENSION", "narrow_trainer.NarrowExtension")
    monkeypatch.setenv("TRUSTEE_TEST_ROOM", str(room))
    events, steps = await run(short_config("run.steps=1"), tmp_path)
    assert 1 == steps
    state = tmp_path / "checkpoints" / "step-000001" / "state.json"
    ladder = msgspec.json.decode(state.read_bytes())["ladder"]
    # The step itself may go further down than the probe: it packs shorter samples more tightly.
    assert changes == ladder["changes"][: len(changes)]
    assert [len(ladder["changes"])] == [
        row["memory_fallbacks"] for row in read_lines(tmp_path / "metrics.jsonl")
    ]
    assert f"a training sample of {length} ids fits" in said(events)


async def test_the_bottom_of_the_ladder_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing helps, the run stops before its first step, with all that was tried."""
    monkeypatch.setattr(vllm, "EXTENSION", "narrow_trainer.NarrowExtension")
    monkeypatch.setenv("TRUSTEE_TEST_ROOM", "100")
    with pytest.raises(RunError) as caught:
        await run(short_config(), tmp_path)
    text = str(caught.value)
    tried = [*MICRO, *MODES, *SHORTER, "1 instead of 2 episodes at once (rollout.parallel)"]
    assert [] == [change for change in tried if change not in text]
    told = re.search(r"tried to hold 512 ids; torch held (\d+\.\d\d) GiB in tensors", text)
    assert told is not None, text
    # On a CPU these are the process's own bytes, and a process that holds a model has some.
    assert float(told[1]) > 0
