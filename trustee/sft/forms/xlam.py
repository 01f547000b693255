"""Rows of a query, the tools, and the calls that answer it, as xLAM's data has them."""

from __future__ import annotations

from typing import Any

from trustee.errors import InputError
from trustee.sft.forms.turns import Conversation, as_list, read_tools_of
from trustee.tools.arguments import shorten
from trustee.tools.chat import read_chat_call
from trustee.types import Message


def read_xlam(row: dict[str, Any]) -> Conversation:
    """Convert a row: the user asks, and the assistant makes all calls in one message.

    Raises:
        InputError: if there is no query or no call, or a call cannot be read.
    """
    query = row["query"]
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"query must be a text, got {shorten(query)}")
    answers = as_list(row["answers"], where="answers")
    if not answers:
        raise InputError("answers holds no call, so there is nothing to imitate")

    def error(reason: str) -> InputError:
        return InputError(f"answers: {reason}")

    calls = tuple(read_chat_call(answer, error=error) for answer in answers)
    said = Message(role="assistant", calls=calls)
    return Conversation(
        messages=(Message(role="user", content=query), said), tools=read_tools_of(row)
    )
