"""Configuration: from TOML to frozen structs, and nothing else.

Bounds are part of the types, unknown keys are refused, and errors name file and key. `--set a.b=c`
edits the table before it is converted, so there is only one validator. TOML has no null: a key
that may be switched off takes the word `none`, in a file and in a change.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from trustee.algorithm.config import LearnConfig
from trustee.checks.alarms import WatchConfig
from trustee.checks.config import GateConfig
from trustee.decoding import decode_json, decode_text, decode_toml, read_file
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
from trustee.environments.simulator import SimulatorConfig
from trustee.errors import InputError, UntrustedWorld
from trustee.evaluation.evaluate import EvalConfig
from trustee.rendering.call_parser import CallFormat
from trustee.rendering.chat_templates import TURN_ENDS
from trustee.rollout import RolloutConfig
from trustee.runs.config import RunConfig
from trustee.runs.inputs import INPUT
from trustee.sandbox.calls import SandboxConfig
from trustee.sft.collect import CollectConfig
from trustee.sft.train import SftConfig
from trustee.types import PATH, PathText, Record

CONFIGS = Path("configs")
PACKAGED = Path(__file__).parent / "configs"
"""Configs that travel with the package."""
EXAMPLES = Path("examples")
"""Folder of `PACKAGED` with environments to copy; the repository has a link of the same name."""
SAME = "same"
"""Value of `eval_env` that means: the world of training."""

Stored = TypeVar("Stored")


class ModelConfig(Record, frozen=True):
    """The base model: the simulator without an adapter, the policy with one."""

    path: PathText
    """Hugging Face model folder or hub id; `tiny` is the model in the package."""
    thinking: bool = False
    """Whether the policy thinks: the value of enable_thinking that its chat template receives. Each
    role of the simulator has a key of its own."""
    template: Annotated[str, Meta(extra={PATH: True, INPUT: tuple(TURN_ENDS)})] | None = None
    """Chat template in place of the model's own: chatml, llama3, mistral3, mistral or a file."""
    call_format: CallFormat | None = None
    """How the template writes calls; none: found by having it write one."""


class Config(Record, frozen=True):
    """All settings of a run."""

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
    """World of the held-out tasks; if left out or `same`, the world of training."""
    watch: WatchConfig = WatchConfig()
    gates: GateConfig = GateConfig()
    watchdog: WatchdogConfig = WatchdogConfig()


MOST_CONFIG_BYTES = 1 << 20
"""Size of the largest config file."""


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """Read a config file and apply `key.path=value` changes.

    Raises:
        InputError: naming file, key, the given value and what is allowed.
    """

    def refuse(why: str) -> InputError:
        names = {CONFIGS / found.name for found in PACKAGED.glob("*.toml")}
        near = ", ".join(sorted(map(str, {*CONFIGS.glob("*.toml")} or names)))
        return InputError(f"{path}: {why}; configs are: {near}")

    text = decode_text(read_file(path, error=refuse, most=MOST_CONFIG_BYTES), error=refuse)
    table = decode_toml(text, error=lambda why: InputError(f"{path}: not TOML: {why}"))
    for change in changes:
        apply_change(table, change)
    return convert(table, source=str(path), find=loader_from(path.parent, Path()))


def apply_change(table: dict[str, Any], change: str) -> None:
    """Set one key of a table from `a.b=value`; the value is TOML, else a string such as `none`.

    Raises:
        InputError: if the change has no `=`, or treats a value as a section.
    """
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {change!r}: give key=value, such as rollout.group_size=8")
    try:
        value = decode_toml(f"value = {text}", error=ValueError)["value"]
    except ValueError:
        value = text
    *sections, last = key.strip().split(".")
    at = table
    for section in sections:
        at = at.setdefault(section, {})
        if not isinstance(at, dict):
            raise InputError(f"--set {change!r}: {section} is a value, not a section")
    at[last] = value


def apply_changes(config: Config, changes: Sequence[str]) -> Config:
    """Return a config with keys changed.

    Raises:
        InputError: as in `read_config`.
    """
    table = msgspec.to_builtins(config)
    for change in changes:
        apply_change(table, change)
    return convert(table, source="--set", find=loader_from(Path()))


def decode_stored(data: bytes, kind: type[Stored]) -> Stored:
    """Read a record that holds a config, such as `run.json`, without loading code.

    Raises:
        UntrustedWorld: if it names a world outside the package that this process has not loaded.
        InputError: if it is not such a record.
    """
    try:
        return decode_json(data, kind, error=InputError, dec_hook=world_reader(find_loaded))
    except InputError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UntrustedWorld):
            cause = cause.__cause__
        raise cause or error from error.__cause__


