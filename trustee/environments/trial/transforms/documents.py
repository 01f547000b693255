"""Transforms of the documentation of tools: descriptions, hidden parameters, units and codes.

The tools behave as before, but their documentation helps less, so trying them helps more.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trustee.environments.trial.transforms.perturbation import Perturbation, Recoding, ToolAlias
from trustee.tools.schema import change_children, properties_of, required_of
from trustee.types import ExpectedCall, Record, Tool

SHORT = 4
"""Number of words that a shortened description keeps."""
FACTORS = (10, 100, 1000)
"""Factors by which a shown unit may be finer than the real one."""


class Describe(Record, frozen=True, tag="describe", tag_field="kind"):
    """Removes, shortens or swaps descriptions."""

    how: Literal["none", "short", "wrong"] = "none"
    """`none` and `short` also remove the descriptions of parameters; `wrong` gives every tool the
    description of another."""

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw the descriptions; None if `wrong` finds no two different ones."""
        texts = [tool.description for tool in tools]
        if self.how == "wrong":
            if len(set(texts)) < 2:
                return None
            order = rng.sample(range(len(tools)), len(tools))
            texts = [
                texts[other] for _, other in sorted(zip(order, [*order[1:], order[0]], strict=True))
            ]
        elif self.how == "short":
            texts = [" ".join(text.split()[:SHORT]) for text in texts]
        else:
            texts = [""] * len(tools)
        quiet = self.how != "wrong"
        return show_unchanged(
            "describe",
            [
                msgspec.structs.replace(
                    tool,
                    description=text,
                    parameters=_without_descriptions(tool.parameters) if quiet else tool.parameters,
                )
                for tool, text in zip(tools, texts, strict=True)
            ],
        )


class Undocument(Record, frozen=True, tag="undocument", tag_field="kind"):
    """Hides a required parameter: the schema leaves it out, and a call without it fails."""

    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Probability that a tool with a required parameter hides one."""

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw one required parameter of each chosen tool."""
        shown: list[Tool] = []
        for tool in tools:
            required = required_of(tool.parameters)
            if required and rng.random() < self.share:
                shown.append(_without_parameter(tool, rng.choice(required)))
            else:
                shown.append(tool)
        return show_unchanged("undocument", shown)


class Recode(Record, frozen=True, tag="recode", tag_field="kind"):
    """Changes how values are written: numbers in a finer unit, enum values as codes.

    This affects calls only; results keep the real values. The schema lists the codes but does not
    mention units.
    """

    units: bool = True
    enums: bool = True

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw a factor or codes for each numeric or enum parameter; None if there is none."""
        shown: list[Tool] = []
        aliases: dict[str, ToolAlias] = {}
        for tool in tools:
            schema = dict(tool.parameters)
            properties: dict[str, Any] = dict(schema.get("properties", {}))
            values: dict[str, Recoding] = {}
            for name, part in properties_of(schema).items():
                recoding = self._recode(part, rng)
                if recoding is not None:
                    values[name] = recoding
                    properties[name] = _recoded_schema(part, recoding)
            schema["properties"] = properties
            shown.append(msgspec.structs.replace(tool, parameters=schema))
            aliases[tool.name] = ToolAlias(inner=tool.name, values=values)
        if not any(alias.values for alias in aliases.values()):
            return None
        return Perturbation(kind="recode", tools=tuple(shown), aliases=aliases)

    def _recode(self, part: Mapping[str, Any], rng: random.Random) -> Recoding | None:
        if self.enums and isinstance(part.get("enum"), list) and len(part["enum"]) > 1:
            return Recoding(codes=draw_codes(part["enum"], rng))
        if self.units and part.get("type") in ("integer", "number") and "enum" not in part:
            return Recoding(factor=rng.choice(FACTORS))
        return None


def draw_codes(values: Sequence[Any], rng: random.Random) -> dict[str, Any]:
    """Return values by code: their first letters in capitals if those differ, else numbers."""
    short = [re.sub(r"\W", "", str(value))[:3].upper() for value in values]
    if len(set(short)) < len(values) or not all(short) or short == [str(v) for v in values]:
        numbers = rng.sample(range(1, len(values) + 1), len(values))
        short = [f"c{number}" for number in numbers]
    return dict(zip(short, values, strict=True))


def show_unchanged(kind: str, tools: Sequence[Tool]) -> Perturbation:
    """Return a perturbation of the shown tools that passes calls and answers unchanged."""
    return Perturbation(
        kind=kind,
        tools=tuple(tools),
        aliases={tool.name: ToolAlias(inner=tool.name) for tool in tools},
    )


def _recoded_schema(part: Mapping[str, Any], recoding: Recoding) -> dict[str, Any]:
    """Return a parameter's schema for its shown values; a number's bounds change with its unit."""
    if recoding.codes:
        return {"type": "string", "enum": list(recoding.codes)}
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "default")
    return {
        key: recoding.to_shown(value) if key in bounds else value
        for key, value in part.items()
        if key != "description"
    }


def _without_parameter(tool: Tool, name: str) -> Tool:
    schema = dict(tool.parameters)
    schema["properties"] = {k: v for k, v in schema.get("properties", {}).items() if k != name}
    schema["required"] = [other for other in required_of(schema) if other != name]
    return msgspec.structs.replace(tool, parameters=schema)


def _without_descriptions(schema: Any) -> Any:
    """Return a schema without descriptions and examples; a parameter may have such a name."""
    if not isinstance(schema, dict):
        return schema
    told = {key: value for key, value in schema.items() if key not in ("description", "examples")}
    return change_children(told, _without_descriptions)
