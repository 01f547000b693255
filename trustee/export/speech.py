"""How an exported model is spoken to: the template, marks and stop ids it was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.tokenizer import FolderTokenizer
from trustee.types import Record

THINKING = "enable_thinking"
"""Variable by which templates ask whether the model thinks; outside this program it is not set, or
set to true."""


class Speech(Record, frozen=True):
    """What has to travel with the weights."""

    template: str
    """The chat template; whether the model thinks is fixed in it."""
    stop_ids: tuple[int, ...]
    """Ids that end a message; the mark that the template ends a turn with comes first."""


def read_speech(tokenizer: FolderTokenizer, style: ChatStyle, *, turn_end: str) -> Speech:
    """Return the speech of a model as it was trained.

    Args:
        tokenizer: the base's tokenizer with the style of the training.
        style: that style.
        turn_end: mark with which the template ends a message of the assistant.
    """
    ends = tokenizer.encode(turn_end)
    first = [id for id in tokenizer.stop_ids if [id] == ends]
    others = [id for id in tokenizer.stop_ids if id not in first]
    return Speech(
        template=fix_marks(
            fix_thinking(tokenizer.template, thinking=style.thinking), tokenizer.named_marks
        ),
        stop_ids=(*first, *others),
    )


def fix_thinking(template: str, *, thinking: bool) -> str:
    """Return a template that no longer asks whether the model thinks."""
    if not re.search(rf"\b{THINKING}\b", template):
        return template
    return f"{{%- set {THINKING} = {'true' if thinking else 'false'} %}}{template}"


def fix_marks(template: str, marks: Mapping[str, str]) -> str:
    """Return a template that no longer asks which mark begins or ends a text.

    llama.cpp takes token 11 for the beginning where a model has none, and templates write it.
    """
    fixed = [
        f"{{%- set {name} = {msgspec.json.encode(marks.get(name, '')).decode()} %}}"
        for name in ("bos_token", "eos_token")
        if re.search(rf"\b{name}\b", template)
    ]
    return "".join((*fixed, template))