def convert(table: dict[str, Any], *, source: str, find: FindWorld) -> Config:
    """Convert a table to a checked config.

    Raises:
        InputError: naming source, key, the given value and what is allowed.
    """
    if table.get("eval_env") == SAME:
        del table["eval_env"]
    engine = table.setdefault("engine", {})
    if isinstance(engine, dict):
        engine.setdefault("kind", "vllm")
    drop_none(table)
    expand_paths(table, source=source)
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
    response = config.rollout.limits.response
    if response is not None and response >= config.engine.context:
        raise InputError(
            f"{source}: rollout.limits.response ({response}) is never reached, because an episode "
            f"ends at engine.context ({config.engine.context}); lower the one or raise the other"
        )
    if too_long := config.simulator.find_too_long(config.engine.context):
        most = getattr(config.simulator, too_long).max_tokens
        raise InputError(
            f"{source}: simulator.{too_long}.max_tokens ({most}) must be below engine.context "
            f"({config.engine.context}), because prompt and answer share it"
        )
    episodes = config.rollout.groups_per_step * config.rollout.group_size
    if config.learn.updates > episodes:
        raise InputError(
            f"{source}: learn.updates ({config.learn.updates}) must be at most the {episodes} "
            "episodes of a step (rollout.groups_per_step x rollout.group_size)"
        )
    for key, value, needed in (
        ("eval.every", config.eval.every, ("eval.tasks", config.eval.tasks)),
        ("eval.patience", config.eval.patience, ("eval.every", config.eval.every)),
    ):
        if value is not None and needed[1] is None:
            raise InputError(
                f"{source}: {key} ({value}) has no effect while {needed[0]} is none; set both, or "
                "neither"
            )
    if config.engine.versions < 2:
        raise InputError(f"{source}: engine.versions must be at least 2: one plays, one is new")
    return config


def drop_none(table: dict[str, Any]) -> None:
    """Replace the word `none` by null where a key may be switched off."""

    def visit(section: dict[str, Any], path: str) -> None:
        off = {field.encode_name for field in fields_at(path, table) if is_optional(field.type)}
        for key, value in section.items():
            if isinstance(value, dict):
                visit(value, f"{path}.{key}".removeprefix("."))
            elif value == "none" and key in off:
                section[key] = None

    visit(table, "")


def expand_paths(table: dict[str, Any], *, source: str) -> None:
    """Replace `~` and environment variables in the keys that are paths.

    Raises:
        InputError: naming the key and a variable that is not set.
    """

    def visit(section: dict[str, Any], path: str) -> None:
        paths = {field.encode_name for field in fields_at(path, table) if is_path(field.type)}
        for key, value in section.items():
            where = f"{path}.{key}".removeprefix(".")
            if isinstance(value, dict):
                visit(value, where)
            elif isinstance(value, str) and key in paths:
                section[key] = expand_path(value, where=f"{source}: {where}")

    visit(table, "")


def expand_path(text: str, *, where: str) -> str:
    """Return a path with `~` and environment variables expanded, unless it exists as it is.

    Raises:
        InputError: if a variable is not set.
    """
    if not {"~", "$"} & set(text) or os.path.lexists(text):
        return text
    expanded = os.path.expandvars(os.path.expanduser(text))
    unset = re.search(r"\$(\w+|\{[^}]*\})", expanded)
    if unset:
        raise InputError(
            f"{where}: the environment variable {unset.group()} is not set; given {text!r}"
        )
    return expanded


def is_path(kind: Any) -> bool:
    """Whether a type is that of a path, which may be switched off."""
    options = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else [kind]
    metas = [meta for option in options for meta in getattr(option, "__metadata__", ())]
    return any(isinstance(meta, Meta) and PATH in (meta.extra or {}) for meta in metas)


def explain_conversion(error: str, table: dict[str, Any]) -> str:
    """Return a conversion error with the given value and what is allowed added."""
    # The parts of a path are listed innermost first, one for each separately read world.
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
    """Return the value given at a path such as `env.curriculum.tools[0]`."""
    for part in re.findall(r"\w+", path):
        if isinstance(table, dict):
            table = table.get(part, {})
        elif isinstance(table, list) and part.isdigit():
            table = table[int(part)]
    return table


def fields_at(path: str, table: dict[str, Any]) -> list[msgspec.structs.FieldInfo]:
    """Return the fields that a section may hold; with several kinds, those of the given one."""
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
    """Return the fixed words that a key may be set to; empty if it takes other values."""
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
    """Whether a key may be switched off."""
    section, _, key = path.rpartition(".")
    return any(
        is_optional(field.type) for field in fields_at(section, table) if field.encode_name == key
    )


def fields_of(kinds: Sequence[Any]) -> list[msgspec.structs.FieldInfo]:
    """Return the fields of structs."""
    return [field for kind in kinds for field in msgspec.structs.fields(kind)]


def options_of(kind: Any) -> tuple[Any, ...]:
    """Return the member types of a field's type."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return tuple(option for part in get_args(kind) for option in options_of(part))
    return known_worlds() if kind is World else (kind,)


def is_optional(kind: Any) -> bool:
    """Whether a type allows None."""
    return NoneType in options_of(kind)


def is_struct(kind: Any) -> bool:
    """Whether a type is a section of the config."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
