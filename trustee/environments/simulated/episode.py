"""One episode of the simulated world: the model plays user and tools, and judges at the end.

The environment keeps what a model would forget: the state of the tools, the answers given so far,
and the calls that really ran. Code handles whatever needs no model: unreadable calls, invalid
arguments, repeated reads, and criteria that facts settle.
Source: TRUSTEE, arXiv 2604.17739.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trustee.environments.prompts import is_taught
from trustee.environments.protocol import (
    PlainEpisode,
    Reply,
    Services,
)
from trustee.environments.simulated.evidence import collect_evidence, refuse_without_judge
from trustee.environments.simulated.facts import (
    Executed,
    Facts,
    fact_lines,
    gather_facts,
    reward_of,
    settle,
)
from trustee.environments.simulated.judging import judging_prompt, judging_schema, read_verdict
from trustee.environments.simulated.roles import (
    USER_SCHEMA,
    Criterion,
    ToolAnswer,
    UserAnswer,
    check_user,
    judge_prompt,
    judge_schema,
    tool_prompt,
    tool_schema,
    transcript_lines,
    user_prompt,
)
from trustee.environments.simulated.speaking import (
    UserTurn,
    UserWishes,
    check_turn,
    plan_turn,
)
from trustee.environments.simulated.spoken import name_sayable
from trustee.errors import SimulatorError
from trustee.tools.arguments import check_call
from trustee.tools.values import call_key, call_line, is_error, render_json, tells_error
from trustee.types import (
    BadCall,
    Call,
    ExpectedCall,
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

TOOL_SET_DRAWS = 200
"""Attempts to draw a tool set of one size before a smaller size is tried."""


class HiddenSimulated(Record, frozen=True):
    """What only the environment knows about a task."""

    intent: str
    persona: str
    expected_calls: tuple[ExpectedCall, ...]
    criteria: tuple[Criterion, ...]
    """The criteria that count at this difficulty."""
    wishes: tuple[str, ...] = ()
    """What each expected call is to do, in words; empty if the task was written at once."""
    told: int = 0
    """Number of wishes that the query is about; the user asks for the others later."""


class SimulatedEnvironment(PlainEpisode):
    """One episode in the simulated world."""

    def __init__(self, task: Task, services: Services, *, prompt_set: str) -> None:
        super().__init__(task)
        self._hidden = msgspec.convert(task.hidden, HiddenSimulated)
        self._services = services
        self._prompt_set = prompt_set
        self._tools = {tool.name: tool for tool in task.tools}
        self._writes = frozenset(tool.name for tool in task.tools if tool.effect == "write")
        self._messages = list(task.messages)
        self._executed: list[Executed] = []
        self._malformed = 0
        self._wanted = UserWishes(
            persona=self._hidden.persona,
            intent=self._hidden.intent,
            wishes=self._hidden.wishes,
            values=tuple(name_sayable(call.arguments) for call in self._hidden.expected_calls),
        )
        self._told = self._hidden.told
        """Number of wishes that the user has said."""
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
        answer = await self._ask_user()
        if answer.done:
            return Reply(messages=(), done=True)
        said = Message(role="user", content=answer.message)
        self._messages.append(said)
        return Reply(messages=(said,), done=False)

    async def _ask_user(self) -> UserAnswer:
        """Ask for the user's answer to the policy's last text."""
        hidden = self._hidden
        if is_taught(self._prompt_set):
            prompt = user_prompt(
                self._prompt_set, self._messages, intent=hidden.intent, persona=hidden.persona
            )
            return await self._ask_user_for(prompt, USER_SCHEMA, UserTurn(heard=(), schema=""))
        turn = plan_turn(self._prompt_set, self._messages, self._wanted, told=self._told)
        if turn.says_wishes:
            self._told = len(hidden.wishes)
        try:
            return await self._ask_user_for(turn.heard, turn.schema, turn)
        except SimulatorError:
            if not turn.fallback:
                raise
            return UserAnswer(message=turn.fallback, done=False)

    async def _ask_user_for(
        self, prompt: str | Sequence[Message], schema: str, turn: UserTurn
    ) -> UserAnswer:
        return await self._services.simulator.ask(
            Role.USER,
            prompt,
            answer=UserAnswer,
            schema=schema,
            seed=self._services.rng.randrange(1 << 31),
            check=lambda answer: (
                check_user(
                    answer, self._messages, intent=self._hidden.intent, tools=self.task.tools
                )
                or (None if answer.done else check_turn(answer.message, turn))
            ),
        )

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
                schema=tool_schema(self._prompt_set, tool),
                seed=self._services.rng.randrange(1 << 31),
                check=lambda answer: check_read_changes(tool, answer),
            )
            result = answer.result
            if tool.effect == "write":
                self.state |= answer.changes or remember_call(tool, call, answer.result)
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
            writes=self._writes,
        )
        settled = {c: settle(facts, c) for c in self._hidden.criteria}
        evidence, asked = "settled by code", False
        if stop in (Stop.TOKENS, Stop.CONTEXT, Stop.RESPONSE):
            settled[Criterion.FULFILLED] = False
        if facts.malformed:
            settled = dict.fromkeys(settled, False)
        elif settled[Criterion.FULFILLED] is None:
            evidence, opinions, asked = await self._ask_judge(turns, facts)
            settled = {c: opinions[c] if kept is None else kept for c, kept in settled.items()}
        criteria = {c: bool(holds) for c, holds in settled.items()}
        return Score(
            rewards={"verdict": reward_of(facts, criteria)},
            outcome=Outcome(
                criteria={c.value: holds for c, holds in criteria.items()}, asked_judge=asked
            ),
            notes={
                "evidence": evidence,
                "facts": fact_lines(facts),
                "state": self.state,
            },
        )

    async def _ask_judge(
        self, turns: Sequence[Turn], facts: Facts
    ) -> tuple[str, dict[Criterion, bool], bool]:
        """Return the evidence, the criteria, and whether the judge had to be asked."""
        if is_taught(self._prompt_set):
            return *await self._ask_for_verdict(turns, facts), True
        criteria, opening = self._hidden.criteria, self.task.messages
        evidence = collect_evidence(
            facts,
            self._executed,
            opening=opening,
            turns=turns,
            intent=self._hidden.intent,
            writes=self._writes,
        )
        if refusal := refuse_without_judge(evidence):
            return refusal, dict.fromkeys(criteria, False), False
        answer = await self._services.simulator.ask(
            Role.JUDGE,
            judging_prompt(
                self._prompt_set,
                evidence,
                opening=opening,
                turns=turns,
                intent=self._hidden.intent,
                criteria=criteria,
            ),
            answer=dict[str, Any],
            schema=judging_schema(evidence, criteria),
            seed=self._services.rng.randrange(1 << 31),
        )
        return *read_verdict(answer, evidence, criteria), True

    async def _ask_for_verdict(
        self, turns: Sequence[Turn], facts: Facts
    ) -> tuple[str, dict[Criterion, bool]]:
        """Ask for the whole verdict at once, as a model that was taught the form can give it."""
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


def remember_call(tool: Tool, call: ToolCall, result: dict[str, Any]) -> dict[str, Any]:
    """Return the change of a write that worked but names none: its own arguments."""
    if is_error(result) or not call.arguments:
        return {}
    return {tool.name: call.arguments}


def check_read_changes(tool: Tool, answer: ToolAnswer) -> str | None:
    """Refuse an answer in which a read tool, or a call that failed, changes the world."""
    if is_error(answer.result) and answer.changes:
        return f"{tool.name} failed but the answer changes {sorted(answer.changes)}"
    if tool.effect == "read" and answer.changes:
        return f"{tool.name} only reads but the answer changes {sorted(answer.changes)}"
    return None
