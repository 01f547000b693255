"""Executable tool environments as a taskset for verifiers, paid by the record of their calls.

`trustee export` copies this file into a package, beside the tasks. Tools run in trustee's sandbox
and nowhere else, in one server that all episodes share; what decides the reward never enters it.
"""

# mypy: ignore-errors
from __future__ import annotations

import random
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import msgspec
import verifiers.v1 as vf
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as ListedTool

from trustee.decoding import decode_json, read_file
from trustee.environments.executable.environment import Executable, ExecutableEnvironment
from trustee.environments.executable.rewards import count_unsolved, is_right, pay_episode, solve
from trustee.environments.executable.solutions import HiddenExecutable, calls_of
from trustee.environments.protocol import Services
from trustee.errors import InputError
from trustee.sandbox.calls import SandboxConfig
from trustee.sandbox.host import ProcessSandbox
from trustee.types import CalledTool, Message, Record, SolveFacts, Stop, Task, ToolCall

FOLDER = Path(__file__).with_name("data")
RULES = "rules.json"
MOST_EPISODES = 1024
"""Episodes that the server remembers; the one that called nothing for longest is forgotten."""


class Rules(Record, frozen=True):
    """How calls are compared and paid."""

    variant: str = "f1"
    published: bool = False


@cache
def read_rules() -> Rules:
    """Read how calls are paid."""
    return decode_json(read_file(FOLDER / RULES, error=InputError), Rules, error=InputError)


@cache
def read_tasks(split: str) -> dict[str, Task]:
    """Read the tasks of a split, by id."""
    path = FOLDER / f"{split}.jsonl"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.jsonl")))
        raise InputError(f"there is no split {split!r}; there are: {names}")
    lines = read_file(path, error=InputError).splitlines()
    tasks = [decode_json(line, Task, error=InputError) for line in lines]
    return {task.id: task for task in tasks}


def make_environment(task: Task, sandbox: ProcessSandbox) -> ExecutableEnvironment:
    """Return the environment of one episode."""
    rules = read_rules()
    config = Executable(path="", variant=rules.variant, published=rules.published)
    services = Services(simulator=None, rng=random.Random(0), sandbox=sandbox)
    return ExecutableEnvironment(task, services, config=config)


class WorldData(vf.TaskData):
    """Which task it is; what solves it is in the package's files."""

    split: str = "train"
    task: str = ""


class WorldState(vf.State):
    """What an episode has called."""

    episode: str = ""
    split: str = ""
    task: str = ""
    facts: dict[str, Any] = {}


class Episode:
    """An environment that is played; its calls are run one after the other."""

    def __init__(self, environment: ExecutableEnvironment) -> None:
        self.environment = environment
        self.lock = anyio.Lock()
        self.opened = False


class WorldTools(vf.Toolset[vf.SharedToolsetConfig, WorldState]):
    """The tools of all tasks, each shown to its own episodes."""

    TOOL_PREFIX = None

    async def setup(self) -> None:
        """Open the sandbox; where nothing can confine code, the server does not start."""
        sandbox = ProcessSandbox(SandboxConfig())
        self._sandbox = await self._exit_stack.enter_async_context(sandbox)
        self._episodes: OrderedDict[str, Episode] = OrderedDict()

    def register(self, mcp) -> None:
        """List and call tools by the episode that asks, which its state says."""
        mcp.list_tools = self._with_state(self.list_tools)
        mcp.call_tool = self._with_state(self.call_tool)

    def _task(self) -> Task:
        return read_tasks(self.state.split)[self.state.task]

    async def list_tools(self) -> list[ListedTool]:
        """Return the tools of the episode's task."""
        return [
            ListedTool(name=tool.name, description=tool.description, input_schema=tool.parameters)
            for tool in self._task().tools
        ]

    async def call_tool(self, name: str, arguments: dict[str, Any], context=None):
        """Run a call, and record what it brought."""
        episode = self._episodes.get(self.state.episode)
        if episode is None:
            episode = Episode(make_environment(self._task(), self._sandbox))
            self._episodes[self.state.episode] = episode
        self._episodes.move_to_end(self.state.episode)
        async with episode.lock:
            environment = episode.environment
            if not episode.opened:
                await environment.open()
                episode.opened = True
            call = ToolCall(id="call", name=name, arguments=arguments or {})
            reply = await environment.reply(Message(role="assistant", calls=(call,)))
            score = await environment.score((), Stop.TURNS)
            self.state.facts = msgspec.to_builtins(score.outcome.solve)
        while len(self._episodes) > MOST_EPISODES:
            _, oldest = self._episodes.popitem(last=False)
            await oldest.environment.aclose()
        return CallToolResult(content=[TextContent(type="text", text=reply.messages[0].content)])


