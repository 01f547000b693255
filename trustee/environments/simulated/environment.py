"""TRUSTEE's environment: one frozen model writes the task, plays user and tools, and judges.

The environment keeps what a model would forget: the state of the tools, the answers given so far,
and the calls that really ran. Code handles whatever needs no model: unreadable calls, invalid
arguments, repeated reads, and criteria that facts settle.
Source: TRUSTEE, arXiv 2604.17739.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.environments.prompts import fill_prompt
from trustee.environments.protocol import (
    CountedSource,
    PlainEpisode,
    Reply,
    Services,
    TaskSpec,
    WorldConfig,
    read_state,
)
from trustee.environments.simulated.curriculum import Curriculum
from trustee.environments.simulated.facts import (
    Executed,
    Facts,
    fact_lines,
    gather_facts,
    reward_of,
    settle,
)
from trustee.environments.simulated.roles import (
    TOOL_SCHEMA,
    USER_SCHEMA,
    Criterion,
    ToolAnswer,
    UserAnswer,
    WrittenTask,
    check_task,
    check_user,
    judge_prompt,
    judge_schema,
    tool_prompt,
    transcript_lines,
    user_prompt,
    writer_prompt,
    writer_schema,
)
from trustee.environments.simulated.tool_sets import (
    PACKAGED,
    ToolSets,
    explain_split,
    find_tools,
)
from trustee.runs.inputs import INPUT
from trustee.tools.arguments import check_call
from trustee.tools.files.notices import Notices
from trustee.tools.repository import Repository
from trustee.tools.values import call_key, call_line, is_error, render_json, tells_error
from trustee.types import (
    PATH,
    BadCall,
    Call,
    ExpectedCall,
    Group,
    Message,
    Outcome,
    Record,
    Role,
    Score,
    Stop,
    Task,
    Tool,
    ToolCall,
    Turn,
)


class HiddenSimulated(Record, frozen=True):
    """What only the environment knows about a task."""

    intent: str
    persona: str
    expected_calls: tuple[ExpectedCall, ...]
    criteria: tuple[Criterion, ...]
    """The criteria that count at this difficulty."""


class Simulated(WorldConfig, frozen=True, tag="simulated", tag_field="kind"):
    """The simulated world."""

    prompts: str = "simulated"
    """Prompt set: `simulated` for models of 4B parameters or more, `tiny` for the built-in one."""
    tools: Annotated[str, Meta(extra={PATH: True, INPUT: tuple(PACKAGED)})] = ""
    """File of tools to train on, or a packaged set: empty is the general one, `micro` that of the
    micro-world."""
    reserve_one_in: Annotated[int, Meta(ge=2)] = 60
    """One pair of tools in this many, and at least one pair, is reserved for evaluation: training
    never offers both."""
    curriculum: Curriculum = Curriculum()

    def source(self, *, seed: int, held_out: bool = False) -> SimulatedSource:
        """Make the source of training tasks, or of those with a reserved pair of tools."""
        return SimulatedSource(self, find_tools(self.tools), seed=seed, held_out=held_out)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Read the tools; say what of them is not used, and how few tools are split."""
        notices = Notices()
        tools = find_tools(self.tools, notices=notices)
        SimulatedSource(self, tools, seed=seed, held_out=held_out)
        split = explain_split(tools, one_in=self.reserve_one_in)
        return (*(f"{self.tools}: {line}" for line in notices.lines()), *split)

    def environment(self, task: Task, services: Services) -> SimulatedEnvironment:
        """Return the environment of one episode."""
        return SimulatedEnvironment(task, services, prompt_set=self.prompts)

    def judge_prompts(self) -> str:
        """Return the prompt set, because the judge alone pays here."""
        return self.prompts

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set of the roles."""
        return (self.prompts,)

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the calls that the writer expects."""
        return msgspec.convert(task.hidden, HiddenSimulated).expected_calls


class SimulatedState(Record, frozen=True):
    """Where a source of simulated tasks stands."""

    difficulty: int
    drawn: int
    """Task specs drawn."""


