"""The four roles that one frozen model plays: writer, user, tool, judge.

For each role this module has the typed answer, its grammar, the values of the prompt, and the
checks that an answer must pass. Everything here is pure; `environment.py` asks the model.
Source: TRUSTEE (arXiv 2604.17739), stages 1 to 3; where the paper gives no details the choice is
ours and `ARCHITECTURE.md` says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from trustee.environments.prompts import fill_prompt, is_taught
from trustee.environments.simulated.criteria import Criterion as Criterion
from trustee.environments.simulated.curriculum import Aspects
from trustee.environments.simulated.quoting import quote, quote_call, quote_result
from trustee.tools.arguments import check_arguments
from trustee.tools.values import call_key, call_line, write_decimal
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
    """Return the part of a JSON Schema that a grammar can express; code checks the rest later."""
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
    """Return the grammar of `WrittenTask`, which allows only the offered tools and their types."""
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
READ_SCHEMA = json.dumps(_object({"result": {"type": "object"}}))
"""The answer of a tool that only reads, and so has no changes to name."""


def tool_schema(prompt_set: str, tool: Tool) -> str:
    """Return the grammar of a tool's answer."""
    return READ_SCHEMA if tool.effect == "read" and not is_taught(prompt_set) else TOOL_SCHEMA


def judge_schema(criteria: Sequence[Criterion]) -> str:
    """Return the grammar of a verdict on the active criteria, with the evidence first."""
    return json.dumps(
        _object({"evidence": _text(700)} | {c.value: {"type": "boolean"} for c in criteria})
    )


def tool_lines(tools: Sequence[Tool]) -> str:
    """Return descriptions of tools for a role of the simulator, one JSON object per line."""
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
        state=json.dumps(state),
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


NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
QUANTITY = re.compile(r"(?<![\w.,:/-])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\d:/]|[.,-]\d)")
"""A number by itself, perhaps before a unit. The lookarounds exclude digits that are part of an id,
a date, a time or a longer number; commas are allowed only between thousands."""
DATE = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(\d{2})")
"""An ISO date, as (year, month, day)."""
TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::00)?")
"""A time of day with optional zero seconds, as (hour, minute)."""


