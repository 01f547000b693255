"""States of an episode in an environment: its beginning and the end of each turn.

A state is a task of its own for learning one turn at a time. It is derived from the trajectory
alone; nothing is executed again.
Source: FTRL, arXiv 2508.08791, its collection of trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping

from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.environments.executable.rewards import count_unsolved
from trustee.types import Message, Trajectory


def open_state(blueprint: Blueprint, *, published: bool = False) -> TurnState:
    """Return the state at the beginning; `published` uses the wording of the published row."""
    prompt = str(blueprint.provenance.get("prompt", "")) if published else ""
    question = Message(role="user", content=prompt or blueprint.question)
    return TurnState(
        blueprint=blueprint.id, messages=(question,), unsolved=blueprint.unsolved, solve_rate=0.0
    )


def states_of(
    trajectory: Trajectory, blueprint: Blueprint, *, published: bool = False
) -> tuple[TurnState, ...]:
    """Return the state at the beginning and after every turn whose calls were answered.

    The turn with the final answer is left out, because there is nothing to do after it.
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
    """Return what is missing after a tool has returned one sub-answer."""
    own = list(unsolved[name])
    own.remove(answer)
    return {**unsolved, name: tuple(own)}
