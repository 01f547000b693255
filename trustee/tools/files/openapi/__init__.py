"""Reading OpenAPI 3 and Swagger 2 documents: each operation becomes a tool.

A call has one flat set of arguments, so the parameters of path, query and body are merged, and
their schemas are rewritten as self-contained JSON Schema. Header and cookie parameters are left
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from trustee.errors import InputError
from trustee.tools.arguments import shorten
from trustee.tools.files.names import Names
from trustee.tools.files.notices import Notices
from trustee.tools.files.openapi.bodies import take_apart
from trustee.tools.files.openapi.lengths import Lengths, TooLong, measure, shorten_texts
from trustee.tools.files.openapi.pointers import Document, Unreadable
from trustee.tools.files.openapi.schemas import FALSE, TRUE, Definitions
from trustee.tools.files.rules import (
    Found,
    Schema,
    add_property,
    check_effect,
    first_paragraph,
    object_schema,
)
from trustee.tools.selection import Selection
from trustee.types import Tool

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_PLACES = {"path": 0, "query": 1, "formData": 2, "body": 3}
"""Parameter locations that become arguments, in the order in which they are listed."""
_BODIES = ("body", "request_body", "request_body_content")
"""Names for a body that stays one argument; the first that no parameter has is taken."""


def read_operations(
    document: dict[str, Any], *, source: str, selection: Selection, notices: Notices
) -> Iterator[Found]:
    """Yield a tool for each wanted operation of a document.

    Raises:
        InputError: if it has no paths; with strict notices also if an operation cannot be read.
    """
    paths = document.get("paths")
    if paths is None and ("webhooks" in document or "components" in document):
        raise InputError(
            f"{source}: has no paths, so there is nothing to call; it only describes"
            f" {'webhooks' if 'webhooks' in document else 'components'}"
        )
    if not isinstance(paths, dict):
        raise InputError(f"{source}: paths must be an object of paths, got {shorten(paths)}")
    reader = _Reader(Document(document), source=source, selection=selection, notices=notices)
    for path, listed in paths.items():
        item: dict[str, Any] = {}
        with notices.leaving_out(), _named(f"{source}: {path}"):
            item = reader.document.follow(listed)
        for method in _METHODS:
            if method in item:
                where = f"{source}: {method.upper()} {path}"
                with notices.leaving_out(), _named(where):
                    tool = reader.read(item, method=method, path=path)
                    if tool is not None:
                        yield where, tool


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say where it is that something cannot be read."""
    try:
        yield
    except Unreadable as error:
        raise InputError(f"{where}: {error}") from error


