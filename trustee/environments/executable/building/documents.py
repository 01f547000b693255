"""Stages 2 to 4: tool documents are written, merged if one serves several parts, and widened.

A document is what the builder writes, in a form small enough for a grammar; its `tool` has the JSON
Schema that the policy sees. Each check compares a stage's answer with that of the stage before.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.candidate import Flaw
from trustee.environments.executable.building.values import find_leak
from trustee.tools.arguments import check_arguments
from trustee.types import Record, Tool

JsonType = Literal["string", "integer", "number", "boolean", "array"]
TOOL_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+){0,7}")
MOST_PARAMETERS = 10
PYTHON: dict[JsonType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
}


class Parameter(Record, frozen=True):
    """One parameter of a tool."""

    name: Annotated[str, Meta(max_length=40)]
    types: Annotated[tuple[JsonType, ...], Meta(min_length=1, max_length=3)]
    """Allowed JSON types; the items of an array are strings."""
    description: Annotated[str, Meta(max_length=200)]
    required: bool
    options: Annotated[tuple[Annotated[str, Meta(max_length=40)], ...], Meta(max_length=10)] = ()
    """Allowed values of a string; empty if any value is allowed."""
    default: Annotated[str, Meta(max_length=40)] | int | float | bool | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter's JSON Schema."""
        found: dict[str, Any] = {"type": self.types[0] if len(self.types) == 1 else [*self.types]}
        if "array" in self.types:
            found["items"] = {"type": "string"}
        if self.options:
            found["enum"] = [*self.options]
        if self.default is not None:
            found["default"] = self.default
        if self.description:
            found["description"] = self.description
        return found


class Document(Record, frozen=True):
    """The documentation of a tool."""

    name: Annotated[str, Meta(max_length=48)]
    description: Annotated[str, Meta(max_length=400)]
    parameters: Annotated[tuple[Parameter, ...], Meta(min_length=1, max_length=MOST_PARAMETERS)]

    @property
    def tool(self) -> Tool:
        """The tool as the policy sees it."""
        return Tool(
            name=self.name,
            description=self.description,
            parameters={
                "type": "object",
                "properties": {p.name: p.schema for p in self.parameters},
                "required": [p.name for p in self.parameters if p.required],
            },
            effect="read",
        )

    @property
    def text(self) -> str:
        """The document as shown in the builder's prompts."""
        return msgspec.json.encode(self).decode()

    @property
    def signature(self) -> str:
        """The first line of its function, with required parameters first."""
        required = [p.name for p in self.parameters if p.required]
        optional = [f"{p.name}={p.default!r}" for p in self.parameters if not p.required]
        return f"def {self.name}({', '.join(required + optional)}):"


class Merge(Record, frozen=True):
    """One tool for several parts."""

    serves: Annotated[tuple[int, ...], Meta(min_length=2, max_length=6)]
    """Numbers of the parts, counted from 1."""
    tool: Document


class Integration(Record, frozen=True):
    """The answer of the third stage: merged tools; all other parts keep their own."""

    merges: Annotated[tuple[Merge, ...], Meta(max_length=3)]


class Extension(Record, frozen=True):
    """Tools that no part needs."""

    tools: Annotated[tuple[Document, ...], Meta(max_length=6)]


def check_document(document: Document, answers: Sequence[str]) -> Flaw | None:
    """Return the first flaw of a document: its names, its parameters, or an answer in its text."""
    if not is_name(document.name) or "_" not in document.name:
        return Flaw(
            kind="name",
            text=f"{document.name!r} is not a snake_case name of two or more words, "
            "such as find_capital",
        )
    if len(document.description.split()) < 3:
        return Flaw(kind="description", text=f"{document.name} has no description")
    names = [parameter.name for parameter in document.parameters]
    if len(set(names)) < len(names):
        return Flaw(kind="parameter", text=f"{document.name} has a parameter twice: {names}")
    for parameter in document.parameters:
        reason = check_parameter(parameter)
        if reason is not None:
            return Flaw(kind="parameter", text=f"{document.name}.{parameter.name} {reason}")
    if not any(parameter.required for parameter in document.parameters):
        return Flaw(kind="parameter", text=f"{document.name} requires no parameter")
    leak = find_leak({f"the document of {document.name}": readable(document)}, answers)
    return None if leak is None else Flaw(kind="leak", text=leak)


def is_name(name: str) -> bool:
    """Return whether a text is a snake_case name and not a Python keyword."""
    return bool(TOOL_NAME.fullmatch(name)) and not keyword.iskeyword(name)


