"""The interface of a world: a source of tasks, and an environment for each episode.

Both work with messages: no token ids, no limits, no versions. Everything an environment may access
is passed to it as `Services`. A new environment is one module with a config struct, a
`WorldConfig`, whose two methods build these; all other methods of a world have defaults here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from trustee.decoding import decode_json
from trustee.environments.hints import Hints, hint_calls
from trustee.environments.simulated.rules import Rules
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

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

S = TypeVar("S", bound=Record)


class Services:
    """Everything that an environment may access."""

    def __init__(
        self,
        *,
        simulator: Simulator,
        rng: random.Random,
        sandbox: Sandbox | None = None,
        background: TaskGroup | None = None,
    ) -> None:
        self.simulator = simulator
        self.rng = rng
        """Random generator seeded from the run's seed and the id of the episode or task spec."""
        self.sandbox: Sandbox = sandbox or NoSandbox()
        self.background = background
        """Tasks of the job, for what an episode keeps open from one call to the next, such as a
        connection; None where no world keeps any."""


class Opening(Record, frozen=True):
    """Messages and tools that the policy sees first."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


class Reply(Record, frozen=True):
    """The world's answer to one policy message."""

    messages: tuple[Message, ...]
    done: bool
    stop: Stop = Stop.DONE
    """Why the episode is over, if it is."""


class TaskSpec(Record, frozen=True):
    """A task before it is written: drawn in order from the source's state, without an engine."""

    id: str
    seed: int
    difficulty: int
    data: dict[str, Any] = {}


class Package(Record, frozen=True):
    """Tasks that another program can play: they are fixed, and so is what answers and pays."""

    splits: dict[str, tuple[Task, ...]]
    """Tasks by the name of their side."""
    rules: dict[str, Any]
    """How episodes are played and paid, in the words of the package's world."""
    simulated: bool = False
    """Whether a model plays user, tools and judge; else tools are code."""


class DrawnState(Record, frozen=True):
    """State of a source that only depends on its count of task specs."""

    drawn: int


def store_state(state: Record) -> msgspec.Raw:
    """Return a source's state as JSON that only the source itself reads."""
    return msgspec.Raw(msgspec.json.encode(state))


def read_state(stored: msgspec.Raw, kind: type[S]) -> S:
    """Return a source's state from what `store_state` returned.

    Raises:
        InputError: if it is not a state of this kind.
    """
    return decode_json(
        bytes(stored),
        kind,
        error=lambda why: InputError(
            f"not a state that this world's tasks can continue from: {why}"
        ),
    )


class Environment(Protocol):
    """The world of one episode; used once."""

    async def open(self) -> Opening:
        """Return the opening messages and tools."""
        ...

    async def reply(self, message: Message) -> Reply:
        """Answer one policy message. Bad and unknown calls get readable answers, not exceptions."""
        ...

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Return the score of the finished episode."""
        ...

    async def aclose(self) -> None:
        """Free the resources of the episode. Called exactly once, even after errors."""
        ...


class TaskSource(Protocol):
    """Where tasks come from; it may adapt to the results of the policy."""

    def draw(self) -> TaskSpec | None:
        """Return the next task spec, or None when the source is exhausted."""
        ...

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Turn a task spec into a task; several task specs are written concurrently.

        Raises:
            SimulatorError: if the writer produced no valid task in its tries.
        """
        ...

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Learn from every group of a step, trained or not; return figures for the metrics."""
        ...

    def state(self) -> Record:
        """Return everything that `restore` needs; checkpoints store it through `store_state`."""
        ...

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state, which `read_state` reads.

        Raises:
            InputError: if it is not a state of such a source.
        """
        ...


class PlainEpisode:
    """An environment that opens with its task unchanged and has nothing to free."""

    def __init__(self, task: Task) -> None:
        self.task = task

    async def open(self) -> Opening:
        """Return the opening messages and tools of the task."""
        return Opening(messages=self.task.messages, tools=self.task.tools)

    async def aclose(self) -> None:
        """Nothing to release."""