def _flatten(text: str) -> str:
    return " ".join(text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


def _contains(text: str, value: object) -> bool:
    """Return whether a text contains a value, ignoring case.

    Numbers are compared by size, dates and times in their usual forms, the rest as whole words.
    """
    text = _flatten(text)
    if isinstance(value, int | float):
        return _contains_number(text, value)
    return re.search(value_pattern(value), text) is not None


def value_pattern(value: object) -> str:
    """Return a pattern for a value in flattened text, in its usual forms."""
    wanted = _flatten(str(value)).strip(" .,;:!?")
    forms = "|".join([re.escape(wanted), *_spoken_forms(wanted)])
    return rf"(?<!\w)(?:{forms})(?!\w)"


def _contains_number(text: str, number: float) -> bool:
    said = [Decimal(token.replace(",", "")) for token in QUANTITY.findall(text)]
    said += [
        Decimal(NUMBER_WORDS[word]) for word in re.findall(r"\w+", text) if word in NUMBER_WORDS
    ]
    # Signs are ignored because a change of -4 is said as "remove 4". `abs` would round.
    wanted = Decimal(repr(number)).copy_abs()
    return any(quantity.copy_abs() == wanted for quantity in said)


def _spoken_forms(value: str) -> list[str]:
    """Return patterns for the ways in which people write an ISO date or a time of day."""
    if date := DATE.fullmatch(value):
        # "3 Mar 2025", "3rd of March, 2025", "March 3, 2025".
        name = MONTHS[int(date[2]) - 1]
        month = rf"{name[:3]}(?:{name[3:]}|\.)?"
        day = rf"0?{int(date[3])}(?:st|nd|rd|th)?"
        return [rf"{day}(?: of)? {month},? {date[1]}", rf"{month} {day},? {date[1]}"]
    if time := TIME.fullmatch(value):
        # "14:30", "2:30 pm"; a full hour also as "2pm" or "2 p.m.".
        hour, minute = int(time[1]), time[2]
        half = "p" if hour >= 12 else "a"
        minutes = rf"(?::{minute})?" if minute == "00" else f":{minute}"
        return [rf"0?{hour}:{minute}", rf"{hour % 12 or 12}{minutes} ?{half}\.?m\.?"]
    return []


def _alludes(text: str, value: object) -> bool:
    """Return whether a text contains or paraphrases a value; values with digits must be exact."""
    if _contains(text, value):
        return True
    words = re.findall(r"\w+", _flatten(str(value)))
    if any(character.isdigit() for character in str(value)):
        return False
    # Short codes, as of countries, are said by name; other values need a common four-letter prefix.
    return len(str(value)) <= 3 or any(
        said.startswith(word[:4]) for word in words for said in re.findall(r"\w+", _flatten(text))
    )


def _find_values(schema: Any, value: Any, *, chosen: bool) -> Iterator[object]:
    """Yield the values inside arguments: those of an enum if `chosen`, else all others."""
    known = schema if isinstance(schema, dict) else {}
    match value:
        case bool() | None:
            return
        case dict():
            for name, inner in value.items():
                part = known.get("properties", {}).get(name)
                yield from _find_values(part, inner, chosen=chosen)
        case list():
            for inner in value:
                yield from _find_values(known.get("items"), inner, chosen=chosen)
        case _:
            if ("enum" in known) == chosen:
                yield value


def check_task(task: WrittenTask, tools: Sequence[Tool], aspects: Aspects) -> str | None:
    """Return why a task cannot be solved, reveals too much or misses its aspects; None if fine."""
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
        spoken = _find_values(tool.parameters, call.arguments, chosen=False)
        unsaid = [value for value in spoken if not _contains(task.intent, value)]
        if unsaid:
            return f"the intent does not say {unsaid} that {call.name} needs"
        keys.add(call_key(call.name, call.arguments))
    if len(keys) < len(task.expected_calls):
        return "the same call is expected twice"
    if not task.intent.strip() or not task.query.strip():
        return "intent and query must not be empty"
    leaked = [name for name in by_name if "_" in name and _contains(task.query, name)]
    if leaked:
        return f"the query names the tools {leaked}"
    return _check_ambiguity(task, by_name[task.expected_calls[0].name], aspects)


def _check_ambiguity(task: WrittenTask, tool: Tool, aspects: Aspects) -> str | None:
    arguments = task.expected_calls[0].arguments
    spoken = list(_find_values(tool.parameters, arguments, chosen=False))
    if aspects.ambiguity == "clear":
        if all(_alludes(task.query, value) for value in spoken):
            return None
        return "the query leaves out values although it should be clear"
    chosen = (
        str(value).replace("_", " ")
        for value in _find_values(tool.parameters, arguments, chosen=True)
    )
    if spoken and all(_contains(task.query, value) for value in (*spoken, *chosen)):
        return "the query says every value although it should leave some out"
    return None


NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
"""Digits with inner separators: 1,250.00 or 14:30, but without a full stop at the end."""
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
"""A number with commas between thousands."""


def _normalise_number(token: str) -> str:
    """Return one form for 14:30 and 2:30, for 1,250.00 and 1250, for 05 and 5, but not for 005."""
    if time := TIME.fullmatch(token):
        return f"{int(time[1]) % 12}:{time[2]}"
    plain = token.replace(",", "") if THOUSANDS.fullmatch(token) else token
    if re.fullmatch(r"0\d{2,}", plain) or not re.fullmatch(r"\d+(?:\.\d+)?", plain):
        return plain
    return write_decimal(Decimal(plain))


def _known_numbers(text: str) -> set[str]:
    tokens = NUMBER.findall(text)
    full_hours = [int(time[1]) for t in tokens if (time := TIME.fullmatch(t)) and time[2] == "00"]
    return {_normalise_number(token) for token in tokens} | {
        str(hour) for full in full_hours for hour in (full, full % 12 or 12)
    }


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
    known = _known_numbers(" ".join([intent, *(message.content for message in messages)]))
    said = sorted(set(NUMBER.findall(answer.message)))
    invented = [token for token in said if _normalise_number(token) not in known]
    if invented:
        return f"the user says the numbers {invented}, which are not in the intent"
    return None