def check_parameter(parameter: Parameter) -> str | None:
    """Return what is wrong with a parameter, or None."""
    if not is_name(parameter.name):
        return "is not a name in snake_case"
    if len(set(parameter.types)) < len(parameter.types):
        return "has a type twice"
    if parameter.options and (
        parameter.types != ("string",) or len({*parameter.options}) < max(2, len(parameter.options))
    ):
        return "has options; allowed are two or more different ones of a string"
    default = parameter.default
    if default is None:
        return None
    if parameter.required:
        return "is required and has a default; a default makes it optional"
    if not fits_types(default, parameter.types):
        return f"has the default {default!r}, which is not of its types {list(parameter.types)}"
    if parameter.options and default not in parameter.options:
        return f"has the default {default!r}, which is not one of its options"
    return None


def fits_types(value: Any, types: Sequence[JsonType]) -> bool:
    """Return whether a value has one of some types; `True` is not a number."""
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, PYTHON[kind]) for kind in types)


def readable(document: Document) -> str:
    """Return all words of a document, with names split into words."""
    words = [document.name.replace("_", " "), document.description]
    for p in document.parameters:
        default = "" if p.default is None else str(p.default)
        words += [p.name.replace("_", " "), p.description, *p.options, default]
    return " / ".join(words)


def check_names(documents: Sequence[Document]) -> Flaw | None:
    """Return a flaw if two tools have the same name."""
    names = [document.name for document in documents]
    twice = sorted({name for name in names if names.count(name) > 1})
    return Flaw(kind="name", text=f"several tools are called {twice}") if twice else None


def check_integration(
    given: Integration, documents: Sequence[Document], answers: Sequence[str]
) -> Flaw | None:
    """Return a flaw if a merge has unknown parts, shares parts with another, or a bad document."""
    served = [number for merge in given.merges for number in merge.serves]
    wrong = [n for n in served if not 1 <= n <= len(documents) or served.count(n) > 1]
    if wrong:
        return Flaw(
            kind="merge",
            text=f"merges serve the parts {sorted(served)}; allowed are 1 to {len(documents)}, "
            "each once",
        )
    for merge in given.merges:
        flaw = check_document(merge.tool, answers)
        if flaw is not None:
            return flaw
    return check_names([document for document, _ in integrate(given, documents)])


def integrate(
    given: Integration, documents: Sequence[Document]
) -> list[tuple[Document, tuple[int, ...]]]:
    """Return the tools after merging, each with the parts it serves, in the order of the parts."""
    merged = {number for merge in given.merges for number in merge.serves}
    left = [(merge.tool, tuple(sorted(merge.serves))) for merge in given.merges]
    left += [
        (document, (number,))
        for number, document in enumerate(documents, 1)
        if number not in merged
    ]
    return sorted(left, key=lambda entry: entry[1])


def check_scaling(
    given: Document, before: Document, *, calls: Sequence[GoldCall], answers: Sequence[str]
) -> Flaw | None:
    """Return a flaw if a document is not wider than before, or breaks a call that worked."""
    flaw = check_document(given, answers)
    if flaw is not None:
        return flaw
    if given.name != before.name:
        return Flaw(kind="not_compatible", text=f"{before.name} was renamed to {given.name}")
    after = {parameter.name: parameter for parameter in given.parameters}
    for old in before.parameters:
        reason = find_break(old, after.pop(old.name, None))
        if reason is not None:
            return Flaw(kind="not_compatible", text=f"{given.name}.{old.name} {reason}")
    demanded = [name for name, parameter in after.items() if parameter.required]
    if demanded:
        return Flaw(kind="not_compatible", text=f"{given.name} now requires {demanded} as well")
    if not after and given.parameters == before.parameters:
        return Flaw(kind="not_scaled", text=f"{given.name} has no wider parameter than before")
    for call in calls:
        error = check_arguments(given.tool, call.arguments)
        if error is not None:
            return Flaw(kind="not_compatible", text=error)
    return None


def find_break(old: Parameter, new: Parameter | None) -> str | None:
    """Return how a widened parameter breaks calls that the old one allowed, or None."""
    if new is None:
        return "is gone"
    if not {*old.types} <= {*new.types}:
        return f"no longer takes {sorted({*old.types} - {*new.types})}"
    if new.required and not old.required:
        return "was optional and is now required"
    if new.options and not {*old.options} <= {*new.options}:
        return "allows fewer options"
    if new.options and not old.options:
        return "was free and now has options"
    return None


def check_extension(
    given: Extension, documents: Sequence[Document], *, count: int, answers: Sequence[str]
) -> Flaw | None:
    """Return a flaw if the number of further tools, a document or a name is wrong."""
    if len(given.tools) != count:
        return Flaw(
            kind="count", text=f"{len(given.tools)} further tools where {count} were asked for"
        )
    for document in given.tools:
        flaw = check_document(document, answers)
        if flaw is not None:
            return flaw
    return check_names([*documents, *given.tools])


def arguments_grammar(parameters: Mapping[str, Any]) -> str:
    """Return the grammar of `{"arguments": ...}` for a tool's parameters."""
    return msgspec.json.encode(
        {
            "type": "object",
            "properties": {"arguments": {**parameters, "additionalProperties": False}},
            "required": ["arguments"],
            "additionalProperties": False,
        }
    ).decode()
