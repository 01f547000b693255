"""A world with a real MCP server: its tools are called, one session an episode.

Tasks are rows of the user's. The judge pays, who sees what really came back, or a world of the
user's own, derived from `Mcp`, with `score_episode`. A server that fails spoils its episode, never
the policy's reward.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
from msgspec import Meta

from trustee.environments.mcp.kept_session import KeptSession
from trustee.environments.mcp.offered_tools import Offered, offer_tools
from trustee.environments.mcp.task_rows import HiddenRow, TaskRow, read_task_rows, split_rows
from trustee.environments.mcp.workspace import Workspace
from trustee.environments.prompts import fill_prompt, read_prompt
from trustee.environments.protocol import (
    CountedSource,
    Opening,
    Reply,
    Services,
    TaskSpec,
    WorldConfig,
)
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.episode import judge_episode, shorten
from trustee.environments.simulated.rules import Rules
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.errors import InputError, ServerError
from trustee.runs.inputs import INPUT, InputPath
from trustee.tools.arguments import check_call
from trustee.tools.mcp.address import McpServer, place_server
from trustee.tools.mcp.fate import ServerFailed
from trustee.tools.mcp.session import Session, use_server
from trustee.tools.values import render_json
from trustee.types import (
    PATH,
    BadCall,
    Call,
    ExpectedCall,
    Message,
    Score,
    Stop,
    Task,
    Turn,
)

GUIDANCE = "agent_detailed"
"""The prompt file with the policy's guidance."""


