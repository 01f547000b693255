"""Tiled MLPs and norms: what the plain ones give, with no wide tensor longer than a tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from narrow_layers import make_layer, run_layer
from narrow_models import (
    EVERY_FAMILY,
    LAYERS,
    WIDTH,
    Grads,
    assert_same,
    layers_of,
    make_ids,
    make_model,
    open_shelf,
    step,
)
from trustee.errors import InputError
from trustee.trainer.activation_checkpointing import CheckpointingMode, set_checkpointing
from trustee.trainer.shared_model import keep_input_types
from trustee.trainer.tiling import tile_mlp, tile_norms

NORM_NAMES = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
assert_fp32 = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
"""Only the order of sums differs; where terms cancel out the rest may be as small as rounding."""
assert_bf16 = partial(torch.testing.assert_close, rtol=2e-2, atol=4e-4)
"""A parameter's gradient is rounded to bf16 per tile, not once; gradients here are up to 0.1."""


def assert_grads(check: Callable[[Tensor, Tensor], None], expected: Grads, actual: Grads) -> None:
    """Check every gradient."""
    assert expected.keys() == actual.keys()
    for name, grad in expected.items():
        check(actual[name], grad)


@contextmanager
def watch_rows(model: Any) -> Iterator[list[int]]:
    """Collect how many rows each call of a `down_proj` sees."""
    seen: list[int] = []

    def note(module: Any, args: tuple[Tensor]) -> None:
        seen.append(args[0].numel() // args[0].shape[-1])

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(note) for layer in layers_of(model)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Watch(TorchDispatchMode):
    """Keeps what every operation gives, without its bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.seen.append(torch.empty_like(tensor, device="meta"))
        return out


@settings(max_examples=30)
@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 17),
    positions=st.integers(1, 70),
    above=st.booleans(),
)
def test_tiles_change_nothing(rows: int, length: int, positions: int, above: bool) -> None:
    """In fp32 output and gradients agree to rounding, whatever the tile and the remainder."""
    model = make_layer()
    torch.manual_seed(length)
    x = torch.randn(rows, length, 64, requires_grad=above)
    plain = run_layer(model, x)
    tile_mlp(model, positions)
    tiled = run_layer(model, x)
    assert_fp32(tiled[0], plain[0])
    assert above == (tiled[1] is not None)
    if above:
        assert_fp32(tiled[1], plain[1])
    assert_grads(assert_fp32, plain[2], tiled[2])


@pytest.mark.parametrize("nf4", [False, True], ids=["plain", "nf4"])
def test_tiles_agree_under_autocast(nf4: bool) -> None:
    """Under bf16 autocast, over a plain and over an NF4 base, the LoRA learns the same."""
    model = make_layer(nf4=nf4)
    torch.manual_seed(3)
    x = torch.randn(2, 40, 64, dtype=torch.bfloat16).requires_grad_()
    plain = run_layer(model, x, autocast=True)
    tile_mlp(model, 24)
    tiled = run_layer(model, x, autocast=True)
    assert plain[0].dtype == tiled[0].dtype
    torch.testing.assert_close(tiled[0], plain[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(tiled[1], plain[1], rtol=1e-2, atol=1e-5)
    assert_grads(assert_bf16, plain[2], tiled[2])


@EVERY_FAMILY
@pytest.mark.parametrize("mode", ["off", "recompute", "offload"])
def test_tiles_agree_within_checkpoints(family: str, mode: CheckpointingMode) -> None:
    """Inside checkpointed layers, where a run skips its tiles, gradients agree as well."""
    model, ids = make_model(family, dtype=torch.float32), make_ids(40, 17, 3)
    plain = step(model, ids, autocast=False)
    set_checkpointing(model, mode=mode)
    tile_mlp(model, 32)
    tiled = step(model, ids, autocast=False)
    assert_fp32(tiled[0], plain[0])
    assert_grads(assert_fp32, plain[1], tiled[1])


@EVERY_FAMILY
def test_tiles_agree_as_the_trainer_runs_them(family: str) -> None:
    """With offloaded inputs and bf16 autocast, padded rows included, gradients are close."""
    model, ids = make_model(family), make_ids(40, 17, 3)
    plain = step(model, ids)
    open_shelf(model)
    tile_mlp(model, 32)
    tiled = step(model, ids)
    torch.testing.assert_close(tiled[0], plain[0], rtol=1e-3, atol=1e-3)
    assert_grads(assert_bf16, plain[1], tiled[1])
    with torch.no_grad(), model.disable_adapter():
        base = model.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state
        tile_mlp(model, None)
        same = model.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(base, same, rtol=1e-2, atol=1e-2)


def test_no_wide_tensor_is_longer_than_a_tile() -> None:
    """Nothing [rows, intermediate] with more rows than a tile is made, forward or backward."""
    model, ids = make_model(), make_ids(64, 64)
    open_shelf(model)
    # The weights of base and LoRA have up to 64 such rows: a longer tile shows activations.
    for positions, longest in ((72, 72), (None, 128), (100, 100)):
        tile_mlp(model, positions)
        with Watch() as watch:
            step(model, ids)
        wide = [tensor.numel() // 160 for tensor in watch.seen if tensor.shape[-1:] == (160,)]
        assert longest == max(wide)


@pytest.mark.parametrize("mode", ["off", "recompute", "offload"])
def test_each_tile_runs_twice(mode: CheckpointingMode) -> None:
    """Once forward and once backward: a checkpointed layer's second run skips its MLP."""
    model, ids = make_model(), make_ids(40, 17, 3)
    set_checkpointing(model, mode=mode)
    tile_mlp(model, 50)
    with watch_rows(model) as seen:
        step(model, ids)
    assert 2 * LAYERS * [50, 50, 20] == seen


@EVERY_FAMILY
@pytest.mark.parametrize("mode", ["off", "recompute", "offload"])
def test_tiled_norms_change_no_bit(family: str, mode: CheckpointingMode) -> None:
    """Norms of positions and of heads give the same loss and gradients in every mode."""
    model, ids = make_model(family), make_ids(40, 17, 3)
    norms = [module for name, module in model.named_modules() if name.endswith(NORM_NAMES)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
    plain = step(model, ids)
    set_checkpointing(model, mode=mode)
    tile_norms(model, 33)
    assert {"qwen3": 4}.get(family, 2) * LAYERS == sum("forward" in vars(norm) for norm in norms)
    assert_same(plain, step(model, ids))
    tile_norms(model, None)
    assert [] == [norm for norm in norms if "forward" in vars(norm)]


def test_no_float_copy_is_longer_than_a_tile() -> None:
    """With norms tiled, a layer makes no fp32 copy of all positions, forward or backward."""
    model = make_model()
    keep_input_types(model)
    set_checkpointing(model, mode="recompute")
    layer, rotary = layers_of(model)[1], model.base_model.model.model.rotary_emb
    x = torch.ones(1, 128, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    positions = rotary(x, torch.arange(128)[None])

    def count_whole_copies(seen: list[Tensor]) -> int:
        floats = (tensor for tensor in seen if tensor.dtype == torch.float32)
        return sum(128 in tensor.shape and tensor.numel() >= 128 * 16 for tensor in floats)

    for tile, found in ((None, True), (16, False)):
        tile_norms(model, tile)
        with Watch() as watch, torch.autocast("cpu", torch.bfloat16):
            out = layer(x, attention_mask=None, position_embeddings=positions)
        with watch:
            out.backward(torch.ones_like(out))
        assert found == (count_whole_copies(watch.seen) > 0)


def test_tiling_switches_off_again() -> None:
    """With None, or where one tile holds all, the model is as it was, bit by bit."""
    model, ids = make_model(), make_ids(40, 17, 3)
    names = list(model.state_dict())
    plain = step(model, ids)
    tile_mlp(model, 7)
    assert names == list(model.state_dict())
    tile_mlp(model, None)
    assert_same(plain, step(model, ids))
    tile_mlp(model, 120)
    assert_same(plain, step(model, ids))


@pytest.mark.parametrize("failing", [0, 2, 4, 13])
def test_a_step_after_an_error_is_whole(failing: int) -> None:
    """Out of memory in a tile, forward or backward, leaves the next step as it was."""
    model, ids = make_model(), make_ids(40, 17, 3)
    shelf = open_shelf(model)
    tile_mlp(model, 60)
    before = step(model, ids)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise torch.OutOfMemoryError("injected")

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(fail) for layer in layers_of(model)]
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        step(model, ids)
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)
    assert_same(before, step(model, ids))
    assert shelf.pages == len(shelf.free)


@pytest.mark.parametrize(
    ("model", "positions", "message"),
    [
        (make_layer(), 0, "positions must be 1 or more, got 0"),
        (torch.nn.Linear(WIDTH, 1), 4, "Linear has none; give a dense Qwen2"),
    ],
    ids=["none at a time", "no layers"],
)
def test_what_cannot_be_tiled_is_refused(
    model: torch.nn.Module, positions: int, message: str
) -> None:
    """The message names what was given and what would do."""
    with pytest.raises(InputError, match=message):
        tile_mlp(model, positions)
