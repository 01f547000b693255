"""Episodes that another program plays: exact ids, branches, limits, blame, and no process left."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup
from msgspec.structs import replace

from golden_errors import ErrorCheck
from recording_engine import RecordingEngine
from scripts import make_player, make_simulator
from trustee.algorithm.batch import to_samples
from trustee.environments.protocol import Services
from trustee.environments.registry import allow_world, check_servers
from trustee.environments.verifiers import process
from trustee.environments.verifiers.environment import Verifiers, merge
from trustee.errors import EngineError, InputError, ServerError, UntrustedWorld
from trustee.rollout import Limits
from trustee.types import Completion, Role, Stop, Task, Trajectory

CHILD = Path(__file__).parents[2] / "raw_verifiers_child.py"
WORLD = Verifiers(python=sys.executable, taskset="lamps", seconds=30)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the stand-in."""
    monkeypatch.setattr(process, "CHILD", CHILD)


@pytest.fixture
async def tasks() -> AsyncIterator[TaskGroup]:
    """Open the tasks of a job."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


class Stage:
    """A world, and what its episodes are played with."""

    def __init__(self, tasks: TaskGroup, world: Verifiers = WORLD, **engine: Any) -> None:
        self.world = world
        self.tasks = tasks
        self.engine = RecordingEngine(
            lambda request: f"answer {len(self.engine.heard)}", version=7, **engine
        )
        self.limits = Limits(turns=8, tokens=600, seconds=60)

    def serve(self, rng: random.Random) -> Services:
        """Give services of a job."""
        return Services(simulator=make_simulator(self.engine), rng=rng, background=self.tasks)

    async def write(self, count: int = 1, *, held_out: bool = False) -> list[Task]:
        """Write the first tasks."""
        source = self.world.source(seed=0, held_out=held_out)
        written = []
        for _ in range(count):
            spec = source.draw()
            assert spec is not None
            written.append(await source.write(spec, self.serve(random.Random(0))))
        return written

    async def play(self, act: str = "talk", name: str = "0/0", **given: Any) -> Trajectory:
        """Play an episode of what the stand-in can do."""
        hidden = {"key": act, "held_out": False, "task": {"act": act, "prompt": "say it", **given}}
        task = Task(id="t", messages=(), tools=(), difficulty=1, hidden=hidden)
        player = make_player(
            self.world.environment, self.engine, serve=self.serve, limits=self.limits
        )
        return await player.play(task, trajectory_id=name, adapter=None, seed=0)


def process_of(played: Trajectory) -> int:
    """Return the id of the process that played an episode."""
    return int(played.notes["stops"][0])


async def gone(number: int) -> bool:
    """Wait until a process is gone; return whether it is."""
    for _ in range(200):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        await anyio.sleep(0.02)
    return False


async def test_exactly_the_sampled_ids_are_trained(tasks: TaskGroup) -> None:
    """Ids, logprobs and prompts are the engine's, to the last bit, and make one sample."""
    stage = Stage(tasks)
    played = await stage.play()
    assert (None, Stop.DONE) == (played.failure, played.stop)
    assert [said for _, said in stage.engine.heard] == [t.completion for t in played.turns]
    (sample,) = to_samples(played, advantage=1.0)
    (_, first), (prompt, second) = stage.engine.heard
    assert sample.ids == (*prompt, *second.ids)
    trained = [id for id, one in zip(sample.ids, sample.mask, strict=True) if one]
    assert trained == [*first.ids, *second.ids]
    logprobs = [p for p, one in zip(sample.logprobs, sample.mask, strict=True) if one]
    assert logprobs == [*first.logprobs, *second.logprobs]
    assert sample.version == 7
    assert ({"right": 0.75, "brief": 0.25}, True) == (played.rewards, played.success)
    assert ["answer 0", "answer 1"] == [turn.message.content for turn in played.turns]
    assert ["go on"] == [reply.content for turn in played.turns for reply in turn.replies]


async def test_each_branch_is_a_sample(tasks: TaskGroup) -> None:
    """What branches share is trained once, and is context in the others."""
    stage = Stage(tasks)
    played = await stage.play("branch")
    assert played.failure is None
    assert [False, False, True, True] == [turn.anew for turn in played.turns]
    samples = to_samples(played, advantage=1.0)
    heard = stage.engine.heard
    assert len(samples) == 3
    ends = [(*heard[n][0], *heard[n][1].ids) for n in (1, 2, 3)]
    assert ends == [sample.ids for sample in samples]
    trained = sum(sum(sample.mask) for sample in samples)
    assert trained == sum(len(said.ids) for _, said in heard)
    assert len(heard[2][1].ids) == sum(samples[1].mask)
    assert msgspec.json.decode(msgspec.json.encode(played), type=Trajectory) == played


