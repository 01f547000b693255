"""The states that an episode of an environment went through: its beginning, and each turn's end.

A state is a task of its own for learning one turn at a time. It is made of the trajectory and its
notes alone; nothing runs again.
Source: FTRL, arXiv 2508.08791, its collection of trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping

from trustee.environments.executable.blueprint import Blueprint, State
from trustee.environments.executable.rewards import count_owed
from trustee.types import Message, Trajectory


def open_state(blueprint: Blueprint, *, published: bool = False) -> State:
    """Give the state at the beginning; `published` takes the wording of the published row."""
    prompt = str(blueprint.provenance.get("prompt", "")) if published else ""
    question = Message(role="user", content=prompt or blueprint.question)
    return State(
        blueprint=blueprint.id, messages=(question,), unsolved=blueprint.unsolved, solve_rate=0.0
    )


def states_of(
    trajectory: Trajectory, blueprint: Blueprint, *, published: bool = False
) -> tuple[State, ...]:
    """Give the state at the beginning and one after every turn whose calls were answered.

    The turn that gives the answer is left out: there is nothing to do after it.
    """
    brought = {
        called["id"]: (called["name"], called["brought"])
        for called in trajectory.notes.get("called", ())
        if called["brought"] is not None
    }
    states = [open_state(blueprint, published=published)]
    needed = count_owed(blueprint.unsolved)
    for turn in trajectory.turns:
        if not turn.message.calls or not turn.replies:
            continue
        owed = states[-1].unsolved
        for call in turn.message.calls:
            if call.id in brought:
                owed = _without(owed, *brought[call.id])
        states.append(
            State(
                blueprint=blueprint.id,
                messages=(*states[-1].messages, turn.message, *turn.replies),
                unsolved=owed,
                solve_rate=1 - count_owed(owed) / needed,
            )
        )
    return tuple(states)


def _without(
    owed: Mapping[str, tuple[str, ...]], name: str, answer: str
) -> dict[str, tuple[str, ...]]:
    """Remove one sub-answer from what a tool owes."""
    own = list(owed[name])
    own.remove(answer)
    return {**owed, name: tuple(own)}