class SimulatedSource(CountedSource):
    """Draws tools and aspects by difficulty, has the writer make tasks of them, and is steered."""

    def __init__(
        self, config: Simulated, repository: Repository, *, seed: int, held_out: bool
    ) -> None:
        super().__init__(seed=seed)
        self._config = config
        self._tool_sets = ToolSets(repository, one_in=config.reserve_one_in, with_reserved=held_out)
        self.difficulty = config.curriculum.start

    def make_spec(self, index: int) -> TaskSpec:
        """Return a task spec of the difficulty of the moment."""
        rng = random.Random(f"{self._seed} draft {index}")
        return TaskSpec(
            id=f"task-{index:06d}", seed=rng.randrange(1 << 31), difficulty=self.difficulty
        )

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Have the writer turn a task spec into a task."""
        rng = random.Random(spec.seed)
        aspects = self._config.curriculum.draw_aspects(spec.difficulty, rng)
        tools = self._tool_sets.sample(rng, aspects.tools)
        written = await services.simulator.ask(
            Role.WRITER,
            writer_prompt(self._config.prompts, tools, aspects),
            answer=WrittenTask,
            schema=writer_schema(tools, aspects),
            seed=spec.seed,
            check=lambda task: check_task(task, tools, aspects),
        )
        hidden = HiddenSimulated(
            intent=written.intent,
            persona=written.persona,
            expected_calls=written.expected_calls,
            criteria=tuple(Criterion)[: aspects.strictness],
        )
        guidance = fill_prompt(self._config.prompts, f"agent_{aspects.guidance}")
        return Task(
            id=spec.id,
            messages=(
                Message(role="system", content=guidance),
                Message(role="user", content=written.query),
            ),
            tools=tools,
            difficulty=spec.difficulty,
            hidden=msgspec.to_builtins(hidden),
        )

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Adjust the difficulty to the rewards of a step's valid episodes."""
        rewards = [trajectory.reward for group in groups for trajectory in group.valid]
        self.difficulty = self._config.curriculum.advance(self.difficulty, rewards)
        return {"difficulty": self.difficulty}

    def state(self) -> SimulatedState:
        """Return the difficulty and the count of task specs."""
        return SimulatedState(difficulty=self.difficulty, drawn=self.drawn)

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        state = read_state(stored, SimulatedState)
        self.difficulty, self.drawn = state.difficulty, state.drawn


