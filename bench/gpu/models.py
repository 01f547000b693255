"""Models for the checks: one small and trained, one of full size and random.

The one idea: kernels for cards are made for heads of 128, and the built-in model's have 64. Spread
over 128 dimensions, the old ones between zeros, its heads compute what they did.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trustee.engine.model_files import TINY
from trustee.planning.shapes import PACKAGED, ModelShape, read_shape

ROOT = Path(__file__).parents[2]
FULL = "Qwen/Qwen3-8B"
STD = 0.02
"""Of all weights: as models begin, so that nothing overflows and bf16 errors stay small."""
BLOCK = (1 << 24) + 43
"""Random values that all weights repeat; odd, so that no two rows of a weight are the same."""
SHARD_BYTES = 2 << 30


def make_small(folder: Path) -> Path:
    """Write the built-in model with heads of 128; what is there already is kept."""
    from safetensors.torch import load_file, save_file

    if (folder / "model.safetensors").exists():
        return folder
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    tensors = load_file(TINY / "model.safetensors")
    for name, tensor in tensors.items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj", "v_proj"):
            tensors[name] = _spread(tensor, heads if kind == "q_proj" else keys)
        elif kind == "o_proj":
            tensors[name] = _spread(tensor.T, heads).T.contiguous()
        elif kind == "q_norm":
            tensors[name] = _spread(tensor, 1)
        elif kind == "k_norm":
            # The mean square halves and so does the scale of scores, which makes root of two.
            tensors[name] = _spread(tensor, 1) / math.sqrt(2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["head_dim"] *= 2
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def _spread(rows: Any, heads: int) -> Any:
    """Put each head's rows where the rotation of twice as many turns them as fast."""
    import torch

    size = len(rows) // heads
    old = torch.arange(size)
    new = 2 * (old % (size // 2)) + size * (old // (size // 2))
    wide = rows.new_zeros(heads, 2 * size, *rows.shape[1:])
    wide[:, new] = rows.view(heads, size, *rows.shape[1:])
    return wide.flatten(0, 1)


def make_full(folder: Path, *, config: dict[str, Any] | None = None) -> Path:
    """Write a random checkpoint with Qwen3's tokenizer; of Qwen3-8B where no config is given."""
    if (folder / "model.safetensors.index.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    sys.path.insert(0, str(ROOT / "tests"))
    from qwen_tokenizer import write_model

    write_model(folder, template="qwen3")
    config = config or read_full()
    ends = {"bos_token_id": 151_643, "eos_token_id": 151_645, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config | ends), encoding="utf-8")
    generation = {"eos_token_id": [151_645, 151_643]}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    write_random(folder, read_shape(config, name=folder.name))
    return folder


def read_full() -> dict[str, Any]:
    """Read the packaged config of the full-size model."""
    path = PACKAGED / f"{FULL.replace('/', '--')}.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def write_random(folder: Path, shape: ModelShape, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write random bf16 weights, shard by shard; the index comes last."""
    files: dict[str, str] = {}
    for number, names in enumerate(_cut(shape, shard_bytes)):
        file = f"model-{number:05d}.safetensors"
        _write_shard(folder / file, {name: tensor_shape(shape, name) for name in names})
        files |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 2 * shape.numel}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def tensor_shape(shape: ModelShape, name: str) -> tuple[int, ...]:
    """Give the shape of a tensor by its name in a checkpoint."""
    own = name.removesuffix(".weight").split(".", 3)[-1]
    if own in shape.linears and name.endswith(".weight"):
        return shape.linears[own]
    if name.startswith(("model.embed_tokens", "lm_head")):
        return (shape.vocab, shape.hidden)
    return (shape.parameters()[name],)


def _cut(shape: ModelShape, limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, numel in shape.parameters().items():
        if names and size + 2 * numel > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * numel
    yield names


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, sizes in shapes.items():
        end = at + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    block = (STD * torch.randn(BLOCK, generator=generator)).bfloat16().view(torch.uint8).numpy()
    ones = torch.ones(1 << 16).bfloat16().view(torch.uint8).numpy()
    place = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, sizes in shapes.items():
            left = 2 * math.prod(sizes)
            if len(sizes) == 1:
                file.write(ones[:left].data if "norm" in name else bytes(left))
                continue
            while left:
                piece = block[place : place + left]
                file.write(piece.data)
                left -= len(piece)
                place = (place + len(piece)) % len(block)
