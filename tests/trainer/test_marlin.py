"""Four-bit weights: vLLM's own packing, numbers that come back, errors no larger than NF4's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int4_weights import Drawn, draw
from trustee.trainer.int4 import INT4_GROUPS
from trustee.trainer.marlin import (
    Int4Weight,
    join_parts,
    open_in_torch,
    pack,
    quantise,
    unpack,
)


def compute(drawn: Drawn, *, group: int) -> torch.Tensor:
    """Compute the weights in fp32, and round them once."""
    codes, scales, zeros = drawn
    groups = codes.float().unflatten(-1, (-1, group)) - zeros.float()[..., None]
    weight: torch.Tensor = (groups * scales.float()[..., None]).flatten(-2).bfloat16()
    return weight


@pytest.mark.parametrize("group", INT4_GROUPS)
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 256), (192, 384), (320, 128 * 3)])
def test_packing_is_that_of_vllm(outputs: int, inputs: int, group: int) -> None:
    """Words, scales and zero points are those that vLLM's own functions make for Marlin."""
    from vllm.model_executor.layers.quantization.utils import marlin_utils, marlin_utils_test

    codes, scales, zeros = draw(outputs, inputs, group=group)
    packed = pack(codes, scales, zeros)
    words = marlin_utils_test.marlin_weights(
        codes.t().int(), inputs, outputs, 4, marlin_utils_test.get_weight_perm(4)
    )
    assert torch.equal(words, packed.words)
    theirs = marlin_utils.marlin_permute_scales(scales.t().contiguous(), inputs, outputs, group)
    assert torch.equal(theirs, packed.scales)
    points = zeros.t().contiguous().int()
    theirs = marlin_utils.marlin_zero_points(points, inputs // group, outputs, 4)
    assert torch.equal(theirs, packed.zeros)


@settings(max_examples=30)
@given(
    blocks=st.integers(1, 4),
    groups=st.integers(1, 4),
    group=st.sampled_from(INT4_GROUPS),
    seed=st.integers(0, 1000),
)
def test_what_is_packed_comes_back(blocks: int, groups: int, group: int, seed: int) -> None:
    """Codes, scales and zero points to the bit, and the weights rounded once."""
    drawn = draw(64 * blocks, group * groups, group=group, seed=seed)
    packed = pack(*drawn)
    assert packed.shape == drawn[0].shape
    assert packed.group == group
    for ours, theirs in zip(unpack(packed), drawn, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(compute(drawn, group=group), open_in_torch(packed))


def test_parts_of_a_fused_layer_open_by_themselves() -> None:
    """Each is a view of the whole, which may be padded to what the kernels take."""
    parts = [pack(*draw(outputs, 192, seed=outputs)) for outputs in (128, 64, 128)]
    whole = join_parts(parts)
    assert whole.shape == (384, 192)
    assert not whole.open()[320:].any()
    for part, view in zip(parts, whole.split([128, 64, 128]), strict=True):
        assert torch.equal(part.open(), view.open())
        assert view.words.untyped_storage().data_ptr() == whole.words.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("outputs", "inputs", "whole"),
    [(64, 128, 64), (64, 192, 128), (128, 192, 128), (320, 576, 384), (320, 256, 320)],
)
def test_padding_is_what_marlin_wants(outputs: int, inputs: int, whole: int) -> None:
    """64 outputs by 128 inputs at a time, or 128 by 64; vLLM's own rule adds nothing to it."""
    from vllm.model_executor.layers.quantization.utils.marlin_utils import marlin_padded_nk

    joined = join_parts([pack(*draw(outputs, inputs))])
    assert joined.shape == (whole, inputs) == marlin_padded_nk(whole, inputs, 64)


def test_gaussian_weights_lose_less_than_in_nf4() -> None:
    """The error of a row is 0.091 of its spread; NF4 with blocks of as many weights has 0.092."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(1)
    weight = torch.randn(512, 1024).bfloat16()
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)
    errors = [
        (opened.float() - weight.float()).square().mean().sqrt().item()
        for opened in (quantise(weight).open(), dequantize_4bit(packed, state))
    ]
    assert errors == pytest.approx([0.0911, 0.0920], abs=0.0005)


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_every_group_has_a_finite_opening(factor: float, shift: float) -> None:
    """Zeros, tiny and large numbers, of one sign or both: no error above a step, a fifteenth."""
    torch.manual_seed(2)
    weight = ((torch.randn(64, 64) + shift) * factor).bfloat16()
    opened = quantise(weight).open().float()
    assert opened.isfinite().all()
    span = weight.float().amax(1).clamp(min=0) - weight.float().amin(1).clamp(max=0)
    error = (opened - weight.float()).abs().amax(1)
    assert (error <= span / 15 + 1e-37).all()


def test_a_zero_stays_zero() -> None:
    """Whatever else is in its group."""
    torch.manual_seed(3)
    weight = torch.randn(64, 128) + 5
    weight[:, ::7] = 0
    assert not quantise(weight.bfloat16()).open()[:, ::7].any()


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large matrix is rounded some rows at a time."""
    weight = torch.randn(256, 128).bfloat16()
    whole = quantise(weight)
    monkeypatch.setattr("trustee.trainer.marlin.WEIGHTS_AT_ONCE", 128 * 48)
    pieces = quantise(weight)
    assert torch.equal(whole.words, pieces.words)
    assert torch.equal(whole.scales, pieces.scales)


@pytest.mark.parametrize("shape", [(96, 128), (128, 96)])
def test_other_sizes_are_refused(shape: tuple[int, int]) -> None:
    """With both sizes and what to set instead."""
    with pytest.raises(ValueError, match=f"{shape[1]} inputs and {shape[0]} outputs") as caught:
        quantise(torch.zeros(shape))
    assert 'engine.weights = "nf4"' in str(caught.value)


def test_a_weight_knows_its_sizes() -> None:
    """From the shapes of its tensors alone."""
    packed = Int4Weight(
        words=torch.zeros(8, 256, dtype=torch.int32),
        scales=torch.zeros(2, 128, dtype=torch.bfloat16),
        zeros=torch.zeros(2, 16, dtype=torch.int32),
    )
    assert (packed.shape, packed.group) == ((128, 128), 64)
