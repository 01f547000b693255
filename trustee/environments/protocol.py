"""What a world must offer: a source of tasks, and an environment for each episode.

Both work in message space: no token ids, no limits, no versions. Whatever an environment may touch
is handed to it as `Services`. A new environment is one file with a config struct whose two methods
build these.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from trustee.environments.simulator import Simulator
from trustee.sandbox.calls import NoSandbox, Sandbox
from trustee.types import Group, Message, Record, Score, Stop, Task, Tool, Turn


class Services:
    """All that an environment may touch."""

    def __init__(
        self, *, simulator: Simulator, rng: random.Random, sandbox: Sandbox | None = None
    ) -> None:
        self.simulator = simulator
        self.rng = rng
        """Seeded from the run's seed and the episode's or task spec's id."""
        self.sandbox: Sandbox = sandbox or NoSandbox()


class Opening(Record, frozen=True):
    """What the policy sees first."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


class Reply(Record, frozen=True):
    """What the world answers to one policy message."""

    messages: tuple[Message, ...]
    done: bool


class TaskSpec(Record, frozen=True):
    """A task before it is written: drawn in order from the source's own state, cheap, no engine."""

    id: str
    seed: int
    difficulty: int
    data: dict[str, Any] = {}


class Environment(Protocol):
    """One episode's world; used once."""

    async def open(self) -> Opening:
        """Give the opening messages and tools."""
        ...

    async def reply(self, message: Message) -> Reply:
        """Answer one policy message. Bad and unknown calls get readable answers, no exceptions."""
        ...

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Judge the finished episode."""
        ...

    async def aclose(self) -> None:
        """Free what the episode held. Called once, whatever happened."""
        ...


class TaskSource(Protocol):
    """Where tasks come from, and what steers them."""

    def draw(self) -> TaskSpec | None:
        """Draw the next task spec; None when the source is exhausted."""
        ...

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Turn a task spec into a task; several task specs are written at once.

        Raises:
            SimulatorError: if the writer gave no valid task within its tries.
        """
        ...

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Learn from every group of a step, trained or not; return figures for the metrics."""
        ...

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a stored state."""
        ...


class World(Protocol):
    """A config struct of an environment: its factory."""

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source of training tasks, or of tasks that training never makes."""
        ...

    def environment(self, task: Task, services: Services) -> Environment:
        """Make the environment of one episode."""
        ...
