"""The model card, `README.md`: what was trained on what, how well, and how it is used.

It says nothing that the run folder does not show, and no path of the machine that it was written
on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trustee.decoding import decode_text, read_file
from trustee.errors import InputError
from trustee.types import Record

CARD = "README.md"
MOST_BYTES = 1 << 20
"""Size of the largest card of a base that is read."""
LICENCE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*$", re.MULTILINE)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Measured(Record, frozen=True):
    """A held-out figure, as a text with its interval."""

    what: str
    before: str
    after: str


class CardFacts(Record, frozen=True):
    """What a card says."""

    title: str
    base: str
    """Name of the base: its hub id, or the last part of its folder."""
    licence: str = ""
    """The base's, if its own card says it."""
    world: str = ""
    """What it was trained in, in one sentence."""
    settings: tuple[tuple[str, str], ...] = ()
    """Names and values of what decided the training."""
    measured: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()
    """Further sentences on the figures."""
    files: tuple[tuple[str, str], ...] = ()
    """Each exported file and how it was tested."""
    uses: tuple[tuple[str, str], ...] = ()
    """Ways to use it: a heading, and the lines of code."""
    is_adapter: bool = False
    """Whether the adapter alone is published."""


def read_licence(base: Path) -> str:
    """Return the licence that the card of a base names; empty if it has none."""
    path = base / CARD
    if not path.is_file():
        return ""
    try:
        text = decode_text(read_file(path, error=InputError, most=MOST_BYTES), error=InputError)
    except InputError:
        return ""
    if not text.startswith("---\n"):
        return ""
    found = LICENCE.search(text.partition("\n---")[0])
    return found[1] if found else ""


def write_card(facts: CardFacts) -> str:
    """Return the card as Markdown, with the metadata that the hub reads in front."""
    parts = [
        _front(facts),
        f"# {plain(facts.title)}",
        f"A LoRA adapter{'' if facts.is_adapter else ', merged into its base'}, trained with "
        f"[trustee](https://arxiv.org/abs/2604.17739) on `{plain(facts.base)}` to call tools.",
    ]
    if facts.world:
        parts.append(f"Trained in: {plain(facts.world)}")
    if facts.settings:
        parts += ["## Training", _table(("setting", "value"), facts.settings)]
    parts.append("## Held-out success")
    if facts.measured:
        rows = [(one.what, one.before, one.after) for one in facts.measured]
        parts.append(_table(("", "before", "after"), rows))
    else:
        parts.append("Not measured.")
    parts += [plain(note) for note in facts.notes]
    if facts.files:
        parts += ["## Files", _table(("file", "test"), facts.files)]
    if facts.uses:
        parts.append("## Use")
        for heading, code in facts.uses:
            parts.append(f"{plain(heading)}\n\n```\n{code}\n```")
    parts += ["## Licence", _licence(facts)]
    return "\n\n".join(parts) + "\n"


def _front(facts: CardFacts) -> str:
    lines = ["---"]
    if HUB_ID.fullmatch(facts.base):
        lines.append(f"base_model: {facts.base}")
    if facts.licence:
        lines.append(f"license: {facts.licence}")
    library = "peft" if facts.is_adapter else "transformers"
    lines += [f"library_name: {library}", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {tag}" for tag in ("trustee", "tool-calling", "lora")]
    return "\n".join([*lines, "---"])


def _licence(facts: CardFacts) -> str:
    if facts.licence:
        return f"That of the base, `{facts.licence}`, as its card names it."
    return "That of the base, whose card was not at hand; look there before you pass this on."


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(plain(cell) for cell in line)} |" for line in lines)


def plain(text: str) -> str:
    """Return a text that is neither markup nor a cell's end: one line, `|` and `<` escaped."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
