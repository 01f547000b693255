"""Rows as FTRL published them, as blueprints and states, and the wording of its errors.

| key | contents |
|---|---|
| `messages` | the conversation; one user message if the row starts an episode |
| `tools` | text of a JSON list of OpenAI schemas |
| `codes` | text of a JSON object: Python source by tool |
| `unsolved_set` | text of a JSON object: sub-answers not yet found, by tool |
| `solve_rate` | share of the sub-answers already found |
| `data_source` | `self/` and the scenario |
| `split` | `train` or `test` |
| `answer` | the final answer, or null |

Instead of a text, a row may hold the JSON itself. A row in the middle of an episode is a state; its
blueprint comes from the row that begins the episode.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.errors import InputError
from trustee.sandbox.calls import CallResult
from trustee.types import Message

FAILED = re.compile(r"an error occurred when calling [^:]+: (?:\w+: )?(.*)", re.DOTALL)
"""Sandbox message of a call that raised; FTRL reports the error without its class."""
ROW_KEYS = frozenset({"messages", "tools", "codes", "unsolved_set", "data_source"})
"""Keys that every row must have, and that distinguish it from a blueprint."""
ASK = "Question:"
"""Text before the question in a row's first message."""


def is_published(row: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a published row, complete or not."""
    return "codes" in row or "unsolved_set" in row


def read_published_row(row: Mapping[str, Any], *, source: str) -> tuple[Blueprint, TurnState]:
    """Read a row as its environment and the state that it describes.

    For a row in the middle of an episode, the blueprint's `unsolved` is what the row has left.

    Raises:
        InputError: naming the key, what was given and what is expected.
    """
    missing = sorted(ROW_KEYS - row.keys())
    if missing:
        raise InputError(f"{', '.join(missing)} missing; a published row has {sorted(ROW_KEYS)}")
    messages = tuple(
        _read_message(value, index)
        for index, value in enumerate(_read(row, "messages", list[dict[str, Any]]))
    )
    if not messages or messages[0].role != "user":
        raise InputError('messages: the first must be of role "user" and hold the question')
    prompt = messages[0].content
    sources = _read(row, "codes", dict[str, str])
    unsolved = _read(row, "unsolved_set", dict[str, tuple[str, ...]])
    rate = row.get("solve_rate") or 0.0
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise InputError(f"solve_rate must be a number from 0 to 1, got {rate!r}")
    # `||` separates the two, so that no question can run into the code of another.
    name = hashlib.sha256(f"{prompt}||{json.dumps(sources, sort_keys=True)}".encode()).hexdigest()
    scenario = str(row["data_source"]).removeprefix("self/")
    try:
        blueprint = msgspec.convert(
            {
                "id": f"{scenario}-{name[:12]}",
                "question": prompt.rpartition(ASK)[2].strip(),
                "scenario": scenario,
                "tools": [_read_tool(value) for value in _read(row, "tools", list[dict[str, Any]])],
                "sources": sources,
                "unsolved": unsolved,
                "answer": row.get("answer") or "",
                "provenance": {"prompt": prompt, "row": source, "split": row.get("split", "")},
            },
            Blueprint,
        )
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error
    state = TurnState(
        blueprint=blueprint.id, messages=messages, unsolved=unsolved, solve_rate=float(rate)
    )
    return blueprint, state


def as_published(name: str, outcome: CallResult) -> CallResult:
    """Return an error worded as FTRL does, because error texts can match sub-answers too."""
    if outcome.ok or not (failed := FAILED.fullmatch(outcome.text)):
        return outcome
    text = f"an error occured when call {name}: {failed[1]}"
    return msgspec.structs.replace(outcome, text=text)


def _read(row: Mapping[str, Any], key: str, kind: Any) -> Any:
    """Read a value that may be given as its JSON text."""
    value = row[key]
    try:
        if isinstance(value, str):
            return decode_json(value, kind, error=InputError)
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{key}: {error}") from error


def _read_tool(schema: dict[str, Any]) -> dict[str, Any]:
    function = schema.get("function", schema)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(f"tools: {str(schema)[:80]} is not a function schema with a name")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise InputError(f"tools: the parameters of {function['name']} are not a JSON Schema")
    description = str(function.get("description") or "")
    return {"name": function["name"], "description": description, "parameters": parameters}


def _read_message(value: dict[str, Any], index: int) -> Message:
    try:
        return msgspec.convert(
            {
                "role": value.get("role"),
                "content": value.get("content") or "",
                "thinking": value.get("reasoning_content") or "",
                "calls": [_read_call(call) for call in value.get("tool_calls") or ()],
                "call_id": value.get("tool_call_id") or "",
            },
            Message,
        )
    except (msgspec.ValidationError, InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"messages[{index}]: not a chat message ({error})") from error


def _read_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    given = function["arguments"]
    return {
        "type": "call",
        "id": call.get("id") or "",
        "name": function["name"],
        "arguments": (decode_json(given, error=InputError) if isinstance(given, str) else given)
        or {},
    }
