"""Reading and writing tool environments; unusable rows are reported, all others are used.

The format is one JSON file per environment, an object with the fields of `Blueprint`:

    id          letters, digits, `_`, `.` and `-`; unique, and the name of the file
    question    the question to the agent
    scenario    single_hop, parallel_single_hop, multi_hop or parallel_multi_hop
    tools       list of {name, description, parameters, effect, category}; parameters is a JSON
                Schema of type object, the last two may be left out
    sources     Python source by tool: exactly one for each, at most 1 MB, defining the tool's name
    unsolved    sub-answers by the tool that must return them; where one has parts joined by ", ",
                all must be present
    answer      the final answer
    gold        list of {name, arguments, answer}, may be left out
    provenance  anything, may be left out

A folder of such files, one file of such objects, and FTRL's published rows are all read, as JSON
lines, an array or parquet; rows are told apart by their keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.environments.executable.published_rows import is_published, read_published_row
from trustee.environments.executable.source_check import SourceChecker
from trustee.errors import InputError
from trustee.runs.files import write_file
from trustee.runs.rows import Row, read_rows
from trustee.tools.files.rules import check_tools
from trustee.types import Record

SHOWN_REASONS = 3
"""Number of refused rows whose reasons an error message repeats."""
BLUEPRINT_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")


class RefusedBlueprint(Record, frozen=True):
    """A row that cannot be used."""

    row: str
    """File of the row, with its line number if the file has several."""
    reason: str


class Loaded(Record, frozen=True):
    """Contents of a path."""

    blueprints: tuple[Blueprint, ...]
    refused: tuple[RefusedBlueprint, ...] = ()
    states: tuple[TurnState, ...] = ()
    """For published rows: the point of an episode that each row describes."""


def read_blueprints(path: Path) -> Loaded:
    """Read all environments of a folder or file, in the order of names or lines.

    Raises:
        InputError: if the path cannot be read or holds no usable environment; the message gives the
            first reasons.
    """
    blueprints: dict[str, Blueprint] = {}
    refused: list[RefusedBlueprint] = []
    states: list[tuple[str, TurnState]] = []
    with SourceChecker() as checker:
        for where, row in _read_rows(path):
            try:
                blueprint, state = _read(row, where=where, checker=checker)
                if state is not None:
                    states.append((where, state))
                    if len(state.messages) > 1:
                        continue
                if blueprint.id in blueprints:
                    raise InputError(f"the id {blueprint.id} was already used; ids must be unique")
                blueprints[blueprint.id] = blueprint
            except InputError as error:
                refused.append(RefusedBlueprint(row=where, reason=str(error)))
    refused += [
        RefusedBlueprint(
            row=where, reason="in the middle of an episode whose beginning is not in the file"
        )
        for where, state in states
        if state.blueprint not in blueprints
    ]
    if not blueprints:
        raise InputError(f"{path}: no usable environment; {show_refused_blueprints(refused)}")
    return Loaded(
        blueprints=tuple(blueprints.values()),
        refused=tuple(refused),
        states=tuple(state for _, state in states if state.blueprint in blueprints),
    )


def read_states(path: Path, loaded: Loaded) -> tuple[TurnState, ...]:
    """Read states from JSON lines, or return those of the published rows.

    Raises:
        InputError: if a line is not a state, or belongs to an environment that was not loaded.
    """
    known = {blueprint.id for blueprint in loaded.blueprints}
    states: list[TurnState] = []
    for where, row in _read_rows(path):
        try:
            state = row if isinstance(row, InputError) else _read_state(row, where=where)
        except (msgspec.ValidationError, InputError) as error:
            state = InputError(str(error))
        if isinstance(state, InputError):
            raise InputError(f"{where}: not a state ({state}); write states with trustee collect")
        if state.blueprint not in known:
            raise InputError(
                f"{where}: the environment {state.blueprint} is not among the "
                f"{len(known)} of env.path; give the environments that were played"
            )
        states.append(state)
    if not states:
        raise InputError(f"{path}: no states; write some with trustee collect")
    return tuple(states)


def write_blueprint(blueprint: Blueprint, folder: Path) -> Path:
    """Write an environment to a file named after its id, completely or not at all.

    Raises:
        InputError: if the written blueprint could not be read again.
    """
    with SourceChecker() as checker:
        check_blueprint(blueprint, checker)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{blueprint.id}.json"
    write_file(final, msgspec.json.format(msgspec.json.encode(blueprint), indent=1))
    return final


def check_blueprint(blueprint: Blueprint, checker: SourceChecker) -> None:
    """Refuse an environment that could not be played.

    Raises:
        InputError: naming the problem.
    """
    if BLUEPRINT_ID.fullmatch(blueprint.id) is None:
        raise InputError(f"id {blueprint.id[:80]!r}: allowed are letters, digits, _ . and -")
    if not blueprint.question.strip():
        raise InputError("question is empty")
    check_tools((f"tools[{i}]", tool) for i, tool in enumerate(blueprint.tools))
    names = [tool.name for tool in blueprint.tools]
    if set(names) != blueprint.sources.keys():
        lone = sorted(set(names) ^ blueprint.sources.keys())
        raise InputError(f"tools and sources differ in {', '.join(lone)}; each tool has one source")
    for name, source in blueprint.sources.items():
        checker.check(name, source)
    called = {call.name for call in blueprint.gold}
    for what, named in (("unsolved", blueprint.unsolved.keys()), ("gold", called)):
        if unknown := sorted(named - set(names)):
            raise InputError(f"{what} names {', '.join(unknown)}; the tools are {', '.join(names)}")
    answers = [answer for own in blueprint.unsolved.values() for answer in own]
    if not answers:
        raise InputError("unsolved holds no sub-answer, so there is nothing to bring")
    if not all(answer.strip() for answer in answers):
        raise InputError("unsolved holds an empty sub-answer")


def show_refused_blueprints(refused: list[RefusedBlueprint] | tuple[RefusedBlueprint, ...]) -> str:
    """Return how many rows were refused and why the first ones were."""
    if not refused:
        return "there are no rows at all"
    first = "; ".join(f"{one.row}: {one.reason}" for one in refused[:SHOWN_REASONS])
    more = len(refused) - SHOWN_REASONS
    return first + (f"; and {more} more" if more > 0 else "")


def _read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield each row with its location; a row that is not a JSON object is yielded as an error."""

    def refuse(why: str) -> InputError:
        return InputError(
            f"{path}: {why}; give a folder of JSON files, a file of JSON lines or a parquet file"
        )

    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        try:
            rows = list(read_rows(file, error=refuse))
        except InputError as error:
            if file is path:
                raise
            rows = [(1, error)]
        for number, row in rows:
            alone = file.suffix == ".json" and len(rows) == 1
            yield file.name if alone else f"{file.name}:{number}", row


def _read(row: Row, *, where: str, checker: SourceChecker) -> tuple[Blueprint, TurnState | None]:
    """Read and check a row of either form."""
    if isinstance(row, InputError):
        raise row
    state = None
    if is_published(row):
        blueprint, state = read_published_row(row, source=where)
    else:
        try:
            blueprint = msgspec.convert(row, Blueprint)
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from error
    if state is None or len(state.messages) == 1:
        check_blueprint(blueprint, checker)
    return blueprint, state


def _read_state(row: dict[str, Any], *, where: str) -> TurnState:
    return (
        read_published_row(row, source=where)[1]
        if is_published(row)
        else msgspec.convert(row, TurnState)
    )