class WorldTask(vf.Task[WorldData, WorldState]):
    """Pays for what the calls returned and for the final answer."""

    @property
    def hidden(self) -> HiddenExecutable:
        """What decides the reward."""
        return msgspec.convert(read_tasks(self.data.split)[self.data.task].hidden, HiddenExecutable)

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Tell the server which episode this is."""
        trace.state.episode, trace.state.split = trace.id, self.data.split
        trace.state.task = self.data.task

    @vf.reward
    async def ftrl(self, trace: vf.Trace) -> dict[str, float]:
        """Pay half for the calls and half for the right answer after them."""
        return pay(trace, self.hidden)

    @vf.metric
    async def solve_f1(self, trace: vf.Trace) -> float:
        """Return the harmonic mean of solved sub-answers per call and per needed one."""
        calls, solved, _ = count(trace)
        return solve(solved=solved, calls=calls, needed=count_unsolved(self.hidden.unsolved)).f1

    async def validate(self, runtime: vf.Runtime) -> bool | None:
        """Whether the reference calls return every sub-answer; None where there are none."""
        hidden = self.hidden
        if not hidden.gold:
            return None
        async with ProcessSandbox(SandboxConfig()) as sandbox:
            environment = make_environment(read_tasks(self.data.split)[self.data.task], sandbox)
            await environment.open()
            for number, one in enumerate(calls_of(hidden)):
                call = ToolCall(id=str(number), name=one.name, arguments=one.arguments)
                await environment.reply(Message(role="assistant", calls=(call,)))
            facts = (await environment.score((), Stop.TURNS)).outcome.solve
            await environment.aclose()
        return facts is not None and facts.solved == facts.needed


def count(trace: vf.Trace) -> tuple[int, int, Message | None]:
    """Return how many calls were made, how many found a sub-answer, and the answer at the end.

    A call that the harness answers itself, of a tool that there is not, is one that found nothing.
    """
    said = trace.assistant_messages
    facts = trace.state.facts
    called = msgspec.convert(facts, SolveFacts).called if facts else ()
    solved = sum(isinstance(one, CalledTool) and one.solved is not None for one in called)
    calls = max(len(called), sum(len(message.tool_calls or ()) for message in said))
    last = said[-1] if said and not said[-1].tool_calls and not trace.is_truncated else None
    text = last.content if last is not None and isinstance(last.content, str) else ""
    return calls, solved, None if last is None else Message(role="assistant", content=text)


def pay(trace: vf.Trace, hidden: HiddenExecutable) -> dict[str, float]:
    """Return the parts of an episode's reward, as in trustee."""
    calls, solved, final = count(trace)
    rules = read_rules()
    paid = pay_episode(
        final,
        solved=solved,
        readable=calls,
        needed=count_unsolved(hidden.unsolved),
        answer=hidden.answer,
        variant=rules.variant,
        published=rules.published,
    )
    right = final is not None and is_right(final, hidden.answer, published=rules.published)
    trace.record_metric("answered", float(right))
    return paid


class WorldConfig(vf.TasksetConfig):
    """Which tasks there are."""

    split: str = "train"
    """`train`, or `test` for the environments that trustee keeps for evaluation."""
    tools: vf.SharedToolsetConfig = vf.SharedToolsetConfig()


class ToolWorlds(vf.Taskset[WorldTask, WorldConfig]):
    """Questions, each with tools that can be run."""

    def load(self):
        """Return the tasks of the split."""
        for task in read_tasks(self.config.split).values():
            told = [m.content for m in task.messages if m.role == "system"]
            asked = [m.content for m in task.messages if m.role == "user"]
            data = WorldData(
                id=task.id,
                prompt=asked[-1],
                system_prompt="\n\n".join(told) or None,
                split=self.config.split,
                task=task.id,
            )
            yield WorldTask(data, self.config.task)

    @classmethod
    def toolsets(cls, config):
        """Return the server that all episodes share."""
        return [WorldTools(config.tools)]


if __name__ == "__main__":
    WorldTools.run()
