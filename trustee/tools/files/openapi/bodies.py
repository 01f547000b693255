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
        self.holders = 0
        self._kept: list[Any] = []
        """Parts that are made here, which must live as long as their identity counts."""

    def collect(self, body: Any) -> None:
        """Collect the members of a body and of all that it is composed of.

        Raises:
            _Mixed: if they cannot be told.
        """
        seen: set[int] = set()
        waiting: list[tuple[Any, Sequence[Any]]] = [(body, ())]
        while waiting:
            node, inside = waiting.pop()
            part = self.definitions.document.follow(node, inside)
            if "$defs" in part or "definitions" in part:
                inside = (*inside, part)
            composed: list[Any] = []
            if part is not node and self.definitions.siblings:
                composed.append({key: value for key, value in node.items() if key != "$ref"})
            # A part that is met again, also by itself, adds nothing.
            if id(part) not in seen:
                # Subtypes of the body, which are named elsewhere, have more members.
                if node is body and "discriminator" in part:
                    raise _Mixed
                seen.add(id(part))
                self._collect_part(part, inside)
                composed += _listed(part.get("allOf", []))
            self._kept += composed
            waiting += [(inner, inside) for inner in reversed(composed)]

    def _collect_part(self, part: Schema, inside: Sequence[Any]) -> None:
        """Collect the members that a part itself names."""
        idle = _idle_keys(part)
        if _NEVER_FLAT & part.keys() - idle or "object" not in _listed(part.get("type", "object")):
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

    def _add(self, name: str, node: Any, inside: Sequence[Any]) -> None:
        if self.definitions.is_read_only(node):
            self.read_only.add(name)
            return
        schema = self.definitions.rewrite(node, where=self.where, inside=inside)
        known = self.properties.get(name)
        if known and known != schema:
            schema = {"allOf": [known, schema]} if schema else known
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
