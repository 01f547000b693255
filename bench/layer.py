"""What a layer of the training pass computes: operations and bytes, before and after fusing.

    python bench/layer.py [--hidden 1024] [--positions 2048] [--weights bf16 nf4 int4] [--times N]
                          [--json]

One Qwen3 layer of an 8B model's proportions runs forward, and back as a checkpointed layer does,
on a CPU. Every operation that reads or writes a tensor is counted, with the bytes of the tensors
that it is given and gives; on a card each is at least one launch. Before: PEFT's LoRA and
transformers' norms. After: one node per layer and torch's norm. What Liger's kernels save is not
counted, for they run on a card alone; the operations that they replace are counted by themselves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from trustee.trainer.activation_checkpointing import set_checkpointing
from trustee.trainer.frozen_linear import Int4Layer, fuse_lora
from trustee.trainer.fused_kernels import fuse_norms
from trustee.trainer.marlin import quantise
from trustee.trainer.shared_model import _share_nf4, keep_input_types, lora_config
from trustee.trainer.tiling import tile_mlp


class Operations(TorchDispatchMode):
    """Counts the operations that read or write tensors; those that only look at memory do not.

    The bytes of an operation are those of the tensors that it is given and gives, each once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        # A view shares its storage with what it is a view of.
        known = {tensor.untyped_storage()._cdata for tensor in given}
        result = func(*args, **kwargs or {})
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        new = [one for one in made if one.untyped_storage()._cdata not in known]
        computes = (new or func._schema.is_mutable) and "empty" not in func.overloadpacket.__name__
        if computes:
            self.count += 1
            self.bytes += sum(tensor.nbytes for tensor in (*given, *new))
        return result


def make_model(weights: str, *, hidden: int, fused: bool) -> Any:
    """Make a model of one layer over a frozen base of a format."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=1,
        num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512),
        head_dim=128,
    )
    model: Any = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    layer = model.model.layers[0]
    for block in (layer.self_attn, layer.mlp):
        for name, linear in list(block.named_children()):
            if isinstance(linear, torch.nn.Linear) and weights != "bf16":
                setattr(block, name, _hold(linear.weight.data, weights))
    model.is_loaded_in_4bit = weights == "nf4"
    if fused:
        fuse_norms(model)
    adapted = get_peft_model(model, lora_config(32))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    keep_input_types(adapted)
    if fused:
        fuse_lora(adapted)
    return adapted.train()


def _hold(weight: Tensor, weights: str) -> torch.nn.Module:
    if weights == "int4":
        return Int4Layer(quantise(weight), None)
    from bitsandbytes.functional import quantize_4bit

    return _share_nf4(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True), bias=None)


def prepare_pass(model: Any, *, positions: int, tile: int | None) -> Callable[[], None]:
    """Return what runs a forward and a backward pass of the layer alone."""
    set_checkpointing(model, mode="recompute")
    tile_mlp(model, tile)
    inner = model.base_model.model.model
    hidden = torch.randn(1, positions, inner.config.hidden_size, dtype=torch.bfloat16)
    hidden.requires_grad_()
    turned = inner.rotary_emb(hidden, torch.arange(positions)[None])
    inputs = [hidden, *(one for one in model.parameters() if one.requires_grad)]

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            out = inner.layers[0](hidden, position_embeddings=turned)
            out = out[0] if isinstance(out, tuple) else out
            torch.autograd.grad(out, inputs, torch.ones_like(out), allow_unused=True)

    return run


def count_layer(model: Any, *, positions: int, tile: int | None) -> Operations:
    """Count the operations of a pass."""
    run = prepare_pass(model, positions=positions, tile=tile)
    counted = Operations()
    with counted:
        run()
    return counted


def time_pair(before: Any, after: Any, *, positions: int, times: int) -> dict[str, float]:
    """Return the processor seconds of a pass of both, run in turns, and the median of their ratios.

    Processor seconds, because other programs on the machine stretch the others.
    """
    runs = [prepare_pass(model, positions=positions, tile=None) for model in (before, after)]
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(times + 1):
        for run, found in zip(runs, taken, strict=True):
            started_at = time.process_time()
            run()
            found.append(time.process_time() - started_at)
    # The first pass of each has warmed up.
    ratios = [new / old for old, new in zip(*(found[1:] for found in taken), strict=True)]
    seconds = [min(found[1:]) for found in taken]
    return {"before_s": seconds[0], "after_s": seconds[1], "ratio": median(ratios)}


def count_replaced(*, hidden: int, positions: int) -> dict[str, Operations]:
    """Count what Liger replaces on a card: forward twice and back once, as in a layer."""
    heads, inner = hidden // 128, 3 * hidden
    wide = [torch.randn(positions, inner).bfloat16().requires_grad_() for _ in range(2)]
    q = torch.randn(1, heads, positions, 128).bfloat16().requires_grad_()
    k = torch.randn(1, max(1, heads // 4), positions, 128).bfloat16().requires_grad_()
    angle = torch.randn(1, positions, 128).bfloat16()

    def gate() -> tuple[Tensor, ...]:
        return (torch.nn.functional.silu(wide[0]) * wide[1],)

    def turn() -> tuple[Tensor, ...]:
        turned: tuple[Tensor, ...] = apply_rotary_pos_emb(q, k, angle, angle)
        return turned

    found = {}
    for name, run, inputs in (("silu and product", gate, wide), ("rotary", turn, [q, k])):
        with Operations() as found[name]:
            run()
            outputs = run()
            torch.autograd.grad(outputs, inputs, [torch.ones_like(out) for out in outputs])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=1024, help="a multiple of 512")
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=512, help="learn.mlp_tile")
    parser.add_argument("--weights", nargs="+", default=["bf16", "nf4", "int4"])
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--times", type=int, default=0, help="also time so many passes of each")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, int]] = {}
    times: dict[str, dict[str, float]] = {}
    for weights in options.weights:
        models = {
            fused: make_model(weights, hidden=options.hidden, fused=fused)
            for fused in (False, True)
        }
        if options.times:
            times[weights] = time_pair(
                models[False], models[True], positions=options.positions, times=options.times
            )
        for fused, model in models.items():
            for tile in (None, options.tile):
                counted = count_layer(model, positions=options.positions, tile=tile)
                name = f"{weights}, {'after' if fused else 'before'}"
                name += f", MLP by {tile}" if tile else ""
                found[name] = {"operations": counted.count, "bytes": counted.bytes}
    replaced = count_replaced(hidden=options.hidden, positions=options.positions)
    for name, counted in replaced.items():
        found[f"of these: {name}"] = {"operations": counted.count, "bytes": counted.bytes}
    if options.json:
        print(json.dumps({"bench": "layer", **found, "times": times}))
        return
    for name, figures in found.items():
        print(f"{name:34} {figures['operations']:5} operations {figures['bytes'] / 1e6:9.1f} MB")
    for name, taken in times.items():
        print(f"{name}: {taken['after_s']:.3f} s, before {taken['before_s']:.3f} s", end="")
        print(f"; ratio {taken['ratio']:.2f}")


if __name__ == "__main__":
    main()
