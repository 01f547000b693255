"""Executable tasks: their hidden data, hints that tell the solution, and packages of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from trustee.environments.executable.blueprint import Blueprint, GoldCall, TurnState
from trustee.environments.executable.blueprint_files import read_blueprints
from trustee.environments.hints import Hints
from trustee.environments.protocol import Package, TaskSpec
from trustee.tools.values import call_line
from trustee.types import ExpectedCall, Message, Record, Task

Unit = Literal["episode", "turn"]
"""Unit of a task: an episode up to its limits, or one policy message from a state."""


class HiddenExecutable(Record, frozen=True):
    """Data of a task that only the world sees."""

    blueprint: str
    scenario: str
    sources: dict[str, str]
    unsolved: dict[str, tuple[str, ...]]
    """Sub-answers missing when the task begins, by tool."""
    answer: str
    unit: Unit
    seed: int
    """Seed of the tools' randomness and clock; equal for all members of a group."""
    gold: tuple[ExpectedCall, ...] = ()
    """Calls that solve everything; empty if the environment comes without any."""


@lru_cache(maxsize=2)
def blueprints_by_id(path: Path) -> dict[str, Blueprint]:
    """Return environments by id; cached, because every task of a collection looks up its own."""
    return {blueprint.id: blueprint for blueprint in read_blueprints(path).blueprints}


def calls_of(hidden: HiddenExecutable) -> tuple[ExpectedCall, ...]:
    """Return the gold calls, or a call without arguments for each missing sub-answer of a tool."""
    return hidden.gold or tuple(
        ExpectedCall(name=name, arguments={})
        for name, answers in hidden.unsolved.items()
        for _ in answers
    )


def hints_of(hidden: HiddenExecutable, gold: tuple[GoldCall, ...]) -> Hints:
    """Return hints with the calls that find the sub-answers, or else the sub-answers by tool.

    The question paraphrases the arguments of such calls, so they are not secret.
    """
    lines = [
        f"solution: {call_line(call.name, call.arguments)} returns {call.answer}" for call in gold
    ]
    lines = lines or [
        f"solution: {name} returns {answer}"
        for name, answers in hidden.unsolved.items()
        for answer in answers
    ]
    unsolved = [answer for answers in hidden.unsolved.values() for answer in answers]
    return Hints(
        lines=(*lines, f"solution: the final answer is {hidden.answer}"),
        secrets=tuple(dict.fromkeys([*unsolved, hidden.answer])),
    )


def build_task(
    blueprint: Blueprint, state: TurnState, spec: TaskSpec, *, unit: Unit, guidance: str
) -> Task:
    """Return the task that begins at a state.

    Args:
        blueprint: the environment.
        state: a point of an episode in it.
        spec: the task's id, seed and difficulty.
        unit: what the task is.
        guidance: system prompt where the state has none; empty for none.
    """
    hidden = HiddenExecutable(
        blueprint=blueprint.id,
        scenario=blueprint.scenario,
        sources=blueprint.sources,
        unsolved=state.unsolved,
        answer=blueprint.answer,
        unit=unit,
        seed=spec.seed,
        gold=tuple(
            ExpectedCall(name=call.name, arguments=call.arguments) for call in blueprint.gold
        ),
    )
    messages = state.messages
    if guidance and messages[0].role != "system":
        messages = (Message(role="system", content=guidance), *messages)
    return Task(
        id=spec.id,
        messages=messages,
        tools=blueprint.tools,
        difficulty=spec.difficulty,
        hidden=msgspec.to_builtins(hidden),
    )


class BuildingSource(Protocol):
    """A source that builds tasks without a model."""

    def draw(self) -> TaskSpec | None:
        """Return the next task spec, or None when the source is exhausted."""
        ...

    def build(self, spec: TaskSpec) -> Task:
        """Build a task."""
        ...


def pack(
    open_source: Callable[..., BuildingSource], *, seed: int, rules: dict[str, Any]
) -> Package:
    """Return the environments of both sides, each as one task called like it.

    Raises:
        InputError: if a side has none.
    """
    splits: dict[str, tuple[Task, ...]] = {}
    for split, held_out in (("train", False), ("test", True)):
        source = open_source(seed=seed, held_out=held_out)
        built: dict[str, Task] = {}
        while (spec := source.draw()) is not None:
            name = spec.id.partition("@")[0]
            if name in built:
                break
            built[name] = msgspec.structs.replace(source.build(spec), id=name)
        splits[split] = tuple(built[name] for name in sorted(built))
    return Package(splits=splits, rules=rules)
