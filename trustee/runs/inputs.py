"""What a run reads besides its config: tools, environments, demonstrations.

A run must not change because a file outside it does, nor end because one is gone. So a job copies
what it reads into `inputs/` of its folder, notes the hash, and reads the copy from then on. What is
very large stays where it is and is held against its hash. A field of a config is such a path if
its type says so: `InputPath`, or an annotation with `INPUT` in the `extra` of its `Meta`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta

from trustee.errors import InputError, RunError
from trustee.types import PATH, Record

INPUT = "input"
"""Key in the `extra` of a field's `Meta`: the field is the path of an input, but for the values
listed there, which name something in the package."""
INPUTS = "inputs"
"""Folder of the copies."""
MOST_COPIED = 1 << 30
"""Bytes of the largest input that is copied."""

InputPath = Annotated[str, Meta(extra={PATH: True, INPUT: ()})]

S = TypeVar("S", bound=msgspec.Struct)


class StoredInput(Record, frozen=True):
    """One input of a run, as its record has it."""

    origin: str
    """Where it was read, absolute."""
    sha256: str
    """Of its bytes; of a folder, of the names and hashes of its files."""
    copy: str = ""
    """Name in `inputs/`; empty if it is too large to be copied, or kept by the run around it."""


def find_inputs(config: msgspec.Struct) -> dict[str, Path]:
    """Return the paths of a config's inputs, by key; those that lead nowhere are left out."""
    found = ((key, Path(text).expanduser()) for key, text in _walk(config, ""))
    return {key: path for key, path in found if path.exists()}


def find_input_keys(config: msgspec.Struct) -> frozenset[str]:
    """Return the keys at which a config names an input, whether it is there or not."""
    return frozenset(key for key, _ in _walk(config, ""))


def _walk(config: msgspec.Struct, prefix: str) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        key = f"{prefix}.{field.encode_name}".removeprefix(".")
        if isinstance(value, msgspec.Struct):
            yield from _walk(value, key)
        elif isinstance(value, str):
            named = _named(field.type)
            if named is not None and value not in named:
                yield key, value


def _named(kind: Any) -> tuple[str, ...] | None:
    """Return what a field may name besides a path, or None if it is not an input."""
    for part in (kind, *get_args(kind)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and INPUT in (meta.extra or {}):
                return tuple((meta.extra or {})[INPUT])
    return None


def replace_inputs(config: S, paths: Mapping[str, Path]) -> S:
    """Return a config with other paths, by key."""
    return _replace(config, {key: str(path) for key, path in paths.items()})


def _replace(config: S, texts: Mapping[str, str]) -> S:
    changed: dict[str, Any] = {}
    by_field: dict[str, dict[str, str]] = {}
    for key, text in texts.items():
        first, _, rest = key.partition(".")
        if rest:
            by_field.setdefault(first, {})[rest] = text
        else:
            changed[first] = text
    for name, inner in by_field.items():
        changed[name] = _replace(getattr(config, name), inner)
    return msgspec.structs.replace(config, **changed)


def keep_inputs(found: Mapping[str, Path], folder: Path) -> dict[str, StoredInput]:
    """Copy inputs into a run folder and return what to record of them, by key.

    Raises:
        InputError: if an input cannot be read.
        RunError: if a copy cannot be written.
    """
    return {key: keep_input(key, path, folder) for key, path in sorted(found.items())}


def keep_input(key: str, path: Path, folder: Path) -> StoredInput:
    """Copy one input into a run folder and return what to record of it.

    Raises:
        InputError: if it cannot be read.
        RunError: if the copy cannot be written.
    """
    origin = path.absolute()
    digest = hash_input(path)
    kept_above = path.resolve().is_relative_to((folder.parent / INPUTS).resolve())
    if kept_above or measure(path) > MOST_COPIED:
        return StoredInput(origin=str(origin), sha256=digest)
    copy = folder / INPUTS / (key if path.is_dir() else key + path.suffix)
    if path.resolve() != copy.resolve():
        try:
            copy_input(path, copy)
        except OSError as error:
            raise RunError(
                f"cannot copy {path} to {copy}: {error}; free some disk space and try again"
            ) from error
    return StoredInput(origin=str(origin), sha256=digest, copy=copy.name)


def copy_input(path: Path, copy: Path) -> None:
    """Copy a file or folder to its place, completely or not at all.

    Raises:
        OSError: if it cannot be read or written.
    """
    partial = copy.with_name(f".{copy.name}.partial")
    for old in (partial, copy):
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        for file in files_of(path):
            place = partial / file.relative_to(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    else:
        shutil.copyfile(path, partial)
    partial.rename(copy)


def files_of(path: Path) -> list[Path]:
    """Return the ordinary files of a folder, or a file itself, in the order of their names."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def measure(path: Path) -> int:
    """Return the size of a file, or of all files of a folder, in bytes."""
    return sum(file.stat().st_size for file in files_of(path))


def hash_input(path: Path) -> str:
    """Return the hash that a record has of a file or folder.

    Raises:
        InputError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in files_of(path):
            with file.open("rb") as opened:
                inner = hashlib.file_digest(opened, "sha256").hexdigest()
            if not path.is_dir():
                return inner
            digest.update(f"{file.relative_to(path)} {inner}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def pin_inputs(config: S) -> S:
    """Return a config with the hashes of its inputs in place of their paths, to be compared."""
    found = {key: f"sha256 {hash_input(path)}" for key, path in find_inputs(config).items()}
    return _replace(config, found)


def place_of(stored: StoredInput, folder: Path) -> Path:
    """Return where a run's input is read: from its copy, or in its old place if there is none."""
    # The name alone, so that a record cannot point out of its folder.
    return folder / INPUTS / Path(stored.copy).name if stored.copy else Path(stored.origin)


def check_inputs(inputs: Mapping[str, StoredInput], folder: Path) -> None:
    """Check that a run's inputs are what they were at its start.

    Raises:
        InputError: naming the first one that is gone or has changed.
    """
    for key, stored in sorted(inputs.items()):
        path = place_of(stored, folder)
        if not path.exists():
            raise InputError(
                f"{path} is gone: {key} of this run was read from {stored.origin}; put it back "
                f"(sha256 {stored.sha256[:12]}), or start a new run"
            )
        now = hash_input(path)
        if now != stored.sha256:
            raise InputError(
                f"{path} has changed since the run started: the sha256 of {key} was "
                f"{stored.sha256[:12]} and is {now[:12]}; put the original back, or start a new run"
            )
