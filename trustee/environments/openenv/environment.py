"""A world on an OpenEnv server: it resets, lists its tools, takes steps and pays.

The loop stays here, so the policy's ids are exact and its limits hold. An error of the server
spoils the episode, never the policy's reward. Source: github.com/huggingface/OpenEnv, 0.10.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import anyio
import msgspec
from msgspec import Meta

from trustee.environments.openenv.catalog import Catalog, read_catalog
from trustee.environments.openenv.observations import find_fault, show_answer, show_observation
from trustee.environments.openenv.wire import KeptSocket, Observed
from trustee.environments.prompts import fill_prompt, read_prompt
from trustee.environments.protocol import (
    CountedSource,
    Opening,
    Reply,
    Services,
    TaskSpec,
    WorldConfig,
)
from trustee.environments.simulated.episode import shorten
from trustee.environments.splits import is_held_out
from trustee.errors import InputError, ServerError
from trustee.tools.arguments import check_call
from trustee.tools.files.lists import read_document
from trustee.tools.files.notices import Notices
from trustee.tools.files.rules import select_tools
from trustee.tools.mcp.address import SCHEMES
from trustee.tools.selection import Selection
from trustee.tools.values import render_json
from trustee.types import (
    BadCall,
    Call,
    Message,
    Outcome,
    Record,
    Score,
    Stop,
    Task,
    Tool,
    Turn,
)

GUIDANCE = "agent_detailed"
"""The prompt file with the policy's guidance."""
ACT = "act"
"""Name of the one tool of an environment whose actions are not calls."""