class _Reader:
    """Turns the operations of one document into tools."""

    def __init__(
        self, document: Document, *, source: str, selection: Selection, notices: Notices
    ) -> None:
        self.document = document
        self.source = source
        self.selection = selection
        self.notices = notices
        self.definitions = Definitions(document, notices=notices)
        self.lengths = Lengths(self.definitions)
        self.names = Names(notices=notices)

    def read(self, item: dict[str, Any], *, method: str, path: str) -> Tool | None:
        """Turn one operation into a tool; None if it is not wanted."""
        operation = self.document.follow(item[method])
        place = f"{method.upper()} {path}"
        wished = operation.get("operationId")
        name = self.names.give(
            wished if isinstance(wished, str) else "",
            place=place,
            other=f"{method}_{path.strip('/')}",
        )
        if not self.selection.wants(name, place):
            return None
        tags = self._read_list(operation, "tags") or [""]
        effect = operation.get("x-effect", "read" if method in ("get", "head") else "write")
        tool = Tool(
            name=name,
            description=first_paragraph(
                str(operation.get("description") or operation.get("summary") or "")
            ),
            parameters=self._read_arguments(item, operation, path=path, where=place),
            effect=check_effect(effect, where=f"{self.source}: {place}"),
            category=str(operation.get("x-category", tags[0])),
        )
        return self._fit(tool, where=place)

    def _read_arguments(
        self, item: dict[str, Any], operation: dict[str, Any], *, path: str, where: str
    ) -> Schema:
        """Return the arguments of path, query and body."""
        arguments = object_schema()
        bodies = []
        for parameter in self._list_parameters(item, operation):
            if parameter["in"] == "body":
                bodies.append((parameter.get("schema", {}), parameter.get("required")))
                continue
            needed = parameter.get("required") in TRUE or parameter["in"] == "path"
            schema = self._parameter_schema(parameter, where=where)
            self._add(arguments, parameter["name"], schema=schema, needed=needed, where=where)
        for name in re.findall(r"\{([^{}]+)\}", path):
            if name not in arguments["properties"]:
                add_property(arguments, name, schema={"type": "string"}, needed=True)
        if "requestBody" in operation:
            body = self.document.follow(operation["requestBody"])
            schema = self._media_schema(body)
            if schema is not None:
                bodies.append((schema, body.get("required")))
        for schema, flag in bodies:
            self._add_body(arguments, schema, flag=flag, where=where)
        return arguments

    def _read_list(self, holder: dict[str, Any], key: str) -> list[Any]:
        value = holder.get(key, [])
        if not isinstance(value, list):
            raise Unreadable(f"{key} must be a list, got {shorten(value)}")
        return value

    def _list_parameters(
        self, item: dict[str, Any], operation: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the parameters that become arguments; an operation overrides its path's."""
        parameters = {}
        for listed in (
            *self._read_list(item, "parameters"),
            *self._read_list(operation, "parameters"),
        ):
            parameter = self.document.follow(listed)
            if not isinstance(parameter.get("name"), str) or not isinstance(
                parameter.get("in"), str
            ):
                raise Unreadable(f'a parameter needs "name" and "in", got {shorten(listed)}')
            parameters[parameter["name"], parameter["in"]] = parameter
        wanted = (parameter for parameter in parameters.values() if parameter["in"] in _PLACES)
        return sorted(wanted, key=lambda parameter: _PLACES[parameter["in"]])

    def _parameter_schema(self, parameter: dict[str, Any], *, where: str) -> Schema:
        """Return a parameter's schema, written as in OpenAPI 3 or as in Swagger 2."""
        node: Any = parameter.get("schema", parameter)
        if "content" in parameter and "schema" not in parameter:
            node = self._media_schema(parameter) or {}
        schema = self.definitions.rewrite(node, where=f"{where} {parameter['name']}")
        # A parameter's own `required` is a flag.
        if "description" in parameter:
            return schema | {"description": str(parameter["description"]).strip()}
        return schema

    def _media_schema(self, holder: dict[str, Any]) -> Any:
        """Return the schema of a body, preferably of its JSON media type; None if it has none."""
        content = self.document.follow(holder.get("content", {}))
        media = next((media for media in content if "json" in media), next(iter(content), None))
        return None if media is None else self.document.follow(content[media]).get("schema", {})

    def _add(
        self, arguments: Schema, name: str, *, schema: Schema, needed: bool, where: str
    ) -> None:
        """Add an argument; if two locations share a name, the first of `_PLACES` wins."""
        known = arguments["properties"].get(name)
        if known is None:
            add_property(arguments, name, schema=schema, needed=needed)
        elif shorten_texts(known, most=0) != shorten_texts(schema, most=0):
            self.notices.add(
                "arguments that are given twice, of which the first is kept", f'{where} "{name}"'
            )

    def _add_body(self, arguments: Schema, node: Any, *, flag: object, where: str) -> None:
        """Add the members of an object as arguments; any other body as one argument.

        Most documents do not say whether a body is required, also where it is. Its required
        members are required unless the document says that the body is not.
        """
        members = take_apart(node, self.definitions, where=where)
        if members is None:
            name = next(name for name in _BODIES if name not in arguments["properties"])
            schema = self.definitions.rewrite(node, where=where)
            add_property(arguments, name, schema=schema, needed=flag in TRUE)
            return
        for name, schema in members.properties.items():
            needed = flag not in FALSE and name in members.required
            self._add(arguments, name, schema=schema, needed=needed, where=where)
        if members.others is not False:
            arguments["additionalProperties"] = members.others

    def _fit(self, tool: Tool, *, where: str) -> Tool:
        """Return a tool that is no longer than the selection allows."""
        most = self.selection.most_characters
        bare = msgspec.structs.replace(tool, parameters={})
        try:
            fitting = self.lengths.fit(tool.parameters, room=most - measure(bare.schema))
        except TooLong as error:
            raise Unreadable(
                f"takes {error.length:,} characters when it is shortened as far as can be; "
                f"at most {most:,} are allowed, which --most-characters changes"
            ) from error
        if fitting.how:
            self.notices.add(
                f"tools shortened to {most:,} characters (--most-characters), {fitting.how}",
                tool.name,
            )
        return msgspec.structs.replace(tool, parameters=fitting.parameters)
