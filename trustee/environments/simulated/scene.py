"""What has happened in an episode so far, as the roles that play on are told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from trustee.environments.protocol import Services
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.curriculum import TurnLimits
from trustee.environments.simulated.facts import Executed
from trustee.types import ExpectedCall, Message, Record, Role, Task

T = TypeVar("T")


class HiddenSimulated(Record, frozen=True):
    """What only the environment knows about a task."""

    intent: str
    persona: str
    expected_calls: tuple[ExpectedCall, ...]
    criteria: tuple[Criterion, ...]
    """The criteria that count at this difficulty."""
    wishes: tuple[str, ...] = ()
    """What each expected call is to do, in words; empty if the task was written at once."""
    told: int = 0
    """Number of wishes that the query is about; the user asks for the others later."""
    expected_names: tuple[str, ...] = ()
    """Tools whose calls are expected, where the writer names no arguments."""
    limits: TurnLimits | None = None
    """How long the episode may be by the task's difficulty."""

    @property
    def named_tools(self) -> tuple[str, ...]:
        """The tools of the expected calls, with or without known arguments."""
        return self.expected_names or tuple(call.name for call in self.expected_calls)


class Scene:
    """One episode: its task, the dialogue, the calls that ran, and what the tools remember."""

    def __init__(self, task: Task, services: Services) -> None:
        self.task = task
        self.hidden = msgspec.convert(task.hidden, HiddenSimulated)
        self.tools = {tool.name: tool for tool in task.tools}
        self.writes = frozenset(tool.name for tool in task.tools if tool.effect == "write")
        self.messages: list[Message] = list(task.messages)
        self.executed: list[Executed] = []
        """Calls of offered tools, in order."""
        self.malformed = 0
        """Number of calls that could not be read or did not name an offered tool."""
        self.told = self.hidden.told
        """Number of wishes that the user has said."""
        self.state: dict[str, Any] = {}
        """Fields that tools have changed, by path."""
        self.seen: list[tuple[str, str]] = []
        """Calls that the tools have answered, and the answers."""
        self.reads: dict[str, dict[str, Any]] = {}
        """What each read has said since the last write."""
        self._services = services

    async def ask(
        self,
        role: Role,
        prompt: str | Sequence[Message],
        *,
        answer: type[T],
        schema: str,
        check: Callable[[T], str | None] = lambda answer: None,
    ) -> T:
        """Ask the simulator in a role, with a seed of the episode's own.

        Raises:
            SimulatorError: if no try gave a usable answer.
        """
        return await self._services.simulator.ask(
            role,
            prompt,
            answer=answer,
            schema=schema,
            seed=self._services.rng.randrange(1 << 31),
            check=check,
        )
