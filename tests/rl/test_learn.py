"""The figures of a step's episodes."""

from __future__ import annotations

import msgspec

from steps import make_group
from trustee.rl.learn import describe_groups
from trustee.types import Failure, Group, Role, Stop, ToolCall, Trajectory

CALL = ToolCall(id="0", name="look", arguments={})


def calling(trajectory: Trajectory, *turns: int) -> Trajectory:
    """Return a trajectory in which these turns make a call."""
    said = tuple(
        msgspec.structs.replace(
            turn, message=msgspec.structs.replace(turn.message, calls=(CALL,) * (at in turns))
        )
        for at, turn in enumerate(trajectory.turns)
    )
    return msgspec.structs.replace(trajectory, turns=said)


def test_figures_of_episodes() -> None:
    """Calls are counted by message over valid episodes; stops and failures by their kinds."""
    first, second, third = make_group(0, 1, -1, 0, turns=2).trajectories
    cut = msgspec.structs.replace(second, stop=Stop.RESPONSE)
    failure = Failure(source=Role.TOOL, kind="SimulatorError", message="said nothing")
    failed = msgspec.structs.replace(third, failure=failure, stop=Stop.FAILED, rewards={})
    group = Group(id=0, version=0, task=None, trajectories=(calling(first, 0, 1), cut, failed))
    unwritten = Group(
        id=1,
        version=0,
        task=None,
        trajectories=(),
        failure=Failure(source=Role.WRITER, kind="SimulatorError", message="wrote nothing"),
    )
    figures = describe_groups([group, unwritten])
    assert (3, 1.0, 0.5) == (
        figures["episodes"],
        figures["call_turns"],
        figures["share_without_call"],
    )
    assert {"done": 1, "failed": 1, "response": 1} == figures["stops"]
    assert {"tool SimulatorError": 1, "writer SimulatorError": 1} == figures["failure_kinds"]
    assert (1, 1, 0) == tuple(figures[f"failed_{role}"] for role in ("tool", "writer", "judge"))
