"""The states that an episode of an environment went through: its beginning, and each turn's end.

A state is a task of its own for learning one turn at a time. It is made of the trajectory alone;
nothing runs again.
Source: FTRL, arXiv 2508.08791, its collection of trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping

from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.environments.executable.rewards import count_unsolved
from trustee.types import Message, Trajectory


def open_state(blueprint: Blueprint, *, published: bool = False) -> TurnState:
    """Give the state at the beginning; `published` takes the wording of the published row."""
    prompt = str(blueprint.provenance.get("prompt", "")) if published else ""
    question = Message(role="user", content=prompt or blueprint.question)
    return TurnState(
        blueprint=blueprint.id, messages=(question,), unsolved=blueprint.unsolved, solve_rate=0.0
    )


def states_of(
    trajectory: Trajectory, blueprint: Blueprint, *, published: bool = False
) -> tuple[TurnState, ...]:
    """Give the state at the beginning and one after every turn whose calls were answered.

    The turn that gives the answer is left out: there is nothing to do after it.
    """
    facts = trajectory.outcome.solve
    solved = {
        called.id: (called.name, called.solved)
        for called in (facts.called if facts else ())
        if called.solved is not None
    }
    states = [open_state(blueprint, published=published)]
    needed = count_unsolved(blueprint.unsolved)
    for turn in trajectory.turns:
        if not turn.message.calls or not turn.replies:
            continue
        unsolved = states[-1].unsolved
        for call in turn.message.calls:
            if call.id in solved:
                unsolved = _without(unsolved, *solved[call.id])
        states.append(
            TurnState(
                blueprint=blueprint.id,
                messages=(*states[-1].messages, turn.message, *turn.replies),
                unsolved=unsolved,
                solve_rate=1 - count_unsolved(unsolved) / needed,
            )
        )
    return tuple(states)


def _without(
    unsolved: Mapping[str, tuple[str, ...]], name: str, answer: str
) -> dict[str, tuple[str, ...]]:
    """Remove one sub-answer from what a tool owes."""
    own = list(unsolved[name])
    own.remove(answer)
    return {**unsolved, name: tuple(own)}
