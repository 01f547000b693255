"""Measuring: intervals with known values, gains on the same tasks, and the same tasks for all."""

from __future__ import annotations

import math
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dice import Dice
from finite_dice import Finite
from scripts import (
    cast,
    hash_text,
    make_player,
    make_simulator,
    perfect,
    role_of,
    silent,
    write_calls,
)
from trustee.engine.script import Request, Script
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.micro.environment import Microworld
from trustee.environments.protocol import Services
from trustee.environments.simulated.environment import Simulated
from trustee.evaluation.evaluate import (
    EvalConfig,
    Gain,
    SuccessRate,
    evaluate,
    gain_between,
    share_of,
    success_of,
    write_tasks,
)
from trustee.rollout import Limits
from trustee.types import Failure, Role, Stop, Task, Trajectory

pytestmark = pytest.mark.anyio

LIMITS = Limits(turns=6, tokens=400, seconds=20)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # Source: Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(successes: int, count: int, low: float, high: float) -> None:
    """The interval is the published one to its four figures."""
    share = share_of([True] * successes + [False] * (count - successes))
    assert (successes / count, count) == (share.value, share.count)
    assert [low, high] == pytest.approx([share.low, share.high], abs=5e-5)


def test_share_of_nothing_is_unknown() -> None:
    """No outcome says nothing: the interval is everything."""
    assert SuccessRate(value=0.0, low=0.0, high=1.0, count=0, failed=3) == share_of([], failed=3)


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_interval_holds_the_share(outcomes: list[bool]) -> None:
    """The interval lies in [0, 1] and holds its share; mirrored outcomes mirror it."""
    share = share_of(outcomes)
    mirrored = share_of([not outcome for outcome in outcomes])
    assert -1e-12 <= share.low <= share.value + 1e-12
    assert share.value - 1e-12 <= share.high <= 1 + 1e-12
    assert share.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def played(task: int, reward: float, *, failed: bool = False) -> Trajectory:
    """Make a trajectory of a task."""
    failure = Failure(source=Role.USER, kind="SimulatorError", message="x") if failed else None
    return Trajectory(
        id=f"x/{task}",
        task_id=f"task-{task}",
        turns=(),
        stop=Stop.DONE,
        rewards={} if failed else {"a": reward},
        failure=failure,
    )


def test_gain_counts_wins_and_losses() -> None:
    """Each task that changed is counted once; success is a positive reward."""
    first = [played(0, 1), played(1, 0), played(2, -1), played(3, 1)]
    second = [played(3, 0), played(2, 1), played(1, 1), played(0, 1)]
    gain = gain_between(first, second)
    assert (25.0, 2, 1) == (gain.points, gain.better, gain.worse)


def test_gain_leaves_out_what_either_played_unsoundly() -> None:
    """Failed episodes, and tasks that only one side played, are not compared."""
    first = [played(0, -1), played(1, -1, failed=True), played(2, -1)]
    second = [played(0, 1), played(1, 1), played(2, 1, failed=True), played(9, 1)]
    gain = gain_between(first, second)
    assert (100.0, 100.0, 1, 0) == (gain.points, gain.high, gain.better, gain.worse)
    assert gain.low < 0


def test_gain_on_nothing_is_unknown() -> None:
    """Without a common task the gain may be anything."""
    expected = Gain(points=0.0, low=-100.0, high=100.0, better=0, worse=0)
    assert expected == gain_between([played(0, 1)], [played(1, 1)])


def test_interval_is_close_to_the_normal_one() -> None:
    """On many tasks the interval of a gain agrees with the textbook's."""
    first = [played(n, -1 if n % 5 else 1) for n in range(400)]
    second = [played(n, -1 if n % 2 else 1) for n in range(400)]
    gain = gain_between(first, second)
    changes = [(n % 2 == 0) - (n % 5 == 0) for n in range(400)]
    mean = sum(changes) / 400
    half = 1.96 * math.sqrt((sum(c * c for c in changes) / 400 - mean**2) / 400)
    assert 100 * mean == pytest.approx(gain.points)
    assert 100 * (mean - half) == pytest.approx(gain.low, abs=1.0)
    assert 100 * (mean + half) == pytest.approx(gain.high, abs=1.0)


def test_interval_covers_the_truth() -> None:
    """With no true gain the 95 % interval holds 0 about nineteen times in twenty."""
    missed = 0
    for trial in range(60):
        first = [played(n, hash_text(f"a {trial} {n}") % 2) for n in range(40)]
        second = [played(n, hash_text(f"b {trial} {n}") % 2) for n in range(40)]
        gain = gain_between(first, second)
        missed += not gain.low <= 0 <= gain.high
    assert missed <= 8


