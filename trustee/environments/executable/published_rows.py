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

Instead of a text, a row may hold the JSON itself. Sub-answers and the answer may be numbers, and a
source may stand between lines of ```. A row in the middle of an episode is a state; its
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
from trustee.tools.chat import read_chat_messages, read_offered_tools

FAILED = re.compile(r"an error occurred when calling [^:]+: (?:\w+: )?(.*)", re.DOTALL)
"""Sandbox message of a call that raised; FTRL reports the error without its class."""
ROW_KEYS = frozenset({"messages", "tools", "codes", "unsolved_set", "data_source"})
"""Keys that every row must have, and that distinguish it from a blueprint."""
FENCE = re.compile(r"\s*```[\w+.-]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
"""A source between lines of ```, with or without the name of the language."""
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
    messages = read_chat_messages(_read(row, "messages", list[dict[str, Any]]))
    if not messages or messages[0].role != "user":
        raise InputError('messages: the first must be of role "user" and hold the question')
    prompt = messages[0].content
    codes = _read(row, "codes", dict[str, str])
    sources = {name: strip_fence(code) for name, code in codes.items()}
    unsolved = {
        tool: tuple(map(write_number, answers))
        for tool, answers in _read(row, "unsolved_set", dict[str, list[str | int | float]]).items()
    }
    rate = row.get("solve_rate") or 0.0
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise InputError(f"solve_rate must be a number from 0 to 1, got {rate!r}")
    # `||` separates the two, so that no question can run into the code of another.
    name = hashlib.sha256(f"{prompt}||{json.dumps(codes, sort_keys=True)}".encode()).hexdigest()
    scenario = str(row["data_source"]).removeprefix("self/")
    try:
        blueprint = msgspec.convert(
            {
                "id": f"{scenario}-{name[:12]}",
                "question": prompt.rpartition(ASK)[2].strip(),
                "scenario": scenario,
                "tools": read_offered_tools(_read(row, "tools", list[dict[str, Any]])),
                "sources": sources,
                "unsolved": unsolved,
                "answer": write_number("" if row.get("answer") is None else row["answer"]),
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
    if isinstance(value, str):
        return decode_json(value, kind, error=lambda why: InputError(f"{key}: {why}"))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{key}: {error}") from error


def write_number(value: Any) -> Any:
    """Return a number as the text that a tool prints for it; anything else stays."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def strip_fence(source: str) -> str:
    """Return a source without the ``` lines that a chat puts around code."""
    fenced = FENCE.fullmatch(source)
    return source if fenced is None else fenced.group(1)
