"""Checkpoints: a folder that is either whole or not there.

Written beside its place, every file synced, a manifest of sizes and hashes last, then renamed. The
reader verifies the manifest and walks back to the newest whole one. Safetensors and JSON only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from trustee.decoding import decode_json, open_file, read_file
from trustee.errors import InputError, RunError
from trustee.runs.weight_files import refuse_not_finite
from trustee.types import Record

log = structlog.get_logger()

WEIGHT_FILES = ("adapter/adapter_model.safetensors", "optimizer.safetensors")
"""Files of a checkpoint from which training goes on."""


class CheckpointManifest(Record, frozen=True):
    """What a whole checkpoint holds."""

    files: dict[str, tuple[int, str]]
    """Size in bytes and sha256, by path."""


class CheckpointState(Record, frozen=True):
    """Where a run stands between two steps; each kind of run has a struct of its own below this."""

    step: int
    """Steps done."""


R = TypeVar("R")
S = TypeVar("S", bound=CheckpointState)


async def write_checkpoint(
    folder: Path, state: CheckpointState, *, save: Callable[[Path], Awaitable[None]], keep: int
) -> Path:
    """Write a checkpoint and delete all but the newest `keep`.

    Args:
        folder: the run's `checkpoints` folder.
        state: where the run stands.
        save: writes the trainer's files into a folder.
        keep: how many stay.

    Raises:
        RunError: if it cannot be written; earlier checkpoints are untouched.
    """
    final = folder / f"step-{state.step:06d}"
    partial = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        await save(partial)
        (partial / "state.json").write_bytes(msgspec.json.encode(state))
        files = {}
        for path in sorted(p for p in partial.rglob("*") if p.is_file()):
            files[str(path.relative_to(partial))] = hash_file(path)
            _sync(path)
        (partial / "manifest.json").write_bytes(
            msgspec.json.encode(CheckpointManifest(files=files))
        )
        _sync(partial / "manifest.json")
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(folder)
    except OSError as error:
        raise RunError(f"cannot write checkpoint {final}: {error.strerror}") from error
    for old in find_checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is as its manifest says."""
    try:
        manifest = read_part(path / "manifest.json", CheckpointManifest)
        return all(
            hash_file(path / name) == (size, digest)
            for name, (size, digest) in manifest.files.items()
        )
    except (OSError, InputError):
        return False


def hash_file(path: Path) -> tuple[int, str]:
    """Return the size and the sha256 of an ordinary file.

    Raises:
        InputError: if it cannot be read.
    """
    with open_file(path, error=InputError) as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def read_part(path: Path, kind: type[R]) -> R:
    """Read a JSON file of a checkpoint.

    Raises:
        InputError: if it cannot be read.
    """
    return decode_json(read_file(path, error=InputError), kind, error=InputError)


def open_checkpoint(
    folder: Path, kind: type[S], *, accept: Callable[[S], None] = lambda state: None
) -> tuple[Path, S]:
    """Find the newest whole checkpoint with finite weights whose state can be continued from.

    Args:
        folder: the run's `checkpoints` folder.
        kind: the struct of the run's state.
        accept: looks at the parts that only their owners can read, and raises `InputError` where
            one cannot be continued from; an older checkpoint is then looked at.

    Raises:
        InputError: if there is none.
    """
    refused: list[str] = []
    for path in find_checkpoints(folder):
        if not is_whole(path):
            log.warning("checkpoint_broken", path=str(path))
            continue
        try:
            state = read_part(path / "state.json", kind)
            accept(state)
            for name in WEIGHT_FILES:
                if (path / name).exists():
                    refuse_not_finite(path / name)
        except InputError as error:
            log.warning("checkpoint_refused", path=str(path), why=str(error))
            whose = "" if str(path) in str(error) else f"{path.name}/state.json: "
            refused.append(f"{whose}{error}")
        else:
            return path, state
    if refused:
        raise InputError(
            f"{folder} holds no checkpoint that this program can continue ({refused[0]}); "
            "start a new run instead"
        )
    raise InputError(f"{folder} holds no whole checkpoint; start a new run instead")
