"""Playing the user with the roles turned round: the model answers what the assistant has said.

A small model that reads a dialogue and is told to write the user's next message falls into the
assistant's part: it offers help and asks back. So the dialogue is given to it as its own, in which
the assistant's words are addressed to it. The conversation only grows, so the engine's prefix cache
holds all of it but the last message. Code keeps count of what the user has asked for.
Measured in `bench/real_roles.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.grammar import object_grammar, text_grammar
from trustee.environments.simulated.quoting import quote
from trustee.tools.values import render_json
from trustee.types import Message

GREETING = "Hello, how can I help you?"
"""The assistant's first words, which the user's query answers."""


def asks_something(text: str) -> bool:
    """Whether a message of the assistant ends with a question, so that the user answers it."""
    return any(mark in text[-160:] for mark in "?\uff1f\u061f")


def user_schema(*, may_end: bool) -> str:
    """Return the grammar of the user's answer; it cannot end while a wish is still unsaid."""
    done = {"type": "boolean"} if may_end else {"const": False}
    return render_json(object_grammar({"message": text_grammar(600), "done": done}))


def turn_round(
    prompt_set: str, messages: Sequence[Message], *, persona: str, intent: str, ask_for: str = ""
) -> tuple[Message, ...]:
    """Return a dialogue as the user sees it, with the user's own messages as its earlier answers.

    Args:
        prompt_set: set of the user's prompt.
        messages: the dialogue; calls and results are left out.
        persona: who the user is.
        intent: what the user wants.
        ask_for: what the next message asks for, chosen by code; empty leaves it to the model.
    """
    heard = [
        Message(
            role="system", content=fill_prompt(prompt_set, "user", persona=persona, intent=intent)
        ),
        Message(role="user", content=GREETING),
    ]
    for message in messages:
        if not message.content.strip():
            continue
        if message.role == "user":
            said = render_json({"message": message.content, "done": False})
            heard.append(Message(role="assistant", content=said))
        elif message.role == "assistant":
            heard.append(Message(role="user", content=quote(message.content)))
    if ask_for:
        last = heard.pop()
        note = f"{last.content}\n\n(Now ask for the next thing that you want: {ask_for}.)"
        heard.append(msgspec.structs.replace(last, content=note))
    return tuple(heard)
