"""The watchdog: who hangs is named, stacks are written, the rest goes on or stops as it must."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

import anyio
import pytest

from trustee.algorithm.learner import FinishReport, FinishRequest, MicroReport, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Sampling
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedLearner, ScriptedTrainer
from trustee.engine.watchdog import Watchdog, WatchdogConfig
from trustee.errors import EngineDied, EngineError
from trustee.types import Adapter, Sample

pytestmark = pytest.mark.anyio

SAMPLE = Sample(
    ids=(1, 2, 3),
    mask=(False, True, True),
    logprobs=(0.0, -1.0, -1.0),
    advantage=1.0,
    version=0,
    trajectory_id="0/0",
)
MICRO = MicroRequest(samples=(SAMPLE,), loss=LossConfig(), normaliser=1.0)
GREEDY = Sampling(max_tokens=50)


async def answer(request: Request) -> str:
    """Answer at once, late, or never, as the request's id says."""
    await anyio.sleep({"quick": 0.0, "late": 0.15, "never": 60.0}[request.request_id.split("-")[0]])
    return "yes"


class Stuck(ScriptedLearner):
    """A learner one of whose calls never ends."""

    def __init__(self, engine: ScriptedTrainer, stuck: str) -> None:
        super().__init__(engine)
        self._stuck = stuck

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        await anyio.sleep(60 if self._stuck == "accumulate" else 0.1)
        return await super().accumulate(request)

    async def finish(self, request: FinishRequest) -> FinishReport:
        await anyio.sleep(60 if self._stuck == "finish" else 0)
        return await super().finish(request)


def watch(folder: Path, *, stuck: str = "", **seconds: float) -> Watchdog:
    """Make a watchdog around scripted parts."""
    engine = ScriptedTrainer(answer)
    return Watchdog(
        engine,
        Stuck(engine, stuck),
        config=WatchdogConfig(**seconds),
        clock=EngineClock(),
        folder=folder,
    )


async def ask(dog: Watchdog, names: Sequence[str]) -> dict[str, str]:
    """Ask several requests at once; give their answers, or how they failed."""
    outcomes: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            said = await dog.generate([1, 2], GREEDY, adapter=None, request_id=name)
            outcomes[name] = said.stop
        except (EngineError, EngineDied) as error:
            outcomes[name] = f"{type(error).__name__}: {error}"

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one, name)
    return outcomes


async def test_one_hanging_request_spoils_only_itself(tmp_path: Path) -> None:
    """While others are answered, a request that is not is an error of its episode."""
    outcomes = await ask(watch(tmp_path, request_seconds=0.3), ["never-1", "late-1"])
    assert {
        "late-1": "stop",
        "never-1": "EngineError: request never-1 was not answered in 0.3 s "
        "(watchdog.request_seconds), while others were",
    } == outcomes


async def test_an_engine_that_answers_nothing_is_dead(tmp_path: Path) -> None:
    """With no answer at all the engine counts as dead; the file names who waits, and the code."""
    outcomes = await ask(watch(tmp_path, request_seconds=0.1), ["never-1"])
    assert outcomes["never-1"].startswith(
        "EngineDied: request never-1 was not answered in 0.1 s (watchdog.request_seconds), "
        f"and neither was any other; the stacks are in {tmp_path / 'stacks.txt'}"
    )
    text = (tmp_path / "stacks.txt").read_text()
    assert "0.1 s  request never-1" in text
    tasks, _, threads = text.partition("threads:")
    assert "ask.<locals>.one" in tasks
    assert "test_an_engine_that_answers_nothing_is_dead" in tasks
    assert "Current thread" in threads


@pytest.mark.parametrize("call", ["accumulate", "finish"])
async def test_a_hanging_call_is_named(tmp_path: Path, call: str) -> None:
    """A call of the learner that does not end is named with what it was given."""
    dog = watch(tmp_path, stuck=call, call_seconds=0.2)
    waiting: Awaitable[object] = dog.accumulate(MICRO)
    if call == "finish":
        await waiting
        waiting = dog.finish(FinishRequest(learning_rate=0.1, max_norm=1.0))
    with pytest.raises(EngineDied) as caught:
        await waiting
    what = {"accumulate": "accumulate 1 samples of up to 3 ids", "finish": "finish"}[call]
    assert str(caught.value).startswith(
        f"learn: {what} did not finish in 0.2 s (watchdog.call_seconds); the stacks are in"
    )
    assert f"s  learn: {what}" in (tmp_path / "stacks.txt").read_text()


async def test_a_hanging_step_is_named(tmp_path: Path) -> None:
    """A step whose calls all end may still take too long."""
    dog = watch(tmp_path, step_seconds=0.05)
    with pytest.raises(EngineDied, match=r"^step 7 did not finish in 0\.05 s"), dog.step(7):
        await anyio.sleep(30)


async def test_training_stops_the_clock_of_requests(tmp_path: Path) -> None:
    """A request that waits for a training call to end is not late."""
    # Of the 0.15 s that the answer takes the 0.1 s of training are not counted.
    slow = watch(tmp_path, request_seconds=0.12)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.accumulate, MICRO)
        await anyio.sleep(0.01)
        said = await slow.generate([1], GREEDY, adapter=None, request_id="late-2")
    assert "stop" == said.stop


async def test_calls_reach_the_learner(tmp_path: Path) -> None:
    """The watchdog changes nothing of what goes through it."""
    engine = ScriptedTrainer(answer)
    learner = ScriptedLearner(engine)
    dog = Watchdog(engine, learner, config=WatchdogConfig(), clock=EngineClock(), folder=tmp_path)
    adapter = Adapter(version=3, path=tmp_path / "policy")
    await dog.publish(adapter)
    assert {3: adapter} == engine.known
    await dog.adjust("offload")
    await dog.load_adapter(adapter)
    await dog.save(tmp_path)
    await dog.load(tmp_path)
    await dog.retire(adapter)
    assert ({}, ["offload"], [adapter]) == (engine.known, learner.modes, learner.loaded)
    assert engine.context == dog.context


async def test_a_blocked_loop_writes_its_stacks(tmp_path: Path) -> None:
    """Code that never lets go of the event loop is found by a thread."""
    dog = watch(tmp_path, loop_seconds=0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dog.guard_loop)
        await anyio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251 - the fault that is looked for
        tasks.cancel_scope.cancel()
    text = (tmp_path / "stacks.txt").read_text()
    assert "Timeout" in text
    assert "test_a_blocked_loop_writes_its_stacks" in text
