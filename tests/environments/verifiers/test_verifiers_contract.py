"""The other side of the contract: the package `verifiers` itself, with its own harness and client.

It wants other versions than this package, so it has an environment of its own, with `uv`, by which
it prepares its harness:

    python -m venv DIR && DIR/bin/pip install "verifiers>=0.4,<0.5" uv
    export TRUSTEE_VERIFIERS_PYTHON=DIR/bin/python
    make quick ARGS="-k verifiers_contract"
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from msgspec.structs import replace

from mcp_stage import call, calling, contents
from recording_engine import RecordingEngine
from scripts import TURN, cast, make_player, make_simulator
from trustee.algorithm.batch import to_samples
from trustee.engine.script import Request
from trustee.environments.protocol import Services
from trustee.environments.verifiers.environment import Verifiers
from trustee.rollout import Limits
from trustee.types import Role, Stop, Trajectory

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("TRUSTEE_VERIFIERS_PYTHON", "")
WORLD = Verifiers(
    python=PYTHON,
    taskset="verifiers-lamps",
    folder=str(ROOT / "trustee/configs/examples"),
    eval_settings={"taskset": {"split": "test"}},
    seconds=280,
)
LIMITS = Limits(turns=6, tokens=300, turn_seconds=280, seconds=280)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not PYTHON, reason="TRUSTEE_VERIFIERS_PYTHON names no Python with verifiers"
    ),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run the tests of this module in one loop, so that they share a process."""
    return "asyncio"


@pytest.fixture(scope="module")
async def tasks(anyio_backend: str) -> AsyncIterator[TaskGroup]:
    """Open the tasks of a job."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


async def play(
    engine: RecordingEngine, tasks: TaskGroup, world: Verifiers = WORLD, limits: Limits = LIMITS
) -> Trajectory:
    """Play an episode of the first task."""

    def serve(rng: random.Random) -> Services:
        return Services(simulator=make_simulator(engine), rng=rng, background=tasks)

    source = world.source(seed=0)
    spec = source.draw()
    assert spec is not None
    task = await source.write(spec, serve(random.Random(0)))
    player = make_player(world.environment, engine, serve=serve, limits=limits)
    return await player.play(task, trajectory_id="0/0", adapter=None, seed=0)


def light(request: Request) -> str:
    """Set the lamps one after the other, as asked."""
    turns = TURN.findall(request.prompt)
    asked = next(text for role, text in turns if role == "user").split(" and ")
    words = [part.split() for part in asked]
    calls = [call("set_lamp", room=w[2], level=int(w[4])) for w in words]
    return calling(*calls)(request)


async def test_a_taskset_is_played_and_paid(tasks: TaskGroup) -> None:
    """Its tools are called, its reward is paid, and the sample has exactly the sampled ids."""
    engine = RecordingEngine(cast(light))
    played = await play(engine, tasks)
    assert (None, Stop.DONE) == (played.failure, played.stop)
    assert ({"lit": 1.0}, True) == (played.rewards, played.success)
    assert len(contents(played)) == 2
    assert all('"level"' in text for text in contents(played))
    assert [said for _, said in engine.heard] == [turn.completion for turn in played.turns]
    (sample,) = to_samples(played, advantage=1.0)
    prompt, last = engine.heard[-1]
    assert sample.ids == (*prompt, *last.ids)
    trained = [p for p, one in zip(sample.logprobs, sample.mask, strict=True) if one]
    assert trained == [p for _, said in engine.heard for p in said.logprobs]


async def test_a_call_that_does_not_fit_is_answered_there(tasks: TaskGroup) -> None:
    """Unknown tools and wrong arguments are the harness's to answer; nothing is paid."""
    policy = calling(call("no_such"), call("set_lamp", room="hall"))
    played = await play(RecordingEngine(cast(policy)), tasks)
    assert (None, 0.0) == (played.failure, played.reward)
    unknown, wrong = contents(played)
    assert "no_such" in unknown
    assert "level" in wrong


@pytest.mark.parametrize(
    ("limits", "context", "stop"),
    [
        (replace(LIMITS, turns=2), 4096, Stop.TURNS),
        (LIMITS, 1100, Stop.CONTEXT),
    ],
)
async def test_limits_end_the_run_and_it_is_scored(
    limits: Limits, context: int, stop: Stop, tasks: TaskGroup
) -> None:
    """The harness knows such a refusal, and what was done until then is paid."""
    engine = RecordingEngine(cast(calling(*[call("read_lamp", room="hall")] * 20)), context=context)
    played = await play(engine, tasks, limits=limits)
    assert (None, stop) == (played.failure, played.stop)
    assert {"lit": 0.0} == played.rewards
    assert len(played.turns) == len(engine.heard) > 1


async def test_a_taskset_that_there_is_not(tasks: TaskGroup) -> None:
    """It is the world's fault, in the words of the package."""
    world = replace(WORLD, taskset="no-such-taskset", eval_settings={})
    with pytest.raises(Exception, match="no-such-taskset") as caught:
        await play(RecordingEngine(cast(light)), tasks, world)
    assert getattr(caught.value, "source", None) is Role.WORLD


async def test_a_reward_that_fails_is_to_blame(tasks: TaskGroup, tmp_path: Path) -> None:
    """What a task raises spoils the episode, and its words are kept."""
    (tmp_path / "broken_taskset.py").write_text(BROKEN)
    world = replace(WORLD, taskset="broken-taskset", folder=str(tmp_path), eval_settings={})
    played = await play(RecordingEngine(cast(lambda request: "hello")), tasks, world)
    assert played.failure is not None
    assert (Role.WORLD, "ServerError") == (played.failure.source, played.failure.kind)
    assert "the scale is broken" in played.failure.message


BROKEN: Any = """
import verifiers.v1 as vf


class BrokenTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def weigh(self, trace: vf.Trace) -> float:
        print("what a task prints goes nowhere near the lines")
        raise RuntimeError("the scale is broken")


class BrokenTaskset(vf.Taskset[BrokenTask, vf.TasksetConfig]):
    def load(self):
        return [BrokenTask(vf.TaskData(prompt=f"say {n}"), self.config.task) for n in range(20)]


__all__ = ["BrokenTaskset"]
"""
