"""Lists of tools: where the entries of a JSON document are, whatever lies around them.

A list, an object with a list under a usual key, the answer of a server, rows of a data set with
their own tools, one tool, or a tree of categories and toolsets whose leaves are lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.entries import SCHEMAS, is_entry, read_marks, unread_schemas
from trustee.tools.files.notices import Notices
from trustee.tools.files.rules import Found, check_effect, guess_effect
from trustee.types import Tool

UNREAD = "schemas under a key that is not read"
_LISTS = (
    *("tools", "functions", "function_declarations", "functionDeclarations", "function"),
    *("available_tools", "result", "toolConfig"),
)
"""Keys under which the tools of a document lie."""
_MOST_NESTED = 8
"""Levels of categories."""


def read_document(document: Any, *, source: str, notices: Notices) -> Iterator[Found]:
    """Yield the tools of a document.

    Raises:
        InputError: if what should be a list is not one; strict notices also refuse a bad entry.
    """
    if isinstance(document, Mapping) and not is_entry(document):
        key = next((key for key in _LISTS if key in document), "")
        listed = document.get(key)
        if key and not isinstance(listed, list | str) and not _is_tree(listed):
            raise InputError(f"{source}: {key} must be a list of tools, got {shorten(listed)}")
    elif isinstance(document, Mapping):
        document = [document]
    yield from _Reader(source, notices).read(document, key="", path=(), nested=0)


def read_line(entry: Any, number: int, *, source: str, notices: Notices) -> Iterator[Found]:
    """Yield the tools of one line of a file: one tool, or a row that has a list of its own."""
    return _Reader(source, notices).read_entry(entry, f"line {number}", path=(), nested=0)


class _Reader:
    """Walks a document down to its tools."""

    def __init__(self, source: str, notices: Notices) -> None:
        self._source = source
        self._notices = notices

    def read(self, node: Any, *, key: str, path: tuple[str, ...], nested: int) -> Iterator[Found]:
        """Yield the tools in a part of the document that lies below these categories."""
        if isinstance(node, str) and node.lstrip().startswith(("{", "[")):
            node = decode_json(
                node, error=lambda why: InputError(f"{self._source}: {key}: not JSON ({why})")
            )
        if isinstance(node, list):
            for index, entry in enumerate(node):
                place = f"{key}[{index}]"
                yield from self.read_entry(entry, place, path=path, nested=nested)
        elif isinstance(node, Mapping) and (inner := self._find_list(node)):
            name = node.get("name")
            yield from self.read(
                node[inner],
                key=f"{key}.{inner}".lstrip("."),
                path=(*path, name) if isinstance(name, str) else path,
                nested=nested + 1,
            )
        elif isinstance(node, Mapping) and _is_tree(node) and nested < _MOST_NESTED:
            for name, part in node.items():
                yield from self._read_branch(name, part, key, path=path, nested=nested)
        else:
            with self._notices.leaving_out():
                read_marks(node, where=f"{self._source}: {key or '[0]'}")

    def _read_branch(
        self, name: str, part: Any, key: str, *, path: tuple[str, ...], nested: int
    ) -> Iterator[Found]:
        """Read a category, or a tool whose name is the key it lies under."""
        place = f"{key}.{name}".lstrip(".")
        if isinstance(part, Mapping) and not is_entry(part) and any(k in part for k in SCHEMAS):
            part = [{"name": name, **part}]
            yield from self.read_entry(part[0], place, path=path, nested=nested)
        elif is_entry(part) and not self._find_list(part):
            yield from self.read_entry(part, place, path=path, nested=nested)
        else:
            yield from self.read(part, key=place, path=(*path, name), nested=nested + 1)

    def _find_list(self, node: Mapping[str, Any]) -> str:
        for key in _LISTS:
            if isinstance(node.get(key), list | str) or (
                isinstance(node.get(key), Mapping) and not is_entry(node)
            ):
                return key
        return ""

    def read_entry(
        self, entry: Any, place: str, *, path: tuple[str, ...], nested: int
    ) -> Iterator[Found]:
        """Yield a tool, or those of an entry that holds a list of its own."""
        holds = isinstance(entry, Mapping) and bool(self._find_list(entry))
        holds = holds and not any(key in entry for key in SCHEMAS)
        if isinstance(entry, list) or holds or (not is_entry(entry) and _is_tree(entry)):
            if nested < _MOST_NESTED:
                yield from self.read(entry, key=place, path=path, nested=nested + 1)
            return
        if isinstance(entry, str) and entry.lstrip().startswith("{"):
            entry = decode_json(entry, error=InputError)
        where = f"{self._source}: {place}"
        with self._notices.leaving_out():
            yield where, read_tool(entry, where=where, path=path)
            for unread in unread_schemas(entry):
                self._notices.add(UNREAD, f'{place} "{unread}"')


def read_tool(entry: Any, *, where: str, path: tuple[str, ...] = ()) -> Tool:
    """Read one tool; what it does not say of category and toolset is told by where it lies.

    `path` has the names that it lies under: the category, then those of the toolset.

    Raises:
        InputError: naming the key and what is wrong.
    """
    marks = read_marks(entry, where=where)
    parameters, effect = marks["parameters"], marks["effect"]
    return Tool(
        name=marks["name"],
        description=marks["description"],
        parameters={"type": "object", "properties": {}} if parameters is None else parameters,
        effect=guess_effect(marks["name"]) if effect is None else check_effect(effect, where=where),
        category=marks["category"] or "".join(path[:1]),
        toolset=marks["toolset"] or "/".join(path[1:]),
    )


def _is_tree(node: object) -> bool:
    """Return whether all parts of an object may be categories or named tools."""
    if not isinstance(node, Mapping) or not node:
        return False
    return all(isinstance(part, list | Mapping) for part in node.values())
