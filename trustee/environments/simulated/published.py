"""Roles that are told what the authors' code tells them: the whole dialogue, and no facts or state.

Each role gets one request and gives one JSON object. The tool checks a call's arguments itself and
does not remember; the user ends with an empty message; the judge gives one number. Words and forms
are ours. Where the authors' code slips, this follows its meaning: the original request is the
user's first message, a call is quoted once, and only -1, 0 and 1 are rewards.
Source: the authors' code for TRUSTEE (arXiv 2604.17739), without its unused step rewards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.curriculum import Ambiguity, Aspects, Persona
from trustee.environments.simulated.grammar import object_grammar, text_grammar
from trustee.environments.simulated.role_set import Opinion, Reward, ToolReply
from trustee.environments.simulated.roles import UserAnswer, WrittenTask
from trustee.environments.simulated.rules import Withheld
from trustee.environments.simulated.scene import Scene
from trustee.environments.simulator import Simulator
from trustee.tools.values import render_json, tells_error
from trustee.types import BadCall, Message, Record, Role, Tool, ToolCall, Turn

MOST_PROMPT = 8192
"""Tokens of the policy's first prompt; a task with a longer one is not used."""
PERSONAS: Mapping[Persona, str] = {
    "expert": "knows the field and its terms well.",
    "beginner": "has a rough idea of the field, but few of its terms.",
    "novice": "knows nothing about the field.",
}
AMBIGUITIES: Mapping[Ambiguity, str] = {
    "clear": "it says exactly and completely what is needed.",
    "somewhat": "it leaves some of the details open.",
    "highly": "it is vague, or leaves out what matters most.",
}
LENGTHS = (
    "it is short, one exchange or two.",
    "it takes several exchanges, with a few questions back and forth.",
    "it is long and goes through many steps.",
)
"""By level of length, from 1."""
CRITERIA: Mapping[Criterion, str] = {
    Criterion.FULFILLED: "The user's goal was reached, and by means of the tools.",
    Criterion.RIGHT_TOOLS: "The expected tools were used, and used correctly.",
    Criterion.NO_INVENTION: "Nothing was made up, neither arguments nor results.",
    Criterion.NO_REPETITION: "No call was needless or wrong.",
    Criterion.EFFICIENT: "The assistant came to the point.",
}


class NamedTask(Record, frozen=True):
    """The writer's answer: which tools, not with which arguments."""

    calls: tuple[str, ...]
    intent: str
    persona: str
    query: str


class ToolText(Record, frozen=True):
    """The tool's answer."""

    result: str


class UserText(Record, frozen=True):
    """The user's answer; empty ends the dialogue."""

    message: str


class RewardGiven(Record, frozen=True):
    """The judge's answer."""

    reward: Reward
    reason: str


TOOL_SCHEMA = render_json(object_grammar({"result": text_grammar(4000)}))
USER_SCHEMA = render_json(object_grammar({"message": text_grammar(900)}))
JUDGE_SCHEMA = render_json(
    object_grammar({"reward": {"enum": [-1, 0, 1]}, "reason": text_grammar(900)})
)


def writer_schema(tools: Sequence[Tool]) -> str:
    """Return the grammar of `NamedTask`, which allows only offered tools, in any number."""
    names = {"type": "array", "items": {"enum": [tool.name for tool in tools]}, "maxItems": 10}
    return render_json(
        object_grammar(
            {
                "calls": names,
                "intent": text_grammar(2000),
                "persona": text_grammar(400),
                "query": text_grammar(1500),
            }
        )
    )


