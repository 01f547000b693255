"""What every environment promises, and that a new one is one file."""

from __future__ import annotations

import ast
import json
import random
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import anyio
import pytest
from anyio.abc import TaskGroup

from dice import Dice
from plain_sandbox import PlainSandbox
from scripts import (
    CALL,
    MALFORMED,
    TURN,
    Policy,
    cast,
    make_player,
    make_simulator,
    mixed,
    perfect,
    report_dice,
    silent,
    write_calls,
)
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.anchored import Anchored
from trustee.environments.executable.environment import Executable
from trustee.environments.mcp.environment import Mcp
from trustee.environments.micro.environment import Microworld
from trustee.environments.openenv.environment import OpenEnv
from trustee.environments.protocol import Environment, Services, World, store_state
from trustee.environments.registry import PACKAGED, load_world
from trustee.environments.simulated.curriculum import Curriculum
from trustee.environments.simulated.environment import Simulated
from trustee.environments.trial.environment import Trial
from trustee.environments.verifiers.environment import Verifiers
from trustee.types import BadCall, Message, Stop, Task, ToolCall, Trajectory

pytestmark = pytest.mark.anyio

SEEDS = range(6)
ROOT = Path(__file__).parents[2]
MOST_CODE_LINES = 55
"""Of the example: what a new environment takes."""


class Case(NamedTuple):
    """A world and the policy that solves its tasks."""

    world: World
    solve: Policy


def find_and_read(request: Request) -> str:
    """Solve an environment of keys: find the place, read its label, say it."""
    if label := re.search(r'"label": "?(\w+)', request.prompt):
        return f"It says {label[1]}."
    if place := re.search(r'"place": "(box \w+)"', request.prompt):
        return write_calls([{"name": "read_label", "arguments": {"place": place[1]}}])
    return write_calls([{"name": "find_thing", "arguments": {"thing": "blue key"}}])


def solve_either(request: Request) -> str:
    """Solve an environment of keys or a task of the micro-world."""
    return (find_and_read if "blue key" in request.prompt else perfect)(request)


def try_and_do(request: Request) -> str:
    """Make the wanted call in the trial, note its tool, make it again and report."""
    said = [text for role, text in TURN.findall(request.prompt) if role == "assistant"]
    if len(said) != 1:
        return perfect(request)
    return f"ok , call {json.loads(CALL.findall(said[0])[0])['name']}"


def note_it(request: Request) -> str:
    """Solve a task of notes: write down the word that is asked for, and say so."""
    role, text = TURN.findall(request.prompt)[-1]
    if role == "tool":
        return "ok"
    word = text.removeprefix("note ")
    return write_calls([{"name": "add_note", "arguments": {"text": word}}])


DATA = Path(__file__).parents[1] / "data"
KEYS = Path(__file__).parents[1] / "data" / "ftrl" / "keys.jsonl"
CURRICULUM = Curriculum(start=60, tools=(1, 4))
SIMPLE = Curriculum(tools=(2, 3), calls=(1, 1), turns=(1, 1))
SOFT = Simulated(prompts="tiny", tools="micro", curriculum=CURRICULUM)
HARD = Executable(path=str(KEYS), reserve_one_in=4)
TRIAL = Trial(inner=Microworld(difficulty=1, curriculum=SIMPLE), prompts="tiny")
NOTES = Mcp(
    tasks=str(DATA / "notes_to_add.jsonl"),
    command=(sys.executable, str(Path(__file__).parents[1] / "raw_mcp_server.py")),
    tools=("get_rid_of", "add_note"),
    prompts="tiny",
)
CASES = [
    Case(SOFT, perfect),
    Case(Microworld(), perfect),
    Case(load_world("dice:Dice")(), report_dice),
    Case(HARD, find_and_read),
    Case(Anchored(hard=HARD, soft=SOFT, share=0.5), solve_either),
    Case(TRIAL, try_and_do),
    Case(NOTES, note_it),
]


def every_world(test: Callable[..., Any]) -> Any:
    """Run a test with each world, and lend it the tasks that a job has."""
    cases = pytest.mark.parametrize("case", CASES, ids=lambda case: type(case.world).__name__)
    return pytest.mark.usefixtures("background")(cases(test))


_background: list[TaskGroup] = []


@pytest.fixture
async def background() -> AsyncIterator[None]:
    """Open the tasks of a job; an episode that nobody closes ends with them."""
    async with anyio.create_task_group() as tasks:
        _background[:] = [tasks]
        yield
        _background.clear()
        tasks.cancel_scope.cancel()


