"""TRUSTEE's simulated world as a taskset for verifiers: a model plays user and tools, and judges.

`trustee export` copies this file into a package, beside the tasks. The model is asked at an
endpoint. Tools are answered in one server that all episodes share, the user in the environment, and
the judge is the reward; the last two know an episode by its trace.
"""

# mypy: ignore-errors
from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import msgspec
import verifiers.v1 as vf
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as ListedTool

from trustee.decoding import decode_json, read_file
from trustee.environments.protocol import Services
from trustee.environments.simulated.episode import SimulatedEnvironment, judge_episode
from trustee.environments.simulator import Simulator
from trustee.errors import InputError, SimulatorError
from trustee.export.remote_simulator import SimulatedRules, open_simulator
from trustee.types import BadCall, Completion, Message, Role, Stop, Task, ToolCall, Turn

FOLDER = Path(__file__).with_name("data")
MOST_EPISODES = 1024
"""Episodes that the server remembers; the one that called nothing for longest is forgotten."""
NOTHING_SAMPLED = Completion(ids=(), logprobs=(), version=0, stop="stop")
"""An endpoint tells text; no judge reads ids."""


@cache
def read_rules() -> SimulatedRules:
    """Read how episodes are played and paid."""
    data = read_file(FOLDER / "rules.json", error=InputError)
    return decode_json(data, SimulatedRules, error=InputError)


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


def make_services(simulator: Simulator, seed: str) -> Services:
    """Return what one part of an episode may access."""
    return Services(simulator=simulator, rng=random.Random(seed))


def make_environment(task: Task, services: Services) -> SimulatedEnvironment:
    """Return the environment of one episode."""
    return SimulatedEnvironment(task, services, rules=read_rules().rules)


class TalkData(vf.TaskData):
    """Which task it is; what solves it is in the package's files."""

    split: str = "train"
    task: str = ""
    difficulty: int = 0


class TalkState(vf.State):
    """Which episode calls, and whether it could be answered."""

    episode: str = ""
    split: str = ""
    task: str = ""
    failure: str = ""
    """Why a tool could not be answered; a policy would read an error of the server as a result."""


class Episode:
    """The tools of an episode, which are answered one call after the other."""

    def __init__(self, environment: SimulatedEnvironment) -> None:
        self.environment = environment
        self.lock = anyio.Lock()


class TalkTools(vf.Toolset[vf.SharedToolsetConfig, TalkState]):
    """The tools of all tasks, each shown to its own episodes."""

    TOOL_PREFIX = None

    async def setup(self) -> None:
        """Open the simulator; where none is named, the server does not start."""
        self._simulator = await self._exit_stack.enter_async_context(open_simulator(read_rules()))
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
        """Answer a call, with what the tools have said and changed before."""
        episode = self._episodes.get(self.state.episode)
        if episode is None:
            services = make_services(self._simulator, f"{self.state.episode} tools")
            episode = Episode(make_environment(self._task(), services))
            self._episodes[self.state.episode] = episode
        self._episodes.move_to_end(self.state.episode)
        while len(self._episodes) > MOST_EPISODES:
            self._episodes.popitem(last=False)
        async with episode.lock:
            call = ToolCall(id="call", name=name, arguments=arguments or {})
            try:
                reply = await episode.environment.reply(Message(role="assistant", calls=(call,)))
                text = reply.messages[0].content
            except SimulatorError as error:
                self.state.failure = text = str(error)
        return CallToolResult(content=[TextContent(type="text", text=text)])


def refuse_spoilt(trace: vf.Trace) -> None:
    """Refuse an episode in which a tool could not be answered.

    Raises:
        SimulatorError: with the reason.
    """
    if trace.state.failure:
        raise SimulatorError(trace.state.failure, source=Role.TOOL)


def read_call(call: vf.ToolCall) -> ToolCall | BadCall:
    """Return a call as trustee has it."""
    try:
        arguments = decode_json(call.arguments or "{}", dict[str, Any], error=InputError)
    except InputError as error:
        return BadCall(id=call.id, text=call.arguments, reason=str(error))
    return ToolCall(id=call.id, name=call.name, arguments=arguments)