class CountedSource:
    """A source whose state is its count of drawn task specs; it never ends by itself."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self.drawn = 0

    def draw(self) -> TaskSpec | None:
        """Return the next task spec, or None when the source is exhausted."""
        spec = self.make_spec(self.drawn)
        if spec is not None:
            self.drawn += 1
        return spec

    def make_spec(self, index: int) -> TaskSpec | None:
        """Return the task spec of an index, or None if the source ends before it."""
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
    """The factory of an environment, and the questions that the program asks about it."""

    __slots__ = ()

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Return the source of training tasks, or of tasks that training never uses."""
        # Not an abstract method: a struct has another metaclass than an abstract class.
        raise NotImplementedError(f"{type(self).__name__} does not define source")

    def environment(self, task: Task, services: Services) -> Environment:
        """Return the environment of one episode."""
        raise NotImplementedError(f"{type(self).__name__} does not define environment")

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Read all parts of the world; return a sentence for each part that is not used.

        Raises:
            InputError: if the world cannot be played.
        """
        self.source(seed=seed, held_out=held_out)
        return ()

    def judge_rules(self) -> Rules | None:
        """Return the rules of the judge that gives the reward; None if no judge does."""
        return None

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt sets that the world uses, its main one first."""
        return ()

    def teacher_prompts(self) -> str:
        """Return the prompt set whose wording fits the world."""
        return next(iter(self.prompt_sets()), "simulated")

    def servers(self) -> tuple[str, ...]:
        """Return the servers that the world starts or reaches, which a record alone never names."""
        return ()

    def needs_sandbox(self) -> bool:
        """Whether the world's tools are code that the sandbox must run."""
        return False

    def asks_simulator(self) -> bool:
        """Whether a model plays users or tools of an episode, or judges it."""
        return True

    def trains_turns(self) -> bool:
        """Whether an episode of training is one policy message, which code alone answers."""
        return False

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls that solve a task; empty if the world does not know them."""
        return ()

    def count_expected_calls(self, task: Task) -> int:
        """Return how many calls a task needs; 0 if the world does not know."""
        return len(self.reference_calls(task))

    def hints(self, task: Task) -> Hints:
        """Return what a teacher, but not the policy, is told about a task."""
        return hint_calls(self.reference_calls(task))

    def cut_states(self, task: Task, trajectory: Trajectory) -> Sequence[Record]:
        """Return the states of an episode from which a single turn can be learned."""
        return ()

    def as_judged(self, task: Task) -> Task | None:
        """Return a task as a simulated world's judge sees it, to compare judge and truth.

        None if the world's reward is not the truth.
        """
        return None

    def package(self, *, seed: int) -> Package | None:
        """Return the tasks for a package; None where they are not fixed or tools are not code.

        Raises:
            InputError: if there are none.
        """
        return None

    def package_source(self, *, seed: int, tasks: int, held_out: bool) -> TaskSource | None:
        """Return what writes a number of tasks for a package; None where no model writes them.

        Raises:
            InputError: if another program could not play them as here.
        """
        return None

    def refuse_trial(self) -> str | None:
        """Return what in `env.inner` prevents a trial from wrapping this world, or None."""
        return None

    def plays_script(self, *, in_trial: bool = False) -> bool:
        """Whether the scripted teacher of the built-in model knows the world's tasks."""
        return False

    def falsify(self, *, strip_trial: bool, permute_names: bool, break_tool: bool) -> World:
        """Return the world without what a policy of a trial may rely on.

        Raises:
            InputError: if the world has no trial phase.
        """
        raise InputError(
            "--strip-trial, --permute-names and --break-tool need a world with a trial phase "
            f"(env.kind = 'trial'), but the held-out tasks are of kind {type(self).__name__}"
        )


class WorldConfig(World, Record, frozen=True):
    """A world that a config file describes: its fields are the keys of `[env]` except `kind`."""
