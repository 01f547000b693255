"""The interface of a prompt set's roles: writer, user, tool, and one of two kinds of judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.facts import Facts
from trustee.environments.simulated.roles import UserAnswer, WrittenTask
from trustee.environments.simulated.scene import Scene
from trustee.environments.simulator import Simulator
from trustee.types import Record, Tool, ToolCall, Turn

Reward = Literal[-1, 0, 1]


class ToolReply(Record, frozen=True):
    """What a tool has answered."""

    text: str
    ok: bool
    """False if it is an error."""


class Opinion(Record, frozen=True):
    """What a judge thinks of an episode."""

    evidence: str
    criteria: dict[Criterion, bool] = {}
    """Whether each criterion holds; empty if the judge gives a reward instead."""
    reward: Reward | None = None
    asked: bool = True
    """False where code could tell without asking."""


class RoleSet(Protocol):
    """How writer, user and tool are played with one prompt set."""

    code_checks_arguments: bool
    """Whether code answers a call whose arguments do not fit their schema; else the tool does."""

    async def write(
        self, simulator: Simulator, tools: Sequence[Tool], aspects: Aspects, *, seed: int
    ) -> WrittenTask:
        """Have a task written.

        Raises:
            SimulatorError: if no try gave a usable one; likewise below.
        """
        ...

    async def answer_as_user(self, scene: Scene) -> UserAnswer:
        """Answer the policy's last text."""
        ...

    async def answer_as_tool(self, scene: Scene, tool: Tool, call: ToolCall) -> ToolReply:
        """Answer a call of an offered tool."""
        ...


@runtime_checkable
class FactsJudge(Protocol):
    """A judge whose opinion counts where facts leave something open."""

    async def judge_with_facts(self, scene: Scene, turns: Sequence[Turn], facts: Facts) -> Opinion:
        """Say which criteria hold."""
        ...


@runtime_checkable
class LoneJudge(Protocol):
    """A judge who is shown no facts."""

    async def judge_alone(self, scene: Scene, turns: Sequence[Turn]) -> Opinion:
        """Say which criteria hold, or give the reward."""
        ...
