"""The marks around a thought, as a chat template writes them.

An answer under a grammar begins behind its thought, so the end of a thought must be a single id at
which sampling can stop. The text around the marks, such as Qwen3's line breaks, is the template's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trustee.rendering.chat_templates import UnusableTemplate

BEGIN, END = "<think>", "</think>"
THOUGHT, ANSWER = "Let me see.", "It is there."
"""What the template is given to write, to see what it writes around it."""
AFTER = "\n\n"
"""Text between the end of a thought and the answer where a template begins thoughts but does not
write them."""


class ThoughtMarks(NamedTuple):
    """Ids around a thought that follows a prompt."""

    opening: tuple[int, ...]
    """Ids that begin the thought; empty where the prompt itself does."""
    end: int
    """Id of the mark that ends it."""
    after: tuple[int, ...]
    """Ids between that mark and the answer."""


def opens_thought(generation_prompt: str) -> bool:
    """Whether a prompt begins a thought, so that whatever follows is one."""
    return generation_prompt.rstrip().endswith(BEGIN)


def find_marks(
    written: str, *, generation_prompt: str, encode: Callable[[str], Sequence[int]]
) -> ThoughtMarks:
    """Return the marks around a thought.

    Args:
        written: the template's text of a conversation whose last message has the thought `THOUGHT`
            and the content `ANSWER`.
        generation_prompt: the template's, with thinking on.
        encode: the tokenizer's.

    Raises:
        UnusableTemplate: if the template writes no thoughts, or their end is not a single id.
    """
    opened = opens_thought(generation_prompt)
    around = re.escape(BEGIN) + r"(\s*)" + re.escape(THOUGHT) + r"\s*" + re.escape(END) + r"(\s*)"
    found = re.search(around + re.escape(ANSWER), written)
    if found is None and not opened:
        raise UnusableTemplate(
            f"this model's chat template writes no thoughts in {BEGIN} and {END}, so the end of a "
            "thought cannot be told; set simulator.<role>.thinking to false"
        )
    end = encode(END)
    if len(end) != 1:
        raise UnusableTemplate(
            f"this model's tokenizer has no id for {END} but {len(end)} of them, so the end of a "
            "thought cannot be told; set simulator.<role>.thinking to false"
        )
    begun, after = found.groups() if found else ("", AFTER)
    opening = () if opened else tuple(encode(f"{BEGIN}{begun}"))
    return ThoughtMarks(opening=opening, end=end[0], after=tuple(encode(after)))
