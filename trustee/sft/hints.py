"""What a teacher is told and the policy is not: the solution of a task, and the truth of its tools.

Each world keeps its solution in its own form; here all become lines for the teacher's prompt, and
the values that the teacher may not say before somebody in the conversation has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from trustee.environments import anchored
from trustee.environments.anchored import HARD, Anchored
from trustee.environments.executable import environment as executable
from trustee.environments.executable.blueprint import Blueprint
from trustee.environments.executable.blueprint_files import read_blueprints
from trustee.environments.executable.environment import Executable
from trustee.environments.micro.environment import HiddenGoals, Microworld
from trustee.environments.protocol import World
from trustee.environments.simulated.environment import HiddenSimulated, Simulated
from trustee.environments.simulated.roles import call_line
from trustee.environments.trial.environment import HiddenTrial, Trial
from trustee.environments.trial.transforms.disguise import Perturbation, to_shown_call
from trustee.types import ExpectedCall, Record, Task, Tool


class Hints(Record, frozen=True):
    """What a teacher is told of one task."""

    lines: tuple[str, ...]
    secrets: tuple[str, ...]
    """Values that the policy cannot know until they are said: answers and arguments."""


Hinter = Callable[[Task], Hints]

NOTHING = Hints(lines=(), secrets=())


def hinter_of(world: World) -> Hinter:
    """Give the function that knows the solutions of a world; one of your own has no hints."""
    match world:
        case Simulated():
            return hint_simulated
        case Microworld():
            return hint_microworld
        case Executable():
            loaded = read_blueprints(Path(world.path)).blueprints
            return partial(hint_executable, {blueprint.id: blueprint for blueprint in loaded})
        case Anchored():
            return partial(hint_anchored, hinter_of(world.soft), hinter_of(world.hard))
        case Trial():
            return partial(hint_trial, hinter_of(world.inner))
    return lambda task: NOTHING


def prompts_of(world: World) -> str:
    """Name the prompt set with the wording that fits a world."""
    match world:
        case Simulated() | Executable() | Trial():
            return world.prompts
        case Anchored():
            return world.soft.prompts
        case Microworld():
            return "tiny"
    return "simulated"


def hint_simulated(task: Task) -> Hints:
    """Tell the calls that the writer expects."""
    return hint_calls(msgspec.convert(task.hidden, HiddenSimulated).expected_calls)


def hint_microworld(task: Task) -> Hints:
    """Tell the calls that reach the goals."""
    goals = msgspec.convert(task.hidden, HiddenGoals).goals
    return hint_calls([goal.call for goal in goals])


def hint_executable(blueprints: dict[str, Blueprint], task: Task) -> Hints:
    """Tell the calls that bring the sub-answers, or where there are none the sub-answers by tool.

    The arguments of such calls stand in the question in words of their own, so they are no secrets.
    """
    hidden = msgspec.convert(task.hidden, executable.HiddenExecutable)
    unsolved = [answer for answers in hidden.unsolved.values() for answer in answers]
    gold = blueprints[hidden.blueprint].gold
    lines = [
        f"solution: {call_line(call.name, call.arguments)} returns {call.answer}" for call in gold
    ]
    lines = lines or [
        f"solution: {name} returns {answer}"
        for name, answers in hidden.unsolved.items()
        for answer in answers
    ]
    return Hints(
        lines=(*lines, f"solution: the final answer is {hidden.answer}"),
        secrets=tuple(dict.fromkeys([*unsolved, hidden.answer])),
    )


def hint_anchored(soft: Hinter, hard: Hinter, task: Task) -> Hints:
    """Tell what the world of the task tells."""
    return (hard if task.hidden["world"] == HARD else soft)(anchored.unwrap(task))


def hint_trial(inner: Hinter, task: Task) -> Hints:
    """Tell the solution as it is done with the shown tools, and what each of them really is."""
    hidden = msgspec.convert(task.hidden, HiddenTrial)
    beneath = inner(hidden.inner)
    calls = expected_calls(hidden.inner)
    shown_calls = [
        shown for call in calls if (shown := to_shown_call(hidden.chain, call)) is not None
    ]
    told = hint_calls(shown_calls)
    own = told.lines if calls else beneath.lines
    truths = tell_truths(task.tools, hidden.inner.tools, hidden.chain)
    secrets = dict.fromkeys((*told.secrets, *(beneath.secrets if not calls else ())))
    return Hints(lines=(*truths, *own), secrets=tuple(secrets))


def expected_calls(task: Task) -> list[ExpectedCall]:
    """Give the solution of a simulated task or of one of the micro-world, and nothing else's."""
    if "goals" in task.hidden:
        return [goal.call for goal in msgspec.convert(task.hidden, HiddenGoals).goals]
    return list(msgspec.convert(task.hidden.get("expected_calls", []), list[ExpectedCall]))


def tell_truths(
    shown: Sequence[Tool], inner: Sequence[Tool], chain: Sequence[Perturbation]
) -> Iterator[str]:
    """Say of each shown tool what it really is."""
    known = {tool.name: tool for tool in inner}
    for tool in shown:
        name, dead = tool.name, False
        for perturbation in reversed(chain):
            alias = perturbation.aliases[name]
            name, dead = alias.inner, dead or bool(alias.answer)
        if dead:
            yield f"truth: {tool.name} does not work"
        elif tool != known[name]:
            yield f"truth: {tool.name} really is {known[name].signature}"


def hint_calls(calls: Sequence[ExpectedCall]) -> Hints:
    """Tell calls; their arguments are secrets until somebody says them."""
    return Hints(
        lines=tuple(f"solution: {call_line(call.name, call.arguments)}" for call in calls),
        secrets=tuple(dict.fromkeys(value for call in calls for value in scalars(call.arguments))),
    )


def scalars(value: Any) -> Iterator[str]:
    """Give the texts and numbers inside a JSON value, as texts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)
