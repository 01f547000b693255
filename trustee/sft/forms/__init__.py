"""Demonstrations in the forms in which people have them, recognised by content.

| form | recognised by |
|---|---|
| OpenAI, TRL and this program's own | `messages` with `role` and `content` |
| ShareGPT, Hermes, APIGen-MT, ToolACE | `conversations` with `from` and `value` |
| prompt and completion | `prompt` and `completion`, as texts or messages |
| xLAM | `query`, `tools` and `answers` |

Columns that no form knows are ignored.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from trustee.errors import InputError
from trustee.sft.demonstrations import Demonstration
from trustee.sft.forms.chat import read_chat
from trustee.sft.forms.completion import read_completion
from trustee.sft.forms.turns import Conversation, find_turns
from trustee.sft.forms.xlam import read_xlam

PICTURES = ("images", "image", "videos", "audios")
"""Columns whose contents a conversation refers to, and that a language model cannot see."""
KNOWN = "messages, conversations, prompt and completion, or query, tools and answers"


def convert_row(row: dict[str, Any]) -> tuple[Demonstration, list[str]]:
    """Convert a row of any known form, and tell what was changed on the way.

    Raises:
        InputError: if the row has none of the forms, or breaks the rules of its own.
    """
    conversation = convert_conversation(row)
    notes = row.get("notes")
    return Demonstration(
        task_id=name_task(row, conversation),
        tools=conversation.tools,
        messages=conversation.messages,
        shown_only=conversation.shown_only,
        notes=notes if isinstance(notes, dict) else {},
    ), list(conversation.changes)


def convert_conversation(row: dict[str, Any]) -> Conversation:
    """Convert what a row says, by the first form whose keys it has.

    Raises:
        InputError: as in `convert_row`.
    """
    if seen := [key for key in PICTURES if row.get(key)]:
        raise InputError(f"it has {', '.join(seen)}, and only text can be imitated")
    if (turns := find_turns(row)) is not None:
        return read_chat(row, turns)
    if "prompt" in row and "completion" in row:
        return read_completion(row)
    if "query" in row and "answers" in row:
        return read_xlam(row)
    keys = ", ".join(sorted(row)[:12]) or "none"
    raise InputError(f"its keys are {keys}; a demonstration has {KNOWN}")


def name_task(row: dict[str, Any], conversation: Conversation) -> str:
    """Return the row's task id, or one that rows with the same beginning and tools share."""
    given = row.get("task_id")
    if isinstance(given, str | int) and not isinstance(given, bool) and given != "":
        return str(given)
    roles = [message.role for message in conversation.messages]
    end = roles.index("assistant") if "assistant" in roles else len(roles)
    opening = msgspec.json.encode((conversation.messages[:end], conversation.tools))
    return hashlib.sha256(opening).hexdigest()[:16]
