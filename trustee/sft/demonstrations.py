"""Demonstrations of tasks to imitate: reading them, and turning them into samples.

A file has one JSON object per line: a `Demonstration`, or an episode as stored in run folders. Rows
that cannot be imitated are refused with their number and the reason, and the rest is used.

A demonstration is rendered to exactly the ids that an episode would have, so imitation and
reinforcement learning train on the same text. An episode of this model keeps its ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trustee.algorithm.batch import to_sample
from trustee.decoding import BadLine, decode_json, read_json_lines
from trustee.errors import InputError
from trustee.rendering.renderer import Renderer
from trustee.runs.store import EpisodeLine
from trustee.types import Call, Message, Record, Sample, Tool, ToolCall, Trajectory

SHOWN_REFUSALS = 3
"""Maximum number of reasons in an error about a whole file."""


class Demonstration(Record, frozen=True):
    """One conversation; every message of role `assistant` is imitated."""

    task_id: str
    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]
    """All messages that the policy sees and writes, from the first on."""
    notes: dict[str, Any] = {}
    """Information for human readers; the program never reads it."""


Example = Demonstration | Trajectory


class RefusedRow(Record, frozen=True):
    """A row that is not used."""

    row: int
    """Line number in the file, from 1."""
    reason: str


class ExampleRow(Record, frozen=True):
    """A row that was read."""

    row: int
    example: Example


class ExampleFile(Record, frozen=True):
    """The contents of a file."""

    rows: tuple[ExampleRow, ...]
    refused: tuple[RefusedRow, ...]


class SftDataset(Record, frozen=True):
    """The samples of a file that can be imitated, in file order."""

    samples: tuple[Sample, ...]
    task_ids: tuple[str, ...]
    """Task id of each sample."""
    refused: tuple[RefusedRow, ...]


def find_demonstrations(path: Path) -> Path:
    """Return the file to read: the path itself, or the episodes or demonstrations in a folder."""
    if not path.is_dir():
        return path
    collected = path / "demonstrations.jsonl"
    return collected if collected.is_file() else path / "episodes.jsonl"


def read_demonstrations(path: Path) -> ExampleFile:
    """Read every row of a file, or of a run folder.

    Raises:
        InputError: if the file cannot be read, or no row of it can be used.
    """
    file = find_demonstrations(path)
    lines = read_json_lines(
        file,
        msgspec.Raw,
        error=lambda why: InputError(
            f"{file}: {why}; give a JSONL file of demonstrations, or a run folder"
        ),
        unended=True,
    )
    rows: list[ExampleRow] = []
    refused: list[RefusedRow] = []
    for line in lines:
        if isinstance(line, BadLine):
            refused.append(RefusedRow(row=line.number, reason=line.why))
            continue
        try:
            rows.append(ExampleRow(row=line.number, example=read_example(bytes(line.value))))
        except InputError as error:
            refused.append(RefusedRow(row=line.number, reason=str(error)))
    if not rows:
        raise InputError(f"{file} holds nothing that can be imitated: {show_refused_rows(refused)}")
    return ExampleFile(rows=tuple(rows), refused=tuple(refused))


def read_example(line: bytes) -> Example:
    """Read a row that holds a demonstration, a trajectory, or an episode of a run folder.

    Raises:
        InputError: if the row is none of these, or an episode that failed or was not successful.
    """
    fields = decode_json(line, dict[str, msgspec.Raw], error=InputError)
    if "trajectory" in fields:
        trajectory = decode_json(line, EpisodeLine, error=InputError).trajectory
    elif "turns" in fields:
        trajectory = decode_json(line, Trajectory, error=InputError)
    else:
        return decode_json(line, Demonstration, error=InputError)
    if trajectory.failure is not None:
        raise InputError(f"the episode failed because of {trajectory.failure.source}")
    if trajectory.reward <= 0:
        raise InputError(f"the episode's reward is {trajectory.reward:g} and must be above 0")
    return trajectory


def show_refused_rows(refused: Sequence[RefusedRow]) -> str:
    """Return the first reasons as text."""
    if not refused:
        return "it is empty"
    text = "; ".join(f"row {one.row}: {one.reason}" for one in refused[:SHOWN_REFUSALS])
    left = len(refused) - SHOWN_REFUSALS
    return f"{text}; and {left} more" if left > 0 else text


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
    return SftDataset(samples=tuple(samples), task_ids=tuple(names), refused=tuple(refused))


def as_sample(example: Example, renderer: Renderer) -> Sample:
    """Return an example as a sample of the ids that the engine would see and sample.

    Raises:
        InputError: if the ids do not match the example's messages.
    """
    if isinstance(example, Demonstration):
        return render_demonstration(example, renderer)
    if not example.turns:
        raise InputError("the episode has no turn")
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
    for number, (said, replies) in enumerate(spoken):
        completion = write_message(said, renderer)
        read = renderer.parse(completion, call_prefix="", tools=example.tools)
        if plain(read) != plain(said):
            raise InputError(
                f"assistant message {number} is read as {describe_message(read)} once it is "
                f"rendered, and says {describe_message(said)}"
            )
        ids += completion
        mask += [True] * len(completion)
        if number + 1 < len(spoken):
            between = renderer.extend(completion, replies, calls=said.calls)
            ids += between
            mask += [False] * len(between)
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


def write_message(message: Message, renderer: Renderer) -> tuple[int, ...]:
    """Return the ids that the model would sample for a message, with its stop id last.

    Raises:
        InputError: if the chat template does not end the message with a stop id.
    """
    asked = Message(role="user", content=".")
    before = renderer.open((asked,), ())
    whole = renderer.open((asked, message), ())
    after = renderer.extend(renderer.stop_ids[:1], ())
    ids = whole[len(before) : len(whole) - len(after)]
    if (*before, *ids, *after) != whole or not ids or ids[-1] not in renderer.stop_ids:
        raise InputError(
            "the chat template does not write the assistant's message between its own marks: "
            f"{renderer.decode(whole[-len(after) - 40 :])!r}"
        )
    return ids


def plain(message: Message) -> tuple[str, str, tuple[Call | tuple[str, dict[str, Any]], ...]]:
    """Return a message's text, thought and calls, without call ids and outer whitespace."""
    calls = tuple(
        (call.name, call.arguments)
        if isinstance(call, ToolCall)
        else msgspec.structs.replace(call, id="", reason="")
        for call in message.calls
    )
    return message.content.strip(), message.thinking.strip(), calls


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
