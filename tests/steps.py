"""Groups with given rewards, and a step that is taken on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.learner import Learner
from trustee.algorithm.memory_ladder import MemoryLadder, MemoryLevel
from trustee.algorithm.step import StepReport, take_step
from trustee.runs.store import Store
from trustee.types import Completion, Failure, Group, Message, Stop, Trajectory, Turn

CONFIG = LearnConfig(warmup=0, scale="none")
TOP = MemoryLevel(micro_tokens=10, activation_checkpointing="off", context=100, parallel=4)


def make_trajectory(
    name: str, reward: float, *, turns: int = 1, version: int = 0, failure: Failure | None = None
) -> Trajectory:
    """Make a trajectory of turns with two prompt ids and three sampled ones each.

    Its ids begin like no other's.
    """
    turn = Turn(
        rendered_ids=(10 + int(name.replace("/", "")), 2),
        completion=Completion(
            ids=(3, 4, 5), logprobs=(-1.0, -2.0, -3.0), stop="stop", version=version
        ),
        message=Message(role="assistant", content="x"),
    )
    return Trajectory(
        id=name,
        task_id="t",
        turns=(turn,) * turns,
        stop=Stop.DONE,
        rewards={} if failure else {"a": reward},
        failure=failure,
    )


def make_group(number: int, *rewards: float, **other: Any) -> Group:
    """Make a group whose members got these rewards."""
    members = (
        make_trajectory(f"{number}/{member}", reward, **other)
        for member, reward in enumerate(rewards)
    )
    return Group(id=number, version=0, task=None, trajectories=tuple(members))


async def take(
    folder: Path,
    learner: Learner,
    *groups: Group,
    config: LearnConfig,
    version: int = 0,
    ladder: MemoryLadder | None = None,
) -> StepReport:
    """Take step 3 of a run."""
    async with Store(folder) as store:
        return await take_step(
            groups,
            learner,
            config,
            step=3,
            version=version,
            progress=0.0,
            store=store,
            ladder=ladder or MemoryLadder(TOP, shortest=2),
        )
