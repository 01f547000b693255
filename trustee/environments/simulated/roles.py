"""The four roles that one frozen model plays: writer, user, tool, judge.

For each role this module has the typed answer, its grammar, the values of the prompt, and the
checks that an answer must pass. Everything here is pure; the role sets ask the model.
Source: TRUSTEE (arXiv 2604.17739), stages 1 to 3. Formats and checks are ours; `published.py` has
the inputs of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.criteria import Criterion as Criterion
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.grammar import (
    arguments_grammar,
    object_grammar,
    text_grammar,
)
from trustee.environments.simulated.quoting import quote, quote_call, quote_result
from trustee.environments.simulated.spoken import (
    NUMBER,
    alludes_to,
    contains_value,
    find_values,
    known_numbers,
    normalise_number,
)
from trustee.tools.arguments import check_arguments
from trustee.tools.values import call_key, call_line, render_json
from trustee.types import ExpectedCall, Message, Record, Tool, ToolCall, Turn


class WrittenTask(Record, frozen=True):
    """The writer's answer."""

    persona: str
    intent: str
    expected_calls: tuple[ExpectedCall, ...]
    query: str
    wishes: tuple[str, ...] = ()
    """What each expected call is to do, in words; empty if the task was written at once."""
    told: int = 0
    """Number of wishes that the query is about."""
    expected_names: tuple[str, ...] = ()
    """Tools whose calls are expected, where no arguments are written."""


class UserAnswer(Record, frozen=True):
    """The user's answer."""

    message: str
    done: bool
    still_open: str = ""
    """What the user has not asked for yet; a thought that is never shown to the policy."""


class ToolAnswer(Record, frozen=True):
    """The tool's answer: a result, and the fields of the environment's state that it changes."""

    result: dict[str, Any]
    changes: dict[str, Any] = {}


class Verdict(Record, frozen=True):
    """The judge's answer."""

    evidence: str
    criteria: dict[Criterion, bool]


def writer_schema(tools: Sequence[Tool], aspects: Aspects) -> str:
    """Return the grammar of `WrittenTask`, which allows only the offered tools and their types."""
    calls = [
        object_grammar(
            {"name": {"const": tool.name}, "arguments": arguments_grammar(tool.parameters)}
        )
        for tool in tools
    ]
    return render_json(
        object_grammar(
            {
                "persona": text_grammar(200),
                "intent": text_grammar(900),
                "expected_calls": {
                    "type": "array",
                    "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
                    "minItems": aspects.calls,
                    "maxItems": aspects.calls,
                },
                "query": text_grammar(600),
            }
        )
    )


USER_SCHEMA = render_json(
    object_grammar(
        {"still_open": text_grammar(300), "message": text_grammar(600), "done": {"type": "boolean"}}
    )
)
TOOL_SCHEMA = render_json(
    object_grammar({"result": {"type": "object"}, "changes": {"type": "object"}})
)
READ_SCHEMA = render_json(object_grammar({"result": {"type": "object"}}))
"""The answer of a tool that only reads, and so has no changes to name."""


def judge_schema(criteria: Sequence[Criterion]) -> str:
    """Return the grammar of a verdict on the active criteria, with the evidence first."""
    return render_json(
        object_grammar(
            {"evidence": text_grammar(700)} | {c.value: {"type": "boolean"} for c in criteria}
        )
    )


def tool_lines(tools: Sequence[Tool]) -> str:
    """Return descriptions of tools for a role of the simulator, one JSON object per line."""
    return "\n".join(
        render_json(
            {
                "name": tool.name,
                "description": tool.description,
                "effect": tool.effect,
                "parameters": tool.parameters,
            }
        )
        for tool in tools
    )


def signature_lines(tools: Sequence[Tool]) -> str:
    """Return the signatures of tools, one per line."""
    return "\n".join(tool.signature for tool in tools)


def writer_prompt(prompt_set: str, tools: Sequence[Tool], aspects: Aspects) -> str:
    """Fill the writer's prompt."""
    return fill_prompt(
        prompt_set,
        "writer",
        tools=tool_lines(tools),
        signatures=signature_lines(tools),
        calls=str(aspects.calls),
        turns=str(aspects.turns),
        persona=aspects.persona,
        ambiguity=aspects.ambiguity,
    )


def dialogue_lines(messages: Sequence[Message]) -> str:
    """Return what a user can see of a dialogue: the texts, not the calls."""
    return "\n".join(
        f"{message.role}: {quote(message.content)}"
        for message in messages
        if message.role in ("user", "assistant") and message.content.strip()
    )


def user_prompt(prompt_set: str, messages: Sequence[Message], *, intent: str, persona: str) -> str:
    """Fill the user's prompt."""
    return fill_prompt(
        prompt_set, "user", dialogue=dialogue_lines(messages), intent=intent, persona=persona
    )


