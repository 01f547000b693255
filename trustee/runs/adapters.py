"""Adapters on disk: what a PEFT folder says about itself, and whether it fits a base and a rank.

Only headers are read, so that an adapter that does not fit is refused before anything heavy starts.
A base is known by a fingerprint that its adapters carry; the same weights have the same one however
they are cut into files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trustee.errors import InputError
from trustee.types import Record

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
"""The last is this program's own: remarks inside the weights would stand in a random order."""
SAMPLE_BYTES = 256
"""Read of every tensor: any training changes some of the first weights of some layer."""
SHOWN_DIGITS = 12
ALPHA_PER_RANK = 2
"""See `worker/adoption.py`."""
PREFIX = "base_model.model."
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Stored(NamedTuple):
    """Where a tensor lies in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class PeftConfig(msgspec.Struct):
    """What is read of `adapter_config.json`."""

    r: int
    lora_alpha: float
    base_model_name_or_path: str | None = None
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, Any] = {}
    alpha_pattern: dict[str, Any] = {}


class BaseMark(Record, frozen=True):
    """The file `base.json`: which weights an adapter was trained on."""

    fingerprint: str


class AdapterFile(Record, frozen=True):
    """What an adapter says about itself."""

    folder: Path
    rank: int
    scale: float
    """Alpha over rank, by which its product is multiplied."""
    base: str
    """Name or folder of the model that it was trained on; empty where it does not say."""
    fingerprint: str
    """Of that model; empty where another program wrote the adapter."""
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path) -> dict[str, Stored]:
    """Read which tensors a safetensors file holds; no weights are read.

    Raises:
        InputError: if it is no such file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return {
            name: Stored(
                entry["dtype"],
                tuple(entry["shape"]),
                8 + size + entry["data_offsets"][0],
                8 + size + entry["data_offsets"][1],
            )
            for name, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no safetensors file that can be read: {error}") from error


def read_base(folder: Path) -> Iterator[tuple[Path, str, Stored]]:
    """Give file, name and place of every tensor of a model, by name."""
    found = [
        (path, name, stored)
        for path in sorted(folder.glob("*.safetensors"))
        for name, stored in read_header(path).items()
    ]
    yield from sorted(found, key=lambda entry: entry[1])


def fingerprint_base(folder: Path) -> str:
    """Hash names, shapes and first bytes of all tensors of a model.

    Raises:
        InputError: if a weight file cannot be read.
    """
    digest = hashlib.sha256()
    for path, name, stored in read_base(folder):
        with path.open("rb") as file:
            file.seek(stored.start)
            sample = file.read(min(SAMPLE_BYTES, stored.end - stored.start))
        digest.update(f"{name} {stored.dtype} {stored.shape}".encode() + sample)
    return digest.hexdigest()


def find_adapter(path: Path) -> Path:
    """Give the adapter of a path: itself, or the newest one of a run folder.

    Raises:
        InputError: if there is none.
    """
    if (path / CONFIG).is_file():
        return path
    folders = sorted((path / "adapters").glob("policy-*"))
    if not folders:
        raise InputError(
            f"{path} holds no adapter: neither {CONFIG} nor adapters/policy-*; "
            "give a PEFT folder or a run folder"
        )
    return folders[-1]


def read_adapter(folder: Path) -> AdapterFile:
    """Read what a PEFT folder says about itself.

    Raises:
        InputError: if it is none, or a kind of adapter that cannot be trained on here.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no PEFT adapter: {name} is missing")
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=PeftConfig)
    except msgspec.DecodeError as error:
        raise InputError(f"{folder / CONFIG} cannot be read: {error}") from error
    odd = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
        if getattr(config, key)
    ]
    if odd:
        raise InputError(
            f"{folder} is set to {', '.join(odd)}; only plain LoRA adapters can be trained on"
        )
    fingerprint = ""
    if (folder / BASE).is_file():
        try:
            mark = msgspec.json.decode((folder / BASE).read_bytes(), type=BaseMark)
        except msgspec.DecodeError as error:
            raise InputError(f"{folder / BASE} cannot be read: {error}") from error
        fingerprint = mark.fingerprint
    return AdapterFile(
        folder=folder,
        rank=config.r,
        scale=config.lora_alpha / config.r,
        base=config.base_model_name_or_path or "",
        fingerprint=fingerprint,
        shapes={name: stored.shape for name, stored in read_header(folder / WEIGHTS).items()},
    )


def check_fit(adapter: AdapterFile, model: Path, *, rank: int) -> None:
    """Refuse an adapter that cannot go on being trained on a base.

    Raises:
        InputError: naming what the adapter has and what is wanted.
    """
    folder = adapter.folder
    if adapter.rank != rank:
        raise InputError(
            f"adapter {folder} has rank {adapter.rank} and learn.rank is {rank}; "
            f"set learn.rank={adapter.rank} or give another adapter"
        )
    if adapter.scale != ALPHA_PER_RANK:
        raise InputError(
            f"adapter {folder} has an alpha of {adapter.scale:g} times its rank, "
            f"{ALPHA_PER_RANK} is wanted; give an adapter that was trained that way"
        )
    wanted = adapter_shapes(model, rank=rank)
    for name in sorted(wanted.keys() | adapter.shapes.keys()):
        given, fits = adapter.shapes.get(name), wanted.get(name)
        if given != fits:
            raise InputError(
                f"adapter {folder} was trained on {adapter.base or 'another base'}: its "
                f"{name.removeprefix(PREFIX)} is {show_shape(given)}, "
                f"the one that fits {model} is {show_shape(fits)} (model.path)"
            )
    own = fingerprint_base(model)
    if adapter.fingerprint and adapter.fingerprint != own:
        raise InputError(
            f"adapter {folder} was trained on {adapter.base or 'another base'} with weights "
            f"{adapter.fingerprint[:SHOWN_DIGITS]}, and {model} has weights "
            f"{own[:SHOWN_DIGITS]} (model.path)"
        )


def adapter_shapes(model: Path, *, rank: int) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a LoRA on all linear layers of a model, by their names in a PEFT file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for _, name, stored in read_base(model):
        layer = name.removesuffix(".weight")
        if name != layer and layer.rpartition(".")[2] in TARGETS:
            rows, columns = stored.shape
            shapes[f"{PREFIX}{layer}.lora_A.weight"] = (rank, columns)
            shapes[f"{PREFIX}{layer}.lora_B.weight"] = (rows, rank)
    return shapes


def show_shape(shape: tuple[int, ...] | None) -> str:
    """Write a shape."""
    return "not there" if shape is None else " x ".join(map(str, shape))