@pytest.mark.parametrize("about", ["id", "logprob", "prompt", "count"])
async def test_ids_that_were_not_sampled_are_not_believed(about: str, tasks: TaskGroup) -> None:
    """A harness that changes what was said spoils its episode."""
    played = await Stage(tasks).play("lie", about=about)
    assert played.failure is not None
    assert played.failure.source is Role.WORLD
    assert "did not sample" in played.failure.message
    assert () == played.turns


@pytest.mark.parametrize(
    ("act", "named", "ends"),
    [
        ("fail", "the lamp is broken", False),
        ("crash", "ended with code 3; its last words were 'Traceback: the lamp exploded'", True),
        ("close", "closed its output", True),
        ("stall", "neither asked nor answered for 0.3 s (env.seconds)", False),
        ("hang", "hangs", True),
        ("flood", "a line of more than 1 MiB", True),
        ("rubbish", "1,001 lines that are not messages", True),
        ("form", "another form", False),
        ("strange", "asked for files", False),
    ],
)
async def test_a_process_that_fails_is_to_blame(
    act: str, named: str, ends: bool, tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The episode failed by the world; a process of no more use is gone, and another one started.

    Others in the same process go on where it does.
    """
    monkeypatch.setattr(process, "MOST_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(process, "CANCEL_SECONDS", 0.3)
    stage = Stage(tasks, replace(WORLD, seconds=0.3 if act in ("stall", "hang") else 30))
    before = process_of(await stage.play())
    played = await stage.play(act)
    assert played.failure is not None
    assert (Role.WORLD, "ServerError") == (played.failure.source, played.failure.kind)
    assert named in played.failure.message
    assert {} == played.rewards
    after = process_of(await stage.play())
    assert ends == (after != before)
    if ends:
        assert await gone(before)


async def test_episodes_share_a_process(tasks: TaskGroup) -> None:
    """It is started once, and each episode gets its own answers."""
    stage, played = Stage(tasks), []

    async def play(number: int) -> None:
        played.append(await stage.play(name=f"0/{number}"))

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(play, number)
    assert len({process_of(one) for one in played}) == 1
    assert all(len(one.turns) == 2 and one.failure is None for one in played)
    completions = [turn.completion for one in played for turn in one.turns]
    assert len(set(completions)) == 24


@pytest.mark.parametrize("act", ["stall", "hang"])
async def test_no_process_outlives_the_job(act: str) -> None:
    """Wherever it is broken off."""
    async with anyio.create_task_group() as tasks:
        stage = Stage(tasks)
        number = process_of(await stage.play())
        tasks.start_soon(stage.play, act)
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert await gone(number)


async def test_a_cancelled_episode_leaves_the_others(tasks: TaskGroup) -> None:
    """The process gives it up and goes on."""
    stage = Stage(tasks)
    number = process_of(await stage.play())
    with anyio.move_on_after(0.1):
        await stage.play("stall")
    assert process_of(await stage.play()) == number


@pytest.mark.parametrize(
    ("limits", "stop", "turns"),
    [
        (Limits(turns=3, tokens=50, seconds=60), Stop.TURNS, 3),
        (Limits(turns=50, tokens=50, response=90, seconds=60), Stop.RESPONSE, 3),
        (Limits(turns=50, tokens=50, seconds=60), Stop.CONTEXT, 6),
    ],
)
async def test_limits_hold_and_are_not_the_worlds_fault(
    limits: Limits, stop: Stop, turns: int, tasks: TaskGroup
) -> None:
    """A run that ends because the policy may say no more keeps what was said."""
    stage = Stage(tasks, context=200)
    stage.limits = limits
    played = await stage.play("long", reply="go")
    assert played.failure is None
    assert (stop, turns) == (played.stop, len(played.turns))
    assert ({"env": 0.0}, False) == (played.rewards, played.success)
    (sample,) = to_samples(played, advantage=1.0)
    assert len(sample.ids) <= 200


@pytest.mark.parametrize(
    ("trains", "turns", "reward"), [("", 2, 0.5), ("solver", 1, 1.0), ("critic", 1, 0.0)]
)
async def test_agents_that_are_trained(
    trains: str, turns: int, reward: float, tasks: TaskGroup
) -> None:
    """Simulated users never are; a name leaves one."""
    played = await Stage(tasks, replace(WORLD, trains=trains)).play("agents")
    assert (None, turns, reward) == (played.failure, len(played.turns), played.reward)


async def test_an_agent_that_there_is_not(tasks: TaskGroup) -> None:
    """The error names those that there are."""
    played = await Stage(tasks, replace(WORLD, trains="nobody")).play("agents")
    assert played.failure is not None
    assert "solver, critic, user" in played.failure.message


async def test_an_engine_that_fails_is_to_blame_itself(
    tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error goes through the process unchanged."""
    stage = Stage(tasks)

    async def refuse(*given: Any, **named: Any) -> Completion:
        raise EngineError("no room")

    await stage.play()
    monkeypatch.setattr(stage.engine, "generate", refuse)
    played = await stage.play()
    assert played.failure is not None
    assert (Role.ENGINE, "no room") == (played.failure.source, played.failure.message)


async def test_training_and_evaluation_share_no_task(tasks: TaskGroup) -> None:
    """By key; each is dealt once an epoch."""
    stage = Stage(tasks)
    train = [task.hidden["key"] for task in await stage.write(20)]
    held_out = {task.hidden["key"] for task in await stage.write(20, held_out=True)}
    assert set(train) | held_out == {f"key {n}" for n in range(12)}
    assert not set(train) & held_out
    once = len(set(train))
    assert len(set(train[:once])) == once
    assert {"talk"} == {task.hidden["task"]["act"] for task in await stage.write(2)}


async def test_evaluation_may_have_settings_of_its_own(tasks: TaskGroup) -> None:
    """Then every task of both sides is used, in processes of their own."""
    world = replace(WORLD, eval_settings={"taskset": {"split": "test"}})
    stage = Stage(tasks, world)
    for held_out in (False, True):
        keys = {task.hidden["key"] for task in await stage.write(12, held_out=held_out)}
        assert len(keys) == 12
    assert '"split"' not in world.launch(held_out=False).settings
    assert '"split": "test"' in world.launch(held_out=True).settings


async def test_only_named_secrets_are_passed(
    tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has what its tools need, and what the config names."""
    monkeypatch.setenv("SOME_API_KEY", "hidden")
    monkeypatch.setenv("OTHER", "told")
    monkeypatch.setenv("UV_CACHE_DIR", "/cache")
    played = await Stage(tasks, replace(WORLD, variables={"GIVEN": "$OTHER"})).play("show")
    assert played.failure is not None
    said = played.failure.message
    assert "SOME_API_KEY" not in said
    assert "OTHER" not in said
    assert "UV_CACHE_DIR" in said
    assert "GIVEN" in said
    assert "told" in said


def test_a_check_reads_the_tasks() -> None:
    """It says how they are split, and leaves no process."""
    (text,) = WORLD.check(seed=0)
    assert "of its 12 tasks are for training" in text


@pytest.mark.parametrize(
    ("world", "named"),
    [
        (replace(WORLD, python="/nowhere/python"), "pip install verifiers uv"),
        (replace(WORLD, taskset="missing"), "taskset 'missing' not found"),
        (replace(WORLD, reserve_one_in=1_000_000_007), "env.reserve_one_in"),
    ],
)
def test_what_cannot_be_played_is_refused(
    world: Verifiers, named: str, check_error: ErrorCheck
) -> None:
    """Before anything is loaded."""
    with pytest.raises(InputError) as caught:
        world.check(seed=0, held_out=True)
    check_error(str(caught.value).replace(sys.executable, "PYTHON"), named)


async def test_an_interpreter_that_is_none(tasks: TaskGroup, tmp_path: Path) -> None:
    """It cannot be started, and the error says so."""
    text = tmp_path / "python"
    text.write_text("no program")
    with pytest.raises(ServerError, match="cannot be started"):
        await Stage(tasks, replace(WORLD, python=str(text))).write()


def test_another_taskset_in_the_settings_is_refused(check_error: ErrorCheck) -> None:
    """The id has one place."""
    with pytest.raises(InputError) as caught:
        replace(WORLD, settings={"taskset": {"id": "other"}}).__post_init__()
    check_error(caught, "settings.taskset.id")


def test_a_record_alone_starts_no_interpreter() -> None:
    """A stranger's run folder names a program, which is not run."""
    world = replace(WORLD, python="/home/stranger/python")
    with pytest.raises(UntrustedWorld, match="--allow-world 'verifiers:/home/stranger/python lamp"):
        check_servers(world, recorded=True)
    allow_world("verifiers:/home/stranger/python lamps")
    check_servers(world, recorded=True)


def test_tables_are_merged() -> None:
    """A value replaces a value, a table goes into a table."""
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "d": {"e": 5}}) == {
        "a": {"b": 4, "c": 2},
        "d": {"e": 5},
    }