class Stage:
    """A world, its simulator and the engine behind both."""

    def __init__(self, case: Case, policy: Policy) -> None:
        self.world = case.world
        self.engine = ScriptedEngine(cast(policy))
        self.simulator = make_simulator(self.engine, tries=4)
        self.sandbox = PlainSandbox()

    def services(self, key: object) -> Services:
        """Give services with a randomness of their own."""
        return self.serve(random.Random(f"{key}"))

    def serve(self, rng: random.Random) -> Services:
        """Give services with this randomness."""
        background = next(iter(_background), None)
        return Services(
            simulator=self.simulator, rng=rng, sandbox=self.sandbox, background=background
        )

    async def tasks(self, seeds: Sequence[int] = SEEDS, *, held_out: bool = False) -> list[Task]:
        """Write a task of each seed: the first of every second, the second of the others."""
        tasks = []
        for seed in seeds:
            source = self.world.source(seed=seed, held_out=held_out)
            for _ in range(1 + seed % 2):
                spec = source.draw()
            assert spec is not None
            tasks.append(await source.write(spec, self.services(f"draft {seed}")))
        return tasks

    async def play(self, task: Task, *, number: int = 0) -> Trajectory:
        """Play one episode with the script's policy."""
        player = make_player(self.world.environment, self.engine, serve=self.serve)
        return await player.play(task, trajectory_id=f"{number}/0", adapter=None, seed=number)

    async def enter(self, task: Task) -> Environment:
        """Open an environment by hand."""
        environment = self.world.environment(task, self.services("by hand"))
        await environment.open()
        return environment


def reply_content(messages: Sequence[Message], call_id: str) -> dict[str, Any]:
    """Read the JSON answer to a call."""
    (message,) = messages
    assert (message.role, message.call_id) == ("tool", call_id)
    content: dict[str, Any] = json.loads(message.content)
    return content


def test_every_config_world_has_a_case() -> None:
    """Whatever world a config may name keeps the promises below, one outside the package too."""
    elsewhere = {OpenEnv, Verifiers}  # their servers have tests of their own
    assert set(get_args(PACKAGED)) - elsewhere < {type(case.world) for case in CASES}


def test_new_environment_is_one_short_file() -> None:
    """The world of dice is not in the package, needs nothing else, and is read in minutes."""
    text = (ROOT / "examples" / "dice.py").read_text()
    imported = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    assert {"__future__", "json", "random", "collections", "trustee"} == set(imported)
    prose = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    code = [
        line
        for number, line in enumerate(text.splitlines(), 1)
        if number not in prose and line.strip() and not line.lstrip().startswith("#")
    ]
    assert MOST_CODE_LINES >= len(code)


async def test_either_world_of_an_anchor_is_played() -> None:
    """The tasks below are of both kinds."""
    case = next(case for case in CASES if isinstance(case.world, Anchored))
    tasks = await Stage(case, silent).tasks()
    assert ["soft", "hard"] * 3 == [task.hidden["world"] for task in tasks]


