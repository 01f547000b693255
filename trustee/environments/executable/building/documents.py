"""Stages 2 to 4: tool documents are written, merged where one serves several parts, and widened.

A document is what the builder writes, in a form small enough for a grammar; `tool` makes of it the
JSON Schema that the policy sees. Each check compares a stage's answer with the one before.
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
    """An array is one of strings."""
    description: Annotated[str, Meta(max_length=200)]
    required: bool
    options: Annotated[tuple[Annotated[str, Meta(max_length=40)], ...], Meta(max_length=10)] = ()
    """The allowed values of a string; empty where it is free."""
    default: Annotated[str, Meta(max_length=40)] | int | float | bool | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """Give its JSON Schema."""
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
    """What a tool does and takes."""

    name: Annotated[str, Meta(max_length=48)]
    description: Annotated[str, Meta(max_length=400)]
    parameters: Annotated[tuple[Parameter, ...], Meta(min_length=1, max_length=MOST_PARAMETERS)]

    @property
    def tool(self) -> Tool:
        """Make the tool that the policy sees."""
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
        """Give the document as the builder's prompts show it."""
        return msgspec.json.encode(self).decode()

    @property
    def signature(self) -> str:
        """Give the first line of its function; what is required comes first."""
        required = [p.name for p in self.parameters if p.required]
        optional = [f"{p.name}={p.default!r}" for p in self.parameters if not p.required]
        return f"def {self.name}({', '.join(required + optional)}):"


class Merge(Record, frozen=True):
    """One tool for several parts."""

    serves: Annotated[tuple[int, ...], Meta(min_length=2, max_length=6)]
    """Parts, counted from 1."""
    tool: Document


class Integration(Record, frozen=True):
    """The answer of the third stage: what is merged; other parts keep their tools."""

    merges: Annotated[tuple[Merge, ...], Meta(max_length=3)]


class Extension(Record, frozen=True):
    """Tools that no part needs."""

    tools: Annotated[tuple[Document, ...], Meta(max_length=6)]


def check_document(document: Document, answers: Sequence[str]) -> Flaw | None:
    """Refuse names that are no names, parameters that make no schema, and answers in the text."""
    if not is_name(document.name) or "_" not in document.name:
        return Flaw(
            kind="name", text=f"{document.name!r} is no name of two words like find_capital"
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
    """Say whether a text is a snake_case name that Python does not use itself."""
    return bool(TOOL_NAME.fullmatch(name)) and not keyword.iskeyword(name)


def check_parameter(parameter: Parameter) -> str | None:
    """Say what is wrong with a parameter."""
    if not is_name(parameter.name):
        return "is no name in snake_case"
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
    """Say whether a value is of one of some types; true is no number."""
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, PYTHON[kind]) for kind in types)


def readable(document: Document) -> str:
    """Give all words of a document, names taken apart."""
    words = [document.name.replace("_", " "), document.description]
    for p in document.parameters:
        default = "" if p.default is None else str(p.default)
        words += [p.name.replace("_", " "), p.description, *p.options, default]
    return " / ".join(words)


def check_names(documents: Sequence[Document]) -> Flaw | None:
    """Refuse two tools of one name."""
    names = [document.name for document in documents]
    twice = sorted({name for name in names if names.count(name) > 1})
    return Flaw(kind="name", text=f"several tools are called {twice}") if twice else None


def check_integration(
    given: Integration, documents: Sequence[Document], answers: Sequence[str]
) -> Flaw | None:
    """Refuse merges of parts that do not exist or stand in two merges, and bad documents."""
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
    """Give the tools that are left, each with the parts it serves; in the order of the parts."""
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
    """Refuse a document that is not wider than before, or breaks a call that worked."""
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
    """Say how a widened parameter breaks what the old one allowed."""
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
    """Refuse a wrong number of further tools, bad ones, and names that are taken."""
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
    """Give the grammar of `{"arguments": ...}` for a tool's parameters."""
    return msgspec.json.encode(
        {
            "type": "object",
            "properties": {"arguments": {**parameters, "additionalProperties": False}},
            "required": ["arguments"],
            "additionalProperties": False,
        }
    ).decode()
