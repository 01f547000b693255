"""The prompts on which an export is tested."""

from __future__ import annotations

import pytest

from golden_errors import ErrorCheck
from trustee.engine.model_files import TINY
from trustee.errors import RunError
from trustee.export.conversations import demand_ids, demand_texts, make_conversations
from trustee.rendering.chat_templates import PLAIN
from trustee.rendering.renderer import Renderer
from trustee.rendering.tokenizer import FolderTokenizer
from trustee.types import Message, Task, Tool

TASK = Task(
    id="a",
    messages=(Message(role="user", content="read the lamp"),),
    tools=(
        Tool(name="read_lamp", description="", parameters={"type": "object", "properties": {}}),
    ),
    difficulty=1,
)


def test_texts_are_those_of_episodes() -> None:
    """The opening is what an episode begins with; every second one goes on with a call."""
    first, second = make_conversations([TASK, TASK], FolderTokenizer(TINY, PLAIN))
    renderer = Renderer.load(TINY)
    assert first.text == renderer.decode(renderer.open(TASK.messages, TASK.tools))
    assert second.text.startswith(first.text)
    assert '<tool_call>{"name": "read_lamp"' in second.text


def test_one_character_is_enough(check_error: ErrorCheck) -> None:
    """Texts that differ are refused, with the place."""
    (one,) = make_conversations([TASK], FolderTokenizer(TINY, PLAIN))
    demand_texts([one], [one.text], what="m")
    with pytest.raises(RunError) as caught:
        demand_texts([one], [one.text[:-1]], what="m")
    check_error(caught, "m", len(one.text) - 1)


def test_one_token_is_enough(check_error: ErrorCheck) -> None:
    """Other tokens of the same text are refused, with the place."""
    demand_ids([(1, 2)], [(1, 2)], what="m")
    with pytest.raises(RunError) as caught:
        demand_ids([(1, 2, 3)], [(1, 4)], what="m")
    check_error(caught, "m", "at token 1")