@pytest.mark.parametrize(
    ("world", "judge", "names", "runs"),
    [
        (SOFT, "tiny", ("tiny",), False),
        (HARD, None, ("simulated",), True),
        (Microworld(), None, ("tiny",), False),
        (Anchored(hard=HARD, soft=SOFT), "tiny", ("tiny", "simulated"), True),
        (TRIAL, None, ("tiny",), False),
        (Trial(inner=SOFT), "tiny", ("simulated", "tiny"), False),
        (Trial(inner=HARD), None, ("simulated",), True),
        (Dice(), None, (), False),
        (NOTES, "tiny", ("tiny",), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parts_of_a_world(
    world: World, judge: str | None, names: tuple[str, ...], runs: bool
) -> None:
    """Whose judge pays, whose words are used and whether code runs is known of every world."""
    assert (judge, names, runs) == (
        rules.prompts if (rules := world.judge_rules()) else None,
        world.prompt_sets(),
        world.needs_sandbox(),
    )


@every_world
async def test_expected_calls_are_counted(case: Case) -> None:
    """A world that knows the solution of a task knows how many calls it takes."""
    stage = Stage(case, silent)
    for task in await stage.tasks():
        calls = case.world.reference_calls(task)
        assert len(calls) == case.world.count_expected_calls(task)
        assert bool(calls) == bool(case.world.hints(task).lines)


@every_world
async def test_reference_solution_scores_the_maximum(case: Case) -> None:
    """Whoever does all that was wanted gets 1, in every task."""
    stage = Stage(case, case.solve)
    tasks = await stage.tasks()
    played = [await stage.play(task) for task in tasks]
    assert [(Stop.DONE, 1.0, None)] * len(tasks) == [(t.stop, t.reward, t.failure) for t in played]


@every_world
async def test_empty_answer_does_not_score_the_maximum(case: Case) -> None:
    """Whoever does nothing gets less than 1, in every task."""
    stage = Stage(case, lambda request: "")
    played = [await stage.play(task) for task in await stage.tasks()]
    assert [None] * len(played) == [t.failure for t in played]
    assert all(t.reward < 1 for t in played)


@every_world
async def test_equal_scripts_give_equal_transcripts(case: Case) -> None:
    """Same seed and same script: the same tasks and the same trajectories, to the last byte."""
    policy = case.solve if case.solve in (report_dice, note_it) else mixed
    runs = []
    for _ in range(2):
        stage = Stage(case, policy)
        tasks = await stage.tasks()
        runs.append((tasks, [await stage.play(task, number=n) for n, task in enumerate(tasks)]))
    assert runs[0] == runs[1]


@every_world
async def test_other_seeds_give_other_tasks(case: Case) -> None:
    """A source's seed decides about its tasks."""
    tasks = await Stage(case, silent).tasks(range(8))
    assert len({str((task.messages, task.hidden)) for task in tasks}) > 4


@every_world
async def test_held_out_tasks_are_none_of_training(case: Case) -> None:
    """Tasks for evaluation differ from those for training in what the policy or the world sees."""
    stage = Stage(case, silent)
    seen = {str((task.tools, task.hidden)) for task in await stage.tasks(range(12))}
    held_out = await stage.tasks(range(12), held_out=True)
    assert [] == [task.id for task in held_out if str((task.tools, task.hidden)) in seen]


@every_world
async def test_source_continues_from_its_state(case: Case) -> None:
    """A restored source draws what the first would have drawn, and its state is JSON."""
    source = case.world.source(seed=3)
    for _ in range(5):
        source.draw()
    other = case.world.source(seed=3)
    other.restore(store_state(source.state()))
    assert [source.draw() for _ in range(4)] == [other.draw() for _ in range(4)]


@every_world
async def test_unknown_tool_gets_a_readable_answer(case: Case) -> None:
    """A call of a tool that is not there is answered with its name, and the episode goes on."""
    stage = Stage(case, silent)
    (task,) = await stage.tasks([1])
    environment = await stage.enter(task)
    reply = await environment.reply(
        Message(role="assistant", calls=(ToolCall(id="c", name="no_such_tool", arguments={}),))
    )
    assert not reply.done
    answer = reply_content(reply.messages, "c")
    assert "no_such_tool" in answer["error"]
    assert task.tools[0].name in answer["error"]


@every_world
async def test_bad_call_gets_its_reason(case: Case) -> None:
    """A call that nobody could read is answered with what was expected."""
    stage = Stage(case, silent)
    (task,) = await stage.tasks([1])
    environment = await stage.enter(task)
    reply = await environment.reply(
        Message(role="assistant", calls=(BadCall(id="c", text="{", reason="not JSON: {"),))
    )
    assert not reply.done
    assert {"error": "not JSON: {"} == reply_content(reply.messages, "c")


@every_world
@pytest.mark.parametrize("arguments", [{}, {"nonsense": 1}, {"nonsense": None, "die": []}])
async def test_argument_errors_are_answered_by_code(case: Case, arguments: dict[str, Any]) -> None:
    """Arguments that do not fit the schema are answered readably, and no model is asked."""
    stage = Stage(case, silent)
    (task,) = await stage.tasks([1])
    environment = await stage.enter(task)
    asked = len(stage.engine.requests)
    name = task.tools[0].name
    reply = await environment.reply(
        Message(role="assistant", calls=(ToolCall(id="c", name=name, arguments=arguments),))
    )
    assert name in reply_content(reply.messages, "c")["error"]
    assert asked == len(stage.engine.requests)


@every_world
async def test_each_call_is_answered_in_order(case: Case) -> None:
    """Good, bad and unknown calls of one message get one answer each, in their order."""
    stage = Stage(case, silent)
    (task,) = await stage.tasks([2])
    environment = await stage.enter(task)
    reply = await environment.reply(
        Message(
            role="assistant",
            calls=(
                ToolCall(id="a", name="no_such_tool", arguments={}),
                BadCall(id="b", text="", reason="empty"),
                ToolCall(id="c", name=task.tools[0].name, arguments={}),
            ),
        )
    )
    assert ["a", "b", "c"] == [message.call_id for message in reply.messages]


@every_world
async def test_malformed_call_is_played_on_and_scored(case: Case) -> None:
    """An unreadable call is neither repaired nor dropped: it is answered and counts as nothing."""
    stage = Stage(case, lambda request: "ok" if MALFORMED in request.prompt else MALFORMED)
    (task,) = await stage.tasks([1])
    played = await stage.play(task)
    assert played.failure is None
    (call,) = played.turns[0].message.calls
    assert isinstance(call, BadCall)
    assert played.reward < 1
