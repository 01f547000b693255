"""A merged model as a Hugging Face folder: bf16 shards, tokenizer, template and stop ids."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.engine.model_config import MOST_JSON, read_model_config
from trustee.errors import InputError
from trustee.export.merging import BaseTensor, list_tensors, merged_tensors
from trustee.export.speech import Speech
from trustee.runs.adapters import AdapterFile

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 1 << 30
"""Largest shard, and so the memory that writing needs, unless one tensor is larger."""
INDEX = "model.safetensors.index.json"
COPIED = (
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model"),
)
"""Files of the base's tokenizer that are taken over as they are."""


def write_merged(
    base: Path,
    adapter: AdapterFile,
    folder: Path,
    *,
    speech: Speech,
    written: Callable[[], None] = lambda: None,
) -> None:
    """Write a merged model into a new folder.

    Args:
        base: folder of the base model.
        adapter: an adapter that fits it.
        folder: is created.
        speech: how the model is spoken to.
        written: is called after each tensor.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir()
    write_settings(base, folder, speech=speech)
    shards = cut_shards(list_tensors(base))
    tensors = merged_tensors(base, adapter)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_shard(folder / file, take(tensors, len(names), written=written))
        places |= dict.fromkeys(names, file)
    # The iterator has its own last check, of layers that were not found.
    assert next(tensors, None) is None
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    write(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def take(
    tensors: Iterator[tuple[str, torch.Tensor]], count: int, *, written: Callable[[], None]
) -> dict[str, torch.Tensor]:
    """Take the next tensors of an iterator."""
    taken = {}
    for _ in range(count):
        name, tensor = next(tensors)
        taken[name] = tensor
        written()
    return taken


def save_shard(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write one shard.

    Raises:
        OSError: if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def cut_shards(tensors: Sequence[BaseTensor]) -> list[list[str]]:
    """Return the names of each shard's tensors, in order."""
    shards: list[list[str]] = []
    held = SHARD_BYTES
    for tensor in tensors:
        size = 2
        for length in tensor.shape:
            size *= length
        if held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(tensor.name)
        held += size
    return shards


def write_settings(base: Path, folder: Path, *, speech: Speech) -> None:
    """Write config, tokenizer and template of a merged model."""
    config = read_model_config(base / "config.json")
    config.pop("torch_dtype", None)
    stops = list(speech.stop_ids)
    write(folder / "config.json", {**config, "dtype": "bfloat16", "eos_token_id": stops})
    generation = read_settings(base / "generation_config.json")
    write(folder / "generation_config.json", {**generation, "eos_token_id": stops})
    tokenizer = read_settings(base / "tokenizer_config.json")
    tokenizer.pop("chat_template", None)
    write(folder / "tokenizer_config.json", tokenizer)
    (folder / "chat_template.jinja").write_text(speech.template, encoding="utf-8")
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder; empty if the file is missing.

    Raises:
        InputError: if it cannot be read.
    """

    def refuse(why: str) -> InputError:
        return InputError(f"{path} cannot be read: {why}")

    if not path.is_file():
        return {}
    found = decode_json(read_file(path, error=refuse, most=MOST_JSON), dict[str, Any], error=refuse)
    return found


def write(path: Path, content: object) -> None:
    """Write one JSON file of the folder, for people too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
