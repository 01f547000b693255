"""Roles that go in small steps, with code between them: what a small published model can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.evidence import collect_evidence, refuse_without_judge
from trustee.environments.simulated.facts import Facts
from trustee.environments.simulated.judging import judging_prompt, judging_schema, read_verdict
from trustee.environments.simulated.role_set import Opinion, ToolReply
from trustee.environments.simulated.roles import (
    READ_SCHEMA,
    TOOL_SCHEMA,
    UserAnswer,
    WrittenTask,
    check_user,
)
from trustee.environments.simulated.scene import Scene
from trustee.environments.simulated.speaking import UserWishes, check_turn, plan_turn
from trustee.environments.simulated.spoken import name_sayable
from trustee.environments.simulated.tool_memory import answer_from_memory
from trustee.environments.simulated.writing import write_in_steps
from trustee.environments.simulator import Simulator
from trustee.errors import SimulatorError
from trustee.types import Role, Tool, ToolCall, Turn


class InSteps:
    """The roles of a model of its own size."""

    code_checks_arguments = True

    def __init__(self, prompt_set: str) -> None:
        self._prompt_set = prompt_set

    async def write(
        self, simulator: Simulator, tools: Sequence[Tool], aspects: Aspects, *, seed: int
    ) -> WrittenTask:
        """Have calls and wishes written, then the query.

        Raises:
            SimulatorError: if a step gave no usable answer within its tries.
        """
        return await write_in_steps(
            simulator, tools, aspects, prompt_set=self._prompt_set, seed=seed
        )

    async def answer_as_user(self, scene: Scene) -> UserAnswer:
        """Ask for what code has planned; where the model never says it, code does."""
        hidden = scene.hidden
        wanted = UserWishes(
            persona=hidden.persona,
            intent=hidden.intent,
            wishes=hidden.wishes,
            values=tuple(name_sayable(call.arguments) for call in hidden.expected_calls),
        )
        turn = plan_turn(self._prompt_set, scene.messages, wanted, told=scene.told)
        if turn.says_wishes:
            scene.told = len(hidden.wishes)
        try:
            return await scene.ask(
                Role.USER,
                turn.heard,
                answer=UserAnswer,
                schema=turn.schema,
                check=lambda answer: (
                    check_user(answer, scene.messages, intent=hidden.intent, tools=scene.task.tools)
                    or (None if answer.done else check_turn(answer.message, turn))
                ),
            )
        except SimulatorError:
            if not turn.fallback:
                raise
            return UserAnswer(message=turn.fallback, done=False)

    async def answer_as_tool(self, scene: Scene, tool: Tool, call: ToolCall) -> ToolReply:
        """Answer from the tools' memory; a read has no changes to name."""
        return await answer_from_memory(
            scene,
            tool,
            call,
            prompt_set=self._prompt_set,
            schema=READ_SCHEMA if tool.effect == "read" else TOOL_SCHEMA,
        )

    async def judge_with_facts(self, scene: Scene, turns: Sequence[Turn], facts: Facts) -> Opinion:
        """Put the evidence together, and ask about it part by part unless it settles all."""
        criteria, opening = scene.hidden.criteria, scene.task.messages
        evidence = collect_evidence(
            facts,
            scene.executed,
            opening=opening,
            turns=turns,
            intent=scene.hidden.intent,
            writes=scene.writes,
        )
        if refusal := refuse_without_judge(evidence):
            return Opinion(evidence=refusal, criteria=dict.fromkeys(criteria, False), asked=False)
        answer = await scene.ask(
            Role.JUDGE,
            judging_prompt(
                self._prompt_set,
                evidence,
                opening=opening,
                turns=turns,
                intent=scene.hidden.intent,
                criteria=criteria,
            ),
            answer=dict[str, Any],
            schema=judging_schema(evidence, criteria),
        )
        account, verdict = read_verdict(answer, evidence, criteria)
        return Opinion(evidence=account, criteria=verdict)
