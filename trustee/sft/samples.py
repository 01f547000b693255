"""Demonstrations as samples: exactly the ids that an episode would have.

So imitation and reinforcement learning train on the same text. An episode of this model keeps its
ids. Whatever would be read back differently once it is rendered is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trustee.algorithm.batch import to_sample
from trustee.errors import InputError
from trustee.rendering.renderer import Renderer
from trustee.sft.demonstrations import (
    Demonstration,
    Example,
    ExampleFile,
    MendedRow,
    RefusedRow,
    show_refused_rows,
)
from trustee.types import Call, Message, Record, Sample, ToolCall


class SftDataset(Record, frozen=True):
    """The samples of a file that can be imitated, in file order."""

    samples: tuple[Sample, ...]
    task_ids: tuple[str, ...]
    """Task id of each sample."""
    refused: tuple[RefusedRow, ...]
    mended: tuple[MendedRow, ...] = ()


def make_dataset(reading: ExampleFile, renderer: Renderer, *, context: int) -> SftDataset:
    """Turn rows into samples of at most `context` ids.

    Raises:
        InputError: if no row can be imitated.
    """
    samples: list[Sample] = []
    names: list[str] = []
    refused = list(reading.refused)
    for row in reading.rows:
        try:
            sample = as_sample(row.example, renderer)
            if len(sample.ids) > context:
                raise InputError(
                    f"it is {len(sample.ids)} ids long and engine.context is {context}"
                )
        except InputError as error:
            refused.append(RefusedRow(row=row.row, reason=str(error)))
        else:
            samples.append(sample)
            names.append(row.example.task_id)
    refused.sort(key=lambda one: one.row)
    if not samples:
        raise InputError(f"no demonstration can be imitated: {show_refused_rows(refused)}")
    unused = {one.row for one in refused}
    return SftDataset(
        samples=tuple(samples),
        task_ids=tuple(names),
        refused=tuple(refused),
        mended=tuple(one for one in reading.mended if one.row not in unused),
    )


def as_sample(example: Example, renderer: Renderer) -> Sample:
    """Return an example as a sample of the ids that the engine would see and sample.

    Raises:
        InputError: if the ids do not match the example's messages.
    """
    if isinstance(example, Demonstration):
        return render_demonstration(example, renderer)
    if not example.turns:
        raise InputError("the episode has no turn")
    if any(turn.anew for turn in example.turns[1:]):
        raise InputError("the episode has several branches, and a demonstration is one")
    for number, turn in enumerate(example.turns):
        read = renderer.parse(turn.completion.ids, call_prefix="")
        if outline(read) != outline(turn.message):
            raise InputError(
                f"the ids of turn {number} do not say what its message says; "
                "the episode was played by another model"
            )
    sample = to_sample(example, advantage=1.0)
    return msgspec.structs.replace(sample, version=0)


def render_demonstration(example: Demonstration, renderer: Renderer) -> Sample:
    """Render a demonstration like an episode, and check that parsing gives the same messages.

    Raises:
        InputError: if it cannot be rendered, or parsing gives different messages.
    """
    opening, spoken = split_messages(example.messages)
    ids = list(renderer.open(opening, example.tools))
    mask = [False] * len(ids)
    at = len(opening)
    for number, (said, replies) in enumerate(spoken):
        imitated = at not in example.shown_only
        completion = write_message(said, renderer, where=f"assistant message {number}")
        read = renderer.parse(completion, call_prefix="", tools=example.tools)
        if imitated and not says_the_same(read, said, renderer):
            raise InputError(explain_difference(read, said, renderer, number=number))
        ids += completion
        mask += [imitated] * len(completion)
        at += 1 + len(replies)
        if number + 1 < len(spoken):
            between = renderer.extend(completion, replies, calls=said.calls)
            ids += between
            mask += [False] * len(between)
    if not any(mask):
        raise InputError("every message of the assistant is only shown; nothing is left to imitate")
    return Sample(
        ids=tuple(ids),
        mask=tuple(mask),
        logprobs=(0.0,) * len(ids),
        advantage=1.0,
        version=0,
        trajectory_id=example.task_id,
    )


Exchange = tuple[Message, tuple[Message, ...]]
"""A policy message and the world's replies."""


