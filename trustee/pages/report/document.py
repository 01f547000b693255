"""Making HTML of text: whatever is put into an element is escaped, and there is no other way in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Letters that a document cannot hold."""
VOID = frozenset({"meta", "br", "hr", "col"})
"""Elements that have no end."""


class Markup(NamedTuple):
    """HTML that was made here."""

    html: str


Child = str | Markup | None | Iterable["Child"]
"""What an element may hold; None is left out."""


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        tag: its name.
        children: texts, which are escaped, and elements.
        attributes: `class_` is the class, `_` in other names is `-`; True has no value, None and
            False are left out.
    """
    told = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{_escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in VOID:
        return Markup(f"<{tag}{told}>")
    return Markup(f"<{tag}{told}>{''.join(_write(children))}</{tag}>")


def style(sheet: str) -> Markup:
    """Return a style sheet of this package as an element.

    Raises:
        ValueError: if it could end its own element.
    """
    if "</" in sheet:
        raise ValueError("a style sheet must not hold an end tag")
    return Markup(f"<style>{sheet}</style>")


def _name(name: str) -> str:
    return "class" if name == "class_" else name.rstrip("_").replace("_", "-")


def _escape(text: str) -> str:
    return escape(_UNSEEN.sub("\ufffd", text), quote=True)


def _write(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child.html
        elif isinstance(child, str):
            yield _escape(child)
        else:
            yield from _write(child)
