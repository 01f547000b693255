"""Transforms of names: opaque names, and names that tools swap among themselves.

A share of all opaque names is reserved for evaluation, as are pairs of tools, and never appears in
training.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trustee.environments.trial.transforms.perturbation import Perturbation, ToolAlias
from trustee.tools.schema import properties_of, required_of
from trustee.types import ExpectedCall, Record, Tool

LETTERS = "bcdfghjklmnpqrstvwxz"
RESERVED_NAMES_ONE_IN = 4
"""One opaque name in this many is reserved for evaluation."""


def is_reserved_name(name: str) -> bool:
    """Return whether an opaque name is reserved for evaluation."""
    return zlib.crc32(f"opaque {name}".encode()) % RESERVED_NAMES_ONE_IN == 0


class Opaque(Record, frozen=True, tag="opaque", tag_field="kind"):
    """Replaces names with meaningless ones."""

    tools: bool = True
    parameters: bool = False

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw new names, all different."""
        taken = {tool.name for tool in tools} | {
            n for t in tools for n in properties_of(t.parameters)
        }
        names: dict[str, str] = {}
        parameters: dict[str, dict[str, str]] = {}
        for tool in tools:
            names[tool.name] = self._name(rng, taken, held_out) if self.tools else tool.name
            renamed: dict[str, str] = {}
            for name in properties_of(tool.parameters) if self.parameters else ():
                renamed[name] = self._name(rng, taken, held_out)
            parameters[tool.name] = renamed
        return rename("opaque", tools, names, parameters)

    def _name(self, rng: random.Random, taken: set[str], held_out: bool) -> str:
        while True:
            name = "f_" + "".join(rng.choices(LETTERS, k=4))
            if name not in taken and is_reserved_name(name) == held_out:
                taken.add(name)
                return name


class Permute(Record, frozen=True, tag="permute", tag_field="kind"):
    """Gives every tool another tool's name; descriptions and parameters stay as they are."""

    def draw(
        self,
        tools: Sequence[Tool],
        rng: random.Random,
        *,
        reference: Sequence[ExpectedCall],
        held_out: bool,
    ) -> Perturbation | None:
        """Draw a cycle in which no tool keeps its name; None for a single tool."""
        if len(tools) < 2:
            return None
        order = rng.sample([tool.name for tool in tools], len(tools))
        names = dict(zip(order, [*order[1:], order[0]], strict=True))
        return rename("permute", tools, names, {})


def rename(
    kind: str,
    tools: Sequence[Tool],
    names: Mapping[str, str],
    parameters: Mapping[str, Mapping[str, str]],
) -> Perturbation:
    """Return the perturbation that shows tools and parameters under new names."""
    shown: list[Tool] = []
    aliases: dict[str, ToolAlias] = {}
    for tool in tools:
        renamed = parameters.get(tool.name, {})
        schema: dict[str, Any] = dict(tool.parameters)
        properties = schema.get("properties", {})
        schema["properties"] = {renamed.get(name, name): part for name, part in properties.items()}
        if "required" in schema:
            schema["required"] = [renamed.get(name, name) for name in required_of(schema)]
        name = names[tool.name]
        shown.append(
            msgspec.structs.replace(
                tool,
                name=name,
                description=re.sub(rf"\b{re.escape(tool.name)}\b", name, tool.description),
                parameters=schema,
            )
        )
        aliases[name] = ToolAlias(
            inner=tool.name, parameters={new: old for old, new in renamed.items()}
        )
    # The original order would reveal which tool is which.
    shown.sort(key=lambda tool: tool.name)
    return Perturbation(kind=kind, tools=tuple(shown), aliases=aliases)
