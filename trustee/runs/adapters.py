"""Adapters on disk: the metadata of a PEFT folder, and whether it fits a base and a rank.

An adapter of another program fits if it is a LoRA on some of the layers that are trained here, with
any alpha and a rank of at most ours: see `trainer/adapter_weights.py`. One that does not fit is
refused before anything heavy starts.
An adapter records a fingerprint of its base, which does not depend on how the base's weights are
split into files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from trustee.decoding import decode_json, read_file
from trustee.errors import InputError
from trustee.runs.weight_files import Stored, read_header, refuse_not_finite
from trustee.types import Record

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
"""The last file is this program's own. Metadata inside the weights file would be written in random
order, so equal adapters would not be equal files."""
TEMPLATE = "chat_template.jinja"
"""Chat template that the adapter was trained with, where that is not the base's own."""
SAMPLE_BYTES = 256
"""Bytes of every tensor in the fingerprint: any training changes the first weights of some
layer."""
MOST_JSON = 1 << 20
"""Size of the largest file of settings that is read, in bytes."""
SHOWN_DIGITS = 12
"""Digits of a fingerprint that an error text shows."""
ALPHA_PER_RANK = 2
"""Alpha / rank of the trainer's LoRA; see `trainer/shared_model.py`."""
PREFIX = "base_model.model."
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HALVES = (".lora_A.weight", ".lora_B.weight")
"""Ends of the names of an adapter's two tensors for a layer."""
MORE_THAN_LORA = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
)
"""Settings of PEFT under which an adapter is not one product for each of its layers."""
PLAIN_STARTS = ("gaussian", "orthogonal", "eva")
"""Ways to draw a LoRA's first weights that leave the base as it was; PiSSA, for one, does not."""

T = TypeVar("T")


class PeftConfig(msgspec.Struct):
    """The fields of `adapter_config.json` that are read here."""

    r: Annotated[int, Meta(ge=1)]
    lora_alpha: Annotated[float, Meta(gt=0, le=1e6)]
    peft_type: str = "LORA"
    base_model_name_or_path: str | None = None
    use_rslora: bool = False
    bias: Any = "none"
    init_lora_weights: Any = True
    use_dora: Any = False
    use_qalora: Any = False
    lora_bias: Any = False
    fan_in_fan_out: Any = False
    modules_to_save: Any = None
    rank_pattern: Any = None
    alpha_pattern: Any = None
    layer_replication: Any = None
    trainable_token_indices: Any = None
    target_parameters: Any = None
    alora_invocation_tokens: Any = None
    arrow_config: Any = None

    def odd_settings(self) -> list[str]:
        """Return the settings that make the adapter more than a LoRA on unchanged weights."""
        odd = [key for key in MORE_THAN_LORA if getattr(self, key)]
        if self.bias not in ("none", None):
            odd.append(f"bias={self.bias!r}")
        start = self.init_lora_weights
        if isinstance(start, str) and start not in PLAIN_STARTS:
            odd.append(f"init_lora_weights={start!r}")
        return odd

    @property
    def scale(self) -> float:
        """The factor of the adapter's product."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


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

    A checkpoint, and the folder `adapters` of a run, are taken too.

    Raises:
        InputError: if the path holds no adapter.
    """
    if (path / CONFIG).is_file() or (path / WEIGHTS).is_file():
        return path
    for place in (path / "adapters", path):
        # One that was being written when its run was killed has no config yet.
        whole = [folder for folder in place.glob("policy-*") if (folder / CONFIG).is_file()]
        if whole:
            return max(whole)
    if (path / "adapter" / CONFIG).is_file():
        return path / "adapter"
    what = "contains no adapter" if path.is_dir() else "is not a folder"
    raise InputError(
        f"{path} {what}: neither {CONFIG} nor adapters/policy-*; give a PEFT folder, or the folder "
        "of a run that has trained at least one step"
    )


def read_adapter(folder: Path) -> AdapterFile:
    """Read the metadata of a PEFT folder.

    Raises:
        InputError: if it is not a PEFT folder, or holds an adapter that cannot be trained further.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a PEFT adapter: {name} is missing")
    config = read_part(folder / CONFIG, PeftConfig)
    if config.peft_type.upper() != "LORA":
        raise InputError(
            f"{folder} is an adapter of type {config.peft_type}; only LoRA adapters can be trained "
            "further"
        )
    odd = config.odd_settings()
    if odd:
        raise InputError(
            f"{folder} uses {', '.join(odd)}; only plain LoRA adapters can be trained further"
        )
    marked = (folder / BASE).is_file()
    return AdapterFile(
        folder=folder,
        rank=config.r,
        scale=config.scale,
        base=config.base_model_name_or_path or "",
        fingerprint=read_part(folder / BASE, BaseMark).fingerprint if marked else "",
        shapes={name: stored.shape for name, stored in read_header(folder / WEIGHTS).items()},
    )


def read_part(path: Path, kind: type[T]) -> T:
    """Read a JSON file of an adapter's folder.

    Raises:
        InputError: if it cannot be read.
    """

    def refuse(why: str) -> InputError:
        return InputError(f"{path} cannot be read: {why}")

    return decode_json(read_file(path, error=refuse, most=MOST_JSON), kind, error=refuse)


def check_fit(adapter: AdapterFile, model: Path, *, rank: int) -> None:
    """Check that an adapter can be trained further on a base, with a rank.

    Raises:
        InputError: if it does not fit; names what the adapter has and what is needed.
    """
    folder = adapter.folder
    if adapter.rank > rank:
        raise InputError(
            f"adapter {folder} has rank {adapter.rank}, but learn.rank is {rank}; "
            f"set learn.rank={adapter.rank} or give another adapter"
        )
    check_names(adapter)
    origin = adapter.base or "another base"
    wanted = adapter_shapes(model, rank=adapter.rank)
    for name in sorted(adapter.shapes):
        given, fits = adapter.shapes[name], wanted.get(name)
        if given != fits:
            raise InputError(
                f"adapter {folder} was trained on {origin}: its "
                f"{name.removeprefix(PREFIX)} is {show_shape(given)}, "
                f"but {model} needs {show_shape(fits)} (model.path)"
            )
    own = fingerprint_base(model)
    if adapter.fingerprint and adapter.fingerprint != own:
        raise InputError(
            f"adapter {folder} was trained on {origin} with weights "
            f"{adapter.fingerprint[:SHOWN_DIGITS]}, but {model} has weights "
            f"{own[:SHOWN_DIGITS]} (model.path)"
        )
    refuse_not_finite(folder / WEIGHTS)


def check_names(adapter: AdapterFile) -> None:
    """Check that an adapter's tensors are the two halves of some of the layers trained here.

    Raises:
        InputError: naming the first tensor that is not, or whose other half is missing.
    """
    if not adapter.shapes:
        raise InputError(f"adapter {adapter.folder} holds no weights: {WEIGHTS} is empty")
    for name in sorted(adapter.shapes):
        shown = name.removeprefix(PREFIX)
        half = next((half for half in HALVES if name.endswith(half)), None)
        layer = name.removesuffix(half or "")
        if half is None or layer.rpartition(".")[2] not in TARGETS or name == shown:
            raise InputError(
                f"adapter {adapter.folder} also trains {shown}; only a LoRA on "
                f"{', '.join(TARGETS)} can be trained further"
            )
        other = layer + HALVES[1 - HALVES.index(half)]
        if other not in adapter.shapes:
            raise InputError(
                f"adapter {adapter.folder} holds {shown} without its other half, "
                f"{other.removeprefix(PREFIX)}"
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
