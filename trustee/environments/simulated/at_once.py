"""Roles that give whole answers at once, as a model that was taught their short forms can."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.facts import Facts, fact_lines
from trustee.environments.simulated.role_set import Opinion, ToolReply
from trustee.environments.simulated.roles import (
    TOOL_SCHEMA,
    USER_SCHEMA,
    UserAnswer,
    WrittenTask,
    check_task,
    check_user,
    judge_prompt,
    judge_schema,
    transcript_lines,
    user_prompt,
    writer_prompt,
    writer_schema,
)
from trustee.environments.simulated.scene import Scene
from trustee.environments.simulated.tool_memory import answer_from_memory
from trustee.environments.simulator import Simulator
from trustee.types import Role, Tool, ToolCall, Turn

MOST_TURNS = 2
"""User turns for which the writer was taught a word; longer talks are asked for as these."""


class AtOnce:
    """The roles of the built-in model."""

    code_checks_arguments = True

    def __init__(self, prompt_set: str) -> None:
        self._prompt_set = prompt_set

    async def write(
        self, simulator: Simulator, tools: Sequence[Tool], aspects: Aspects, *, seed: int
    ) -> WrittenTask:
        """Have a task written in one answer.

        Raises:
            SimulatorError: if no try gave a usable task.
        """
        aspects = msgspec.structs.replace(aspects, turns=min(MOST_TURNS, aspects.turns))
        return await simulator.ask(
            Role.WRITER,
            writer_prompt(self._prompt_set, tools, aspects),
            answer=WrittenTask,
            schema=writer_schema(tools, aspects),
            seed=seed,
            check=lambda task: check_task(task, tools, aspects),
        )

    async def answer_as_user(self, scene: Scene) -> UserAnswer:
        """Ask for the user's answer to the dialogue."""
        hidden = scene.hidden
        return await scene.ask(
            Role.USER,
            user_prompt(
                self._prompt_set, scene.messages, intent=hidden.intent, persona=hidden.persona
            ),
            answer=UserAnswer,
            schema=USER_SCHEMA,
            check=lambda answer: check_user(
                answer, scene.messages, intent=hidden.intent, tools=scene.task.tools
            ),
        )

    async def answer_as_tool(self, scene: Scene, tool: Tool, call: ToolCall) -> ToolReply:
        """Answer from the tools' memory; every answer has room for changes."""
        return await answer_from_memory(
            scene, tool, call, prompt_set=self._prompt_set, schema=TOOL_SCHEMA
        )

    async def judge_with_facts(self, scene: Scene, turns: Sequence[Turn], facts: Facts) -> Opinion:
        """Ask for all criteria, and show the facts."""
        return await self._judge(scene, turns, facts=fact_lines(facts))

    async def judge_alone(self, scene: Scene, turns: Sequence[Turn]) -> Opinion:
        """Ask for all criteria, and show no facts."""
        return await self._judge(scene, turns, facts="")

    async def _judge(self, scene: Scene, turns: Sequence[Turn], *, facts: str) -> Opinion:
        hidden = scene.hidden
        answer = await scene.ask(
            Role.JUDGE,
            judge_prompt(
                self._prompt_set,
                transcript_lines(scene.task.messages, turns),
                intent=hidden.intent,
                persona=hidden.persona,
                facts=facts,
                criteria=hidden.criteria,
            ),
            answer=dict[str, str | bool],
            schema=judge_schema(hidden.criteria),
        )
        return Opinion(
            evidence=str(answer["evidence"]),
            criteria={c: bool(answer[c]) for c in hidden.criteria},
        )
