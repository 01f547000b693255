"""Finding what a reference of a document leads to, by JSON pointer.

The steps are taken here and not by a library, because a step of a stranger's document may lead
into a text or a number, and each failure has to say which reference it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from trustee.tools.arguments import shorten


class Unreadable(Exception):
    """A part of the document cannot be read; its operation then says where."""


class Document:
    """A document, in which references are followed."""

    def __init__(self, root: dict[str, Any]) -> None:
        """Keep the document."""
        self.root = root

    def follow(self, node: Any, inside: Sequence[Any] = ()) -> dict[str, Any]:
        """Follow references and return the object they lead to.

        Raises:
            Unreadable: if they lead nowhere, or to no object.
        """
        seen: set[str] = set()
        while isinstance(node, dict) and isinstance(node.get("$ref"), str):
            if node["$ref"] in seen:
                raise Unreadable(f'the $ref "{node["$ref"]}" leads back to itself')
            seen.add(node["$ref"])
            node = self.look_up(node["$ref"], inside)[0]
        if not isinstance(node, dict):
            raise Unreadable(f"must be an object, got {shorten(node)}")
        return node

    def look_up(self, reference: str, inside: Sequence[Any] = ()) -> tuple[Any, Sequence[Any]]:
        """Return what a reference leads to, and which of the schemas around it count there too.

        Args:
            reference: such as `#/components/schemas/Pet`.
            inside: schemas with definitions of their own around the reference, from the outermost.
                What the document does not have is looked for there, because generators copy
                schemas into documents together with references from their own root.

        Raises:
            Unreadable: if it leads nowhere, or out of the document.
        """
        if not reference.startswith("#/"):
            raise Unreadable(
                f'the $ref "{reference}" points outside the document; references must begin with'
                " #/, so bundle the document first"
            )
        for count, root in ((0, self.root), *reversed(list(enumerate(inside, start=1)))):
            try:
                return _walk(root, reference), inside[:count]
            except LookupError:
                pass
        raise Unreadable(f'the $ref "{reference}" leads nowhere in the document')


def _walk(node: Any, reference: str) -> Any:
    for part in reference[2:].split("/"):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node[key]
        elif isinstance(node, list) and key.isascii() and key.isdecimal():
            node = node[int(key)] if len(key) < 10 else node[len(node)]
        else:
            raise LookupError(key)
    return node
