"""Checkpoints: a folder that is either whole or not there.

Written beside its place, every file synced, a manifest of sizes and hashes last, then renamed. The
reader verifies the manifest and walks back to the newest whole one. Safetensors and JSON only.
Reading, hashing and syncing happen in a thread, because half a gigabyte takes seconds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec
import structlog

from trustee.decoding import decode_json, open_file, read_file
from trustee.errors import InputError, RunError
from trustee.runs.files import sync
from trustee.runs.weight_files import refuse_not_finite
from trustee.types import Record

MANIFEST, STATE = "manifest.json", "state.json"

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
    """Write a checkpoint and delete all but the newest `keep`; later steps are deleted too.

    A later step is one that could not be continued: the run went back behind it and goes another
    way. Once the trainer has saved, a cancellation waits until the checkpoint is whole.

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
        # Not abandoned on cancellation, so that no thread writes after the run has ended.
        await anyio.to_thread.run_sync(complete, partial, final, state)
    except OSError as error:
        raise RunError(f"cannot write checkpoint {final}: {error.strerror}") from error
    await anyio.to_thread.run_sync(delete_others, folder, final, keep)
    return final


def complete(partial: Path, final: Path, state: CheckpointState) -> None:
    """Add state and manifest to what a trainer has saved, sync it all, and give it its name.

    Raises:
        OSError: if it cannot be written.
    """
    (partial / STATE).write_bytes(msgspec.json.encode(state))
    files = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        files[str(path.relative_to(partial))] = hash_file(path)
        sync(path)
    (partial / MANIFEST).write_bytes(msgspec.json.encode(CheckpointManifest(files=files)))
    sync(partial / MANIFEST)
    sync(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    sync(final.parent)


def delete_others(folder: Path, newest: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep` up to one."""
    found = find_checkpoints(folder)
    kept = [path for path in found if path.name <= newest.name][:keep]
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def find_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is as its manifest says, and a state is among them."""
    try:
        manifest = read_part(path / MANIFEST, CheckpointManifest)
        return STATE in manifest.files and all(
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
    folder: Path,
    kind: type[S],
    *,
    accept: Callable[[S], None] = lambda state: None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Path, S]:
    """Find the newest whole checkpoint with finite weights whose state can be continued from.

    Args:
        folder: the run's `checkpoints` folder.
        kind: the struct of the run's state.
        accept: looks at the parts that only their owners can read, and raises `InputError` where
            one cannot be continued from; an older checkpoint is then looked at.
        tell: receives a sentence for each checkpoint that is passed over.

    Raises:
        InputError: if there is none.
    """
    refused: list[str] = []
    for path in find_checkpoints(folder):
        if not is_whole(path):
            log.warning("checkpoint_broken", path=str(path))
            tell(f"{path} is damaged and passed over")
            continue
        try:
            state = read_part(path / STATE, kind)
            accept(state)
            for name in WEIGHT_FILES:
                if (path / name).exists():
                    refuse_not_finite(path / name)
        except InputError as error:
            log.warning("checkpoint_refused", path=str(path), why=str(error))
            tell(f"{path} is passed over, because it cannot be continued: {error}")
            whose = "" if str(path) in str(error) else f"{path.name}/{STATE}: "
            refused.append(f"{whose}{error}")
        else:
            return path, state
    if refused:
        raise InputError(
            f"{folder} holds no checkpoint that this program can continue ({refused[0]}); "
            "start a new run instead"
        )
    raise InputError(f"{folder} holds no whole checkpoint; start a new run instead")
