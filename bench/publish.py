"""What publishing a version costs, by LoRA rank: seconds and bytes of each part.

    python bench/publish.py [--ranks 8 16 32 64] [--shape Qwen/Qwen3-8B] [--config FILE] [--json]

Twice: through the real engine of a config, and without any weights for the LoRA of a full-size
model, whose tensors are made here and go through the same calls that `Trainer.publish` makes, up to
the copy into the engine's own slot, which only an engine has.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import structlog

from trustee.config import Config, apply_changes, read_config
from trustee.engine.vllm import VllmEngine
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.planning.shapes import ModelShape, find_shape
from trustee.types import Adapter

TIMES = 3
"""Repeats of each measurement, of which the minimum counts, because the machine may be shared."""


def make_tensors(shape: ModelShape, rank: int) -> dict[str, Any]:
    """Return the fp32 tensors of a LoRA on all linear layers, named as in a PEFT file."""
    import torch

    tensors: dict[str, Any] = {}
    for layer in range(shape.layers):
        for name, (rows, columns) in shape.linears.items():
            under = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{under}.lora_A.weight"] = torch.randn(rank, columns)
            tensors[f"{under}.lora_B.weight"] = torch.randn(rows, rank)
    return tensors


def time_parts(shape: ModelShape, rank: int, folder: Path) -> dict[str, float]:
    """Time the parts of publishing a LoRA that happen in host memory."""
    import torch
    from safetensors.torch import save_file
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    from trustee.trainer.shared_model import lora_config

    tensors = make_tensors(shape, rank)
    config = lora_config(rank).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    path = folder / "adapter_model.safetensors"
    started_at = time.perf_counter()
    save_file(tensors, path, metadata={"format": "pt"})
    saved = time.perf_counter()
    cast = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    after_cast = time.perf_counter()
    LoRAModel.from_lora_tensors(
        lora_model_id=1,
        tensors=cast,
        peft_helper=PEFTHelper.from_dict(config),
        device="cpu",
        dtype=torch.bfloat16,
        model_vocab_size=shape.vocab,
        weights_mapper=None,
    )
    made = time.perf_counter()
    return {
        "save_s": saved - started_at,
        "cast_s": after_cast - saved,
        "make_s": made - after_cast,
        "seconds": made - started_at,
        "file_bytes": path.stat().st_size,
        "engine_bytes": 2 * shape.adapter_numel(rank),
    }


async def time_engine(config: Config, folder: Path) -> dict[str, float]:
    """Time publishing with the real engine, after one warm-up sample."""
    model, _ = prepare_model(config)
    seconds: list[float] = []
    async with VllmEngine(config.engine, trainer_spec(config, model)) as engine:
        for version in range(1, TIMES + 2):
            adapter = Adapter(version=version, path=folder / f"policy-{version}")
            started_at = time.perf_counter()
            await engine.publish(adapter)
            seconds.append(time.perf_counter() - started_at)
            await engine.retire(adapter)
        memory = await engine.memory()
    size = (folder / "policy-1" / "adapter_model.safetensors").stat().st_size
    return {
        "first_s": seconds[0],
        "seconds": min(seconds[1:]),
        "file_bytes": size,
        "peak_bytes": memory["peak"],
    }


def measure(config: Config, *, ranks: Sequence[int], shape: ModelShape) -> dict[str, Any]:
    """Time every rank, with the engine and on the full-size shape."""
    engine: dict[str, dict[str, float]] = {}
    full: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for rank in ranks:
            own = folder / f"rank-{rank}"
            own.mkdir()
            changed = apply_changes(config, [f"learn.rank={rank}"])
            engine[f"{rank}"] = anyio.run(time_engine, changed, own)
        for rank in ranks:
            times = [time_parts(shape, rank, folder) for _ in range(TIMES)]
            full[f"{rank}"] = min(times, key=lambda figures: figures["seconds"])
    return {"engine": engine, shape.name: full}


def round_all(found: Any) -> Any:
    """Return figures with all seconds rounded to milliseconds."""
    if isinstance(found, dict):
        return {key: round_all(value) for key, value in found.items()}
    return round(found, 3) if isinstance(found, float) else found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--shape", default="Qwen/Qwen3-8B", help="model whose config is packaged")
    parser.add_argument("--config", type=Path, default=Path("configs/tiny.toml"))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    config = read_config(options.config, options.changes)
    found = round_all(measure(config, ranks=options.ranks, shape=find_shape(options.shape)))
    if options.json:
        print(json.dumps({"bench": "publish", "device": config.engine.device, **found}))
        return
    for name, by_rank in found.items():
        for rank, figures in by_rank.items():
            parts = "  ".join(f"{key} {value}" for key, value in figures.items())
            print(f"{name:<16} rank {rank:>3}  {parts}")


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()
