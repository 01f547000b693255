"""The four roles that one frozen model plays: writer, user, tool, judge.

For each role: the typed answer, its grammar, the prompt's values, and the checks that code makes
before the answer counts. Everything here is pure; `environments/simulated.py` does the asking.
Source: TRUSTEE (arXiv 2604.17739), stages 1 to 3; where the paper is silent the choice is ours and
`ARCHITECTURE.md` says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from trustee.curriculum import Aspects
from trustee.prompts import fill_prompt
from trustee.tools import check_arguments
from trustee.types import ExpectedCall, Message, Record, Tool, ToolCall, Turn

ROLE_MARKERS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:tool_call|tool_response|tools|think|function|parameter)\b[^<>]{0,80}>"
)
LOOKALIKES = str.maketrans({"{": "(", "}": ")", '"': "'", "<": "‹", ">": "›", "`": "'"})
MAX_QUOTE = 1200
"""Characters of one quoted text; an 8B judge reads no more of a message anyway."""


class Criterion(StrEnum):
    """What the judge decides, in the order in which difficulty adds them (papers' table of 1.3)."""

    FULFILLED = "fulfilled"
    RIGHT_TOOLS = "right_tools"
    NO_INVENTION = "no_invention"
    NO_REPETITION = "no_repetition"
    EFFICIENT = "efficient"


class WrittenTask(Record, frozen=True):
    """The writer's answer."""

    persona: str
    intent: str
    expected_calls: tuple[ExpectedCall, ...]
    query: str


class UserAnswer(Record, frozen=True):
    """The user's answer."""

    still_open: str
    """What the user has not asked for yet; thought, never shown to the policy."""
    message: str
    done: bool


class ToolAnswer(Record, frozen=True):
    """The tool's answer: a value, and the fields of the world's state that it changes."""

    result: dict[str, Any]
    changes: dict[str, Any]


class Verdict(Record, frozen=True):
    """The judge's answer."""

    evidence: str
    criteria: dict[Criterion, bool]


def _object(properties: Mapping[str, Any], required: Sequence[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties) if required is None else list(required),
        "additionalProperties": False,
    }


def _text(limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit}


def _plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the part of a JSON Schema that a grammar can hold; code checks the rest afterwards."""
    if "enum" in schema:
        return {"enum": list(schema["enum"])}
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "string")
    if kind == "object" and "properties" in schema:
        return _object(
            {name: _plain_schema(part) for name, part in schema["properties"].items()},
            schema.get("required", []),
        )
    if kind == "array":
        return {"type": "array", "items": _plain_schema(schema.get("items", {})), "maxItems": 8}
    return _text(200) if kind == "string" else {"type": kind}


def writer_schema(tools: Sequence[Tool], aspects: Aspects) -> str:
    """Give the grammar of `WrittenTask`: names and argument types can only be those offered."""
    calls = [
        _object({"name": {"const": tool.name}, "arguments": _plain_schema(tool.parameters)})
        for tool in tools
    ]
    return json.dumps(
        _object(
            {
                "persona": _text(200),
                "intent": _text(900),
                "expected_calls": {
                    "type": "array",
                    "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
                    "minItems": aspects.calls,
                    "maxItems": aspects.calls,
                },
                "query": _text(600),
            }
        )
    )


USER_SCHEMA = json.dumps(
    _object({"still_open": _text(300), "message": _text(600), "done": {"type": "boolean"}})
)
TOOL_SCHEMA = json.dumps(_object({"result": {"type": "object"}, "changes": {"type": "object"}}))


def judge_schema(criteria: Sequence[Criterion]) -> str:
    """Give the grammar of a verdict over the active criteria: evidence first."""
    return json.dumps(
        _object({"evidence": _text(700)} | {c.value: {"type": "boolean"} for c in criteria})
    )


def quote(text: str) -> str:
    """Make text from the dialogue harmless inside a prompt: one line, no markers, no JSON."""
    text = ROLE_MARKERS.sub("[mark]", text).translate(LOOKALIKES)
    text = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return text if len(text) <= MAX_QUOTE else text[:MAX_QUOTE] + " [cut]"


def tool_lines(tools: Sequence[Tool]) -> str:
    """Describe tools for a role of the simulator, one JSON object a line."""
    return "\n".join(
        json.dumps(
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
    """Give one call shape a line."""
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
    """Render what a user can see: the texts, not the calls."""
    return "\n".join(
        f"{message.role}: {quote(message.content)}"
        for message in messages
        if message.role in ("user", "assistant") and message.content.strip()
    )


def user_prompt(
    prompt_set: str, messages: Sequence[Message], *, intent: str, persona: str
) -> str:
    """Fill the user's prompt."""
    return fill_prompt(
        prompt_set, "user", dialogue=dialogue_lines(messages), intent=intent, persona=persona
    )


def call_line(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call on one line."""
    return f"{name} {json.dumps(arguments)}"


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
        state=json.dumps(state),
        seen="\n".join(f"{call} -> {result}" for call, result in seen) or "none",
        call=call_line(tool.name, arguments),
        intent=intent,
    )


def transcript_lines(opening: Sequence[Message], turns: Sequence[Turn]) -> str:
    """Render a whole episode for the judge; the policy's words are quoted."""
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


def quote_result(content: str) -> str:
    """Keep a tool's JSON result readable while the strings in it, which may echo a call, stay harmless."""
    try:
        value = json.loads(content)
    except ValueError:
        return quote(content)
    return json.dumps(_quote_value(value))


def quote_call(call: ToolCall) -> str:
    """Write a policy's call on one line with its string values made harmless."""
    return call_line(quote(call.name), {quote(key): _quote_value(value) for key, value in call.arguments.items()})


def _quote_value(value: Any) -> Any:
    match value:
        case str():
            return quote(value)
        case list():
            return [_quote_value(item) for item in value]
        case dict():
            return {quote(str(key)): _quote_value(item) for key, item in value.items()}
        case _:
            return value


def _contains(text: str, value: object) -> bool:
    """Say whether a value stands in a text as a word of its own, whatever its case."""
    wanted = re.escape(" ".join(str(value).casefold().split()))
    return re.search(rf"(?<!\w){wanted}(?!\w)", " ".join(text.casefold().split())) is not None


def _spoken_values(tool: Tool, call: ExpectedCall) -> list[object]:
    """Give the argument values that must be said in words: not enums, booleans or structures."""
    properties = tool.parameters.get("properties", {})
    return [
        value
        for name, value in call.arguments.items()
        if isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and "enum" not in properties.get(name, {})
    ]


def check_task(task: WrittenTask, tools: Sequence[Tool], aspects: Aspects) -> str | None:
    """Refuse a task that cannot be solved, says too much, or is not of its difficulty."""
    by_name = {tool.name: tool for tool in tools}
    if len(task.expected_calls) != aspects.calls:
        return f"{len(task.expected_calls)} expected calls where {aspects.calls} were asked for"
    keys = set()
    for call in task.expected_calls:
        tool = by_name.get(call.name)
        if tool is None:
            return f"expected call of {call.name}, which is not offered"
        error = check_arguments(tool, call.arguments)
        if error is not None:
            return f"expected call of {call.name}: {error}"
        unsaid = [v for v in _spoken_values(tool, call) if not _contains(task.intent, v)]
        if unsaid:
            return f"the intent does not say {unsaid} that {call.name} needs"
        keys.add(json.dumps([call.name, call.arguments], sort_keys=True))
    if len(keys) < len(task.expected_calls):
        return "the same call is expected twice"
    if not task.intent.strip() or not task.query.strip():
        return "intent and query must not be empty"
    leaked = [name for name in by_name if "_" in name and _contains(task.query, name)]
    if leaked:
        return f"the query names the tools {leaked}"
    first = task.expected_calls[0]
    said = [_contains(task.query, v) for v in _spoken_values(by_name[first.name], first)]
    if aspects.ambiguity == "clear" and not all(said):
        return "the query leaves out values although it should be clear"
    if aspects.ambiguity != "clear" and said and all(said):
        return "the query says every value although it should leave some out"
    return None


NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def check_user(
    answer: UserAnswer, messages: Sequence[Message], *, intent: str, tools: Sequence[Tool]
) -> str | None:
    """Refuse a reply that is empty, speaks of tools, or changes a number."""
    if answer.done:
        return None
    if not answer.message.strip():
        return "an empty message although the dialogue goes on"
    named = [tool.name for tool in tools if "_" in tool.name and tool.name in answer.message]
    if named:
        return f"the user names the tools {named}"
    known = set(NUMBER.findall(" ".join([intent, *(message.content for message in messages)])))
    invented = sorted(set(NUMBER.findall(answer.message)) - known)
    if invented:
        return f"the user says the numbers {invented}, which are not in the intent"
    return None
