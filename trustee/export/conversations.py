"""The conversations that an exported model is tested on, in OpenAI form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.errors import RunError
from trustee.rendering.tokenizer import FolderTokenizer
from trustee.types import Record, Task

CALL_ID = "call_1"
"""Id of the call in every conversation with one."""


class Conversation(Record, frozen=True):
    """Messages and tools, and their text as it was in training, ready for an answer."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    text: str


def make_conversations(
    tasks: Sequence[Task], tokenizer: FolderTokenizer
) -> tuple[Conversation, ...]:
    """Return the opening of each task; each second one goes on with a call and its answer."""
    found = []
    for number, task in enumerate(tasks):
        messages: list[dict[str, Any]] = [
            {"role": message.role, "content": message.content} for message in task.messages
        ]
        if number % 2 and task.tools:
            name = task.tools[0].name
            function = {"name": name, "arguments": {"key": "two words", "count": 2}}
            call = {"id": CALL_ID, "type": "function", "function": function}
            messages += [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "done", "tool_call_id": CALL_ID, "name": name},
            ]
        tools = [tool.schema for tool in task.tools]
        text = tokenizer.apply(messages, tools, add_generation_prompt=True)
        found.append(Conversation(messages=tuple(messages), tools=tuple(tools), text=text))
    return tuple(found)


def demand_texts(
    conversations: Sequence[Conversation], rendered: Sequence[str], *, what: str
) -> None:
    """Refuse an export whose prompts are not those of the training, to the character.

    Raises:
        RunError: showing the first place where they differ.
    """
    for conversation, text in zip(conversations, rendered, strict=True):
        expected = conversation.text
        if text == expected:
            continue
        pairs = zip(f"{text}\0", f"{expected}\0", strict=False)
        at = next(i for i, (given, own) in enumerate(pairs) if given != own)
        raise RunError(
            f"{what} renders a prompt otherwise than the training did: at character {at} it has "
            f"{text[at : at + 40]!r} instead of {expected[at : at + 40]!r}; it was deleted"
        )


def demand_ids(
    prompts: Sequence[Sequence[int]], cut: Sequence[Sequence[int]], *, what: str
) -> None:
    """Refuse an export whose prompts become other tokens than in the training.

    Raises:
        RunError: naming the first place where they differ.
    """
    for own, given in zip(prompts, cut, strict=True):
        if list(own) != list(given):
            pairs = zip([*own, -1], [*given, -1], strict=False)
            at = next(i for i, (one, other) in enumerate(pairs) if one != other)
            raise RunError(
                f"{what} cuts a prompt into other tokens than the training did: at token {at} it "
                f"has {list(given[at : at + 4])} instead of {list(own[at : at + 4])}; it was "
                "deleted"
            )
