"""Rewriting the schemas of a document as JSON Schema, each once and with its references kept.

A reference becomes `#/$defs/NAME`. What NAME stands for is rewritten when it is asked for, so a
schema that thousands of operations share is read once, and one that cannot be read spoils only
the operations that use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from trustee.tools.arguments import shorten
from trustee.tools.files.notices import Notices
from trustee.tools.files.openapi.pointers import Document, Unreadable
from trustee.tools.files.rules import Schema
from trustee.tools.mending import allow_null, read_number
from trustee.tools.patterns import compile_pattern

TRUE = (True, "true")
FALSE = (False, "false")
"""Existing documents write flags as text too."""
DEFINITIONS = "#/$defs/"

_COPIED = frozenset(
    (
        *("default", "enum", "const", "format", "uniqueItems", "dependentRequired"),
        *("contentEncoding", "contentMediaType"),
    )
)
_NUMERIC = re.compile(
    "multipleOf|minimum|maximum|exclusiveMinimum|exclusiveMaximum|minLength|maxLength"
    "|minItems|maxItems|minProperties|maxProperties|minContains|maxContains"
)
"""Together with `_COPIED`, the keywords with the same meaning in OpenAPI and JSON Schema."""
_OF_ONE = frozenset(("not", "if", "then", "else", "contains", "propertyNames"))
_OPEN = frozenset(("additionalProperties", "unevaluatedProperties", "unevaluatedItems"))
_OF_MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_OF_NAMED = frozenset(("properties", "dependentSchemas"))
_ANNOTATIONS = frozenset(
    (
        *("title", "example", "examples", "externalDocs", "xml", "discriminator", "deprecated"),
        *("readOnly", "writeOnly", "nullable", "$comment", "$schema", "$id", "$anchor", "$defs"),
        *("definitions", "required", "$ref", "contentSchema", "$vocabulary", "id"),
        # A parameter of Swagger 2 is its own schema.
        *("in", "name", "collectionFormat", "allowEmptyValue", "style", "explode"),
    )
)
"""Keywords that allow or forbid no value, or are read elsewhere. Examples and the keys of vendors
would only lengthen prompts."""
_SCHEMA_KEYS = frozenset(
    (
        "type",
        "properties",
        "items",
        "$ref",
        "enum",
        "allOf",
        "anyOf",
        "oneOf",
        "additionalProperties",
    )
)
"""A key with an object that holds one of these looks like a schema."""
_MOST_PARTS = 1_000
"""Parts of an object that are looked at for members that are only for answers."""
_BESIDE_REFERENCE = frozenset(("description", "default", "nullable", "x-nullable"))
"""Keywords that count beside a reference in documents before 3.1."""


class Definitions:
    """The schemas of a document that references lead to, rewritten as JSON Schema."""

    def __init__(self, document: Document, *, notices: Notices) -> None:
        """Begin with none of them read."""
        self.document = document
        self.notices = notices
        version = document.root.get("openapi")
        self.siblings = isinstance(version, str) and not version.startswith("3.0")
        """Whether keywords beside a reference count."""
        self._names: dict[tuple[str, int], str] = {}
        """By reference, and the schema around it in which it was found, the name."""
        self._sources: dict[str, tuple[Any, Sequence[Any]]] = {}
        self._numbers: dict[str, int] = {}
        self._read: dict[str, Schema | Unreadable] = {}

    def read(self, name: str) -> Schema:
        """Return the schema of a name.

        Raises:
            Unreadable: if it cannot be read.
        """
        if name not in self._read:
            node, inside = self._sources[name]
            try:
                self._read[name] = self.rewrite(node, where=name, inside=inside)
            except Unreadable as error:
                self._read[name] = error
        found = self._read[name]
        if isinstance(found, Unreadable):
            raise found
        return found

    def rewrite(
        self,
        node: Any,
        *,
        where: str,
        inside: Sequence[Any] = (),
        hidden: frozenset[str] = frozenset(),
    ) -> Schema:
        """Return a schema of the document as JSON Schema.

        Args:
            node: the schema.
            where: its place, for notices.
            inside: the schemas around it that have definitions of their own.
            hidden: members that other parts of the same object have for answers alone.

        Raises:
            Unreadable: if it, or a schema inside it, is not a schema.
        """
        if isinstance(node, bool):
            return {} if node else {"not": {}}
        if not isinstance(node, dict):
            raise Unreadable(f"a schema must be an object, got {shorten(node)}")
        if "$defs" in node or "definitions" in node:
            inside = (*inside, node)
        if not isinstance(node.get("$ref"), str):
            return self._rewrite_plain(node, where=where, inside=inside, hidden=hidden)
        found = {"$ref": DEFINITIONS + self._name(node["$ref"], inside)}
        beside = {
            key: value
            for key, value in node.items()
            if key != "$ref" and (self.siblings or key in _BESIDE_REFERENCE)
        }
        self._note_unread(
            {key: value for key, value in node.items() if key not in beside and key in _OF_NAMED},
            where,
        )
        nullable = beside.pop("nullable", beside.pop("x-nullable", None)) in TRUE
        if beside:
            found |= self._rewrite_plain(beside, where=where, inside=inside, hidden=hidden)
        return {"anyOf": [found, {"type": "null"}]} if nullable else found

    def _name(self, reference: str, inside: Sequence[Any]) -> str:
        """Return the name for what a reference leads to."""
        seen: list[str] = []
        while True:
            if reference in seen:
                raise Unreadable(f'the $ref "{reference}" leads back to itself')
            seen.append(reference)
            node, inside = self.document.look_up(reference, inside)
            if not isinstance(node, dict) or node.keys() != {"$ref"}:
                break
            reference = node["$ref"]
            if not isinstance(reference, str):
                raise Unreadable(f"a $ref must be a string, got {shorten(reference)}")
        key = reference, id(node)
        if key not in self._names:
            name = self._new_name(reference)
            self._names[key] = name
            self._sources[name] = node, inside
        return self._names[key]

    def _new_name(self, reference: str) -> str:
        """Return a name of plain characters for a reference, by its last part."""
        last = re.sub(r"[^A-Za-z0-9_.-]+", "_", reference.rpartition("/")[2])[-60:].strip("_")
        if last.isdecimal() or not last:
            last = f"schema_{last}".strip("_")
        name = last
        while name in self._sources:
            self._numbers[last] = self._numbers.get(last, 1) + 1
            name = f"{last}_{self._numbers[last]}"
        return name

    def is_read_only(self, node: object) -> bool:
        """Return whether a property, or what it refers to, is only for answers."""
        if isinstance(node, dict) and isinstance(node.get("$ref"), str) and "readOnly" not in node:
            try:
                node = self.document.follow(node)
            except Unreadable:
                return False
        return isinstance(node, dict) and node.get("readOnly") in TRUE

    def _read_only_names(self, node: Any, inside: Sequence[Any]) -> frozenset[str]:
        """Return the members that an object, in all its parts, has only for answers."""
        hidden: set[str] = set()
        shown: set[str] = set()
        seen: set[int] = set()
        waiting = [node]
        while waiting and len(seen) < _MOST_PARTS:
            try:
                part = self.document.follow(waiting.pop(), inside)
                offered = self.document.follow(part.get("properties") or {})
            except Unreadable:
                continue
            if id(part) in seen:
                continue
            seen.add(id(part))
            for name, inner in offered.items():
                (hidden if self.is_read_only(inner) else shown).add(name)
            if isinstance(part.get("allOf"), list):
                waiting += part["allOf"]
        return frozenset(hidden - shown)

    def _rewrite_plain(
        self, node: Schema, *, where: str, inside: Sequence[Any], hidden: frozenset[str]
    ) -> Schema:
        """Rewrite the keywords of a schema that is not a reference."""
        if "required" in node or "allOf" in node:
            hidden |= self._read_only_names(node, inside)

        def inner(value: Any) -> Schema:
            return self.rewrite(value, where=where, inside=inside)

        def composed(value: Any) -> Schema:
            return self.rewrite(value, where=where, inside=inside, hidden=hidden)

        result: Schema = {}
        for key, value in node.items():
            rewrite = composed if key == "allOf" else inner
            written = self._rewrite_keyword(key, value, inner=rewrite, where=where)
            if written is not None:
                result |= written
        if isinstance(node.get("required"), list):
            result["required"] = [
                name for name in node["required"] if isinstance(name, str) and name not in hidden
            ]
        nullable = node.get("nullable", node.get("x-nullable")) in TRUE
        return _simplify(_modernise(self._drop_bad_patterns(result, where)), nullable=nullable)

    def _rewrite_keyword(
        self, key: str, value: Any, *, inner: Callable[[Any], Schema], where: str
    ) -> Schema | None:
        """Return what a keyword becomes; None if it is dropped."""
        if key == "description":
            return {key: value.strip()} if isinstance(value, str) and value.strip() else None
        if key in _COPIED:
            return {key: value}
        if _NUMERIC.fullmatch(key):
            return {key: read_number(value)}
        if key == "type":
            return {key: "string" if value == "file" else value}
        if key in _OF_ONE:
            return {key: inner(value)}
        if key in _OPEN and isinstance(value, bool | dict):
            return {key: value if isinstance(value, bool) else inner(value)}
        if key in _OF_MANY and isinstance(value, list):
            return {key: [inner(part) for part in value]}
        if key in _OF_NAMED or key == "patternProperties":
            return {key: self._rewrite_named(key, value, inner=inner)}
        return self._rewrite_older(key, value, inner=inner, where=where)

    def _rewrite_older(
        self, key: str, value: Any, *, inner: Callable[[Any], Schema], where: str
    ) -> Schema | None:
        """Rewrite keywords that have other names, or other meanings, in older drafts."""
        match key, value:
            case "items", list():
                return {"prefixItems": [inner(part) for part in value]} if value else None
            case "items", _:
                return {key: value if isinstance(value, bool) else inner(value)}
            case "additionalItems", bool() | dict():
                return {key: value if isinstance(value, bool) else inner(value)}
            case "dependencies", dict():
                named = {k: v for k, v in value.items() if isinstance(v, list)}
                schemas = {k: inner(v) for k, v in value.items() if not isinstance(v, list)}
                return {"dependentRequired": named, "dependentSchemas": schemas}
            case "pattern", _:
                return {key: value}
        self._note_unread({key: value}, where)
        return None

    def _rewrite_named(self, key: str, value: Any, *, inner: Callable[[Any], Schema]) -> Schema:
        offered = self.document.follow(value or {})
        return {
            name: inner(part)
            for name, part in offered.items()
            if key != "properties" or not self.is_read_only(part)
        }

    def _note_unread(self, keys: Schema, where: str) -> None:
        for key, value in keys.items():
            if key in _ANNOTATIONS or key.startswith("x-"):
                continue
            parts = value if isinstance(value, list) else [value]
            if any(isinstance(part, dict) and _SCHEMA_KEYS & part.keys() for part in parts):
                self.notices.add("schemas under a key that is not read", f'{where} "{key}"')

    def _drop_bad_patterns(self, schema: Schema, where: str) -> Schema:
        """Drop patterns that are not valid here, together with what depends on them."""
        if "pattern" in schema and not _compiles(schema["pattern"]):
            self.notices.add("patterns that are not valid here, dropped", where)
            del schema["pattern"]
        if not all(map(_compiles, schema.get("patternProperties", ()))):
            self.notices.add("patterns that are not valid here, dropped", where)
            for key in ("patternProperties", "additionalProperties", "unevaluatedProperties"):
                schema.pop(key, None)
        return schema


def _simplify(schema: Schema, *, nullable: bool) -> Schema:
    """Take a single schema out of its `allOf`, and allow null."""
    match schema:
        case {"allOf": [dict() as only], **rest} if rest.keys() <= {"description", "default"}:
            if only.keys() <= {"$ref", "description", "default"}:
                schema = only | rest
    return allow_null(schema) if nullable else schema


def _modernise(schema: Schema) -> Schema:
    """Replace older spellings: numbers as text, boolean exclusive bounds, lists of items."""
    if schema.get("type") in ("integer", "number") and "default" in schema:
        schema["default"] = read_number(schema["default"])
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(flag), bool) and schema.pop(flag) and bound in schema:
            schema[flag] = schema.pop(bound)
    rest = schema.pop("additionalItems", None)
    if rest is not None and "prefixItems" in schema and "items" not in schema:
        schema["items"] = rest
    for key in ("dependentRequired", "dependentSchemas"):
        if schema.get(key) == {}:
            del schema[key]
    return schema


def _compiles(pattern: object) -> bool:
    try:
        return isinstance(pattern, str) and compile_pattern(pattern) is not None
    except ValueError:
        return False
