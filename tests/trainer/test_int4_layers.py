"""Layers in int4 as vLLM loads them: from a bf16 checkpoint, and from one of AWQ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from int4_weights import draw
from trustee.engine.model_files import TINY
from trustee.trainer.marlin import quantise, unpack

AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 64,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}


def pack_as_awq(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes [out, rows] into AWQ's words [rows, out / 8], by vLLM's own function."""
    from vllm.model_executor.layers.quantization.utils.quant_utils import awq_pack

    words: torch.Tensor = awq_pack(codes.t().contiguous().int(), 4, codes.shape[1], codes.shape[0])
    return words


def write_awq(folder: Path) -> None:
    """Write the built-in model as AWQ would, with the very numbers that our int4 has."""
    shutil.copytree(TINY, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        codes, scales, zeros = unpack(quantise(tensors.pop(name)))
        layer = name.removesuffix(".weight")
        tensors[f"{layer}.qweight"] = pack_as_awq(codes)
        tensors[f"{layer}.qzeros"] = pack_as_awq(zeros)
        tensors[f"{layer}.scales"] = scales.t().contiguous().half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": AWQ}))


def test_the_order_of_awq_is_undone() -> None:
    """Codes that vLLM packed as AWQ does come back in their places."""
    from trustee.trainer.int4_layers import order_codes

    codes, _, _ = draw(64, 96, group=32)
    assert torch.equal(codes.t(), order_codes(pack_as_awq(codes)))


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_a_checkpoint_of_awq_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the bytes of our own rounding, says the same, learns, and is not cached."""
    from real_engine import Bench, engine_config, trainer_spec
    from trustee.engine.vllm import VllmEngine
    from trustee.types import Completion

    monkeypatch.setenv("TRUSTEE_CACHE", str(tmp_path / "caches"))
    write_awq(tmp_path / "awq")
    hashes: list[str] = []
    said: list[Completion] = []
    for folder in (tmp_path / "awq", TINY):
        spec = msgspec.structs.replace(trainer_spec(), folder=str(folder))
        async with VllmEngine(engine_config("int4"), spec) as engine:
            bench = Bench(engine, tmp_path / "adapters" / folder.name)
            hashes.append(await engine.hash_base())
            said.append(await bench.sample(None))
            await bench.train(2)
            await engine.publish(bench.adapter(1))
            sample = await bench.sample(1)
            ours = await engine.trainer_logprobs(bench.as_sample(sample), adapter=True)
            apart = [abs(a - b) for a, b in zip(ours, sample.logprobs, strict=True)]
            assert sum(apart) / len(apart) < 0.005
        if folder != TINY:
            assert not (tmp_path / "caches").exists()
    assert hashes[0] == hashes[1]
    assert said[0] == said[1]
