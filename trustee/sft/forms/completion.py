"""Rows of a prompt and its completion, of which only the completion is imitated."""

from __future__ import annotations

from typing import Any

from trustee.errors import InputError
from trustee.sft.forms.chat import read_chat
from trustee.sft.forms.turns import Conversation, as_list


def read_completion(row: dict[str, Any]) -> Conversation:
    """Convert a row; a text is one message of the user, or of the assistant.

    Raises:
        InputError: naming the message and what is wrong with it.
    """
    prompt = _as_messages(row["prompt"], role="user", where="prompt")
    completion = _as_messages(row["completion"], role="assistant", where="completion")
    # What the assistant said before is context, whatever it is marked with.
    shown = [
        {**turn, "weight": 0}
        if isinstance(turn, dict) and turn.get("role") == "assistant"
        else turn
        for turn in prompt
    ]
    return read_chat(row, [*shown, *completion])


def _as_messages(value: Any, *, role: str, where: str) -> list[Any]:
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    messages = as_list(value or [], where=where)
    if not messages:
        raise InputError(f"{where} is empty")
    return messages
