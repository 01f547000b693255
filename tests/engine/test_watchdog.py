"""The watchdog: who hangs is named, stacks are written, the rest goes on or stops as it must."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest

from trustee.algorithm.learner import FinishReport, FinishRequest, MicroReport, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.engine.clock import EngineClock
from trustee.engine.liveness import Liveness, Waiting
from trustee.engine.protocol import EngineProgress, Sampling
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


async def ask(dog: Watchdog, names: Sequence[str], *, gap: float = 0.0) -> dict[str, str]:
    """Ask requests at once or one after the other; give their answers, or how they failed."""
    outcomes: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            said = await dog.generate([1, 2], GREEDY, adapter=None, request_id=name)
            outcomes[name] = said.stop
        except (EngineError, EngineDied) as error:
            outcomes[name] = f"{type(error).__name__}: {error}"

    async with dog.guard(), anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one, name)
            await anyio.sleep(gap)
    return outcomes


async def test_one_hanging_request_spoils_only_itself(tmp_path: Path) -> None:
    """A request that gets nothing while later ones are answered is an error of its episode."""
    later = [f"late-{number}" for number in range(1, 13)]
    outcomes = await ask(watch(tmp_path, request_seconds=0.3), ["never-1", *later], gap=0.05)
    assert {
        **dict.fromkeys(later, "stop"),
        "never-1": "EngineError: request never-1 got no token in 0.3 s "
        "(watchdog.request_seconds), while later ones were answered",
    } == outcomes


class Slow(ScriptedTrainer):
    """An engine that shows what it does while it answers."""

    def __init__(self, *, seconds: float, moving: Callable[[Slow, str], None]) -> None:
        super().__init__(self.work)
        self.done: dict[str, int] = dict.fromkeys(("steps", "trained"), 0)
        self._seconds = seconds
        self._moving = moving

    def progress(self) -> EngineProgress:
        return EngineProgress(moves=self.moves, **self.done)

    async def work(self, request: Request) -> str:
        begun = time.monotonic()
        while time.monotonic() < begun + (self._seconds if "slow" in request.request_id else 0.02):
            await anyio.sleep(0.005)
            self._moving(self, request.request_id)
        return "yes"


def guard_slow(folder: Path, engine: Slow, **seconds: float) -> Watchdog:
    """Make a watchdog around an engine that is its own learner."""
    config = WatchdogConfig(**seconds)
    return Watchdog(engine, engine, config=config, clock=EngineClock(), folder=folder)


async def test_a_slow_engine_lives(tmp_path: Path) -> None:
    """An answer that takes ten times the limit is waited for, as long as the engine moves."""

    def move(engine: Slow, name: str) -> None:
        engine.moves += 1

    dog = guard_slow(tmp_path, Slow(seconds=2.0, moving=move), request_seconds=0.2)
    assert {"slow-1": "stop"} == await ask(dog, ["slow-1"])


async def test_a_slow_engine_that_stops_is_found(tmp_path: Path) -> None:
    """What counts is the time since the last movement."""
    begun = time.monotonic()

    def move(engine: Slow, name: str) -> None:
        engine.moves += time.monotonic() < begun + 1

    dog = guard_slow(tmp_path, Slow(seconds=30, moving=move), request_seconds=0.5)
    outcomes = await ask(dog, ["slow-1"])
    assert outcomes["slow-1"].startswith("EngineDied: request slow-1 waits for an engine that did")
    assert 1 < time.monotonic() - begun < 2


async def test_a_request_that_gets_tokens_may_be_overtaken(tmp_path: Path) -> None:
    """A long answer is not lost because short ones come and go."""

    def sample(engine: Slow, name: str) -> None:
        engine.sampled[name] = engine.sampled.get(name, 0) + 1

    dog = guard_slow(tmp_path, Slow(seconds=1.0, moving=sample), request_seconds=0.2)
    names = ["slow-1", *(f"quick-{number}" for number in range(20))]
    assert dict.fromkeys(names, "stop") == await ask(dog, names, gap=0.05)


async def test_a_better_priority_overtakes_no_one(tmp_path: Path) -> None:
    """A request that waits behind more urgent ones is in its place."""

    def sit(engine: Slow, name: str) -> None:
        """Give no token before the end."""

    dog = guard_slow(tmp_path, Slow(seconds=1.0, moving=sit), request_seconds=0.2)
    stops: list[str] = []

    async def one(name: str, priority: int) -> None:
        sampling = Sampling(max_tokens=50, priority=priority)
        said = await dog.generate([1], sampling, adapter=None, request_id=name)
        stops.append(said.stop)

    async with dog.guard(), anyio.create_task_group() as tasks:
        tasks.start_soon(one, "slow-policy", 1)
        for number in range(20):
            await anyio.sleep(0.05)
            tasks.start_soon(one, f"quick-{number}", 0)
    assert ["stop"] * 21 == stops


@pytest.mark.parametrize("counter", ["trained", "steps", "nothing"])
async def test_a_call_lives_by_what_the_trainer_does(tmp_path: Path, counter: str) -> None:
    """A slow call that moves is left alone; one that the engine steps past is lost."""
    engine = Slow(seconds=0, moving=lambda engine, name: None)

    async def work(request: MicroRequest) -> MicroReport:
        for _ in range(100):
            await anyio.sleep(0.01)
            if counter in engine.done:
                engine.done[counter] += 1
        return engine.learner.report

    engine.accumulate = work
    dog = guard_slow(tmp_path, engine, call_seconds=0.2)
    failed = ""
    async with dog.guard():
        try:
            await dog.accumulate(MICRO)
        except EngineDied as error:
            failed = str(error)
    told = "learn: accumulate 1 samples of up to 3 ids did not move in 0.2 s"
    assert ("" if counter == "trained" else told) == failed.partition(" (")[0]


async def test_a_late_look_counts_as_one(tmp_path: Path) -> None:
    """After the event loop was blocked, or the machine slept, nobody is blamed for the time."""
    engine = ScriptedTrainer(answer)
    liveness = Liveness(engine, limits=(10.0,))
    with liveness.waiting("request a", Waiting.REQUEST, seconds=10.0) as wait:
        now = wait.began
        for later in (0.5, 1.0, 500.0, 500.5):
            liveness.look(now + later)
        assert not wait.scope.cancel_called
        assert 3.0 > wait.still
        engine.moves += 1
        liveness.look(now + 501)
        assert 0.0 == wait.still
        for later in range(1, 20):
            liveness.look(now + 501 + later * liveness.look_every)
        assert wait.scope.cancel_called


async def test_an_engine_that_stands_still_is_dead(tmp_path: Path) -> None:
    """With no movement at all the engine counts as dead; the file names who waits, and the code."""
    outcomes = await ask(watch(tmp_path, request_seconds=0.1), ["never-1"])
    assert outcomes["never-1"].startswith(
        "EngineDied: request never-1 waits for an engine that did not move in 0.1 s "
        f"(watchdog.request_seconds); the stacks are in {tmp_path / 'stacks.txt'}"
    )
    text = (tmp_path / "stacks.txt").read_text()
    assert "0.1 s  request never-1" in text
    tasks, _, threads = text.partition("threads:")
    assert "test_an_engine_that_stands_still_is_dead" in tasks
    assert "Current thread" in threads


@pytest.mark.parametrize("call", ["accumulate", "finish"])
async def test_a_hanging_call_is_named(tmp_path: Path, call: str) -> None:
    """A call of the learner that does not end is named with what it was given."""
    dog = watch(tmp_path, stuck=call, call_seconds=0.2)
    failed = ""
    async with dog.guard():
        try:
            await dog.accumulate(MICRO)
            await dog.finish(FinishRequest(learning_rate=0.1, max_norm=1.0))
        except EngineDied as error:
            failed = str(error)
    what = {"accumulate": "accumulate 1 samples of up to 3 ids", "finish": "finish"}[call]
    assert failed.startswith(
        f"learn: {what} did not move in 0.2 s (watchdog.call_seconds); the stacks are in"
    )
    assert f"s  learn: {what}" in (tmp_path / "stacks.txt").read_text()


async def test_a_hanging_step_is_named(tmp_path: Path) -> None:
    """A step may also hang between its calls."""
    dog = watch(tmp_path, step_seconds=0.05)
    failed = ""
    async with dog.guard():
        try:
            with dog.step(7):
                await anyio.sleep(30)
        except EngineDied as error:
            failed = str(error)
    assert failed.startswith("step 7 did not move in 0.05 s (watchdog.step_seconds)")


async def test_training_stops_the_clock_of_requests(tmp_path: Path) -> None:
    """A request that waits for a training call to end does not hang."""
    # Of the 0.15 s that the answer takes the 0.1 s of training are not counted.
    slow = watch(tmp_path, request_seconds=0.12)
    async with slow.guard(), anyio.create_task_group() as tasks:
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
    async with dog.guard():
        await anyio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251 - the fault that is looked for
    text = (tmp_path / "stacks.txt").read_text()
    assert "Timeout" in text
    assert "test_a_blocked_loop_writes_its_stacks" in text