def test_success_counts_valid_episodes() -> None:
    """Failed episodes are told apart, never counted as lost."""
    share = success_of([played(0, 1), played(1, 0), played(2, -1), played(3, 1, failed=True)])
    assert (1 / 3, 3, 1) == (share.value, share.count, share.failed)


async def run_evaluation(
    world: Any, script: Script, *, tasks: int = 12, parallel: int = 64, **other: Any
) -> tuple[tuple[Task, ...], tuple[Trajectory, ...]]:
    """Write held-out tasks and play them."""
    engine = ScriptedEngine(script)
    simulator = make_simulator(engine, tries=4)
    config = EvalConfig(tasks=tasks, parallel=parallel)
    player = make_player(
        world.environment,
        engine,
        serve=lambda rng: Services(simulator=simulator, rng=rng),
        limits=LIMITS,
    )
    source = world.source(seed=config.seed, held_out=True)
    written = await write_tasks(source, player, config=config)
    result = await evaluate(written, player, config=config, adapter=None, label="before", **other)
    return written, result


async def test_perfect_and_silent_policies_are_told_apart() -> None:
    """In the true world a perfect policy solves all tasks, a silent none; both meet the same."""
    tasks, good = await run_evaluation(Microworld(), cast(perfect))
    same, bad = await run_evaluation(Microworld(), cast(silent))
    assert tasks == same
    assert (12, 1.0, 0.0) == (len(tasks), success_of(good).value, success_of(bad).value)
    gain = gain_between(bad, good)
    assert (100.0, 12, 0) == (gain.points, gain.better, gain.worse)


async def test_results_are_in_task_order() -> None:
    """Whoever ends first, results come in the order of the tasks, one each."""

    async def script(request: Request) -> str:
        for _ in range(hash_text(request.request_id) % 30):
            await anyio.lowlevel.checkpoint()
        return "ok"

    seen: list[Trajectory] = []
    tasks, result = await run_evaluation(Dice(), script, done=seen.append)
    assert [task.id for task in tasks] == [t.task_id for t in result]
    assert [f"before/{index}" for index in range(12)] == [t.id for t in result]
    assert sorted(t.id for t in result) == sorted(t.id for t in seen)


async def test_no_more_than_parallel_play_at_once() -> None:
    """The limit of episodes at once holds."""
    at_once: list[int] = []
    playing: set[str] = set()

    async def script(request: Request) -> str:
        playing.add(request.request_id)
        at_once.append(len(playing))
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        playing.discard(request.request_id)
        return "ok"

    await run_evaluation(Dice(), script, parallel=3)
    assert 3 == max(at_once)


async def test_policy_is_measured_greedily_with_seeds_of_the_tasks() -> None:
    """Temperature 0, and a seed that depends on the task alone."""
    asked: list[tuple[float, int | None]] = []

    def script(request: Request) -> str:
        asked.append((request.sampling.temperature, request.sampling.seed))
        return "ok"

    await run_evaluation(Dice(), script)
    first, asked = asked, []
    await run_evaluation(Dice(), script, parallel=2)
    assert sorted(first) == sorted(asked)
    assert {0.0} == {temperature for temperature, _ in first}
    assert 12 == len({seed for _, seed in first})


async def test_specs_without_a_task_are_left_out() -> None:
    """A writer that fails on some drafts leaves fewer tasks, still the same for every policy."""

    def script(request: Request) -> str:
        if role_of(request) == "writer" and hash_text(request.prompt) % 2:
            return "{"
        return cast(silent)(request)

    world = Simulated(prompts="tiny", tools="micro", reserve_one_in=6)
    tasks, result = await run_evaluation(world, script)
    again, _ = await run_evaluation(world, script)
    assert 0 < len(tasks) < 12
    assert tasks == again
    assert len(tasks) == len(result)


async def test_finite_source_gives_what_it_has() -> None:
    """A source with fewer drafts than were asked for is no error."""
    tasks, _ = await run_evaluation(Finite(specs=5), lambda request: "ok")
    assert 5 == len(tasks)


async def test_failed_episodes_are_kept_as_such() -> None:
    """A user that says nothing usable spoils episodes; they are returned and not counted."""

    def script(request: Request) -> str:
        return "{" if role_of(request) == "user" else cast(silent)(request)

    world = Simulated(prompts="tiny", tools="micro", reserve_one_in=6)
    _, result = await run_evaluation(world, script, tasks=3)
    share = success_of(result)
    assert (0, 3) == (share.count, share.failed)
    assert {Role.USER} == {t.failed_by for t in result}


def test_calls_are_written_for_the_parser() -> None:
    """The scripts' own calls are those that a Hermes model writes."""
    assert '<tool_call>{"name": "f", "arguments": {}}</tool_call>' == write_calls(
        [{"name": "f", "arguments": {}}]
    )