class Published:
    """The roles of the authors' code."""

    code_checks_arguments = False

    def __init__(
        self, prompt_set: str, *, thoughts: bool = False, withheld: Collection[Withheld] = ()
    ) -> None:
        self._prompt_set = prompt_set
        self._thoughts = thoughts
        """Whether roles read the policy's thoughts."""
        self._withheld = frozenset(withheld)

    async def write(
        self, simulator: Simulator, tools: Sequence[Tool], aspects: Aspects, *, seed: int
    ) -> WrittenTask:
        """Have a task written whose calls are names alone.

        Raises:
            SimulatorError: if no try gave a usable task.
        """
        prompt = fill_prompt(
            self._prompt_set,
            "writer",
            tools=list_tools(tools),
            calls=str(aspects.calls),
            persona=PERSONAS[aspects.persona],
            ambiguity=AMBIGUITIES[aspects.ambiguity],
            turns=LENGTHS[min(aspects.turns, len(LENGTHS)) - 1],
        )
        system = fill_prompt(self._prompt_set, f"agent_{aspects.guidance}")

        def check(task: NamedTask) -> str | None:
            opening = (
                Message(role="system", content=system),
                Message(role="user", content=task.query),
            )
            length = simulator.measure(opening, tools)
            return check_names(task, tools) or (
                f"the policy's first prompt would have {length} tokens"
                if length > MOST_PROMPT
                else None
            )

        task = await simulator.ask(
            Role.WRITER,
            prompt,
            answer=NamedTask,
            schema=writer_schema(tools),
            seed=seed,
            check=check,
        )
        return WrittenTask(
            persona=task.persona,
            intent=task.intent,
            expected_calls=(),
            expected_names=task.calls,
            query=task.query,
        )

    async def answer_as_user(self, scene: Scene) -> UserAnswer:
        """Ask for the user's next message; an empty one ends the dialogue."""
        answer = await scene.ask(
            Role.USER,
            self._fill(
                "user",
                scene,
                scene.messages,
                without=self._withheld & {"intent", "persona"},
                latest=render_json(scene.messages[-1].content),
            ),
            answer=UserText,
            schema=USER_SCHEMA,
        )
        return UserAnswer(message=answer.message, done=not answer.message.strip())

    async def answer_as_tool(self, scene: Scene, tool: Tool, call: ToolCall) -> ToolReply:
        """Ask for the text that a call returns, or why it cannot be made."""
        answer = await scene.ask(
            Role.TOOL,
            self._fill(
                "tool",
                scene,
                scene.messages,
                without=self._withheld & {"intent"},
                call=render_json({"name": call.name, "arguments": call.arguments}),
            ),
            answer=ToolText,
            schema=TOOL_SCHEMA,
        )
        return ToolReply(text=answer.result, ok=not tells_error(answer.result))

    async def judge_alone(self, scene: Scene, turns: Sequence[Turn]) -> Opinion:
        """Ask for the reward of a whole episode."""
        messages = [*scene.task.messages, *(m for t in turns for m in (t.message, *t.replies))]
        answer = await scene.ask(
            Role.JUDGE,
            self._fill(
                "judge",
                scene,
                messages,
                without=self._withheld,
                calls=", ".join(scene.hidden.named_tools) or "none",
                criteria="\n".join(
                    f"{number}. {CRITERIA[c]}" for number, c in enumerate(scene.hidden.criteria, 1)
                ),
            ),
            answer=RewardGiven,
            schema=JUDGE_SCHEMA,
        )
        return Opinion(evidence=answer.reason, reward=answer.reward)

    def _fill(
        self,
        name: str,
        scene: Scene,
        messages: Sequence[Message],
        *,
        without: Collection[str],
        **values: str,
    ) -> str:
        """Fill a role's prompt with what all three roles of an episode are told."""
        asked = next((m.content for m in scene.task.messages if m.role == "user"), "")
        return fill_prompt(
            self._prompt_set,
            name,
            without=without,
            request=asked,
            intent=scene.hidden.intent,
            persona=scene.hidden.persona,
            tools=list_tools(scene.task.tools),
            history=show_history(messages, thoughts=self._thoughts),
            **values,
        )


def list_tools(tools: Sequence[Tool]) -> str:
    """Return tools as the policy is offered them, one JSON object per line."""
    return "\n".join(render_json(tool.schema) for tool in tools)


def show_history(messages: Sequence[Message], *, thoughts: bool) -> str:
    """Return a dialogue with calls and results, one JSON object per line."""
    return "\n".join(render_json(dict(_describe(m, thoughts=thoughts))) for m in messages)


def _describe(message: Message, *, thoughts: bool) -> Iterator[tuple[str, Any]]:
    yield "role", message.role
    if thoughts and message.thinking:
        yield "thoughts", message.thinking
    if message.content or not message.calls:
        yield "content", message.content
    if message.calls:
        yield (
            "calls",
            [
                {"unreadable": call.text}
                if isinstance(call, BadCall)
                else {"name": call.name, "arguments": call.arguments}
                for call in message.calls
            ],
        )


def check_names(task: NamedTask, tools: Sequence[Tool]) -> str | None:
    """Return why a task cannot be used; None if it can. How many calls it expects is free."""
    if not task.query.strip():
        return "the query must not be empty"
    offered = {tool.name for tool in tools}
    unknown = sorted({name for name in task.calls if name not in offered})
    return f"it expects calls of {unknown}, which are not offered" if unknown else None
