"""Reading Python modules: each public function becomes a tool.

The module is parsed and never executed, so hints, defaults and docstrings are read from its source,
and whatever they refer to must be defined in the same module.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from docstring_parser import ParseError, google

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.files.rules import (
    Found,
    Schema,
    add_property,
    first_paragraph,
    guess_effect,
    object_schema,
)
from trustee.tools.mending import allow_null
from trustee.types import Tool

_ALLOWED_HINTS = (
    "str, int, float, bool, None, Any, date, time, datetime, UUID, Path, Decimal, list, set,"
    " tuple, dict, Optional, Union, Literal, Annotated, and classes and aliases of the same module"
)
_PLAIN_HINTS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string"},
    "Decimal": {"type": "number"},
    "Path": {"type": "string"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "datetime": {"type": "string", "format": "date-time"},
    "UUID": {"type": "string", "format": "uuid"},
    "Any": {},
    "object": {},
}
_LISTS = frozenset(["list", "List", "Sequence", "MutableSequence", "Iterable", "Collection"])
_SETS = frozenset(["set", "Set", "frozenset", "FrozenSet", "AbstractSet", "MutableSet"])
_DICTS = frozenset(["dict", "Dict", "Mapping", "MutableMapping"])
_WRAPPERS = frozenset(["Required", "NotRequired", "ReadOnly", "Final"])
_CONSTRAINTS = {
    "description": "description",
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
}
"""Keywords of `Field` and `Meta` calls, as pydantic and msgspec write them."""


def read_functions(text: str, *, source: str) -> Iterator[Found]:
    """Yield a tool for each public function of a module.

    Raises:
        InputError: if the text is not Python, or a function cannot be read; names its line.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        raise InputError(
            f"{source}: neither JSON, YAML nor Python,{f' line {line}:' if line else ''}"
            f" {error.args[0]}; give a JSON, JSONL, YAML or Python file"
        ) from error
    names: dict[str, ast.ClassDef | ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            names[node.target.id] = node.value
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            where = f"{source}: line {node.lineno} {node.name}"
            yield where, _read_function(node, _HintReader(names, where))


class _HintReader(NamedTuple):
    """Turns type hints into schemas."""

    names: Mapping[str, ast.ClassDef | ast.expr]
    """Classes and type aliases that the module defines."""
    where: str
    """Location of the hints, for messages."""
    inside: tuple[str, ...] = ()
    """Names of the definitions being read, to detect cycles."""

    def enter(self, name: str) -> _HintReader:
        return self._replace(inside=(*self.inside, name))

    def read(self, node: ast.expr) -> Schema:
        """Turn a type hint into a schema; a class within itself becomes `{}`."""
        schema: Schema | None = None
        match node:
            case ast.Constant(value=None):
                schema = {"type": "null"}
            case ast.Constant(value=str(text)):
                try:
                    return self.read(ast.parse(text, mode="eval").body)
                except SyntaxError:
                    raise self._refuse(node) from None
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                schema = _union([self.read(left), self.read(right)])
            case ast.Name(id=name) if name in self.names:
                schema = self._read_definition(name)
            case ast.Name() | ast.Attribute():
                name = _last_name(node)
                plain = _PLAIN_HINTS.get(name)
                schema = self._read_generic(name, []) if plain is None else dict(plain)
            case ast.Subscript(value=base, slice=index):
                items = index.elts if isinstance(index, ast.Tuple) else [index]
                schema = self._read_generic(_last_name(base), items)
            case ast.Call(func=function, args=[_, inner]) if _last_name(function) == "NewType":
                schema = self.read(inner)
        if schema is None:
            raise self._refuse(node)
        return schema

    def _refuse(self, node: ast.expr) -> InputError:
        return InputError(
            f"{self.where}: the type hint {ast.unparse(node)} is not supported;"
            f" use one of {_ALLOWED_HINTS}"
        )

    def _read_definition(self, name: str) -> Schema:
        if name in self.inside:
            return {}
        definition = self.names[name]
        if isinstance(definition, ast.ClassDef):
            return self.enter(name).read_class(definition)
        return self.enter(name).read(definition)

    def _read_generic(self, name: str, items: list[ast.expr]) -> Schema | None:
        """Turn a generic type and its arguments into a schema; None if it is unknown."""
        first = self.read(items[0]) if items and name != "Literal" else {}
        if name in _LISTS or name in _SETS:
            unique = {"uniqueItems": True} if name in _SETS else {}
            return {"type": "array", **({"items": first} if first else {}), **unique}
        if name in ("tuple", "Tuple"):
            return self._read_tuple(items, first)
        if name in _DICTS:
            values = self.read(items[1]) if len(items) == 2 else {}
            return {"type": "object", **({"additionalProperties": values} if values else {})}
        if not items:
            return None
        if name == "Literal":
            return _enumeration(items)
        if name == "Annotated":
            return _annotate(first, items[1:])
        if name == "Optional":
            return _union([first, {"type": "null"}])
        if name == "Union":
            return _union([first, *(self.read(item) for item in items[1:])])
        return first if name in _WRAPPERS else None

    def _read_tuple(self, items: list[ast.expr], first: Schema) -> Schema:
        if not items:
            return {"type": "array"}
        if isinstance(items[-1], ast.Constant) and items[-1].value is ...:
            return {"type": "array", "items": first}
        return {
            "type": "array",
            "prefixItems": [first, *(self.read(item) for item in items[1:])],
            "minItems": len(items),
            "maxItems": len(items),
        }

    def read_class(self, node: ast.ClassDef) -> Schema:
        """Turn an enum, dataclass, typed dict or model of the module into a schema."""
        bases = [_last_name(base) for base in node.bases]
        if any(base.endswith("Enum") for base in bases):
            return self._read_enum(node)
        schema = object_schema()
        for base in bases:
            parent = self.names.get(base)
            if isinstance(parent, ast.ClassDef) and base not in self.inside:
                inherited = self.enter(base).read_class(parent)
                schema["properties"] |= inherited.get("properties", {})
                schema["required"] += inherited.get("required", [])
        total = not any(
            keyword.arg == "total" and ast.unparse(keyword.value) == "False"
            for keyword in node.keywords
        )
        for item in node.body:
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            hint = item.annotation
            marker = _last_name(hint.value) if isinstance(hint, ast.Subscript) else ""
            if marker == "ClassVar":
                continue
            add_property(
                schema,
                item.target.id,
                schema=_with_default(self.read(hint), item.value),
                needed=marker == "Required"
                or (total and marker != "NotRequired" and _is_needed(item.value)),
            )
        return schema

    def _read_enum(self, node: ast.ClassDef) -> Schema:
        members = [item.value for item in node.body if isinstance(item, ast.Assign)]
        enumeration = _enumeration(members)
        if not members or enumeration is None:
            raise InputError(
                f"{self.where}: the members of enum {node.name} must be strings or numbers"
            )
        return enumeration


def _read_function(function: ast.FunctionDef | ast.AsyncFunctionDef, hints: _HintReader) -> Tool:
    """Turn a function into a tool, using its hints, defaults and docstring."""
    try:
        docstring = google.parse(ast.get_docstring(function, clean=False) or "")
    except ParseError as error:
        raise InputError(
            f"{hints.where}: the docstring is not in Google style ({error}); sections such as Args:"
            " consist of indented lines of name: description"
        ) from error
    described = {
        entry.arg_name: {"description": " ".join((entry.description or "").split())}
        for entry in docstring.params
    }
    arguments = function.args
    if arguments.vararg is not None:
        raise InputError(
            f"{hints.where}: *{arguments.vararg.arg} cannot be passed by name; use a list parameter"
        )
    listed = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [
        *[None] * (len(listed) - len(arguments.defaults)),
        *arguments.defaults,
        *arguments.kw_defaults,
    ]
    schema = object_schema()
    for argument, default in zip((*listed, *arguments.kwonlyargs), defaults, strict=True):
        place = f"{hints.where}({argument.arg})"
        if argument.annotation is None:
            raise InputError(f"{place}: has no type hint; use one of {_ALLOWED_HINTS}")
        hint = hints._replace(where=place).read(argument.annotation)
        add_property(
            schema,
            argument.arg,
            schema=_with_default(hint, default) | described.get(argument.arg, {}),
            needed=_is_needed(default),
        )
    if arguments.kwarg is not None:
        others = arguments.kwarg.annotation
        schema["additionalProperties"] = others is None or hints.read(others)
    return Tool(
        name=function.name,
        description=first_paragraph(docstring.description or ""),
        parameters=schema,
        effect=guess_effect(function.name),
    )


class _Default(NamedTuple):
    """A default value, taken out of `Field(...)` if it is wrapped in it."""

    value: ast.expr | None
    field: ast.Call | None = None
    made: bool = False
    """Whether a `default_factory` creates the value."""


def _see_through(default: ast.expr | None) -> _Default:
    if not isinstance(default, ast.Call) or _last_name(default.func) not in ("Field", "field"):
        return _Default(default)
    keywords = {keyword.arg: keyword.value for keyword in default.keywords}
    value = default.args[0] if default.args else keywords.get("default")
    return _Default(value, field=default, made="default_factory" in keywords)


def _is_needed(default: ast.expr | None) -> bool:
    """Return whether an argument is required; in a `Field`, `...` also means required."""
    value, field, made = _see_through(default)
    marked = field is not None and isinstance(value, ast.Constant) and value.value is ...
    return not made and (value is None or marked)


def _with_default(schema: Schema, default: ast.expr | None) -> Schema:
    """Return a schema with its default, if that is a literal; nothing else is evaluated."""
    value, field, _ = _see_through(default)
    if field is not None:
        return _with_default(_constrain(schema, field), value)
    if value is None:
        return schema
    try:
        literal = decode_json(
            json.dumps(ast.literal_eval(value), allow_nan=False), error=ValueError
        )
    except (ValueError, TypeError, RecursionError, MemoryError):
        return schema
    return {**schema, "default": literal}


def _annotate(schema: Schema, notes: list[ast.expr]) -> Schema:
    """Return a schema with the notes of an `Annotated`: strings describe, calls constrain."""
    for note in notes:
        if isinstance(note, ast.Constant) and isinstance(note.value, str):
            schema = {**schema, "description": note.value}
        elif isinstance(note, ast.Call):
            schema = _constrain(schema, note)
    return schema


def _constrain(schema: Schema, call: ast.Call) -> Schema:
    """Return a schema with the constraints of a `Field` or `Meta` call."""
    result = dict(schema)
    for keyword in call.keywords:
        name = _CONSTRAINTS.get(keyword.arg or "")
        values = _enumeration([keyword.value])
        if name is not None and values is not None:
            counted = schema.get("type") == "array" and name.endswith("Length")
            result[name[:3] + "Items" if counted else name] = values["enum"][0]
    return result


def _enumeration(items: list[ast.expr]) -> Schema | None:
    """Return an enum schema of literals; None if one is not a string, number or None."""
    try:
        values = [ast.literal_eval(item) for item in items]
    except (ValueError, TypeError):
        return None
    if not all(value is None or isinstance(value, str | int | float) for value in values):
        return None
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number"}
    types = {kinds.get(type(value)) for value in values}
    kind = types.pop() if len(types) == 1 else None
    return {**({"type": kind} if kind else {}), "enum": values}


def _union(schemas: list[Schema]) -> Schema:
    """Return a schema of alternatives.

    `{}` (anything) absorbs the others, null is merged into the type of a single other schema, and
    the rest becomes `anyOf`.
    """
    if {} in schemas:
        return {}
    parts = [inner for schema in schemas for inner in schema.get("anyOf", [schema])]
    others = [schema for schema in parts if schema != {"type": "null"}]
    if len(others) == 1 and len(parts) > 1:
        return allow_null(others[0])
    return {"anyOf": parts} if len(parts) > 1 else parts[0]


def _last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name: `List` for `typing.List`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