class Mcp(WorldConfig, frozen=True, tag="mcp", tag_field="kind"):
    """A world with the tools of a real MCP server."""

    tasks: InputPath
    """Rows with `query`, `calls`, `id` and `hidden`: JSON lines, an array or parquet."""
    command: tuple[str, ...] = ()
    """Program and arguments that start the server; `{folder}` is the episode's folder."""
    url: str = ""
    """Address of a server that speaks streamable HTTP, in place of a command."""
    variables: dict[str, str] = {}
    """Environment variables of a started server; `$NAME` is the value of one of this process, and
    `{folder}` the episode's folder."""
    bearer: str = ""
    """Environment variable with the token for `url`; empty for none."""
    files: Annotated[str, Meta(extra={PATH: True, INPUT: ("",)})] = ""
    """Folder whose copy each episode of a started server gets; empty for an empty folder."""
    tools: tuple[str, ...] = ()
    """Tools that the policy may call, by names with `*` and `?`; empty for those that the server
    calls read-only."""
    start_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """Time for the server to start and to agree on a version of the protocol."""
    seconds: Annotated[float, Meta(gt=0)] = 30.0
    """Time for the answer to one call; a slower server has failed, and the episode with it."""
    result_chars: Annotated[int, Meta(ge=0)] = 8000
    """Characters of an answer that the policy sees, from its beginning and its end; 0 for all."""
    reserve_one_in: Annotated[int, Meta(ge=1)] = 5
    """One row in this many is reserved for evaluation; 1 reserves all."""
    prompts: str = "simulated"
    """Prompt set of the policy's guidance and of the judge: `simulated`, or `tiny`."""

    def __post_init__(self) -> None:
        """Refuse a server that is nowhere, and keys that have no effect.

        Raises:
            InputError: naming the keys.
        """
        server = self.server()
        if server.url and (self.files or self.variables):
            key = "files" if self.files else "variables"
            raise InputError(f"{key} is for a server that is started, and url names one that runs")
        if server.command and self.bearer:
            raise InputError("bearer is for url; a server that is started gets variables")
        if self.prompts == "published":
            raise InputError('prompts must be a set whose judge compares calls, got "published"')

    def server(self) -> McpServer:
        """Return where the server is."""
        return McpServer(
            command=self.command, url=self.url, variables=self.variables, bearer=self.bearer
        )

    def servers(self) -> tuple[str, ...]:
        """Return the server's name."""
        return (self.server().name,)

    def source(self, *, seed: int, held_out: bool = False) -> McpSource:
        """Read the rows and return the source of those for training or for evaluation."""
        rows = read_task_rows(Path(self.tasks), judged=self.judge_rules() is not None)
        chosen = split_rows(rows, one_in=self.reserve_one_in, held_out=held_out, source=self.tasks)
        return McpSource(self, chosen, seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> McpEnvironment:
        """Return the environment of one episode."""
        return McpEnvironment(self, task, services)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Read the rows, and ask the server for its tools; say which are not offered."""
        read_prompt(self.prompts, GUIDANCE)
        rows = self.source(seed=seed, held_out=held_out).rows
        try:
            offered = anyio.run(self.list_tools)
        except ServerError as error:
            raise InputError(str(error)) from error
        names = {tool.name for tool in offered.tools}
        for row in rows:
            for call in row.calls:
                if call.name not in names:
                    raise InputError(
                        f"{self.tasks}: {row.id} is solved by {call.name}, which is not offered; "
                        "name it in env.tools if the policy may call it"
                    )
        return offered.notices

    async def list_tools(self) -> Offered:
        """Ask the server for its tools, in a session of its own.

        Raises:
            ServerError: if the server gives no list.
            InputError: if no tool of it is offered.
        """
        workspace = await Workspace.make("")
        server = self.server()
        try:
            entries = await use_server(
                place_server(server, workspace.path) if server.command else server,
                Session.list_tools,
                seconds=self.start_seconds,
            )
        except ServerFailed as error:
            raise ServerError(f"{server.name}: {error}") from error
        finally:
            with anyio.CancelScope(shield=True):
                await workspace.remove()
        return offer_tools(entries, self.tools, source=server.name)

    async def score_episode(self, played: Played, services: Services) -> Score:
        """Have the judge score a finished episode; a world of the user's own does so itself.

        Raises:
            SimulatorError: if the judge gave no usable answer within its tries.
        """
        rules = self.judge_rules()
        assert rules is not None, "who overrides this needs no judge"
        return await judge_episode(
            as_simulated(played.task), played.turns, played.stop, services, rules=rules
        )

    def judge_rules(self) -> Rules | None:
        """Return the rules of the judge; None where a world of the user's own scores."""
        if type(self).score_episode is not Mcp.score_episode:
            return None
        return Rules(
            prompts=self.prompts,
            verdict="facts",
            thoughts=False,
            withheld=(),
            calls_at_once=0,
            result_chars=self.result_chars,
        )

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set of policy and judge."""
        return (self.prompts,)

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls of the row."""
        return msgspec.convert(task.hidden, HiddenRow).calls

    def refuse_trial(self) -> str:
        """Refuse a trial, whose changed tools no real server has."""
        return 'kind must be a world whose tools can be changed inside a trial, got "mcp"'


@dataclass(frozen=True, slots=True)
class Played:
    """A finished episode, for who scores it; the server still runs."""

    task: Task
    turns: Sequence[Turn]
    stop: Stop
    folder: Path | None
    """Where a started server worked, with all that it left there."""
    session: KeptSession
    """The session, to ask the server for what has become of its world."""


class McpSource(CountedSource):
    """Deals the rows, reshuffled each epoch; those for evaluation are dealt once."""

    def __init__(self, config: Mcp, rows: Sequence[TaskRow], *, seed: int, held_out: bool) -> None:
        super().__init__(seed=seed)
        self.rows = rows
        self._config = config
        self._held_out = held_out
        self._listing = anyio.Lock()
        self._offered: Offered | None = None

    def make_spec(self, index: int) -> TaskSpec | None:
        """Return a task spec, or None when every row for evaluation was drawn."""
        epoch, place = divmod(index, len(self.rows))
        if self._held_out and epoch:
            return None
        rng = random.Random(f"{self._seed} rows {epoch}")
        number = rng.sample(range(len(self.rows)), len(self.rows))[place]
        row = self.rows[number]
        seed = random.Random(f"{self._seed} {row.id}").randrange(1 << 31)
        return TaskSpec(id=f"{row.id}@{epoch}", seed=seed, difficulty=1, data={"row": number})

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Make a task of a row and the server's tools, which are listed once.

        Raises:
            ServerError: if the server gives no list.
        """
        async with self._listing:
            if self._offered is None:
                self._offered = await self._config.list_tools()
        row = self.rows[spec.data["row"]]
        hidden = HiddenRow(query=row.query, calls=row.calls, hidden=row.hidden)
        return Task(
            id=spec.id,
            messages=(
                Message(role="system", content=fill_prompt(self._config.prompts, GUIDANCE)),
                Message(role="user", content=row.query),
            ),
            tools=self._offered.tools,
            difficulty=spec.difficulty,
            hidden=msgspec.to_builtins(hidden),
        )


class McpEnvironment:
    """One episode with a session of its own."""

    def __init__(self, config: Mcp, task: Task, services: Services) -> None:
        self._config = config
        self._task = task
        self._services = services
        self._workspace: Workspace | None = None
        self._session: KeptSession | None = None

    async def open(self) -> Opening:
        """Start or reach the server, and return the opening messages and tools.

        Raises:
            ServerError: if the server does not start or answer.
        """
        config, server = self._config, self._config.server()
        if server.command:
            self._workspace = await Workspace.make(config.files)
            server = place_server(server, self._workspace.path)
        assert self._services.background is not None, "a session needs tasks of the job"
        self._session = KeptSession(
            server, start_seconds=config.start_seconds, seconds=config.seconds
        )
        await self._session.begin(self._services.background)
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """Make the calls in their order; a message without calls ends the episode.

        Raises:
            ServerError: if the server fails.
        """
        replies = tuple([await self._answer(call) for call in message.calls])
        return Reply(messages=replies, done=not message.calls)

    async def _answer(self, call: Call) -> Message:
        return Message(role="tool", content=await self._run(call), call_id=call.id)

    async def _run(self, call: Call) -> str:
        error = check_call(self._task.tools, call)
        if error or isinstance(call, BadCall):
            return render_json({"error": error})
        assert self._session is not None, "open() was not called"
        place = self._workspace
        arguments = place.locate(call.arguments) if place else call.arguments
        answer = await self._session.call(call.name, arguments)
        text = shorten(place.show(answer.text) if place else answer.text, most=self._most)
        return render_json({"error": text or "failed"}) if answer.failed else text

    @property
    def _most(self) -> int:
        return self._config.result_chars

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Have the world score what was played."""
        assert self._session is not None, "open() was not called"
        folder = self._workspace.path if self._workspace else None
        played = Played(
            task=self._task, turns=turns, stop=stop, folder=folder, session=self._session
        )
        return await self._config.score_episode(played, self._services)

    async def aclose(self) -> None:
        """End the session, and remove the episode's folder."""
        if self._session is not None:
            await self._session.end()
        if self._workspace is not None:
            await self._workspace.remove()


def as_simulated(task: Task) -> Task:
    """Return a task as the simulated world would hold it, for its judge."""
    hidden = msgspec.convert(task.hidden, HiddenRow)
    told = HiddenSimulated(
        intent=hidden.query,
        persona="expert",
        expected_calls=hidden.calls,
        criteria=(Criterion.FULFILLED,),
    )
    return msgspec.structs.replace(task, hidden=msgspec.to_builtins(told))
