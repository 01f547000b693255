"""The packaged model: what its folder holds, that lessons are what it meets, and that it learnt.

The one idea: lessons are written by one piece of code and episodes are rendered by another, so the
model plays as it was taught only if both give the same ids.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from trustee.engine.model_files import TINY
from trustee.rendering.call_parser import CallFormat
from trustee.rendering.renderer import Renderer
from trustee.tiny.build import MODEL, SPECIALS, VOCABULARY, Pen
from trustee.tiny.lessons import CARELESS, Lesson, teach
from trustee.types import BadCall, Message, ToolCall

STOP = SPECIALS.index("<|im_end|>")
LIMIT = 10 * 1000 * 1000


@pytest.fixture(scope="module")
def pen() -> Pen:
    """Give a pen with the packaged vocabulary."""
    pen = Pen((TINY / "chat_template.jinja").read_text(encoding="utf-8"))
    pen.tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    return pen


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """Give the packaged model's renderer."""
    return Renderer.load(TINY)


def fresh_lessons(role: str, *, episodes: int, malformed: float = 0.03) -> list[Lesson]:
    """Give lessons of a role from seeds that the build did not begin with."""
    habits = msgspec.structs.replace(CARELESS, malformed=malformed)
    return [
        lesson
        for seed in range(1_000_000, 1_000_000 + episodes)
        for lesson in teach(random.Random(seed), habits=habits)
        if lesson.role == role
    ]


def turns_of(lesson: Lesson) -> Iterator[tuple[Message, tuple[Message, ...]]]:
    """Give each message of the model with the replies that follow it."""
    positions = [i for i, message in enumerate(lesson.messages) if message.role == "assistant"]
    for place, following in zip(positions, [*positions[1:], len(lesson.messages)], strict=True):
        yield lesson.messages[place], lesson.messages[place + 1 : following]


def opening_of(lesson: Lesson) -> tuple[Message, ...]:
    """Give what stands before the model's first message."""
    roles = [message.role for message in lesson.messages]
    return lesson.messages[: roles.index("assistant")]


def test_folder_is_small() -> None:
    """The package carries it, so it stays below ten megabytes."""
    assert LIMIT >= sum(path.stat().st_size for path in TINY.rglob("*"))


def test_folder_holds_no_pickle() -> None:
    """Weights are safetensors; the rest is text."""
    assert TINY == MODEL
    assert [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] == sorted(path.name for path in TINY.iterdir())


def test_weights_are_bfloat16() -> None:
    """Every tensor has the type that the config says; tied weights are stored once."""
    with safe_open(str(TINY / "model.safetensors"), framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  # no mapping
    assert {torch.bfloat16} == {tensor.dtype for tensor in tensors}
    assert 3_476_224 == sum(tensor.numel() for tensor in tensors)


def test_config_fits_the_vocabulary(pen: Pen) -> None:
    """The model has a row for every id of the tokenizer, and the marks have the first ids."""
    config = json.loads((TINY / "config.json").read_bytes())
    assert VOCABULARY == config["vocab_size"]
    assert pen.tokenizer.get_vocab_size() <= VOCABULARY
    assert list(range(len(SPECIALS))) == [pen.tokenizer.token_to_id(mark) for mark in SPECIALS]
    generation = json.loads((TINY / "generation_config.json").read_bytes())
    assert (STOP, STOP) == (config["eos_token_id"], generation["eos_token_id"])


def test_renderer_accepts_it(renderer: Renderer) -> None:
    """The model can be trained token by token, and writes calls as Hermes models do."""
    renderer.self_test()
    assert ((STOP,), CallFormat.HERMES) == (renderer.stop_ids, renderer.call_format)


@pytest.mark.parametrize("role", ["writer", "user", "tool", "judge", "policy"])
def test_lessons_are_what_the_model_meets(pen: Pen, renderer: Renderer, role: str) -> None:
    """A lesson's ids are those of the same conversation played turn by turn."""
    lessons = fresh_lessons(role, episodes=50, malformed=0.3)
    assert len(lessons) >= 40
    for lesson in lessons:
        taught = iter([text for text, learnt in pen.pieces(lesson) if learnt])
        ids = [*renderer.open(opening_of(lesson), lesson.tools)]
        mask = [False] * len(ids)
        turns = list(turns_of(lesson))
        for number, (said, replies) in enumerate(turns):
            completion = pen.tokenizer.encode(next(taught)).ids
            assert completion[-1] == STOP
            ids += completion
            mask += [True] * len(completion)
            if number + 1 < len(turns):
                between = renderer.extend(completion, replies, calls=said.calls)
                ids += between
                mask += [False] * len(between)
        assert (ids, mask) == pen.write(lesson)


def test_taught_calls_are_read_back(pen: Pen, renderer: Renderer) -> None:
    """What the policy is taught to write is read as what it meant, flaws included."""
    kinds = set()
    for lesson in fresh_lessons("policy", episodes=60, malformed=0.5):
        taught = [text for text, learnt in pen.pieces(lesson) if learnt]
        for text, (said, _) in zip(taught, turns_of(lesson), strict=True):
            ids = pen.tokenizer.encode(text).ids
            read = renderer.parse(ids, call_prefix="c", tools=lesson.tools)
            assert said.content == read.content
            assert [form(call) for call in said.calls] == [form(call) for call in read.calls]
            kinds |= {type(call) for call in said.calls}
    assert {ToolCall, BadCall} == kinds


def form(call: ToolCall | BadCall) -> Any:
    """Give a call without its id and reason."""
    return call.text if isinstance(call, BadCall) else (call.name, call.arguments)


@pytest.fixture(scope="module")
def model() -> Any:
    """Load the packaged model."""
    return Qwen3ForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["tool", "user"])
def test_model_has_learnt_its_roles(pen: Pen, model: Any, role: str) -> None:
    """On fresh lessons the answers of tool and user cost less than half a nat a token."""
    lessons = fresh_lessons(role, episodes=30)[:20]
    assert 20 == len(lessons)
    loss, count = 0.0, 0
    for lesson in lessons:
        ids, mask = pen.write(lesson)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        learnt = torch.tensor(mask[1:])
        losses = torch.nn.functional.cross_entropy(
            logits[learnt], torch.tensor(ids[1:])[learnt], reduction="sum"
        )
        loss += losses.item()
        count += sum(mask)
    assert loss / count < 0.5


def test_vocabulary_holds_every_text(pen: Pen) -> None:
    """The packaged tokenizer writes every text and reads it back, also what no lesson holds."""
    for text in ("Zwölf 東京 🙂", "lamp attic level 12", '{"a": [1, -2.5e3]}\n\n\tx'):
        assert text == pen.tokenizer.decode(pen.tokenizer.encode(text).ids)
