"""Playing the user with the roles turned round: the model answers what the assistant has said.

A small model that reads a dialogue and is told to write the user's next message falls into the
assistant's part: it offers help and asks back. So the dialogue is given to it as its own, in which
the assistant's words are addressed to it. The conversation only grows, so the engine's prefix cache
holds all of it but the last message. Code keeps count of what the user has asked for, and says it
itself where the model does not. Measured in `bench/real_roles.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from trustee.environments.prompts import fill_prompt
from trustee.environments.simulated.grammar import object_grammar, text_grammar
from trustee.environments.simulated.quoting import quote
from trustee.environments.simulated.spoken import Sayable, contains_value, in_words
from trustee.tools.values import render_json
from trustee.types import Message, Record

GREETING = "Hello, how can I help you?"
"""The assistant's first words, which the user's query answers."""
QUESTION = 240
"""Characters at a message's end in which a question is looked for."""
QUESTION_MARKS = "?\uff1f\u061f"
NO_VALUE = re.compile(
    r"\b(?:yes|no|not|any|either|preference|mind|matter|sure|thank|thanks|ok|okay)\b", re.IGNORECASE
)
"""An answer without a value of the goal has one of these words: to a question whether to go on, or
about something of which the goal says nothing."""

CLOSING = re.compile(r"\b(?:else|more|further|other)\b", re.IGNORECASE)
"""Words of a question whether anything more is needed: the only one that may end a dialogue."""
Named = tuple[str, Sayable]
"""A value with the name of its argument."""


class UserWishes(Record, frozen=True):
    """What the user of an episode wants."""

    persona: str
    intent: str
    wishes: tuple[str, ...]
    """What each expected call is to do, in words."""
    values: tuple[tuple[Named, ...], ...]
    """The values that each wish has to say."""


class UserTurn(Record, frozen=True):
    """What the user is asked for, and what its message must have."""

    heard: tuple[Message, ...]
    """The dialogue as the user sees it."""
    schema: str
    says_wishes: bool = False
    """Whether the message says the wishes that were left for later."""
    must_say: tuple[Sayable, ...] = ()
    """Values that the message must say, all of them."""
    may_say: tuple[Sayable, ...] = ()
    """Values of which the answer to a question says one."""
    fallback: str = ""
    """What code says in the user's place if the model never gives a usable message."""


def plan_turn(
    prompt_set: str, messages: Sequence[Message], wanted: UserWishes, *, told: int
) -> UserTurn:
    """Choose what the user's next message is for: to answer, to ask for the next thing, or to end.

    Args:
        prompt_set: set of the user's prompt.
        messages: the dialogue, which ends with the assistant's text.
        wanted: what the user wants.
        told: number of wishes that the user has said.
    """
    heard = turn_round(prompt_set, messages, persona=wanted.persona, intent=wanted.intent)
    text, unsaid = messages[-1].content, wanted.wishes[told:]
    asks_for_more = CLOSING.search(text[-QUESTION:]) is not None
    if asks_something(text) and not (unsaid and asks_for_more):
        return _plan_answer(heard, text, wanted, told=told)
    if unsaid:
        goal = ", and to ".join(unsaid)
        return UserTurn(
            heard=_add_note(
                heard, f"You are the customer. Ask the assistant for this now: {goal}."
            ),
            schema=user_schema(may_end=False),
            says_wishes=True,
            must_say=tuple(value for values in wanted.values[told:] for _, value in values),
            fallback=f"I would also like to {goal}.",
        )
    return UserTurn(heard=heard, schema=user_schema(may_end=True))


def _plan_answer(heard: Sequence[Message], text: str, wanted: UserWishes, *, told: int) -> UserTurn:
    """Plan the answer to a question: where it names arguments, their values are the answer."""
    known = [pair for values in wanted.values[:told] for pair in values]
    question = text[-QUESTION:]
    asked = [(name, value) for name, value in known if _names(question, name)]
    if asked:
        answer = ", ".join(f"{in_words(name)} {value}" for name, value in asked)
        note = f"You are the customer. Tell the assistant this: {answer}."
        fallback = f"{answer[0].upper()}{answer[1:]}."
    else:
        goal = ", and to ".join(wanted.wishes[:told]) or wanted.intent
        note = f"You are the customer. What you want: {goal}. Answer briefly."
        fallback = f"I would like to {goal}." if wanted.wishes else ""
    closing = CLOSING.search(question) is not None and told >= len(wanted.wishes)
    return UserTurn(
        heard=_add_note(heard, note),
        schema=user_schema(may_end=closing),
        must_say=tuple(value for _, value in asked),
        may_say=tuple(value for _, value in known),
        fallback=fallback,
    )


def _names(question: str, argument: str) -> bool:
    """Whether a question has all words of an argument's name."""
    said = set(re.findall(r"\w+", question.casefold()))
    words = in_words(argument).casefold().split()
    return bool(words) and all({word, f"{word}s"} & said for word in words)


def asks_something(text: str) -> bool:
    """Whether a message of the assistant ends with a question, so that the user answers it."""
    return any(mark in text[-QUESTION:] for mark in QUESTION_MARKS)


def user_schema(*, may_end: bool) -> str:
    """Return the grammar of the user's answer; it cannot end while a wish is still unsaid."""
    done = {"type": "boolean"} if may_end else {"const": False}
    return render_json(object_grammar({"message": text_grammar(600), "done": done}))


def turn_round(
    prompt_set: str, messages: Sequence[Message], *, persona: str, intent: str
) -> tuple[Message, ...]:
    """Return a dialogue as the user sees it, with the user's own messages as its earlier answers.

    Calls and their results are left out: a user sees texts alone.
    """
    rules = fill_prompt(prompt_set, "user", persona=persona, intent=intent)
    heard = [Message(role="system", content=rules), Message(role="user", content=GREETING)]
    for message in messages:
        if not message.content.strip():
            continue
        if message.role == "user":
            said = render_json({"message": message.content, "done": False})
            heard.append(Message(role="assistant", content=said))
        elif message.role == "assistant":
            heard.append(Message(role="user", content=quote(message.content)))
    return tuple(heard)


def _add_note(heard: Sequence[Message], note: str) -> tuple[Message, ...]:
    last = heard[-1]
    return (*heard[:-1], msgspec.structs.replace(last, content=f"{last.content}\n\n({note})"))


def check_turn(message: str, turn: UserTurn) -> str | None:
    """Return why a message does not do what the turn is for; None if it does."""
    missing = [value for value in turn.must_say if not contains_value(message, value)]
    if missing:
        return f"the user leaves out {missing}"
    if not turn.may_say or any(contains_value(message, value) for value in turn.may_say):
        return None
    if message.rstrip().endswith(tuple(QUESTION_MARKS)):
        return "the user answers a question with a question"
    return None if NO_VALUE.search(message) else "the user does not answer the question"
