"""What a world must offer: a source of tasks, and an environment for each episode.

Both work in message space: no token ids, no limits, no versions. Whatever an environment may touch
is handed to it as `Services`. A new environment is one file with a config struct whose two methods
build these.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from trustee.environments.simulator import Simulator
from trustee.errors import InputError
from trustee.sandbox.calls import NoSandbox, Sandbox
from trustee.types import Group, Message, Record, Score, Stop, Task, Tool, Turn

S = TypeVar("S", bound=Record)


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


class DrawnState(Record, frozen=True):
    """The state of a source that nothing but its own count of task specs decides."""

    drawn: int


def store_state(state: Record) -> msgspec.Raw:
    """Return a source's state as JSON that only the source itself reads again."""
    return msgspec.Raw(msgspec.json.encode(state))


def read_state(stored: msgspec.Raw, kind: type[S]) -> S:
    """Read what `store_state` has made of a source's state.

    Raises:
        InputError: if it is no state of this kind.
    """
    try:
        return msgspec.json.decode(stored, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(
            f"not a state that this world's tasks can continue from: {error}"
        ) from error


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

    def state(self) -> Record:
        """Return all that `restore` needs; a checkpoint keeps it through `store_state`."""
        ...

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state, which `read_state` reads.

        Raises:
            InputError: if it is no state of such a source.
        """
        ...


class World(Protocol):
    """A config struct of an environment: its factory."""

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source of training tasks, or of tasks that training never makes."""
        ...

    def environment(self, task: Task, services: Services) -> Environment:
        """Make the environment of one episode."""
        ...