class OpenEnv(WorldConfig, frozen=True, tag="openenv", tag_field="kind"):
    """A world on an OpenEnv server."""

    url: str
    """Address of the server, such as `http://127.0.0.1:8000`."""
    split: str = ""
    """Split of the server's tasks for training; empty for that of type train."""
    eval_split: str = ""
    """Split for evaluation; empty for that of type test, or else validation."""
    reserve_one_in: Annotated[int, Meta(ge=2)] = 5
    """Where both splits are the same one: one task in this many is for evaluation."""
    reset: dict[str, Any] = {}
    """Further settings of each reset, which the environment itself defines."""
    query: str = ""
    """What the policy is asked before the first observation; needed where that says nothing."""
    say: str = ""
    """Field of an action that the policy's messages fill; empty where it acts by calls."""
    pays: Literal["sum", "last"] = "sum"
    """Reward of an episode: the sum of its steps' rewards, or the last one."""
    solved: float = 1.0
    """Reward from which an episode counts as a success."""
    seconds: Annotated[float, Meta(gt=0)] = 60.0
    """Time for each answer; a slower server has failed, and the episode with it."""
    result_chars: Annotated[int, Meta(ge=0)] = 8000
    """Characters of an answer that the policy sees, from its beginning and its end; 0 for all."""
    prompts: str = "simulated"
    """Prompt set of the policy's guidance."""

    def __post_init__(self) -> None:
        """Refuse what is not an address.

        Raises:
            InputError: naming it.
        """
        if not self.url.startswith(SCHEMES):
            raise InputError(f"url must begin with http:// or https://, got {self.url!r}")

    def servers(self) -> tuple[str, ...]:
        """Return the server's address."""
        return (self.url,)

    def source(self, *, seed: int, held_out: bool = False) -> OpenEnvSource:
        """Return the source of tasks for training or for evaluation."""
        return OpenEnvSource(self, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> OpenEnvEnvironment:
        """Return the environment of one episode."""
        return OpenEnvEnvironment(self, task, services)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Ask the server what it offers; say how the tasks are split."""
        read_prompt(self.prompts, GUIDANCE)

        async def ask() -> Catalog:
            return await read_catalog(self.url, seconds=self.seconds)

        try:
            catalog = anyio.run(ask)
        except ServerError as error:
            raise InputError(str(error)) from error
        self.check_say(catalog)
        train, held = (catalog.find(n, held_out=h) for n, h in self._named)
        if train is None or held is None:
            return (
                f"{self.url} has no splits: even seeds are for training, odd ones for evaluation",
            )
        if train == held:
            return (
                f"{self.url} has one split, {train.name}: one of its {train.count} tasks in "
                f"{self.reserve_one_in} is for evaluation",
            )
        return ()

    @property
    def _named(self) -> tuple[tuple[str, bool], ...]:
        return ((self.split, False), (self.eval_split, True))

    def check_say(self, catalog: Catalog) -> None:
        """Check that messages of the policy have a place in the server's actions.

        Raises:
            InputError: naming the fields that there are.
        """
        fields = list(catalog.action.get("properties", {}))
        if self.say and (catalog.has_tools or self.say not in fields):
            raise InputError(
                f"env.say = {self.say!r} is not a field of the actions of {self.url}; "
                + ("it acts by calls of tools" if catalog.has_tools else f"they have {fields}")
            )

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set with the policy's guidance."""
        return (self.prompts,)

    def asks_simulator(self) -> bool:
        """Return that the server answers and pays."""
        return False

    def refuse_trial(self) -> str:
        """Refuse a trial, whose changed tools no server has."""
        return 'kind must be a world whose tools can be changed inside a trial, got "openenv"'


class HiddenReset(Record, frozen=True):
    """How the server makes a task."""

    reset: dict[str, Any]
    has_tools: bool


class OpenEnvSource(CountedSource):
    """Deals the tasks of a split, reshuffled each epoch, or seeds where there are no splits."""

    def __init__(self, config: OpenEnv, *, seed: int, held_out: bool) -> None:
        super().__init__(seed=seed)
        self._config = config
        self._held_out = held_out
        self._reading = anyio.Lock()
        self._catalog: Catalog | None = None
        self._tasks: list[int] = []
        """Indices of the split's tasks on this side."""
        self._split = ""

    def make_spec(self, index: int) -> TaskSpec:
        """Return the task spec of an index; the server's tasks are known when it is written."""
        seed = random.Random(f"{self._seed} {index}").randrange(1 << 30)
        return TaskSpec(id=f"task-{index:06d}", seed=seed, difficulty=1, data={"number": index})

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Have the server make a task, in a session of its own, to see how it begins.

        Raises:
            ServerError: if the server fails.
        """
        config, catalog = self._config, await self._read_catalog()
        reset = {**config.reset, **self._choose(spec)}
        assert services.background is not None, "a session needs tasks of the job"
        socket = KeptSocket(config.url, seconds=config.seconds)
        try:
            await socket.begin(services.background)
            first = await socket.reset(reset)
            tools = await list_tools(config, catalog, socket)
        finally:
            with anyio.CancelScope(shield=True):
                await socket.end()
        return Task(
            id=spec.id,
            messages=open_messages(config, first),
            tools=tools,
            difficulty=spec.difficulty,
            hidden=msgspec.to_builtins(HiddenReset(reset=reset, has_tools=catalog.has_tools)),
        )

    async def _read_catalog(self) -> Catalog:
        async with self._reading:
            if self._catalog is None:
                config = self._config
                catalog = await read_catalog(config.url, seconds=config.seconds)
                config.check_say(catalog)
                self._deal(catalog)
                self._catalog = catalog
            return self._catalog

    def _deal(self, catalog: Catalog) -> None:
        """Find the tasks of this side."""
        config = self._config
        train = catalog.find(config.split, held_out=False)
        held = catalog.find(config.eval_split, held_out=True)
        split = held if self._held_out else train
        if split is None:
            return
        self._split = split.name
        indices = list(range(split.count))
        if train == held:
            one_in = config.reserve_one_in
            indices = [
                number
                for number in indices
                if is_held_out(f"{split.name} {number}", one_in=one_in) == self._held_out
            ]
        if not indices:
            raise InputError(
                f"{config.url}: none of the {split.count} tasks of the split {split.name} is left; "
                "change env.reserve_one_in, or name another split"
            )
        self._tasks = indices

    def _choose(self, spec: TaskSpec) -> dict[str, Any]:
        """Return the settings of the reset that makes a task."""
        if not self._tasks:
            return {"seed": 2 * spec.seed + self._held_out}
        epoch, place = divmod(int(spec.data["number"]), len(self._tasks))
        order = random.Random(f"{self._seed} {self._split} {epoch}")
        index = order.sample(self._tasks, len(self._tasks))[place]
        return {"split": self._split, "index": index}


def open_messages(config: OpenEnv, first: Observed) -> tuple[Message, ...]:
    """Return the opening messages of an episode that begins with an observation.

    Raises:
        ServerError: if there is nothing that the policy could be asked.
    """
    shown = shorten(show_observation(first.observation), most=config.result_chars)
    query = "\n\n".join(part for part in (config.query, shown) if part)
    if not query:
        raise ServerError(f"{config.url}: the first observation says nothing; set env.query")
    return (
        Message(role="system", content=fill_prompt(config.prompts, GUIDANCE)),
        Message(role="user", content=query),
    )


async def list_tools(config: OpenEnv, catalog: Catalog, socket: KeptSocket) -> tuple[Tool, ...]:
    """Return the tools that an episode offers; none where the policy acts by what it says.

    Raises:
        ServerError: if the server lists no tool that can be used.
    """
    if config.say:
        return ()
    if catalog.has_tools:
        listed = (await socket.step({"type": "list_tools"})).observation.get("tools")
        entries = listed if isinstance(listed, list) else []
    else:
        description = str(catalog.action.get("description") or "Acts in the environment.")
        entries = [{"name": ACT, "description": description, "parameters": catalog.action}]
    notices = Notices()
    found = read_document(entries, source=config.url, notices=notices)
    tools = select_tools(found, Selection(), notices=notices)
    if not tools:
        why = notices.left_out[0] if notices.left_out else "it lists none"
        raise ServerError(f"{config.url}: no tool can be used: {why}")
    return tools


class OpenEnvEnvironment:
    """One episode in a session of its own."""

    def __init__(self, config: OpenEnv, task: Task, services: Services) -> None:
        self._config = config
        self._task = task
        self._services = services
        self._hidden = msgspec.convert(task.hidden, HiddenReset)
        self._socket = KeptSocket(config.url, seconds=config.seconds)
        self._rewards: list[float] = []
        self._done = False

    async def open(self) -> Opening:
        """Begin the session and the episode.

        Raises:
            ServerError: if the server fails; likewise below.
        """
        assert self._services.background is not None, "a session needs tasks of the job"
        await self._socket.begin(self._services.background)
        first = await self._socket.reset(self._hidden.reset)
        return Opening(messages=open_messages(self._config, first), tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """Take a step for each call, or one for what is said."""
        if message.calls:
            replies = [await self._answer(call) for call in message.calls]
            return Reply(messages=tuple(replies), done=self._done)
        if not self._config.say:
            return Reply(messages=(), done=True)
        seen = await self._step({self._config.say: message.content})
        text = self._cut(show_observation(seen.observation)) or "."
        shown = () if self._done else (Message(role="user", content=text),)
        return Reply(messages=shown, done=self._done)

    async def _answer(self, call: Call) -> Message:
        return Message(role="tool", content=await self._run(call), call_id=call.id)

    async def _run(self, call: Call) -> str:
        error = check_call(self._task.tools, call)
        if error is None and self._done:
            error = "the episode is over"
        if error or isinstance(call, BadCall):
            return render_json({"error": error})
        if not self._hidden.has_tools:
            return self._cut(show_observation((await self._step(call.arguments)).observation))
        seen = await self._step(
            {"type": "call_tool", "tool_name": call.name, "arguments": call.arguments}
        )
        if fault := find_fault(seen.observation):
            raise ServerError(f"{self._config.url}: the call of {call.name} failed, {fault}")
        return self._cut(show_answer(seen.observation))

    async def _step(self, action: Mapping[str, Any]) -> Observed:
        seen = await self._socket.step(action)
        if seen.reward is not None:
            self._rewards.append(seen.reward)
        self._done = seen.done
        return seen

    def _cut(self, text: str) -> str:
        return shorten(text, most=self._config.result_chars)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Pay what the server has paid."""
        paid = self._rewards if self._config.pays == "sum" else self._rewards[-1:]
        reward = sum(paid)
        return Score(
            rewards={"env": reward},
            outcome=Outcome(success=reward >= self._config.solved),
            notes={"rewards": self._rewards},
        )

    async def aclose(self) -> None:
        """End the session."""
        await self._socket.end()
