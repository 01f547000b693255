"""Rows that hold a conversation: OpenAI's and TRL's, ShareGPT's and its relatives, our own."""

from __future__ import annotations

from typing import Any

import msgspec

from trustee.errors import InputError
from trustee.sft.forms.prompted_tools import take_tools
from trustee.sft.forms.turns import Conversation, read_tools_of
from trustee.sft.forms.written_calls import (
    CALL,
    RESULTS,
    read_call_turn,
    read_written,
    split_results,
)
from trustee.tools.arguments import shorten
from trustee.tools.chat import read_chat_message
from trustee.types import Call, Message, Tool

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
    **dict.fromkeys(("tool_response", "function_response", "tool_result"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""What a turn's `from` means; `call` is a message of the assistant that is nothing but calls."""


def read_chat(row: dict[str, Any], turns: list[Any]) -> Conversation:
    """Convert a row's turns, with the tools and the system prompt that stand beside them.

    Raises:
        InputError: naming the turn and what is wrong with it.
    """
    messages = [_read_turn(turn, where=f"messages[{at}]") for at, turn in enumerate(turns)]
    own = row.get("shown_only")
    named = own if isinstance(own, list) else []
    shown = [_is_only_shown(turn, at) or at in named for at, turn in enumerate(turns)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and all(m.role != "system" for m in messages):
        messages.insert(0, Message(role="system", content=system))
        shown.insert(0, False)
    tools, changes = read_tools_of(row), []
    if messages and messages[0].role == "system" and (taken := take_tools(messages[0].content)):
        rest, listed = taken
        tools = tools or listed
        messages[0] = Message(role="system", content=rest)
        changes = ["the list of tools in the system prompt is left to the model's chat template"]
        if not rest:
            messages, shown = messages[1:], shown[1:]
    read, places = _read_texts(messages, shown, tools)
    return Conversation(
        messages=tuple(read), tools=tools, shown_only=tuple(places), changes=tuple(changes)
    )


def _read_texts(
    messages: list[Message], shown: list[bool], tools: tuple[Tool, ...]
) -> tuple[list[Message], list[int]]:
    """Read calls and results inside texts; return the messages, and the places of those shown."""
    read: list[Message] = []
    places: list[int] = []
    calls: tuple[Call, ...] = ()
    for number, (message, only_shown) in enumerate(zip(messages, shown, strict=True)):
        if message.role == "user" and RESULTS.fullmatch(message.content):
            message = msgspec.structs.replace(message, role="tool")
        if message.role == "tool":
            read += split_results(message, calls)
            continue
        if message.role == "assistant":
            message = read_written(message, tools, where=f"message {number}")
            calls = message.calls
            places += [len(read)] if only_shown else []
        read.append(message)
    return read, places


def _read_turn(turn: Any, *, where: str) -> Message:
    """Read a turn of either kind of keys."""
    if not isinstance(turn, dict) or "from" not in turn:
        return read_chat_message(turn, where=where)
    role = ROLES.get(str(turn["from"]).lower().replace("-", "_"))
    value = turn.get("value")
    if role is None or not isinstance(value, str | None):
        raise InputError(
            f"{where}: from must be one of {', '.join(ROLES)} and value a text, got {shorten(turn)}"
        )
    if role == "call" and CALL.search(value or "") is None:
        calls = read_call_turn(value or "", where=where)
        return Message(role="assistant", calls=calls)
    role = "assistant" if role == "call" else role
    return read_chat_message({**turn, "role": role, "content": value}, where=where)


def _is_only_shown(turn: Any, at: int) -> bool:
    """Whether a message is marked as context: OpenAI's `weight`, or `train` of other programs."""
    if not isinstance(turn, dict):
        return False
    weight = turn.get("weight")
    if weight is not None and weight not in (0, 1):
        raise InputError(f"messages[{at}]: weight must be 0 or 1, got {shorten(weight)}")
    return weight == 0 or turn.get("train") is False or turn.get("training") is False
