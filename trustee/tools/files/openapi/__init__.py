"""Reading OpenAPI 3 and Swagger 2 documents: each operation becomes a tool.

A call has one flat set of arguments, so the parameters of path, query and body are merged, and
their schemas are rewritten as self-contained JSON Schema. Header and cookie parameters are left
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.files.notices import Notices
from trustee.tools.files.rules import (
    Found,
    Schema,
    add_property,
    allow_null,
    check_effect,
    first_paragraph,
    object_schema,
)
from trustee.tools.selection import Selection
from trustee.types import Tool

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_PLACES = {"path": 0, "query": 1, "formData": 2, "body": 3}
"""Parameter locations that become arguments, in the order in which they are listed."""
_TRUE = (True, "true")
"""Existing documents write flags as text too."""
_COPIED = ("description", "default", "enum", "const", "format", "uniqueItems")
_NUMERIC = re.compile(
    "multipleOf|minimum|maximum|exclusiveMinimum|exclusiveMaximum|minLength|maxLength"
    "|minItems|maxItems|minProperties|maxProperties"
)
"""Together with `_COPIED`, the keywords with the same meaning in OpenAPI and JSON Schema. The
others are rewritten or dropped, because examples and vendor keys would only lengthen prompts."""


def read_operations(
    document: dict[str, Any], *, source: str, selection: Selection, notices: Notices
) -> Iterator[Found]:
    """Yield a tool for each wanted operation of a document.

    Raises:
        InputError: if an operation cannot be read; names its method and path.
    """
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise InputError(f"{source}: paths must be an object of paths, got {shorten(paths)}")
    for path, listed in paths.items():
        item: dict[str, Any] = {}
        with notices.leaving_out():
            item = _Reader(document, f"{source}: {path}").follow(listed)
        for method in _METHODS:
            if method in item:
                reader = _Reader(document, f"{source}: {method.upper()} {path}")
                with notices.leaving_out():
                    yield reader.where, _read_operation(reader, item, method=method, path=path)


class _Reader(NamedTuple):
    """A document, and the operation being read, for messages."""

    document: dict[str, Any]
    where: str

    def read_list(self, holder: dict[str, Any], key: str) -> list[Any]:
        value = holder.get(key, [])
        if not isinstance(value, list):
            raise InputError(f"{self.where}: {key} must be a list, got {shorten(value)}")
        return value

    def follow(self, node: Any) -> dict[str, Any]:
        """Follow references and return the object they lead to."""
        seen: set[str] = set()
        while isinstance(node, dict) and isinstance(node.get("$ref"), str):
            if node["$ref"] in seen:
                raise InputError(f'{self.where}: the $ref "{node["$ref"]}" leads back to itself')
            seen.add(node["$ref"])
            node = self.look_up(node["$ref"])
        if not isinstance(node, dict):
            raise InputError(f"{self.where}: must be an object, got {shorten(node)}")
        return node

    def look_up(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise InputError(
                f'{self.where}: the $ref "{reference}" points outside the document; references'
                " must begin with #/, so bundle the document first"
            )
        node: Any = self.document
        for part in reference[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or key not in node:
                raise InputError(
                    f'{self.where}: the $ref "{reference}" leads nowhere in the document'
                )
            node = node[key]
        return node

    def inline(self, schema: Any, inside: tuple[str, ...] = ()) -> Schema:
        """Return an OpenAPI schema as JSON Schema without references; a cycle becomes `{}`."""
        if isinstance(schema, bool):
            return {} if schema else {"not": {}}
        if not isinstance(schema, dict):
            raise InputError(f"{self.where}: a schema must be an object, got {shorten(schema)}")
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return self._rewrite(schema, inside)
        if reference in inside:
            return {}
        result = self.inline(self.look_up(reference), (*inside, reference))
        return result | {key: schema[key] for key in ("description", "default") if key in schema}

    def _rewrite(self, schema: Schema, inside: tuple[str, ...]) -> Schema:
        """Rewrite the keywords of a schema that is not a reference."""
        offered = self.follow(schema.get("properties", {}))
        result: Schema = {}
        for key, value in schema.items():
            if key == "description" and isinstance(value, str):
                result[key] = value.strip()
            elif key in _COPIED:
                result[key] = value
            elif _NUMERIC.fullmatch(key):
                result[key] = _read_number(value)
            elif key == "type":
                result[key] = "string" if value == "file" else value
            elif key == "properties":
                result[key] = {
                    name: self.inline(inner, inside)
                    for name, inner in offered.items()
                    if not _is_read_only(inner)
                }
            elif key in ("allOf", "anyOf", "oneOf") and isinstance(value, list):
                result[key] = [self.inline(inner, inside) for inner in value]
            elif key in ("items", "not"):
                result[key] = self.inline(value, inside)
            elif key == "additionalProperties" and isinstance(value, bool | dict):
                result[key] = value if isinstance(value, bool) else self.inline(value, inside)
            elif key == "pattern" and _compiles(value):
                result[key] = value
        if isinstance(schema.get("required"), list):
            shown = result.get("properties", {})
            result["required"] = [
                name
                for name in schema["required"]
                if isinstance(name, str) and (name in shown or name not in offered)
            ]
        return _modernise(
            result, nullable=schema.get("nullable", schema.get("x-nullable")) in _TRUE
        )


def _read_operation(reader: _Reader, item: dict[str, Any], *, method: str, path: str) -> Tool:
    """Turn one operation into a tool with the arguments of path, query and body."""
    operation = reader.follow(item[method])
    arguments = object_schema()
    for parameter in _list_parameters(reader, item, operation):
        schema = _parameter_schema(reader, parameter)
        needed = parameter.get("required") in _TRUE or parameter["in"] == "path"
        if parameter["in"] == "body":
            _add_body(arguments, schema, needed=needed)
        else:
            _add_argument(arguments, parameter["name"], schema=schema, needed=needed)
    for name in re.findall(r"\{([^{}]+)\}", path):
        _add_argument(arguments, name, schema={"type": "string"}, needed=True)
    if "requestBody" in operation:
        body = reader.follow(operation["requestBody"])
        schema = _media_schema(reader, body)
        _add_body(arguments, schema, needed=body.get("required") in _TRUE)

    tags = reader.read_list(operation, "tags") or [""]
    effect = operation.get("x-effect", "read" if method in ("get", "head") else "write")
    return Tool(
        name=_operation_name(operation.get("operationId"), method=method, path=path),
        description=first_paragraph(
            str(operation.get("description") or operation.get("summary") or "")
        ),
        parameters=arguments,
        effect=check_effect(effect, where=reader.where),
        category=str(operation.get("x-category", tags[0])),
    )


def _list_parameters(
    reader: _Reader, item: dict[str, Any], operation: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the parameters that become arguments; an operation overrides those of its path."""
    parameters = {}
    for listed in (
        *reader.read_list(item, "parameters"),
        *reader.read_list(operation, "parameters"),
    ):
        parameter = reader.follow(listed)
        if not isinstance(parameter.get("name"), str) or not isinstance(parameter.get("in"), str):
            raise InputError(
                f'{reader.where}: a parameter needs "name" and "in", got {shorten(listed)}'
            )
        parameters[parameter["name"], parameter["in"]] = parameter
    wanted = (parameter for parameter in parameters.values() if parameter["in"] in _PLACES)
    return sorted(wanted, key=lambda parameter: _PLACES[parameter["in"]])


