"""A world of `verifiers`: any of its tasksets, with its own harness, runtime and rewards.

The harness owns the loop, so `play` does: it gives the process prompts in ids, samples from the
policy, and takes the branches back. Source: github.com/PrimeIntellect-ai/verifiers, 0.4.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Meta

from trustee.environments.protocol import (
    CountedSource,
    Services,
    TaskSpec,
    WorldConfig,
)
from trustee.environments.seat import LoopOwner, Played, Seat
from trustee.environments.splits import is_held_out
from trustee.environments.verifiers.asking import SeatTable
from trustee.environments.verifiers.branches import Answer, Trace, index_spoken, lay_out
from trustee.environments.verifiers.process import Child, Launch, find_child
from trustee.errors import InputError, ServerError, TrusteeError
from trustee.tools.chat import read_chat_messages
from trustee.tools.values import render_json
from trustee.types import Message, Outcome, PathText, Score, Stop, Task

T = TypeVar("T")

PREFIX = "verifiers:"
"""What stands before the interpreter and the taskset where a server could be given, too."""
MOST_SHOWN_ERRORS = 3
STOPS = {"max_turns": Stop.TURNS, "max_total_tokens": Stop.RESPONSE}
"""Limits of `verifiers` that are known here under another name."""


class ListedTask(msgspec.Struct, frozen=True):
    """A task of the set: its stable name and its data."""

    key: str
    task: dict[str, Any]


class Verifiers(WorldConfig, frozen=True, tag="verifiers", tag_field="kind"):
    """A taskset of `verifiers`, which runs in an interpreter of its own."""

    python: PathText
    """Interpreter of the virtual environment in which `verifiers` and the taskset are installed."""
    taskset: str
    """Id of the taskset, as `vf-eval` takes it."""
    settings: dict[str, Any] = {}
    """Further settings of the environment, as in the `[env]` of a config of `verifiers`. Where they
    name none, the harness is `null` and the runtime `subprocess`."""
    eval_settings: dict[str, Any] = {}
    """Settings that are other for evaluation, such as the split of the data; none: see below."""
    reserve_one_in: Annotated[int, Meta(ge=2)] = 5
    """Without `eval_settings`: one task in this many is for evaluation."""
    tasks: Annotated[int, Meta(ge=1)] = 10_000
    """Tasks of the set that are used: the first so many; an endless set has no others."""
    trains: str = ""
    """Agent that is trained, where there are several; empty for all that the environment trains."""
    solved: float = 1.0
    """Reward from which an episode counts as a success."""
    folder: PathText = ""
    """Working directory of the process, whose modules it finds; empty is that of this process."""
    variables: dict[str, str] = {}
    """Further environment variables of the process; `$NAME` is the value of a variable of this
    process, so that no secret need be written down."""
    seconds: Annotated[float, Meta(gt=0)] = 300.0
    """Time in which an episode must ask the policy or end; a slower world has failed, and the
    episode with it."""
    start_seconds: Annotated[float, Meta(gt=0)] = 300.0
    """Time for the process to start and load the environment, and again for its tasks."""

    def __post_init__(self) -> None:
        """Refuse settings that name another taskset.

        Raises:
            InputError: naming the key.
        """
        for name, table in (("settings", self.settings), ("eval_settings", self.eval_settings)):
            if "id" in (table.get("taskset") or {}):
                raise InputError(f"{name}.taskset.id: give the id as taskset")

    def servers(self) -> tuple[str, ...]:
        """Return the interpreter and the taskset, whose code is run."""
        return (f"{PREFIX}{self.python} {self.taskset}",)

    def source(self, *, seed: int, held_out: bool = False) -> VerifiersSource:
        """Return the source of tasks for training or for evaluation."""
        return VerifiersSource(self, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> VerifiersEnvironment:
        """Return the environment of one episode."""
        return VerifiersEnvironment(self, task, services)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Load the environment, read its tasks; say how they are split."""
        if not Path(self.python).is_file():
            raise InputError(
                f"env.python = {self.python!r} is not a file; make an environment with "
                "`python -m venv DIR && DIR/bin/pip install verifiers uv` and name DIR/bin/python"
            )
        source = VerifiersSource(self, seed=seed, held_out=held_out)

        mine = anyio.run(count_tasks, source)
        if self.eval_settings:
            return ()
        return (
            f"{self.taskset}: {mine} of its {source.listed} tasks are "
            f"{'for evaluation' if held_out else 'for training'}, by their keys",
        )

    def asks_simulator(self) -> bool:
        """Return that the taskset answers and pays."""
        return False

    def refuse_trial(self) -> str:
        """Refuse a trial, which needs a loop of its own."""
        return 'kind must be a world whose tools can be changed inside a trial, got "verifiers"'

    def launch(self, *, held_out: bool) -> Launch:
        """Return how the process of one side is started."""
        settings = merge({"taskset": {"id": self.taskset}}, self.settings)
        if held_out:
            settings = merge(settings, self.eval_settings)
        return Launch(
            python=self.python,
            folder=self.folder,
            variables=tuple(sorted(self.variables.items())),
            settings=render_json(settings),
            start_seconds=self.start_seconds,
        )