def tool_prompt(
    prompt_set: str,
    tool: Tool,
    arguments: Mapping[str, Any],
    *,
    state: Mapping[str, Any],
    seen: Sequence[tuple[str, str]],
    intent: str,
) -> str:
    """Fill the tool's prompt; `seen` holds the call lines and results of this episode so far."""
    return fill_prompt(
        prompt_set,
        "tool",
        tool=tool_lines([tool]),
        signature=tool.signature,
        effect=tool.effect,
        state=render_json(state),
        seen="\n".join(f"{call} -> {result}" for call, result in seen) or "none",
        call=call_line(tool.name, arguments),
        intent=intent,
    )


def transcript_lines(opening: Sequence[Message], turns: Sequence[Turn]) -> str:
    """Return a whole episode as the judge reads it, with the policy's words quoted."""
    lines = [f"user: {quote(m.content)}" for m in opening if m.role == "user"]
    for turn in turns:
        if turn.message.content.strip():
            lines.append(f"assistant: {quote(turn.message.content)}")
        for call in turn.message.calls:
            if isinstance(call, ToolCall):
                lines.append(f"call: {quote_call(call)}")
            else:
                lines.append(f"unreadable call: {quote(call.text)}")
        lines += [
            f"result: {quote_result(reply.content)}"
            if reply.role == "tool"
            else f"user: {quote(reply.content)}"
            for reply in turn.replies
        ]
    return "\n".join(lines)


def judge_prompt(
    prompt_set: str,
    transcript: str,
    *,
    intent: str,
    persona: str,
    facts: str,
    criteria: Sequence[Criterion],
) -> str:
    """Fill the judge's prompt."""
    return fill_prompt(
        prompt_set,
        "judge",
        transcript=transcript,
        intent=intent,
        persona=persona,
        facts=facts,
        criteria=", ".join(criteria),
        strictness=str(len(criteria)),
    )


class Expected(Protocol):
    """A call that a writer expects."""

    @property
    def name(self) -> str:
        """The tool."""
        ...

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments."""
        ...


E = TypeVar("E", bound=Expected)


def check_calls(
    calls: Sequence[E],
    tools: Sequence[Tool],
    aspects: Aspects,
    *,
    also: Callable[[E, Tool], str | None],
) -> str | None:
    """Return why expected calls cannot be made as asked for; None if they can.

    `also` says what else is wrong with one of them.
    """
    if len(calls) != aspects.calls:
        return f"{len(calls)} expected calls where {aspects.calls} were asked for"
    by_name = {tool.name: tool for tool in tools}
    for call in calls:
        tool = by_name.get(call.name)
        if tool is None:
            return f"expected call of {call.name}, which is not offered"
        error = check_arguments(tool, call.arguments)
        if error is not None:
            return f"expected call of {call.name}: {error}"
        refusal = also(call, tool)
        if refusal is not None:
            return refusal
    different = {call_key(call.name, call.arguments) for call in calls}
    return "the same call is expected twice" if len(different) < len(calls) else None


def check_task(task: WrittenTask, tools: Sequence[Tool], aspects: Aspects) -> str | None:
    """Return why a task cannot be solved, reveals too much or misses its aspects; None if fine."""

    def check_said(call: Expected, tool: Tool) -> str | None:
        spoken = find_values(tool.parameters, call.arguments, chosen=False)
        unsaid = [value for value in spoken if not contains_value(task.intent, value)]
        return f"the intent does not say {unsaid} that {call.name} needs" if unsaid else None

    refusal = check_calls(task.expected_calls, tools, aspects, also=check_said)
    if refusal is not None:
        return refusal
    by_name = {tool.name: tool for tool in tools}
    if not task.intent.strip() or not task.query.strip():
        return "intent and query must not be empty"
    leaked = [name for name in by_name if "_" in name and contains_value(task.query, name)]
    if leaked:
        return f"the query names the tools {leaked}"
    return _check_ambiguity(task, by_name[task.expected_calls[0].name], aspects)


def _check_ambiguity(task: WrittenTask, tool: Tool, aspects: Aspects) -> str | None:
    arguments = task.expected_calls[0].arguments
    spoken = list(find_values(tool.parameters, arguments, chosen=False))
    if aspects.ambiguity == "clear":
        if all(alludes_to(task.query, value) for value in spoken):
            return None
        return "the query leaves out values although it should be clear"
    chosen = (
        str(value).replace("_", " ")
        for value in find_values(tool.parameters, arguments, chosen=True)
    )
    if spoken and all(contains_value(task.query, value) for value in (*spoken, *chosen)):
        return "the query says every value although it should leave some out"
    return None


def check_user(
    answer: UserAnswer, messages: Sequence[Message], *, intent: str, tools: Sequence[Tool]
) -> str | None:
    """Return why a reply is not usable: empty, naming tools or new numbers; None if it is."""
    if answer.done:
        return None
    if not answer.message.strip():
        return "an empty message although the dialogue goes on"
    named = [tool.name for tool in tools if "_" in tool.name and tool.name in answer.message]
    if named:
        return f"the user names the tools {named}"
    known = known_numbers(" ".join([intent, *(message.content for message in messages)]))
    said = sorted(set(NUMBER.findall(answer.message)))
    invented = [token for token in said if normalise_number(token) not in known]
    if invented:
        return f"the user says the numbers {invented}, which are not in the intent"
    return None