def _operation_name(identifier: object, *, method: str, path: str) -> str:
    """Return a tool name made from the operationId, or from method and path."""
    text = (
        identifier if isinstance(identifier, str) and identifier else f"{method}_{path.strip('/')}"
    )
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:64]


def _parameter_schema(reader: _Reader, parameter: dict[str, Any]) -> Schema:
    """Return a parameter's schema, written as in OpenAPI 3 or as in Swagger 2."""
    if "content" in parameter and "schema" not in parameter:
        schema = _media_schema(reader, parameter)
    else:
        schema = reader.inline(parameter.get("schema", parameter))
    described = (
        {"description": str(parameter["description"]).strip()} if "description" in parameter else {}
    )
    return schema | described


def _media_schema(reader: _Reader, holder: dict[str, Any]) -> Schema:
    """Return the schema of a body, preferably of its JSON media type."""
    content = reader.follow(holder.get("content", {}))
    media = next((media for media in content if "json" in media), next(iter(content), None))
    return {} if media is None else reader.inline(reader.follow(content[media]).get("schema", {}))


def _add_argument(arguments: Schema, name: str, *, schema: Schema, needed: bool) -> None:
    """Add an argument; if two locations share a name, the first of `_PLACES` wins."""
    if name not in arguments["properties"]:
        add_property(arguments, name, schema=schema, needed=needed)


def _add_body(arguments: Schema, schema: Schema, *, needed: bool) -> None:
    """Add the properties of an object as arguments; any other body is the argument `body`."""
    parts = [schema, *schema.get("allOf", ())]
    properties = {
        name: inner for part in parts for name, inner in part.get("properties", {}).items()
    }
    required = [name for part in parts for name in part.get("required", ())]
    for name, inner in properties.items():
        _add_argument(arguments, name, schema=inner, needed=name in required)
    if schema and not properties:
        _add_argument(arguments, "body", schema=schema, needed=needed)


def _read_number(value: Any) -> Any:
    """Convert a number written as text; everything else is left to the schema check."""
    try:
        return decode_json(value, error=ValueError) if isinstance(value, str) else value
    except ValueError:
        return value


def _modernise(schema: Schema, *, nullable: bool) -> Schema:
    """Replace older spellings: numbers as text, boolean exclusive bounds, `nullable`."""
    if schema.get("type") in ("integer", "number") and "default" in schema:
        schema["default"] = _read_number(schema["default"])
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(flag), bool) and schema.pop(flag) and bound in schema:
            schema[flag] = schema.pop(bound)
    return allow_null(schema) if nullable else schema


def _is_read_only(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("readOnly") in _TRUE


def _compiles(pattern: object) -> bool:
    try:
        re.compile(cast(str, pattern))
    except (re.error, TypeError):
        return False
    return True
