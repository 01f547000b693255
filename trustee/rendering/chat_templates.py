"""Chat templates that a config gives a model, for models whose own template knows no tools.

A template is one of the package's, by name, or a file. A file is as little trusted as the template
in a model folder: `first_try.py` uses both for the first time in a child with limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from trustee.decoding import decode_text, read_file
from trustee.errors import InputError
from trustee.rendering.call_parser import CallFormat
from trustee.types import Record

FOLDER = Path(__file__).parent / "templates"
TURN_ENDS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral3": "[ARGS]",
    "mistral": "[/INST]",
}
"""The package's templates, and the mark of a vocabulary by which each is known to fit; the first
that fits is proposed."""
MOST_BYTES = 1 << 20
"""Size of the largest template; published ones have a few thousand bytes."""


class ChatTemplate(Record, frozen=True):
    """A template in place of a model's own."""

    name: str
    """What the config calls it."""
    text: str


class ChatStyle(Record, frozen=True):
    """How a model is spoken to, as far as its folder does not say it."""

    thinking: bool = False
    """Passed to the template as `enable_thinking`."""
    cuts_thoughts: bool = False
    """Whether answers are told from thoughts, as where a role of the simulator thinks."""
    template: ChatTemplate | None = None
    """Used in place of the model's own; None: the model's own."""
    call_format: CallFormat | None = None
    """How the template writes calls; None: detected from the template."""


PLAIN = ChatStyle()
"""A model is spoken to as its folder says, and does not think."""


class UnusableTemplate(InputError):
    """A template cannot be used with a model; another one could."""


def is_packaged(name: str) -> bool:
    """Whether a name is that of one of the package's templates."""
    return name in TURN_ENDS


def read_template(name: str | None) -> ChatTemplate | None:
    """Read the template that a config names; None is the model's own.

    Raises:
        InputError: if there is neither a template nor a file of this name.
    """
    if name is None:
        return None
    path = FOLDER / f"{name}.jinja" if is_packaged(name) else Path(name)

    def refuse(why: str) -> InputError:
        return InputError(
            f"model.template {name!r} {why}; give a file, or one of {', '.join(TURN_ENDS)}"
        )

    data = read_file(path, error=refuse, most=MOST_BYTES)
    return ChatTemplate(name=name, text=decode_text(data, error=refuse))


@contextmanager
def naming_a_way_out(template: ChatTemplate | None, marks: Collection[str]) -> Iterator[None]:
    """Add to what is wrong with a template what to set, given the marks of the vocabulary.

    Raises:
        InputError: in place of `UnusableTemplate`.
    """
    try:
        yield
    except UnusableTemplate as error:
        raise InputError(f"{error}{advise(template, marks)}") from None


def advise(template: ChatTemplate | None, marks: Collection[str]) -> str:
    """Return what to set where a template cannot be used."""
    fitting = [name for name, mark in TURN_ENDS.items() if mark in marks]
    if template is not None:
        fitting = [name for name in fitting if name != template.name]
        other = f'"{fitting[0]}", which fits its vocabulary' if fitting else "another file"
        return (
            f' (model.template = "{template.name}"); set model.template to {other}, or to none '
            "for the model's own"
        )
    if not fitting:
        names = ", ".join(TURN_ENDS)
        return f"; set model.template to a template with tools: a file, or one of {names}"
    return f'; set model.template = "{fitting[0]}", or a file, for a template with tools'
