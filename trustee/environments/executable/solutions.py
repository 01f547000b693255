"""Hidden data of an executable task, and hints that tell its solution."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from trustee.environments.executable.blueprint import Blueprint, GoldCall
from trustee.environments.executable.blueprint_files import read_blueprints
from trustee.environments.hints import Hints
from trustee.tools.values import call_line
from trustee.types import ExpectedCall, Record

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
