"""Taking a request body apart: the members of an object become arguments of their own.

A call has one flat set of arguments. An object whose members can all be named is taken apart,
however it is composed; any other body, such as a choice of objects, stays one argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.tools.files.openapi.schemas import FALSE, Definitions
from trustee.tools.files.rules import Schema
from trustee.types import Record

_NEVER_FLAT = frozenset(
    (
        *("oneOf", "anyOf", "not", "if", "then", "else", "enum", "const", "patternProperties"),
        *("propertyNames", "dependentSchemas", "dependentRequired", "dependencies"),
    )
)
"""Keywords that say more of an object than which members it has."""
_COUNTS = ("minProperties", "maxProperties")
_MOST_PARTS = 1_000
"""Number of schemas of which a body is composed, before it stays one argument."""
DROPPED_CONDITIONS = "conditions on several arguments together, dropped"


class Members(Record, frozen=True):
    """The members of an object that is taken apart."""

    properties: dict[str, Schema]
    required: tuple[str, ...]
    others: Schema | bool = False
    """What members with other names hold; False if there are none."""


class _Mixed(Exception):
    """A body cannot be taken apart."""


class _Collector:
    """Collects the members of an object from the schemas that it is composed of."""

    def __init__(self, definitions: Definitions, *, where: str) -> None:
        self.definitions = definitions
        self.where = where
        self.properties: dict[str, Schema] = {}
        self.required: dict[str, None] = {}
        self.read_only: set[str] = set()
        self.others: list[Any] = []
        self.conditions = False
        self.parts = 0
        self.holders = 0

    def collect(self, node: Any, around: tuple[int, ...] = (), inside: Sequence[Any] = ()) -> None:
        """Collect the members of a schema and of all that it is composed of.

        Args:
            node: the schema.
            around: the schemas that it is a part of, to see a circle.
            inside: those that have definitions of their own.

        Raises:
            _Mixed: if they cannot be told.
        """
        self.parts += 1
        part = self.definitions.document.follow(node, inside)
        if "$defs" in part or "definitions" in part:
            inside = (*inside, part)
        idle = _idle_keys(part)
        if id(part) in around or self.parts > _MOST_PARTS or _NEVER_FLAT & part.keys() - idle:
            raise _Mixed
        # Subtypes of the body, which are named elsewhere, have more members.
        if "object" not in _listed(part.get("type", "object")) or (
            not around and "discriminator" in part
        ):
            raise _Mixed
        self.holders += bool({"properties", "additionalProperties"} & part.keys())
        self.conditions |= bool(idle) or any(key in part for key in _COUNTS)
        for name, inner in self.definitions.document.follow(part.get("properties") or {}).items():
            self._add(name, inner, inside)
        self.required |= dict.fromkeys(
            name for name in _listed(part.get("required", [])) if isinstance(name, str)
        )
        if part.get("additionalProperties", False) not in FALSE:
            self.others.append(part["additionalProperties"])
        composed = _listed(part.get("allOf", []))
        if part is not node and self.definitions.siblings:
            composed.append({key: value for key, value in node.items() if key != "$ref"})
        for inner in composed:
            self.collect(inner, (*around, id(part)), inside)

    def _add(self, name: str, node: Any, inside: Sequence[Any]) -> None:
        if self.definitions.is_read_only(node):
            self.read_only.add(name)
            return
        schema = self.definitions.rewrite(node, where=self.where, inside=inside)
        known = self.properties.get(name)
        if known is not None and known != schema:
            schema = known if schema == {} else {"allOf": [known, schema]} if known else schema
        self.properties[name] = schema


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _idle_keys(part: dict[str, Any]) -> set[str]:
    """Return the choices in which each alternative only requires some members."""
    return {
        key
        for key in ("oneOf", "anyOf")
        if isinstance(part.get(key), list)
        and all(
            isinstance(choice, dict) and choice.keys() <= {"required", "description", "title"}
            for choice in part[key]
        )
    }


def take_apart(node: Any, definitions: Definitions, *, where: str) -> Members | None:
    """Return the members of a body; None if it must stay one argument.

    Raises:
        Unreadable: if a schema of the body cannot be read.
    """
    collector = _Collector(definitions, where=where)
    try:
        collector.collect(node)
    except _Mixed:
        return None
    others = collector.others
    if collector.holders > 1 and any(isinstance(schema, dict) and schema for schema in others):
        # Members that another part names would have to fit what this one says of all others.
        return None
    properties, read_only = collector.properties, collector.read_only
    # What one part requires and no part describes can hold anything.
    required = [name for name in collector.required if name not in read_only - properties.keys()]
    properties |= {name: {} for name in required if name not in properties}
    if not properties and not read_only:
        return None
    if collector.conditions:
        definitions.notices.add(DROPPED_CONDITIONS, where)
    return Members(
        properties=properties,
        required=tuple(required),
        others=_write_others(others, definitions, where=where),
    )


def _write_others(others: list[Any], definitions: Definitions, *, where: str) -> Schema | bool:
    described = [schema for schema in others if isinstance(schema, dict) and schema]
    if described:
        return definitions.rewrite(described[0], where=where)
    return bool(others)