def merge(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the values of another put over its own."""
    merged = dict(table)
    for name, value in over.items():
        own = merged.get(name)
        both = isinstance(own, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(own, value) if both else value  # type: ignore[arg-type]  # both are
    return merged


class VerifiersSource(CountedSource):
    """Deals the tasks of a set, reshuffled each epoch."""

    def __init__(self, config: Verifiers, *, seed: int, held_out: bool) -> None:
        super().__init__(seed=seed)
        self._config = config
        self._held_out = held_out
        self._reading = anyio.Lock()
        self._tasks: tuple[ListedTask, ...] = ()
        """The tasks of this side."""
        self.listed = 0
        """Number of tasks of both sides."""

    def make_spec(self, index: int) -> TaskSpec:
        """Return the task spec of an index; the tasks are known when it is written."""
        seed = random.Random(f"{self._seed} {index}").randrange(1 << 31)
        return TaskSpec(id=f"task-{index:06d}", seed=seed, difficulty=1, data={"number": index})

    async def read(self, tasks: TaskGroup) -> int:
        """Read the tasks once; return how many this side has.

        Raises:
            ServerError: if the process fails.
            InputError: if no task is left for this side.
        """
        async with self._reading:
            if not self._tasks:
                config = self._config
                child = await find_child(config.launch(held_out=self._held_out), tasks)
                listed = await child.talk(
                    "list", {"most": config.tasks}, seconds=config.start_seconds
                )
                self._tasks = self._choose(read_answer(listed, tuple[ListedTask, ...]))
            return len(self._tasks)

    def _choose(self, listed: tuple[ListedTask, ...]) -> tuple[ListedTask, ...]:
        config, self.listed = self._config, len(listed)
        one_in = config.reserve_one_in
        chosen = tuple(
            task
            for task in listed
            if config.eval_settings or is_held_out(task.key, one_in=one_in) == self._held_out
        )
        if not chosen:
            raise InputError(
                f"{config.taskset}: none of its {len(listed)} tasks is left for "
                f"{'evaluation' if self._held_out else 'training'}; change env.reserve_one_in or "
                "env.tasks, or give env.eval_settings"
            )
        return chosen

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Take the next task.

        Raises:
            ServerError: if the process fails.
        """
        assert services.background is not None, "a process needs tasks of the job"
        count = await self.read(services.background)
        epoch, place = divmod(int(spec.data["number"]), count)
        order = random.Random(f"{self._seed} {self._held_out} {epoch}").sample(range(count), count)
        listed = self._tasks[order[place]]
        return Task(
            id=spec.id,
            messages=show_task(listed.task),
            tools=(),
            difficulty=spec.difficulty,
            hidden={"key": listed.key, "task": listed.task, "held_out": self._held_out},
        )


async def count_tasks(source: VerifiersSource) -> int:
    """Return how many tasks a source has, by a process of its own.

    Raises:
        InputError: if there are none, or the process fails.
    """
    found: int | TrusteeError = 0
    async with anyio.create_task_group() as tasks:
        try:
            found = await source.read(tasks)
        except TrusteeError as error:
            found = error
        tasks.cancel_scope.cancel()
    if isinstance(found, TrusteeError):
        raise InputError(str(found)) from found
    return found


def show_task(data: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return how a task begins, for readers: its harness may say more."""
    said: list[Any] = []
    if isinstance(told := data.get("system_prompt"), str):
        said.append({"role": "system", "content": told})
    prompt = data.get("prompt")
    said += prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt or ""}]
    return read_chat_messages(said, where="the task's prompt")


def read_answer(value: Any, kind: type[T]) -> T:
    """Return an answer of the process by its type.

    Raises:
        ServerError: if it has another form.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ServerError(f"the process gave an answer of another form: {error}") from error


class VerifiersEnvironment(LoopOwner):
    """One episode, which the process plays."""

    def __init__(self, config: Verifiers, task: Task, services: Services) -> None:
        super().__init__(task)
        self._config = config
        self._services = services

    async def play(self, seat: Seat) -> Played:
        """Have the process play the episode.

        Raises:
            ServerError: if the process, the harness or the task fails.
        """
        assert self._services.background is not None, "a process needs tasks of the job"
        config, hidden = self._config, self.task.hidden
        launch = config.launch(held_out=hidden["held_out"])
        child = await find_child(launch, self._services.background)
        table = SeatTable(seat)
        answer = await self._ask(child, table)
        return settle(read_answer(answer, Answer), table, config=config)

    async def _ask(self, child: Child, table: SeatTable) -> Any:
        return await child.talk(
            "play",
            {"task": self.task.hidden["task"], "tokens": table.seat.tokens},
            seconds=self._config.seconds,
            answer=table.answer,
        )


def settle(answer: Answer, table: SeatTable, *, config: Verifiers) -> Played:
    """Return an episode as it is trained on and paid.

    Raises:
        ServerError: if the world failed, and not because the policy had reached a limit.
    """
    errors = [*answer.errors, *(error for trace in answer.traces for error in trace.errors)]
    if not answer.ok and table.refused is None:
        said = "; ".join(errors[:MOST_SHOWN_ERRORS]) or "it says no reason"
        raise ServerError(f"{config.taskset}: the episode failed in verifiers: {said}")
    traces = [
        trace
        for trace in answer.traces
        if trace.trainable and trace.agent == (config.trains or trace.agent)
    ]
    if not traces:
        agents = ", ".join(trace.agent for trace in answer.traces) or "none"
        raise ServerError(
            f"{config.taskset}: no agent is trained; there are: {agents}; see env.trains"
        )
    rewards = average_rewards(traces)
    return Played(
        turns=lay_out(traces, index_spoken(table.spoken)),
        stop=find_stop(traces, table),
        score=Score(
            rewards=rewards,
            outcome=Outcome(success=sum(rewards.values()) >= config.solved),
            notes={"stops": [trace.stop for trace in traces], "errors": errors},
        ),
    )


def average_rewards(traces: list[Trace]) -> dict[str, float]:
    """Return the rewards of an episode: by name, the mean over the agents that are trained."""
    names = dict.fromkeys(name for trace in traces for name in trace.rewards) or {"env": None}
    return {
        name: sum(trace.rewards.get(name, 0.0) for trace in traces) / len(traces) for name in names
    }


def find_stop(traces: list[Trace], table: SeatTable) -> Stop:
    """Return why an episode ended."""
    if table.refused is not None:
        return table.refused
    for trace in traces:
        if trace.stop in STOPS:
            return STOPS[trace.stop]
        if trace.overflown:
            return Stop.CONTEXT
        if trace.truncated:
            return (table.spoken[-1].cut if table.spoken else None) or Stop.TOKENS
    return Stop.DONE
