"""Adapters on disk: the metadata of a PEFT folder, and whether it fits a base and a rank.

Only headers are read, so that an adapter that does not fit is refused before anything heavy starts.
An adapter records a fingerprint of its base, which does not depend on how the base's weights are
split into files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from trustee.decoding import decode_json, open_file, read_file
from trustee.errors import InputError
from trustee.types import Record

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
"""The last file is this program's own. Metadata inside the weights file would be written in random
order, so equal adapters would not be equal files."""
SAMPLE_BYTES = 256
"""Bytes of every tensor in the fingerprint: any training changes the first weights of some
layer."""
SHOWN_DIGITS = 12
"""Digits of a fingerprint that an error text shows."""
ALPHA_PER_RANK = 2
"""Alpha / rank of the trainer's LoRA; see `trainer/shared_model.py`."""
PREFIX = "base_model.model."
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


P = TypeVar("P")


class Stored(NamedTuple):
    """Type, shape and byte range of a tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class PeftConfig(msgspec.Struct):
    """The fields of `adapter_config.json` that are read here."""

    r: int
    lora_alpha: float
    base_model_name_or_path: str | None = None
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, Any] = {}
    alpha_pattern: dict[str, Any] = {}


class BaseMark(Record, frozen=True):
    """The content of `base.json`: which weights an adapter was trained on."""

    fingerprint: str


class AdapterFile(Record, frozen=True):
    """The metadata of an adapter."""

    folder: Path
    rank: int
    scale: float
    """Alpha / rank, the factor of its product."""
    base: str
    """Name or folder of the model that it was trained on; empty if not recorded."""
    fingerprint: str
    """Fingerprint of that model; empty if another program wrote the adapter."""
    shapes: dict[str, tuple[int, ...]]


MOST_HEADER_BYTES = 100 << 20
"""Size of the largest header, which is that of the safetensors library."""


def read_header(path: Path) -> dict[str, Stored]:
    """Read which tensors a safetensors file contains, without reading weights.

    Raises:
        InputError: if it is not a readable safetensors file.
    """
    try:
        with open_file(path, error=ValueError) as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(path.stat().st_size, MOST_HEADER_BYTES):
                raise ValueError(
                    f"its header is said to have {size:,} bytes; at most {MOST_HEADER_BYTES:,} and "
                    "the file are read"
                )
            header = decode_json(file.read(size), dict[str, Any], error=ValueError)
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
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error


def read_base(folder: Path) -> Iterator[tuple[Path, str, Stored]]:
    """Yield file, name and location of every tensor of a model, sorted by name."""
    found = [
        (path, name, stored)
        for path in sorted(folder.glob("*.safetensors"))
        for name, stored in read_header(path).items()
    ]
    yield from sorted(found, key=lambda entry: entry[1])


def fingerprint_base(folder: Path) -> str:
    """Return a hash of names, shapes and first bytes of all tensors of a model.

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
    """Return the adapter folder at a path: the path itself, or the newest of a run folder.

    Raises:
        InputError: if the path is neither.
    """
    if (path / CONFIG).is_file():
        return path
    folders = sorted((path / "adapters").glob("policy-*"))
    if not folders:
        raise InputError(
            f"{path} contains no adapter: neither {CONFIG} nor adapters/policy-*; "
            "give a PEFT folder or a run folder"
        )
    return folders[-1]


def read_adapter(folder: Path) -> AdapterFile:
    """Read the metadata of a PEFT folder.

    Raises:
        InputError: if it is not a PEFT folder, or holds an adapter that cannot be trained further.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a PEFT adapter: {name} is missing")
    config = read_part(folder / CONFIG, PeftConfig)
    if config.r < 1:
        raise InputError(f"{folder / CONFIG} says r = {config.r}; a rank is 1 or more")
    odd = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
        if getattr(config, key)
    ]
    if odd:
        raise InputError(
            f"{folder} uses {', '.join(odd)}; only plain LoRA adapters can be trained further"
        )
    fingerprint = ""
    if (folder / BASE).is_file():
        fingerprint = read_part(folder / BASE, BaseMark).fingerprint
    return AdapterFile(
        folder=folder,
        rank=config.r,
        scale=config.lora_alpha / config.r,
        base=config.base_model_name_or_path or "",
        fingerprint=fingerprint,
        shapes={name: stored.shape for name, stored in read_header(folder / WEIGHTS).items()},
    )


def read_part(path: Path, kind: type[P]) -> P:
    """Read a JSON file of an adapter's folder.

    Raises:
        InputError: if it cannot be read.
    """

    def refuse(why: str) -> InputError:
        return InputError(f"{path} cannot be read: {why}")

    return decode_json(read_file(path, error=refuse), kind, error=refuse)


def check_fit(adapter: AdapterFile, model: Path, *, rank: int) -> None:
    """Check that an adapter can be trained further on a base, with a rank.

    Raises:
        InputError: if it does not fit; names what the adapter has and what is needed.
    """
    folder = adapter.folder
    if adapter.rank != rank:
        raise InputError(
            f"adapter {folder} has rank {adapter.rank}, but learn.rank is {rank}; "
            f"set learn.rank={adapter.rank} or give another adapter"
        )
    if adapter.scale != ALPHA_PER_RANK:
        raise InputError(
            f"adapter {folder} has an alpha of {adapter.scale:g} times its rank, but must have "
            f"{ALPHA_PER_RANK} times; give an adapter that was trained that way"
        )
    wanted = adapter_shapes(model, rank=rank)
    for name in sorted(wanted.keys() | adapter.shapes.keys()):
        given, fits = adapter.shapes.get(name), wanted.get(name)
        if given != fits:
            raise InputError(
                f"adapter {folder} was trained on {adapter.base or 'another base'}: its "
                f"{name.removeprefix(PREFIX)} is {show_shape(given)}, "
                f"but {model} needs {show_shape(fits)} (model.path)"
            )
    own = fingerprint_base(model)
    if adapter.fingerprint and adapter.fingerprint != own:
        raise InputError(
            f"adapter {folder} was trained on {adapter.base or 'another base'} with weights "
            f"{adapter.fingerprint[:SHOWN_DIGITS]}, but {model} has weights "
            f"{own[:SHOWN_DIGITS]} (model.path)"
        )


def adapter_shapes(model: Path, *, rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a LoRA on all linear layers of a model, by name in a PEFT file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for _, name, stored in read_base(model):
        layer = name.removesuffix(".weight")
        if name != layer and layer.rpartition(".")[2] in TARGETS:
            rows, columns = stored.shape
            shapes[f"{PREFIX}{layer}.lora_A.weight"] = (rank, columns)
            shapes[f"{PREFIX}{layer}.lora_B.weight"] = (rows, rank)
    return shapes


def show_shape(shape: tuple[int, ...] | None) -> str:
    """Return a shape as text, such as `8 x 64`; `missing` for None."""
    return "missing" if shape is None else " x ".join(map(str, shape))
