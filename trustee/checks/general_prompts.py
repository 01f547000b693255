"""General prompts that have nothing to do with tools: what a policy should not forget.

They and their answers were written for this program, in 25 languages. A prompt has no system
message, so it is the plainest that a model can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.types import Record

FILE = Path(__file__).parent / "general_prompts.json"


class GeneralPrompt(Record, frozen=True):
    """One question and a good answer to it."""

    kind: str
    """What is asked for, such as a fact, code or a letter."""
    language: str
    """Language of the question, as in ISO 639-1."""
    prompt: str
    answer: str
    """One of many good answers, written by a person; its likelihood is compared."""


@cache
def read_general_prompts() -> tuple[GeneralPrompt, ...]:
    """Return all general prompts of the package."""
    return decode_json(
        read_file(FILE, error=InputError), tuple[GeneralPrompt, ...], error=InputError
    )


def choose_few(prompts: Sequence[GeneralPrompt], count: int) -> tuple[GeneralPrompt, ...]:
    """Return some of the prompts at equal distances, so that languages and kinds are mixed."""
    count = min(count, len(prompts))
    return tuple(prompts[place * len(prompts) // count] for place in range(count))
