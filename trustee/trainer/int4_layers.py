"""Linear layers for vLLM in int4: Marlin's kernel on a GPU, opened weights on a CPU.

The trainer opens the same buffers, see `marlin.py`. A layer comes from a bf16 checkpoint, from the
cache that an earlier start wrote, or from a checkpoint that AWQ has quantised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.layers.quantization.utils.marlin_utils import apply_gptq_marlin_linear
from vllm.platforms import current_platform
from vllm.scalar_type import scalar_types

from trustee.trainer.marlin import Int4Weight, join_parts, pack, quantise, split_nibbles
from trustee.trainer.online_linear import OnlineLinear, StoredParts
from trustee.trainer.packing import Packed
from trustee.trainer.quantised_cache import LOADER

INT4_PARTS = {"weight": torch.int32, "scales": torch.bfloat16, "zeros": torch.int32}
"""The tensors of a packed shard, by their names in a cache."""
AWQ_PARTS = {"qweight": torch.int32, "scales": torch.float16, "qzeros": torch.int32}
"""The tensors of a shard in a checkpoint of AWQ."""
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word AWQ has the codes of eight neighbouring outputs."""


class Int4Linear(OnlineLinear):
    """Quantises a bf16 checkpoint layer by layer while it loads."""

    def process_weights_after_loading(self, layer: Any) -> None:
        """Quantise each shard (q, k, v, ...) separately, then join them in one buffer."""
        if hasattr(layer, "int4_shards"):
            return
        shards = [quantise(shard) for shard in layer.weight.data.split(layer.logical_widths)]
        del layer.weight
        join_shards(layer, shards)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply with the packed weight on a GPU, with the opened one on a CPU."""
        opened: Packed | None = layer.trustee_opened
        if opened is not None:
            return opened.multiply(x, bias)
        product: Tensor = apply_gptq_marlin_linear(
            input=x,
            weight=layer.weight,
            weight_scale=layer.scales,
            weight_zp=layer.zeros,
            workspace=None,
            wtype=scalar_types.uint4,
            output_size_per_partition=sum(layer.logical_widths),
            input_size_per_partition=x.shape[-1],
        )
        # Added afterwards, as in the trainer: Marlin would add it before it rounds.
        return product if bias is None else product + bias


def join_shards(layer: Any, shards: list[Int4Weight]) -> None:
    """Join a layer's shards in one packed weight, of which they become views."""
    whole = join_parts(shards)
    for name, tensor in zip(INT4_PARTS, (whole.words, whole.scales, whole.zeros), strict=True):
        layer.register_parameter(name, Parameter(tensor, requires_grad=False))
    layer.int4_shards = whole.split(layer.logical_widths)
    layer.trustee_opened = None
    if current_platform.is_cpu():
        # A CPU has no kernel for this layout, and would open the weight for every token.
        opened = torch.cat([shard.open() for shard in layer.int4_shards])
        layer.trustee_opened = Packed(opened)


class StoredInt4Linear(StoredParts, Int4Linear):
    """Loads what an earlier start packed."""

    parts = INT4_PARTS

    def process_weights_after_loading(self, layer: Any) -> None:
        """Join the shards as if they had just been quantised."""
        if hasattr(layer, "int4_shards"):
            return
        shards = [
            Int4Weight(words=part["weight"], scales=part["scales"], zeros=part["zeros"])
            for part in self.shards
        ]
        self.forget(layer)
        join_shards(layer, shards)


class AwqLinear(StoredParts, Int4Linear):
    """Loads a checkpoint that AWQ has quantised; its scales are rounded to bf16."""

    parts = AWQ_PARTS

    def process_weights_after_loading(self, layer: Any) -> None:
        """Bring each shard into Marlin's layout, then join them."""
        if hasattr(layer, "int4_shards"):
            return
        shards = [
            pack(
                order_codes(part["qweight"]).t(),
                part["scales"].t(),
                order_codes(part["qzeros"]).t(),
            )
            for part in self.shards
        ]
        self.forget(layer)
        join_shards(layer, shards)


def order_codes(words: Tensor) -> Tensor:
    """Return the codes of AWQ's words, uint8 [rows, out], in the order of the outputs."""
    eights = split_nibbles(words).unflatten(-1, (-1, 8))
    ordered: Tensor = eights[..., list(AWQ_ORDER)].flatten(-2)
    return ordered


def choose_int4() -> LinearMethodBase:
    """Return the method for what is loaded: a cache, a checkpoint of AWQ, or a bf16 one."""
    config = get_current_vllm_config()
    if config.load_config.load_format == LOADER:
        return StoredInt4Linear()
    if getattr(config.model_config.hf_config, "quantization_config", None):
        return AwqLinear()
    return Int4Linear()
