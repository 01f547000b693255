"""What a world must offer: a source of tasks, and an environment for each episode.

Both work in message space: no token ids, no limits, no versions. Whatever an environment may touch
is handed to it as `Services`. A new environment is one file with a config struct, a `WorldConfig`,
whose two methods build these; all else that the program asks a world has a default here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from trustee.environments.hints import Hints, hint_calls
from trustee.environments.simulator import Simulator
from trustee.errors import InputError
from trustee.sandbox.calls import NoSandbox, Sandbox
from trustee.types import (
    ExpectedCall,
    Group,
    Message,
    Record,
    Score,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
)

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


class PlainEpisode:
    """An environment that opens with its task as it is, and holds nothing to be freed."""

    def __init__(self, task: Task) -> None:
        self.task = task

    async def open(self) -> Opening:
        """Return the opening messages and tools of the task."""
        return Opening(messages=self.task.messages, tools=self.task.tools)

    async def aclose(self) -> None:
        """Free nothing."""


class CountedSource:
    """A source that remembers only how many task specs it has drawn; it never ends by itself."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self.drawn = 0

    def draw(self) -> TaskSpec | None:
        """Draw the next task spec; None when the source is exhausted."""
        spec = self.make_spec(self.drawn)
        if spec is not None:
            self.drawn += 1
        return spec

    def make_spec(self, index: int) -> TaskSpec | None:
        """Return the task spec of an index; None where the source ends before it."""
        seed = random.Random(f"{self._seed} {index}").randrange(1 << 31)
        return TaskSpec(id=f"task-{index:06d}", seed=seed, difficulty=1)

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Learn nothing."""
        return {}

    def state(self) -> Record:
        """Return the count of task specs."""
        return DrawnState(drawn=self.drawn)

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        self.drawn = read_state(stored, DrawnState).drawn


class World:
    """The factory of an environment, and all that the program asks about it."""

    __slots__ = ()

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source of training tasks, or of tasks that training never makes."""
        raise NotImplementedError

    def environment(self, task: Task, services: Services) -> Environment:
        """Make the environment of one episode."""
        raise NotImplementedError

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Read all that the world is made of; return a sentence on each part that is not used.

        Raises:
            InputError: if the world cannot be played.
        """
        self.source(seed=seed, held_out=held_out)
        return ()

    def judge_prompts(self) -> str | None:
        """Return the prompt set of the judge that pays; None where no judge does."""
        return None

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt sets that the world takes its words from, its main one first."""
        return ()

    def teacher_prompts(self) -> str:
        """Return the prompt set whose wording fits the world."""
        return next(iter(self.prompt_sets()), "simulated")

    def needs_sandbox(self) -> bool:
        """Whether the world's tools are code that the sandbox must run."""
        return False

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls that solve a task; none where the world does not know them."""
        return ()

    def count_expected_calls(self, task: Task) -> int:
        """Return how many calls a task needs; 0 where the world does not know."""
        return len(self.reference_calls(task))

    def hints(self, task: Task) -> Hints:
        """Return what a teacher is told of a task and the policy is not."""
        return hint_calls(self.reference_calls(task))

    def cut_states(self, task: Task, trajectory: Trajectory) -> Sequence[Record]:
        """Return the states of an episode from which one turn can be learnt."""
        return ()

    def as_judged(self, task: Task) -> Task | None:
        """Return a task as a judge of the simulated world is told it, to be held against the truth.

        None where the world's reward is not the truth.
        """
        return None

    def refuse_trial(self) -> str | None:
        """Return what of `env.inner` is wrong if a trial wraps this world; None where it can."""
        return None

    def plays_script(self, *, in_trial: bool = False) -> bool:
        """Whether the scripted teacher of the built-in model knows the world's tasks."""
        return False

    def falsify(self, *, strip_trial: bool, permute_names: bool, break_tool: bool) -> World:
        """Return the world without what a policy of a trial may rest on.

        Raises:
            InputError: if the world has no trial phase.
        """
        raise InputError(
            "--strip-trial, --permute-names and --break-tool ask for a world with a trial phase "
            f"(env.kind = 'trial'), and the held-out tasks are of kind {type(self).__name__}"
        )


class WorldConfig(World, Record, frozen=True):
    """A world that a config file describes: its fields are the keys of `[env]` beside `kind`."""
