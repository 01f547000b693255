"""Configuration: TOML to frozen structs, and nothing else.

Bounds sit in the types, unknown keys are refused, errors name file and key. `--set a.b=c` edits the
table before it is converted, so there is one validator.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trustee.chat import Voice
from trustee.engines.vllm import VllmConfig
from trustee.environments import WorldConfig
from trustee.environments.simulated import Simulated
from trustee.errors import InputError
from trustee.evaluate import EvalConfig
from trustee.step import LearnConfig
from trustee.train import RolloutConfig
from trustee.types import Record
from trustee.watch import WatchConfig

CONFIGS = Path("configs")


class RunConfig(Record, frozen=True):
    """How long, and where."""

    steps: Annotated[int, Meta(ge=1)] = 200
    """Optimiser steps."""
    minutes: Annotated[float, Meta(ge=0)] = 0.0
    """Wall time of training after which the run ends; 0 is no limit."""
    seed: int = 0
    folder: str = "runs"
    """Where run folders are made."""
    keep_checkpoints: Annotated[int, Meta(ge=1)] = 2


class ModelConfig(Record, frozen=True):
    """The base: simulator, and policy where its adapter is on."""

    path: str
    """Hugging Face model folder; `tiny` is the model in the package."""
    thinking: bool = False
    """What the chat template is told as enable_thinking."""


class SimulatorConfig(Record, frozen=True):
    """How the roles speak."""

    writer: Voice = Voice(temperature=1.0, max_tokens=1024)
    user: Voice = Voice(temperature=0.7, max_tokens=320)
    tool: Voice = Voice(temperature=0.3, max_tokens=768)
    judge: Voice = Voice(temperature=0.0, max_tokens=512)
    tries: Annotated[int, Meta(ge=1)] = 3
    """Answers asked for before an episode counts as spoiled."""


class Config(Record, frozen=True):
    """A whole run."""

    model: ModelConfig
    run: RunConfig = RunConfig()
    engine: VllmConfig = VllmConfig()
    rollout: RolloutConfig = RolloutConfig()
    learn: LearnConfig = LearnConfig()
    env: WorldConfig = Simulated()
    simulator: SimulatorConfig = SimulatorConfig()
    eval: EvalConfig = EvalConfig()
    eval_env: WorldConfig | Literal["same"] = "same"
    """World of the held-out tasks; `same` is that of training."""
    watch: WatchConfig = WatchConfig()


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
    return convert(table, source=str(path))


def apply_change(table: dict[str, Any], change: str) -> None:
    """Set one key of a table from `a.b=value`; the value is TOML, or else a string.

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
    return convert(table, source="--set")


def convert(table: dict[str, Any], *, source: str) -> Config:
    """Convert a table to a checked config.

    Raises:
        InputError: naming the source, the key, what was given and what is allowed.
    """
    try:
        config = msgspec.convert(table, Config)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{source}: {explain(str(error), table)}") from error
    room = config.engine.context - config.rollout.limits.tokens
    if room < 1:
        raise InputError(
            f"{source}: rollout.limits.tokens ({config.rollout.limits.tokens}) must be below "
            f"engine.context ({config.engine.context})"
        )
    if config.engine.versions < 2:
        raise InputError(f"{source}: engine.versions must be at least 2: one plays, one is new")
    return config


def explain(error: str, table: dict[str, Any]) -> str:
    """Add to a conversion error what was given and, for an unknown key, what it may mean."""
    found = re.search(r"`\$\.?([\w.\[\]]*)`$", error)
    path = found.group(1) if found else ""
    unknown = re.search(r"unknown field `(\w+)`", error)
    if unknown:
        key = unknown.group(1)
        known = fields_at(path)
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        where = f"{path}.{key}" if path else key
        return f"unknown key {where}; {hint}allowed are: {', '.join(sorted(known))}"
    given: Any = table
    for part in filter(None, path.split(".")):
        given = given.get(part, "nothing") if isinstance(given, dict) else given
    plain = error.removesuffix(f" - at `$.{path}`")
    return f"{path or 'the file'}: {plain}; given {given!r}" if path else plain


def fields_at(path: str) -> list[str]:
    """List the keys that a section may hold."""
    kinds: list[Any] = [Config]
    for part in filter(None, path.split(".")):
        kinds = [
            inner
            for kind in kinds
            for field in msgspec.structs.fields(kind)
            if field.encode_name == part
            for inner in structs_in(field.type)
        ]
    return sorted({f.encode_name for kind in kinds for f in msgspec.structs.fields(kind)})


def structs_in(kind: Any) -> list[Any]:
    """List the struct types that a field's type may be."""
    options = getattr(kind, "__args__", ()) or (kind,)
    return [o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)]
