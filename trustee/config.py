"""Configuration: TOML to frozen structs, and nothing else.

Bounds sit in the types, unknown keys are refused, errors name file and key. `--set a.b=c` edits the
table before it is converted, so there is one validator. TOML has no null: where a key may be
switched off, the word `none` does it, in a file as in a change.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from trustee.algorithm.config import LearnConfig
from trustee.checks.alarms import WatchConfig
from trustee.checks.config import GateConfig
from trustee.engine.config import EngineConfig
from trustee.engine.vllm import VllmConfig
from trustee.engine.watchdog import WatchdogConfig
from trustee.environments.executable.building.workshop import BuildConfig
from trustee.environments.protocol import World
from trustee.environments.registry import (
    OUTSIDE,
    FindWorld,
    find_loaded,
    known_worlds,
    loader_from,
    world_reader,
)
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulator import RoleSampling
from trustee.errors import InputError, UntrustedWorld
from trustee.evaluation.evaluate import EvalConfig
from trustee.rollout import RolloutConfig
from trustee.sandbox.calls import SandboxConfig
from trustee.sft.collect import CollectConfig
from trustee.sft.train import SftConfig
from trustee.types import Record

CONFIGS = Path("configs")
SAME = "same"
"""What `eval_env` may be instead of a world: that of training."""

Stored = TypeVar("Stored")


class RunConfig(Record, frozen=True):
    """How long, and where."""

    steps: Annotated[int, Meta(ge=1)] = 200
    """Optimiser steps."""
    minutes: Annotated[float, Meta(gt=0)] | None = None
    """Wall time of training after which the run ends; none is no limit."""
    tokens: Annotated[int, Meta(ge=1)] | None = None
    """Tokens that the policy has said in training after which the run ends; none is no limit."""
    seed: int = 0
    """Decides the tasks, the episodes' randomness and the adapter's first weights."""
    folder: str = "runs"
    """Where run folders are made."""
    keep_checkpoints: Annotated[int, Meta(ge=1)] = 2
    """Newest checkpoints that stay on disk."""
    adapter: str | None = None
    """PEFT or run folder whose adapter training begins with; none begins at the base. With
    `learn.loss.kl_coef` it is also what the policy is kept near. The folder must stay there."""


class ModelConfig(Record, frozen=True):
    """The base: simulator, and policy where its adapter is on."""

    path: str
    """Hugging Face model folder; `tiny` is the model in the package."""
    thinking: bool = False
    """What the chat template is told as enable_thinking."""


class SimulatorConfig(Record, frozen=True):
    """How the roles speak."""

    writer: RoleSampling = RoleSampling(temperature=1.0, max_tokens=1024)
    user: RoleSampling = RoleSampling(temperature=0.7, max_tokens=320)
    tool: RoleSampling = RoleSampling(temperature=0.3, max_tokens=768)
    judge: RoleSampling = RoleSampling(temperature=0.0, max_tokens=512)
    builder: RoleSampling = RoleSampling(temperature=0.8, max_tokens=2048)
    tries: Annotated[int, Meta(ge=1)] = 3
    """Answers asked for before an episode counts as spoiled."""


class Config(Record, frozen=True):
    """A whole run."""

    model: ModelConfig
    run: RunConfig = RunConfig()
    engine: EngineConfig = VllmConfig()
    rollout: RolloutConfig = RolloutConfig()
    learn: LearnConfig = LearnConfig()
    env: World = Simulated()
    """World of training: `kind` names one of the package, or `package.module:Class` outside it."""
    simulator: SimulatorConfig = SimulatorConfig()
    sandbox: SandboxConfig = SandboxConfig()
    build: BuildConfig = BuildConfig()
    collect: CollectConfig = CollectConfig()
    sft: SftConfig = SftConfig()
    eval: EvalConfig = EvalConfig()
    eval_env: World | None = None
    """World of the held-out tasks; left out, or `same`, is that of training."""
    watch: WatchConfig = WatchConfig()
    gates: GateConfig = GateConfig()
    watchdog: WatchdogConfig = WatchdogConfig()


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """Read a config file with `key.path=value` changes.

    Raises:
        InputError: naming file, key, what was given and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = ", ".join(sorted(str(p) for p in CONFIGS.glob("*.toml"))) or "none here"
        raise InputError(f"{path}: cannot be read ({error}); configs are: {near}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    for change in changes:
        apply_change(table, change)
    return convert(table, source=str(path), find=loader_from(path.parent, Path()))


def apply_change(table: dict[str, Any], change: str) -> None:
    """Set one key of a table from `a.b=value`; the value is TOML, or else a string such as `none`.

    Raises:
        InputError: if the change has no `=` or names a value as a section.
    """
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {change!r}: give key=value, such as rollout.group_size=8")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    at = table
    for section in sections:
        at = at.setdefault(section, {})
        if not isinstance(at, dict):
            raise InputError(f"--set {change!r}: {section} is a value, not a section")
    at[last] = value


def apply_changes(config: Config, changes: Sequence[str]) -> Config:
    """Change keys of a finished config.

    Raises:
        InputError: as `read_config` does.
    """
    table = msgspec.to_builtins(config)
    for change in changes:
        apply_change(table, change)
    return convert(table, source="--set", find=loader_from(Path()))


def decode_stored(data: bytes, kind: type[Stored]) -> Stored:
    """Read a record with a config in it, such as `run.json`, without loading code for it.

    Raises:
        UntrustedWorld: if it names a world outside the package that this process has not loaded.
        InputError: if it is not such a record.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=world_reader(find_loaded))
    except (msgspec.DecodeError, InputError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UntrustedWorld):
            cause = cause.__cause__
        raise cause or InputError(str(error)) from error


def convert(table: dict[str, Any], *, source: str, find: FindWorld) -> Config:
    """Convert a table to a checked config.

    Raises:
        InputError: naming the source, the key, what was given and what is allowed.
    """
    if table.get("eval_env") == SAME:
        del table["eval_env"]
    engine = table.setdefault("engine", {})
    if isinstance(engine, dict):
        engine.setdefault("kind", "vllm")
    drop_none(table)
    try:
        config = msgspec.convert(table, Config, dec_hook=world_reader(find))
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{source}: {explain_conversion(str(error), table)}") from error
    room = config.engine.context - config.rollout.limits.tokens
    if room < 1:
        raise InputError(
            f"{source}: rollout.limits.tokens ({config.rollout.limits.tokens}) must be below "
            f"engine.context ({config.engine.context})"
        )
    if config.engine.versions < 2:
        raise InputError(f"{source}: engine.versions must be at least 2: one plays, one is new")
    return config


def drop_none(table: dict[str, Any]) -> None:
    """Put null where the word `none` switches a key off."""

    def visit(section: dict[str, Any], path: str) -> None:
        off = {field.encode_name for field in fields_at(path, table) if is_optional(field.type)}
        for key, value in section.items():
            if isinstance(value, dict):
                visit(value, f"{path}.{key}".removeprefix("."))
            elif value == "none" and key in off:
                section[key] = None

    visit(table, "")


def explain_conversion(error: str, table: dict[str, Any]) -> str:
    """Add to a conversion error what was given and what is allowed."""
    # The parts of a path come from the innermost out, one for each world that is read by itself.
    found = re.search(r"( - at `\$[^`]*`)+$", error)
    parts = re.findall(r"`\$\.?([^`]*)`", found.group()) if found else []
    path = ".".join(part for part in reversed(parts) if part)
    unknown = re.search(r"unknown field `(\w+)`", error)
    if unknown:
        key = unknown.group(1)
        known = sorted({field.encode_name for field in fields_at(path, table)})
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        where = f"{path}.{key}" if path else key
        return f"unknown key {where}; {hint}allowed are: {', '.join(known)}"
    if not path:
        return error
    plain = error[: found.start()] if found else error
    choices = choices_at(path, table) if plain.startswith("Invalid") else []
    if path == "eval_env" and isinstance(given_at(path, table), str):
        choices = [SAME]
    allowed = f"; allowed are: {', '.join(map(str, choices))}" if choices else ""
    off = "; none switches it off" if not choices and may_be_none(path, table) else ""
    return f"{path}: {plain}; given {given_at(path, table)!r}{allowed}{off}"


def given_at(path: str, table: Any) -> Any:
    """Look up what was given under a path such as `env.curriculum.tools[0]`."""
    for part in re.findall(r"\w+", path):
        if isinstance(table, dict):
            table = table.get(part, {})
        elif isinstance(table, list) and part.isdigit():
            table = table[int(part)]
    return table


def fields_at(path: str, table: dict[str, Any]) -> list[msgspec.structs.FieldInfo]:
    """List the fields that a section may hold; where it may be of several kinds, of the given."""
    kinds: list[Any] = [Config]
    at: Any = table
    for part in re.findall(r"\w+", path):
        at = given_at(part, at)
        named = [field.type for field in fields_of(kinds) if field.encode_name == part]
        kinds = [option for kind in named for option in options_of(kind) if is_struct(option)]
        tag = at.get("kind") if isinstance(at, dict) else None
        kinds = [kind for kind in kinds if kind.__struct_config__.tag == tag] or kinds
    return fields_of(kinds)


def choices_at(path: str, table: dict[str, Any]) -> list[Any]:
    """List the words that a key may be set to; none where it takes no fixed words."""
    section, _, key = path.rpartition(".")
    literals = [
        option
        for field in fields_at(section, table)
        if field.encode_name == key
        for option in options_of(field.type)
        if get_origin(option) is Literal
    ]
    if literals or key != "kind":
        return [word for literal in literals for word in get_args(literal)]
    holder, _, name = section.rpartition(".")
    kinds = [field.type for field in fields_at(holder, table) if field.encode_name == name]
    tags = [
        option.__struct_config__.tag
        for kind in kinds
        for option in options_of(kind)
        if is_struct(option)
    ]
    if not {World, World | None} & set(kinds):
        return tags
    return [*(tag for tag in tags if ":" not in tag), OUTSIDE]


def may_be_none(path: str, table: dict[str, Any]) -> bool:
    """Say whether a key may be switched off."""
    section, _, key = path.rpartition(".")
    return any(
        is_optional(field.type) for field in fields_at(section, table) if field.encode_name == key
    )


def fields_of(kinds: Sequence[Any]) -> list[msgspec.structs.FieldInfo]:
    """List the fields of structs."""
    return [field for kind in kinds for field in msgspec.structs.fields(kind)]


def options_of(kind: Any) -> tuple[Any, ...]:
    """List the types that a field's type stands for."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return tuple(option for part in get_args(kind) for option in options_of(part))
    return known_worlds() if kind is World else (kind,)


def is_optional(kind: Any) -> bool:
    """Say whether None is among the values of a type."""
    return NoneType in options_of(kind)


def is_struct(kind: Any) -> bool:
    """Say whether a type is a section of the config."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
