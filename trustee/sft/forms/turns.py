"""What every form has in common: a list of turns, and the conversation that they become."""

from __future__ import annotations

from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.chat import read_offered_tools
from trustee.types import Message, Record, Tool

LISTS = ("messages", "conversations", "conversation")
"""Columns that hold a conversation, the first that is there."""


class Conversation(Record, frozen=True):
    """A conversation and its tools, and what was changed to get them."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    shown_only: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()


def find_turns(row: dict[str, Any]) -> list[Any] | None:
    """Return the turns of a row; None if no column holds any.

    Raises:
        InputError: if the column is not a list.
    """
    for key in LISTS:
        if row.get(key) is not None:
            return as_list(row[key], where=key)
    return None


def as_list(value: Any, *, where: str) -> list[Any]:
    """Return a list that may be given as its JSON text.

    Raises:
        InputError: naming `where`.
    """
    if isinstance(value, str):
        value = decode_json(value, error=lambda why: InputError(f"{where}: not JSON ({why})"))
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list, got {shorten(value)}")
    return value


def read_tools_of(row: dict[str, Any]) -> tuple[Tool, ...]:
    """Read the tools that a row declares, by today's name or the older one.

    Raises:
        InputError: naming the tool and what is wrong with it.
    """
    key = "tools" if row.get("tools") else "functions"
    return read_offered_tools(row.get(key), where=key)