class SimulatedEnvironment(PlainEpisode):
    """One episode in the simulated world."""

    def __init__(self, task: Task, services: Services, *, prompt_set: str) -> None:
        super().__init__(task)
        self._hidden = msgspec.convert(task.hidden, HiddenSimulated)
        self._services = services
        self._prompt_set = prompt_set
        self._tools = {tool.name: tool for tool in task.tools}
        self._messages = list(task.messages)
        self._executed: list[Executed] = []
        self._malformed = 0
        self._seen: list[tuple[str, str]] = []
        self._reads: dict[str, dict[str, Any]] = {}
        self.state: dict[str, Any] = {}
        """Fields that tools have changed, by path."""

    async def reply(self, message: Message) -> Reply:
        """Answer calls as the tools, and any other message as the user."""
        self._messages.append(message)
        if message.calls:
            replies = [await self._answer_call(call) for call in message.calls]
            self._messages += replies
            return Reply(messages=tuple(replies), done=False)
        answer = await self._services.simulator.ask(
            Role.USER,
            user_prompt(
                self._prompt_set,
                self._messages,
                intent=self._hidden.intent,
                persona=self._hidden.persona,
            ),
            answer=UserAnswer,
            schema=USER_SCHEMA,
            seed=self._services.rng.randrange(1 << 31),
            check=lambda answer: check_user(
                answer, self._messages, intent=self._hidden.intent, tools=self.task.tools
            ),
        )
        if answer.done:
            return Reply(messages=(), done=True)
        said = Message(role="user", content=answer.message)
        self._messages.append(said)
        return Reply(messages=(said,), done=False)

    async def _answer_call(self, call: Call) -> Message:
        result = await self._run_call(call)
        return Message(role="tool", content=render_json(result), call_id=call.id)

    async def _run_call(self, call: Call) -> dict[str, Any]:
        error = check_call(self.task.tools, call)
        if isinstance(call, BadCall) or call.name not in self._tools:
            self._malformed += 1
            return {"error": error}
        if error is not None:
            self._executed.append(Executed(call=call, result=error, ok=False))
            return {"error": error}
        return await self._simulate(self._tools[call.name], call)

    async def _simulate(self, tool: Tool, call: ToolCall) -> dict[str, Any]:
        """Ask the tool role, or repeat what an identical read has said since the last write."""
        key = call_key(call.name, call.arguments)
        if tool.effect == "read" and key in self._reads:
            result = self._reads[key]
        else:
            answer = await self._services.simulator.ask(
                Role.TOOL,
                tool_prompt(
                    self._prompt_set,
                    tool,
                    call.arguments,
                    state=self.state,
                    seen=self._seen,
                    intent=self._hidden.intent,
                ),
                answer=ToolAnswer,
                schema=TOOL_SCHEMA,
                seed=self._services.rng.randrange(1 << 31),
                check=lambda answer: check_read_changes(tool, answer),
            )
            result = answer.result
            if tool.effect == "write":
                self.state |= answer.changes
                self._reads.clear()
            else:
                self._reads[key] = result
        text = render_json(result)
        self._seen.append((call_line(call.name, call.arguments), text))
        self._executed.append(Executed(call=call, result=text, ok=not is_error(result)))
        return result

    def recall(self, turns: Sequence[Turn]) -> None:
        """Restore the calls and answers of an episode that was played earlier."""
        for turn in turns:
            self._messages += (turn.message, *turn.replies)
            results = {reply.call_id: reply.content for reply in turn.replies}
            # Calls in a message that was cut off at a limit have no answer: they never ran.
            for call in turn.message.calls:
                if call.id not in results:
                    continue
                if isinstance(call, BadCall) or call.name not in self._tools:
                    self._malformed += 1
                    continue
                result = results[call.id]
                self._executed.append(
                    Executed(call=call, result=result, ok=not tells_error(result))
                )

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Decide each criterion by facts if they settle it, otherwise by the judge."""
        facts = gather_facts(
            self._executed,
            self._hidden.expected_calls,
            malformed=self._malformed,
            writes=frozenset(tool.name for tool in self.task.tools if tool.effect == "write"),
        )
        settled = {c: settle(facts, c) for c in self._hidden.criteria}
        evidence = "settled by code"
        if stop in (Stop.TOKENS, Stop.CONTEXT):
            settled[Criterion.FULFILLED] = False
        if facts.malformed:
            settled = dict.fromkeys(settled, False)
        elif settled[Criterion.FULFILLED] is None:
            evidence, opinions = await self._ask_judge(turns, facts)
            settled = {c: opinions[c] if kept is None else kept for c, kept in settled.items()}
        criteria = {c: bool(holds) for c, holds in settled.items()}
        return Score(
            rewards={"verdict": reward_of(facts, criteria)},
            outcome=Outcome(criteria={c.value: holds for c, holds in criteria.items()}),
            notes={
                "evidence": evidence,
                "facts": fact_lines(facts),
                "state": self.state,
            },
        )

    async def _ask_judge(
        self, turns: Sequence[Turn], facts: Facts
    ) -> tuple[str, dict[Criterion, bool]]:
        criteria = self._hidden.criteria
        answer = await self._services.simulator.ask(
            Role.JUDGE,
            judge_prompt(
                self._prompt_set,
                transcript_lines(self.task.messages, turns),
                intent=self._hidden.intent,
                persona=self._hidden.persona,
                facts=fact_lines(facts),
                criteria=criteria,
            ),
            answer=dict[str, str | bool],
            schema=judge_schema(criteria),
            seed=self._services.rng.randrange(1 << 31),
        )
        return str(answer["evidence"]), {c: bool(answer[c]) for c in criteria}


async def judge_episode(
    task: Task, turns: Sequence[Turn], stop: Stop, services: Services, *, prompt_set: str
) -> Score:
    """Judge an episode from its record alone, as its environment would at its end.

    Only the judge is asked. The task must be one of the simulated environment, but may have been
    played anywhere.

    Raises:
        SimulatorError: if the judge gave no usable answer within its tries.
    """
    environment = SimulatedEnvironment(task, services, prompt_set=prompt_set)
    environment.recall(turns)
    return await environment.score(turns, stop)


def check_read_changes(tool: Tool, answer: ToolAnswer) -> str | None:
    """Refuse an answer in which a read tool, or a call that failed, changes the world."""
    if is_error(answer.result) and answer.changes:
        return f"{tool.name} failed but the answer changes {sorted(answer.changes)}"
    if tool.effect == "read" and answer.changes:
        return f"{tool.name} only reads but the answer changes {sorted(answer.changes)}"
    return None
