"""Fused parts of a layer give what transformers' own code gives; Triton's are interpreted."""

from __future__ import annotations

import sys

import pytest
import torch

from apart import run_apart
from narrow_models import (
    EVERY_FAMILY,
    FAMILIES,
    assert_same,
    forward,
    make_ids,
    make_model,
    step,
    take_grads,
)
from trustee.trainer.fused_kernels import FusedMlp, FusedNorm, fuse_norms, has_kernels, use_kernels
from trustee.trainer.tiling import tile_norms


def compare_families() -> None:
    """Differentiate a model of each family with transformers' code and with the kernels, in fp32.

    The interpreter cuts bf16 numbers off where a card rounds them, so only fp32 is compared.
    """
    worst = 0.0
    for family in FAMILIES:
        model, ids = make_model(family, dtype=torch.float32), make_ids(24, 24)
        results = []
        for fused in (False, True):
            if fused:
                use_kernels(model.base_model.model)
                assert any(isinstance(module, FusedMlp) for module in model.modules())
            loss = forward(model, ids, autocast=False)
            loss.backward()
            results.append((loss.detach(), take_grads(model)))
        (plain, expected), (loss, grads) = results
        assert expected.keys() == grads.keys()
        worst = max(worst, (loss - plain).abs().item())
        for name, grad in expected.items():
            worst = max(worst, ((grads[name] - grad).norm() / grad.norm()).item())
    sys.stdout.write(f"{worst}")


@EVERY_FAMILY
@pytest.mark.parametrize("tile", [None, 32])
def test_norms_keep_every_bit(family: str, tile: int | None) -> None:
    """Loss and gradients are those of transformers' norms, in tiles too."""
    model, ids = make_model(family), make_ids(40, 17, 3)
    tile_norms(model, tile)
    expected = step(model, ids)
    tile_norms(model, None)
    fuse_norms(model.base_model.model)
    assert any(isinstance(module, FusedNorm) for module in model.modules())
    tile_norms(model, tile)
    assert_same(expected, step(model, ids))


@pytest.mark.slow
@pytest.mark.skipif(not has_kernels(), reason="Triton and Liger are not installed")
def test_kernels_are_what_transformers_computes() -> None:
    """Loss and every gradient of a Qwen3, a Qwen2.5 and a Llama, to a part in ten thousand."""
    found = run_apart(__file__, "compare_families", TRITON_INTERPRET="1")
    assert float(found) < 1e-4
