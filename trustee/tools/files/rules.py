"""Rules that hold for every tool, whatever format it was read from.

Each reader uses this module for effects, descriptions and object schemas, and all tools that are
read pass `check_tools`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from trustee.errors import InputError
from trustee.tools.arguments import describe_rule, shorten
from trustee.tools.files.names import Names
from trustee.tools.files.notices import Notices
from trustee.tools.mending import mend_parameters
from trustee.tools.schema import walk
from trustee.tools.selection import CHARACTERS_PER_TOKEN, Selection
from trustee.types import Tool

READ_VERBS = frozenset(
    (
        "get",
        "list",
        "search",
        "find",
        "read",
        "check",
        "show",
        "lookup",
        "count",
        "calculate",
        "convert",
    )
)
"""First words of names by which a tool counts as reading if its file does not declare an effect."""

Schema = dict[str, Any]
Found = tuple[str, Tool]
"""The location of a tool, for messages, and the tool."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def split_name(name: str) -> list[str]:
    """Return the words of a name, in lower case."""
    return [word.lower() for word in _WORD.findall(name)]


def guess_effect(name: str) -> Literal["read", "write"]:
    """Return the effect of a tool that does not declare one, by the first word of its name."""
    return "read" if READ_VERBS.intersection(split_name(name)[:1]) else "write"


def check_effect(effect: object, *, where: str) -> Literal["read", "write"]:
    """Return a declared effect; raise `InputError` if it is not valid."""
    if effect not in ("read", "write"):
        raise InputError(f'{where}.x-effect: must be "read" or "write", got {shorten(effect)}')
    return effect


def first_paragraph(text: str) -> str:
    """Return the first paragraph of a description on one line, which is all that prompts need."""
    return " ".join(text.strip().split("\n\n")[0].split())


def object_schema() -> Schema:
    """Return an empty object schema, to be filled by `add_property`."""
    return {"type": "object", "properties": {}, "required": []}


def add_property(target: Schema, name: str, *, schema: Schema, needed: bool) -> None:
    """Add a property to an object's schema."""
    target["properties"][name] = schema
    if needed:
        target["required"].append(name)


def check_tools(found: Iterable[Found]) -> tuple[Tool, ...]:
    """Return the tools that were found if all of them can be used.

    Raises:
        InputError: if a name is not allowed or used twice, or parameters are not a self-contained
            JSON Schema of an object.
    """
    return select_tools(found, Selection(), notices=Notices(strict=True))


def select_tools(
    found: Iterable[Found], selection: Selection, *, notices: Notices
) -> tuple[Tool, ...]:
    """Return the wanted tools, mended and named; one that cannot be used is left out.

    Strict notices refuse it instead, and nothing is changed.

    Raises:
        InputError: as `check_tools`, if the notices are strict.
    """
    sources: dict[str, str] = {}
    equal: set[bytes] = set()
    names = Names(notices=notices)
    tools = []
    for where, given in found:
        place = where.rpartition(": ")[2]
        if not selection.wants(given.name, place):
            continue
        with notices.leaving_out():
            tool = given
            if not notices.strict:
                tool = _mend(tool, notices=notices)
                key = msgspec.json.encode(msgspec.structs.replace(tool, category="", toolset=""))
                if key in equal:
                    notices.add("tools that were there before, taken once", tool.name)
                    continue
                equal.add(key)
                name = names.give(tool.name, place=place, family=tool.toolset)
                tool = msgspec.structs.replace(tool, name=name)
            _check_tool(tool, where=where, sources=sources)
            sources[tool.name] = where
            tools.append(tool)
            _note_length(tool, most=selection.most_characters, notices=notices)
    return tuple(tools)


def _mend(tool: Tool, *, notices: Notices) -> Tool:
    notes: set[str] = set()
    parameters = mend_parameters(tool.parameters, notes)
    for note in sorted(notes):
        notices.add(note, tool.name)
    return msgspec.structs.replace(tool, parameters=parameters)


def _note_length(tool: Tool, *, most: int, notices: Notices) -> None:
    """Say that a tool is too long, which its reader did not shorten."""
    length = len(json.dumps(tool.schema, ensure_ascii=False))
    if length > most:
        tokens = most // CHARACTERS_PER_TOKEN
        notices.add(
            f"tools longer than {most:,} characters, which are about {tokens:,} tokens",
            f"{tool.name} ({length:,})",
        )


def _check_tool(tool: Tool, *, where: str, sources: dict[str, str]) -> None:
    if _NAME.fullmatch(tool.name) is None:
        raise InputError(
            f"{where}: the name {shorten(tool.name)} is not allowed; names have 1 to 64 of"
            " the characters A-Z a-z 0-9 _ -"
        )
    if tool.name in sources:
        raise InputError(
            f'{where}: the name "{tool.name}" was already used by {sources[tool.name]};'
            " names must be unique"
        )
    _check_parameters(tool.parameters, where=f'{where} "{tool.name}".parameters')


def _check_parameters(parameters: Any, *, where: str) -> None:
    from trustee.tools.validation import find_fault

    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise InputError(
            f'{where}: must be a JSON Schema with "type": "object", got {shorten(parameters)}'
        )
    _check_references(parameters, where=where)
    fault = find_fault(parameters)
    if isinstance(fault, str):
        raise InputError(f"{where}: {fault}")
    if fault is not None:
        raise InputError(
            f"{where}: not a JSON Schema (draft 2020-12), {fault.json_path[1:].lstrip('.')} must"
            f" {describe_rule(fault)}, got {shorten(fault.instance)}"
        )


def _check_references(parameters: Schema, *, where: str) -> None:
    """Check that every reference leads to a schema within the same parameters."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    references = {part["$ref"] for part in walk(parameters) if isinstance(part.get("$ref"), str)}
    if not references:
        return
    try:
        registry = Registry().with_resource("", DRAFT202012.create_resource(parameters))
        resolver = registry.resolver()
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InputError(f"{where}: its references cannot be followed ({error})") from error
    for reference in sorted(references):
        passed: list[str] = []
        following: object = reference
        while isinstance(following, str):
            if following in passed:
                raise InputError(f'{where}: the $ref "{reference}" leads back to itself')
            passed.append(following)
            try:
                target = resolver.lookup(following).contents
            except (Unresolvable, TypeError, ValueError, AttributeError, LookupError) as error:
                raise InputError(
                    f'{where}: the $ref "{reference}" leads nowhere; references must point inside'
                    " the same parameters"
                ) from error
            following = target.get("$ref") if isinstance(target, dict) else None
