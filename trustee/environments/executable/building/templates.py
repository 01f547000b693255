"""Functions of the micro-world, written by code: a table of places, checks, readable errors.

Results are drawn so that each answer occurs only in the row of its gold call.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from trustee.environments.executable.building.documents import Document, Parameter
from trustee.environments.executable.building.documents import JsonType as DocumentKind
from trustee.environments.micro.world import PLACES, VALUES, Thing, ValueKind

READ = """\
{signature}
    rows = {rows}
    if not isinstance({place}, str):
        return {{"error": "{place} must be a string"}}
    if {place} not in rows:
        return {{"error": "{place} must be one of " + " ".join(sorted(rows))}}
{optional}    return rows[{place}]
"""
OPTIONAL = """\
    if {extra} is not None:
        if {wrong_type}:
            return {{"error": "{extra} must be {kind}"}}
        other = {other}
        at = (sorted(rows).index({place}) + {shift}) % len(other)
        return dict(rows[{place}], {result}=other[at])
"""
WRITE = """\
{signature}
    if not isinstance({place}, str):
        return {{"error": "{place} must be a string"}}
    if {place} not in {places}:
        return {{"error": "{place} must be one of {listed}"}}
    if {wrong_type}:
        return {{"error": "{value} must be {kind}"}}
    return {{"ok": True}}
"""


def draw_extra(thing: Thing, rng: random.Random) -> Parameter | None:
    """Draw an optional parameter that changes a reading tool's result, or None."""
    if rng.random() < 0.5:
        return None
    name = "mode" if thing.kind == "hour" else "hour"
    return Parameter(
        name=name,
        types=("string",) if name == "mode" else ("integer",),
        description="",
        required=False,
    )


def describe_thing(thing: Thing, *, writes: bool = False, finds: Thing | None = None) -> Document:
    """Return the document of a tool; `finds` is the thing whose place its result contains."""
    verb = "set" if writes else "read"
    more = "" if finds is None else f" and the {finds.place} of the {finds.name}"
    parameters = [Parameter(name=thing.place, types=("string",), description="", required=True)]
    if writes:
        value: DocumentKind = "integer" if thing.kind in ("level", "hour") else "string"
        parameters.append(Parameter(name=thing.kind, types=(value,), description="", required=True))
    return Document(
        name=f"{verb}_{thing.name}",
        description=f"{verb} the {thing.kind} of the {thing.name}{more}",
        parameters=tuple(parameters),
    )


def draw_answers(kinds: Sequence[ValueKind], rng: random.Random) -> list[int | str]:
    """Draw a value for each kind, all different, also across kinds."""
    while True:
        values = [rng.choice(VALUES[kind]) for kind in kinds]
        if len({*values}) == len(values):
            return values


def spare_values(kind: ValueKind, answers: Sequence[int | str]) -> list[int | str]:
    """Return the values of a kind that are not answers."""
    return [value for value in VALUES[kind] if value not in answers]


def draw_rows(
    thing: Thing,
    gold: Mapping[str, Mapping[str, Any]],
    answers: Sequence[int | str],
    rng: random.Random,
    *,
    finds: str = "",
) -> dict[str, dict[str, Any]]:
    """Draw what a reading tool returns for each place; `gold` has the rows that are fixed.

    `finds` names the kind of place that its rows contain in addition to the value.
    """
    spare = spare_values(thing.kind, answers)
    rows: dict[str, dict[str, Any]] = {}
    for place in PLACES[thing.place]:
        row: dict[str, Any] = {thing.kind: rng.choice(spare)}
        if finds:
            row[finds] = rng.choice(PLACES[finds])
        rows[place] = {**row, **gold.get(place, {})}
    return rows


def write_reader(
    document: Document,
    thing: Thing,
    rows: Mapping[str, Mapping[str, Any]],
    answers: Sequence[int | str],
) -> str:
    """Return the source of a reading tool."""
    extra = next((p for p in document.parameters if not p.required), None)
    optional = ""
    if extra is not None:
        text = extra.types == ("string",)
        optional = OPTIONAL.format(
            extra=extra.name,
            wrong_type=wrong_type(extra.name, text=text),
            kind="a string" if text else "a number",
            other=spare_values(thing.kind, answers)[:5],
            place=thing.place,
            shift=f"len({extra.name})" if text else extra.name,
            result=thing.kind,
        )
    return READ.format(
        signature=document.signature, rows=dict(rows), place=thing.place, optional=optional
    )


def write_writer(document: Document, thing: Thing) -> str:
    """Return the source of a tool that sets a value and returns only that it worked."""
    text = thing.kind in ("mode", "color")
    return WRITE.format(
        signature=document.signature,
        place=thing.place,
        places=PLACES[thing.place],
        listed=" ".join(PLACES[thing.place]),
        value=thing.kind,
        wrong_type=wrong_type(thing.kind, text=text),
        kind="a string" if text else "a number",
    )


def wrong_type(name: str, *, text: bool) -> str:
    """Return the code of a test for a value of the wrong type; `True` is not a number."""
    return f"not isinstance({name}, str)" if text else f"type({name}) is not int"
