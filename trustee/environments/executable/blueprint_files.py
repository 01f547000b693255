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

A folder of such files, one file of such objects as JSON lines, and FTRL's published rows
(`published`) as JSON lines or parquet are all read; rows are told apart by their keys.
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.environments.executable.published_rows import is_published, read_published_row
from trustee.errors import InputError
from trustee.runs.files import write_file
from trustee.tools.files.rules import check_tools
from trustee.types import Record

MOST_SOURCE = 1_000_000
"""Maximum characters of one tool's source."""
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
    for where, row in _read_rows(path):
        try:
            blueprint, state = _read(row, where=where)
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
    check_blueprint(blueprint)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{blueprint.id}.json"
    write_file(final, msgspec.json.format(msgspec.json.encode(blueprint), indent=1))
    return final


def check_blueprint(blueprint: Blueprint) -> None:
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
        check_tool_source(name, source)
    called = {call.name for call in blueprint.gold}
    for what, named in (("unsolved", blueprint.unsolved.keys()), ("gold", called)):
        if unknown := sorted(named - set(names)):
            raise InputError(f"{what} names {', '.join(unknown)}; the tools are {', '.join(names)}")
    answers = [answer for own in blueprint.unsolved.values() for answer in own]
    if not answers:
        raise InputError("unsolved holds no sub-answer, so there is nothing to bring")
    if not all(answer.strip() for answer in answers):
        raise InputError("unsolved holds an empty sub-answer")


def check_tool_source(name: str, source: str) -> None:
    """Refuse a source that is too long, does not compile or does not define its tool.

    Raises:
        InputError: naming the problem.
    """
    if len(source) > MOST_SOURCE:
        raise InputError(
            f"the source of {name} has {len(source)} characters; at most {MOST_SOURCE} are allowed"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"the source of {name} does not compile: {reason}") from error
    if name not in _defined(tree):
        raise InputError(f"the source of {name} does not define it at its top level")


def show_refused_blueprints(refused: list[RefusedBlueprint] | tuple[RefusedBlueprint, ...]) -> str:
    """Return how many rows were refused and why the first ones were."""
    if not refused:
        return "there are no rows at all"
    first = "; ".join(f"{one.row}: {one.reason}" for one in refused[:SHOWN_REASONS])
    more = len(refused) - SHOWN_REASONS
    return first + (f"; and {more} more" if more > 0 else "")


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """Yield each row with its location; a row that is not a JSON object is yielded as an error."""
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.is_dir() or path.suffix == ".json":
            for one in sorted(path.glob("*.json")) if path.is_dir() else [path]:
                yield one.name, _decode(one.read_bytes())
        else:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path.name}:{number}", _decode(line)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a folder of JSON files, a file of "
            "JSON lines or a parquet file"
        ) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise InputError(
            f"{path}: parquet needs the package pyarrow, which is not installed; install it, or "
            "give the rows as JSON lines"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except arrow.ArrowInvalid as error:
        raise InputError(f"{path}: not a parquet file ({error})") from error
    for number, row in enumerate(rows, 1):
        yield f"{path.name}:{number}", row


def _decode(data: bytes) -> dict[str, Any] | InputError:
    try:
        row = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        return InputError(f"not JSON: {error}")
    if not isinstance(row, dict):
        return InputError(f"must be a JSON object, is a {type(row).__name__}")
    return row


def _read(row: dict[str, Any] | InputError, *, where: str) -> tuple[Blueprint, TurnState | None]:
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
        check_blueprint(blueprint)
    return blueprint, state


def _read_state(row: dict[str, Any], *, where: str) -> TurnState:
    return (
        read_published_row(row, source=where)[1]
        if is_published(row)
        else msgspec.convert(row, TurnState)
    )


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that the top level of a source defines."""
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name) for alias in node.names}
    return defined
