"""Making a tool of arguments and the definitions that they use, no longer than a limit.

What is too long is shortened: first descriptions inside the arguments are cut to their first
sentence, then schemas deep inside are left open, which allows more than the document does and
never less.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from typing import Any, NamedTuple

from trustee.tools.files.openapi.placement import place_definitions
from trustee.tools.files.openapi.schemas import DEFINITIONS, Definitions
from trustee.tools.files.rules import Schema
from trustee.tools.schema import change_children, children, walk

_BRIEF = 120
"""Characters to which the first sentence of a description is cut."""
_DEEPEST = 8
"""Levels inside the arguments that a shortened schema keeps at most."""
_WHOLE = 1 << 20
"""A depth that nothing reaches."""
CUT_TEXTS = "long descriptions cut"
CUT_DEPTH = "long descriptions cut and what is deep inside arguments left open"
CUT_ALL = "descriptions dropped and what is inside arguments left open"

_SAME_VALUE = frozenset(("allOf", "anyOf", "oneOf"))
_STRICT = frozenset(
    (
        *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
        *("unevaluatedProperties", "unevaluatedItems"),
    )
)
"""Keywords that would forbid what the document allows, if what they hold or stand beside were
left open."""


class Shortened(NamedTuple):
    """Parameters that fit, and what was done so that they do; empty if nothing was."""

    parameters: Schema
    how: str


class TooLong(Exception):
    """The parameters do not fit, however they are shortened."""

    def __init__(self, length: int) -> None:
        """Keep the length of the shortest form."""
        super().__init__(length)
        self.length = length


class _Part(NamedTuple):
    """A definition in the form in which a tool has it."""

    schema: Schema
    length: int
    needs: dict[str, int]
    """By name, how deep the definitions that it uses are kept."""


class Lengths:
    """Fits the schemas of one document into a limit."""

    def __init__(self, definitions: Definitions) -> None:
        """Begin with no definition measured."""
        self.definitions = definitions
        self._parts: dict[tuple[str, int, bool], _Part] = {}
        self._sound: set[str] = set()
        """Definitions that lead to no broken one."""

    def fit(self, arguments: Schema, *, room: int) -> Shortened:
        """Return parameters of at most `room` characters.

        Raises:
            TooLong: if they cannot be shortened enough.
            Unreadable: if a definition cannot be read.
        """
        self._read_all(arguments)
        found = self._assemble(arguments, room=room, depth=_WHOLE)
        if found is not None:
            return Shortened(found, "")
        # Those of the arguments themselves are cut last.
        for kept in (2, 0):
            short = shorten_texts(arguments, kept=kept)
            found = self._assemble(short, room=room, depth=_WHOLE, brief=True)
            if found is not None:
                return Shortened(found, CUT_TEXTS)
        for depth in range(_DEEPEST + 1):
            deeper = self._assemble(short, room=room, depth=depth, brief=True)
            if deeper is None:
                break
            found = deeper
        if found is not None:
            return Shortened(found, CUT_DEPTH)
        bare = self._open(shorten_texts(arguments, most=0), 1, needs={})
        if measure(bare) > room:
            raise TooLong(measure(bare))
        return Shortened(bare, CUT_ALL)

    def _read_all(self, arguments: Schema) -> None:
        """Read every definition that arguments lead to, however far."""
        waiting = list(references_of(arguments))
        seen = set(waiting) - self._sound
        while waiting:
            name = waiting.pop()
            if name not in self._sound:
                new = self._part(name, _WHOLE, brief=False).needs.keys() - seen
                seen |= new
                waiting += new
        self._sound |= seen

    def _assemble(
        self, arguments: Schema, *, room: int, depth: int, brief: bool = False
    ) -> Schema | None:
        """Return arguments with their definitions; None if they are longer than there is room."""
        needs: dict[str, int] = {}
        root = self._open(arguments, depth + 1, needs=needs)
        length = measure(root)
        found: dict[str, Schema] = {}
        # Deepest first, so that each is taken once, in the longest form that a use of it asks for.
        waiting = [(-deep, name) for name, deep in needs.items()]
        heapq.heapify(waiting)
        while waiting and length <= 2 * room:
            deep, name = heapq.heappop(waiting)
            if name in found:
                continue
            part = self._part(name, -deep, brief=brief)
            found[name] = part.schema
            length += part.length
            for other, inner in part.needs.items():
                heapq.heappush(waiting, (-inner, other))
        if length > 2 * room:
            return None
        placed = place_definitions(root, found)
        return placed if measure(placed) <= room else None

    def _part(self, name: str, depth: int, *, brief: bool) -> _Part:
        key = name, depth, brief
        if key not in self._parts:
            schema = self.definitions.read(name)
            if brief:
                schema = shorten_texts(schema)
            needs: dict[str, int] = {}
            schema = self._open(schema, depth, needs=needs)
            self._parts[key] = _Part(schema, measure(schema), needs)
        return self._parts[key]

    def _open(self, schema: Any, depth: int, *, needs: dict[str, int]) -> Any:
        """Return a schema that is left open below a depth; note the definitions it needs."""
        if not isinstance(schema, dict):
            return schema
        if depth >= _WHOLE:
            needs |= dict.fromkeys(references_of(schema), _WHOLE)
            return schema
        name = _name_of(schema)
        if depth <= 0 and (name is not None or any(True for _ in children(schema))):
            return self._stub(schema)
        if name is not None:
            needs[name] = max(depth, needs.get(name, 0))
        result: Schema = {}
        for key, value in schema.items():
            if key in _SAME_VALUE:
                shorter = [self._open(part, depth, needs=needs) for part in value]
                # Alternatives that were told apart by what is left open may both fit.
                result["anyOf" if key == "oneOf" and "anyOf" not in schema else key] = shorter
            elif key not in _STRICT:
                result |= change_children(
                    {key: value}, lambda part: self._open(part, depth - 1, needs=needs)
                )
        return result

    def _stub(self, schema: Schema) -> Schema:
        """Return a schema of which only the type and the description are left."""
        result: Schema = {}
        target = schema
        for _ in range(_DEEPEST):
            if "type" in target:
                result["type"] = target["type"]
                break
            parts = [part for part in target.get("allOf", ()) if isinstance(part, dict)]
            name = _name_of(target)
            if name is not None:
                target = self.definitions.read(name)
            elif parts:
                target = parts[0]
            else:
                break
        return result | {key: schema[key] for key in ("description",) if key in schema}


def measure(schema: object) -> int:
    """Return the length of a schema as chat templates write it."""
    return len(json.dumps(schema, ensure_ascii=False))


def references_of(schema: Schema) -> Counter[str]:
    """Return the names of the definitions that a schema refers to, with how often it does."""
    return Counter(name for part in walk(schema) if (name := _name_of(part)) is not None)


def _name_of(schema: Any) -> str | None:
    reference = schema.get("$ref")
    return reference.removeprefix(DEFINITIONS) if isinstance(reference, str) else None


def shorten_texts(schema: Any, *, kept: int = 0, most: int = _BRIEF) -> Any:
    """Return a schema with descriptions of at most `most` characters below the first levels."""
    if not isinstance(schema, dict):
        return schema
    result = change_children(schema, lambda part: shorten_texts(part, kept=kept - 1, most=most))
    text = schema.get("description")
    if kept <= 0 and isinstance(text, str):
        result["description"] = _first_sentence(text, most=most)
        if not result["description"]:
            del result["description"]
    return result


def _first_sentence(text: str, *, most: int) -> str:
    text = " ".join(text[: 4 * most].split())
    sentence = text.partition(". ")[0]
    if len(sentence) < len(text):
        sentence += "."
    return sentence if len(sentence) <= most else sentence[: max(0, most - 1)] + "…" * bool(most)