def read_text(content: Any) -> str:
    """Return the text of a message of the trace."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content or () if getattr(part, "text", None))


def read_turns(messages: Iterable[Any]) -> list[Turn]:
    """Return the policy's messages, each with what it was answered, as trustee has them."""
    turns: list[Turn] = []
    for one in messages:
        text = read_text(one.content)
        if one.role == "assistant":
            calls = tuple(map(read_call, one.tool_calls or ()))
            said = Message(role="assistant", content=text, calls=calls)
            turns.append(Turn(rendered_ids=(), completion=NOTHING_SAMPLED, message=said))
        elif turns and one.role in ("tool", "user"):
            call_id = one.tool_call_id if one.role == "tool" else ""
            reply = Message(role=one.role, content=text, call_id=call_id)
            turns[-1] = msgspec.structs.replace(turns[-1], replies=(*turns[-1].replies, reply))
    return turns


def read_stop(trace: vf.Trace) -> Stop:
    """Return why an episode ended."""
    if trace.stop_condition == "max_turns":
        return Stop.TURNS
    return Stop.TOKENS if trace.is_truncated else Stop.DONE


class User:
    """The user of one episode, who reads the trace so far and answers its last message."""

    def __init__(self, environment: SimulatedEnvironment) -> None:
        self._environment = environment
        self._heard = 0
        """Messages of the policy that were heard."""

    async def answer(self, turns: Sequence[Turn]) -> str | None:
        """Return the next message; None where the user has nothing more to say."""
        *called, last = turns[self._heard :]
        self._heard = len(turns)
        self._environment.recall(called)
        reply = await self._environment.reply(last.message)
        return None if reply.done else reply.messages[0].content


class TalkTask(vf.Task[TalkData, TalkState]):
    """Pays what the judge says."""

    @property
    def played(self) -> Task:
        """The task as trustee has it."""
        return read_tasks(self.data.split)[self.data.task]

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Tell the server which episode this is."""
        trace.state.episode, trace.state.split = trace.id, self.data.split
        trace.state.task = self.data.task

    @vf.reward
    async def verdict(self, trace: vf.Trace) -> float:
        """Return 1, 0 or -1: facts before the judge, as in trustee."""
        refuse_spoilt(trace)
        world = read_rules()
        async with open_simulator(world) as simulator:
            score = await judge_episode(
                self.played,
                read_turns(trace.messages),
                read_stop(trace),
                make_services(simulator, f"{trace.id} judge"),
                rules=world.rules,
            )
        trace.record_metric("asked_judge", float(bool(score.outcome.asked_judge)))
        return sum(score.rewards.values())


class TalkConfig(vf.TasksetConfig):
    """Which tasks there are."""

    split: str = "train"
    """`train`, or `test` for tasks with pairs of tools that trustee never trains on."""
    easiest: int = 1
    """The lowest difficulty of the tasks."""
    hardest: int = 100
    """The highest one."""
    tools: vf.SharedToolsetConfig = vf.SharedToolsetConfig()


class SimulatedWorlds(vf.Taskset[TalkTask, TalkConfig]):
    """Wishes of a user, each with tools for them."""

    def load(self):
        """Return the tasks of the split, from the easiest on."""
        for task in read_tasks(self.config.split).values():
            if not self.config.easiest <= task.difficulty <= self.config.hardest:
                continue
            system, query = task.messages
            data = TalkData(
                id=task.id,
                prompt=query.content,
                system_prompt=system.content,
                split=self.config.split,
                task=task.id,
                difficulty=task.difficulty,
            )
            yield TalkTask(data, self.config.task)

    @classmethod
    def toolsets(cls, config):
        """Return the server that all episodes share."""
        return [TalkTools(config.tools)]


class TalkEnvConfig(vf.EnvConfig):
    """Who takes part, beside the simulator."""

    agent: vf.AgentConfig = vf.AgentConfig(max_turns=read_rules().turns)


class TalkEnv(vf.Env[TalkEnvConfig]):
    """A dialogue of the policy with the user, who has the last word."""

    async def run(self, task, agents) -> None:
        """Let the user answer each message of the policy until nothing is left to say."""
        async with (
            open_simulator(read_rules()) as simulator,
            agents.agent.interaction(task) as talk,
        ):
            services = make_services(simulator, f"{talk.trace.id} user")
            user = User(make_environment(task.played, services))
            said = await talk.turn()
            while not said.terminated:
                refuse_spoilt(talk.trace)
                turns = read_turns(talk.trace.messages)
                # A limit may have ended the episode in the middle of calls.
                if talk.trace.stop_condition is not None or turns[-1].message.calls:
                    break
                answer = await user.answer(turns)
                if answer is None:
                    break
                said = await talk.turn(answer)


if __name__ == "__main__":
    TalkTools.run()
