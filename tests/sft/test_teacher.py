"""The teacher: told the hints, recorded without them; what hints there are of each world."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blueprints import make_blueprint
from dice import Dice
from scripts import cast, make_player, make_simulator, perfect
from trustee.algorithm.batch import to_sample
from trustee.engine.scripted import ScriptedEngine, scripted_renderer
from trustee.environments.anchored import Anchored
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.environments.executable.environment import Executable
from trustee.environments.hints import Hints, scalars
from trustee.environments.micro.environment import Microworld
from trustee.environments.protocol import Services, World
from trustee.environments.simulated.environment import Simulated
from trustee.environments.trial.environment import Trial
from trustee.environments.trial.transforms.names import Opaque
from trustee.environments.trial.transforms.supply import Break
from trustee.rollout import Limits
from trustee.sft.teacher import TELLTALE, TeacherPlayer, add_hints
from trustee.types import Message, Stop, Task, ToolCall, Trajectory

pytestmark = pytest.mark.anyio
HINTS = Hints(lines=("solution: open the third", "truth: look does not work"), secrets=("3",))


async def write(world: World, *, seed: int = 1) -> Task:
    """Write a task."""
    source = world.source(seed=seed)
    spec = source.draw()
    assert spec is not None
    return await source.write(spec, services(ScriptedEngine(cast(perfect))))


def services(engine: ScriptedEngine) -> Services:
    """Give what an environment may touch."""
    return Services(simulator=make_simulator(engine), rng=random.Random(0))


async def play(task: Task, world: World, hints: Hints) -> tuple[ScriptedEngine, Trajectory]:
    """Have a teacher play a task."""
    engine = ScriptedEngine(cast(perfect))
    player = TeacherPlayer(engine, scripted_renderer(), hints, prompt_set="simulated")
    episodes = make_player(
        world.environment,
        player.engine,
        serve=lambda rng: services(engine),
        renderer=player.renderer,
        limits=Limits(tokens=600),
    )
    played = await episodes.play(task, trajectory_id="0/0", adapter=None, seed=0)
    return engine, player.keep(played)


async def test_hints_are_told_and_not_recorded() -> None:
    """The engine reads them in every prompt; the trajectory begins as the policy's would."""
    world = Microworld()
    task = await write(world)
    engine, trajectory = await play(task, world, HINTS)
    prompts = [r.prompt for r in engine.requests if r.sampling.schema is None]
    assert {True} == {line in prompt for prompt in prompts for line in HINTS.lines}
    assert (Stop.DONE, 1.0) == (trajectory.stop, trajectory.reward)
    renderer = scripted_renderer()
    assert renderer.open(task.messages, task.tools) == trajectory.turns[0].rendered_ids
    kept = msgspec.json.encode(trajectory).decode()
    text = renderer.decode(to_sample(trajectory, advantage=1.0).ids)
    for told in (*HINTS.lines, TELLTALE):
        assert told not in kept
        assert told not in text


def test_teaching_keeps_the_task() -> None:
    """The policy's own guidance stays, in front; without one there is a system message now."""
    asked = Message(role="user", content="look")
    guided = (Message(role="system", content="be brief"), asked)
    system, *rest = add_hints(guided, HINTS, prompt_set="simulated")
    assert ("system", [asked]) == (system.role, rest)
    assert system.content.startswith("be brief\n")
    assert system.content.endswith("solution: open the third\ntruth: look does not work")
    bare, *rest = add_hints((asked,), HINTS, prompt_set="tiny")
    expected = "solution: open the third\ntruth: look does not work"
    assert (expected, [asked]) == (bare.content, rest)


@pytest.mark.parametrize("world", [Microworld(), Simulated(prompts="tiny", tools="micro")])
async def test_hints_of_worlds_with_expected_calls(world: Any) -> None:
    """The calls are told, and their arguments are secrets."""
    task = await write(world, seed=5)
    hints = world.hints(task)
    expected = (
        [goal["thing"] for goal in task.hidden["goals"]]
        if "goals" in task.hidden
        else [call["name"].split("_")[1] for call in task.hidden["expected_calls"]]
    )
    assert len(expected) == len(hints.lines)
    for thing, line in zip(expected, hints.lines, strict=True):
        assert line.startswith("solution: ")
        assert f"_{thing} " in line
    assert {True} == {any(secret in line for line in hints.lines) for secret in hints.secrets}
    assert hints.secrets


async def test_hints_under_perturbation() -> None:
    """The solution is told with shown names, and so is what each shown tool is."""
    world = Trial(inner=Microworld(), transforms=(Opaque(), Break()), prompts="tiny")
    for seed in range(5):
        task = await write(world, seed=seed)
        lines = world.hints(task).lines
        shown = {tool.name for tool in task.tools}
        calls = [line.split()[1] for line in lines if line.startswith("solution: ")]
        truths = [line.split()[1] for line in lines if line.startswith("truth: ")]
        dead = {line.split()[1] for line in lines if line.endswith("does not work")}
        assert calls
        assert set(calls) <= shown - dead
        assert set(truths) <= shown


def test_a_world_of_your_own_has_no_hints() -> None:
    """The teacher of an unknown world sees what the policy sees."""
    task = Task(id="t", messages=(), tools=(), difficulty=1, hidden={"pips": [1, 2, 3]})
    assert Hints() == Dice().hints(task)
    assert "simulated" == Dice().teacher_prompts()


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (Microworld(), "tiny"),
        (Simulated(), "simulated"),
        (Trial(inner=Microworld(), prompts="tiny"), "tiny"),
    ],
)
def test_prompt_sets(world: World, expected: str) -> None:
    """Each world says in which wording it speaks."""
    assert expected == world.teacher_prompts()


def test_scalars_of_arguments() -> None:
    """Texts and numbers inside are values that somebody must have said; booleans are not."""
    call = ToolCall(id="", name="f", arguments={"a": [1, {"b": "x"}], "c": True, "d": None})
    assert ["1", "x"] == list(scalars(call.arguments))


async def test_hints_of_environments_that_run(tmp_path: Path) -> None:
    """Gold calls are told with what they bring; without them, what each tool must bring."""
    write_blueprint(make_blueprint(3), tmp_path / "gold")
    write_blueprint(make_blueprint(3, gold=()), tmp_path / "bare")
    told = []
    for name in ("gold", "bare"):
        world = Executable(path=str(tmp_path / name), reserve_one_in=1000)
        told.append(world.hints(await write(world)))
    assert {("box dd", "403")} == {hints.secrets for hints in told}
    assert (
        'solution: find_thing {"thing": "blue key"} returns box dd',
        'solution: read_label {"place": "box dd"} returns 403',
        "solution: the final answer is 403",
    ) == told[0].lines
    assert (
        "solution: find_thing returns box dd",
        "solution: read_label returns 403",
        "solution: the final answer is 403",
    ) == told[1].lines


async def test_hints_of_an_anchored_world(tmp_path: Path) -> None:
    """Each task has the hints of the world that it comes from."""
    write_blueprint(make_blueprint(3), tmp_path)
    hard = Executable(path=str(tmp_path), reserve_one_in=1000)
    world = Anchored(hard=hard, soft=Simulated(prompts="tiny", tools="micro"), share=0.5)
    source = world.source(seed=1)
    lines = []
    for _ in range(2):
        spec = source.draw()
        assert spec is not None
        task = await source.write(spec, services(ScriptedEngine(cast(perfect))))
        lines.append(world.hints(task).lines)
    assert [False, True] == ["solution: the final answer is 403" in told for told in lines]
    assert "tiny" == world.teacher_prompts()
