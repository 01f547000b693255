"""Prompt files: one role, one file, filled in one pass.

A prompt set is a folder `trustee/prompts/<set>/`: `simulated` is for models of 4B parameters and
more, `tiny` for the built-in model, `published` has the inputs of TRUSTEE's own code, for its world
alone. Slots are written `{{name}}`. Inserted text is never expanded again, so it may contain any
braces.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from trustee.errors import PromptError

SLOT = re.compile(r"\{\{(\w+)\}\}")


@cache
def read_prompt(prompt_set: str, name: str) -> str:
    """Return the text of one prompt file of the package.

    Raises:
        PromptError: if there is no such file.
    """
    path = files("trustee") / "prompts" / prompt_set / f"{name}.md"
    if not path.is_file():
        sets = sorted(entry.name for entry in (files("trustee") / "prompts").iterdir())
        raise PromptError(f"no prompt {name!r} in set {prompt_set!r}; the sets are {sets}")
    return path.read_text(encoding="utf-8").strip("\n")


def fill_prompt(prompt_set: str, name: str, *, without: Collection[str] = (), **values: str) -> str:
    """Return a prompt with its slots filled; values that its file does not use are ignored.

    A paragraph with a slot of `without` is left out.

    Raises:
        PromptError: if a slot of the file has no value.
    """
    text = read_prompt(prompt_set, name)
    if without:
        paragraphs = text.split("\n\n")
        text = "\n\n".join(p for p in paragraphs if not set(SLOT.findall(p)) & set(without))
    missing = sorted(set(SLOT.findall(text)) - set(values))
    if missing:
        raise PromptError(f"prompt {prompt_set}/{name}.md has slots {missing} that nothing fills")
    return SLOT.sub(lambda slot: values[slot.group(1)], text)


def hash_prompts(prompt_set: str) -> dict[str, str]:
    """Return the sha256 of each prompt file of a set, for the record of a run."""
    folder = files("trustee") / "prompts" / prompt_set
    return {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
    }