def split_messages(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[Exchange]]:
    """Return the opening of a conversation, and its exchanges.

    Raises:
        InputError: if it has no message before the assistant's first, or none of the assistant.
    """
    positions = [at for at, message in enumerate(messages) if message.role == "assistant"]
    if not positions:
        raise InputError("it has no message of role assistant")
    if positions[0] == 0:
        raise InputError("its first message is the assistant's; somebody must ask first")
    ends = [*positions[1:], len(messages)]
    spoken = [
        (messages[at], tuple(messages[at + 1 : end]))
        for at, end in zip(positions, ends, strict=True)
    ]
    return tuple(messages[: positions[0]]), spoken


def write_message(message: Message, renderer: Renderer, *, where: str = "it") -> tuple[int, ...]:
    """Return the ids that the model would sample for a message, with its stop id last.

    Raises:
        InputError: if the chat template does not write the message; with a thought in it, the error
            says what to set.
    """
    try:
        return renderer.complete(message)
    except InputError as error:
        if message.thinking and not renderer.thinking:
            raise InputError(f"{where} {THOUGHT_UNWANTED}") from error
        raise


THOUGHT_UNWANTED = (
    "has a thought, and model.thinking is off; set model.thinking = true for a model that thinks, "
    "or take the thoughts out of the file"
)
THOUGHT_LOST = (
    "has a thought, which this model's chat template leaves out; take the thoughts out of the file"
)


def explain_difference(read: Message, said: Message, renderer: Renderer, *, number: int) -> str:
    """Return why a message cannot be imitated that is read back differently."""
    where = f"assistant message {number}"
    if said.thinking.strip() and not read.thinking.strip():
        return f"{where} {THOUGHT_LOST if renderer.thinking else THOUGHT_UNWANTED}"
    return (
        f"{where} is read as {describe_message(read)} once it is rendered, and says "
        f"{describe_message(said)}"
    )


def says_the_same(read: Message, said: Message, renderer: Renderer) -> bool:
    """Whether two messages are the same to a model, which sees text as its tokenizer spells it."""
    return plain(read, spell=renderer.normalise) == plain(said, spell=renderer.normalise)


def plain(
    message: Message, *, spell: Callable[[str], str] = str
) -> tuple[str, str, tuple[Call | tuple[str, dict[str, Any]], ...]]:
    """Return a message's text, thought and calls, without call ids and outer whitespace."""
    calls = tuple(
        (spell(call.name), respell(call.arguments, spell))
        if isinstance(call, ToolCall)
        else msgspec.structs.replace(call, id="", reason="", text=spell(call.text))
        for call in message.calls
    )
    return spell(message.content.strip()), spell(message.thinking.strip()), calls


def respell(value: Any, spell: Callable[[str], str]) -> Any:
    """Return a JSON value with every text in it spelt anew."""
    match value:
        case str():
            return spell(value)
        case list():
            return [respell(one, spell) for one in value]
        case dict():
            return {spell(key): respell(one, spell) for key, one in value.items()}
        case _:
            return value


def outline(message: Message) -> tuple[str, str, list[str]]:
    """Return a message's text, thought and call names.

    Arguments are left out, because some call formats take their types from the tools.
    """
    content, thinking, _ = plain(message)
    names = [call.name if isinstance(call, ToolCall) else call.text for call in message.calls]
    return content, thinking, names


def describe_message(message: Message) -> str:
    """Return a message as one line of text."""
    content, thinking, calls = plain(message)
    parts = [f"{name} {value!r}" for name, value in (("text", content), ("thought", thinking))]
    shown = [part for part, value in zip(parts, (content, thinking), strict=True) if value]
    return ", ".join([*shown, *(f"call {call}" for call in calls)]) or "nothing"
