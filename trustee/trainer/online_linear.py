"""How the weights of a linear layer arrive, where vLLM itself has no method for their form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.model_loader.reload.layerwise import initialize_online_processing
from vllm.model_executor.parameter import ModelWeightParameter


def register_weight(
    layer: Any,
    heights: Sequence[int],
    *,
    width: int,
    dtype: torch.dtype,
    device: str | None = None,
    loader: Any,
) -> None:
    """Give a layer an empty weight (sum of heights, width); its shards have these heights."""
    layer.logical_widths = list(heights)
    empty = torch.empty(sum(heights), width, device=device, dtype=dtype)
    weight = ModelWeightParameter(data=empty, input_dim=1, output_dim=0, weight_loader=loader)
    layer.register_parameter("weight", weight)


class OnlineLinear(LinearMethodBase):
    """A layer of a bf16 checkpoint, whose weight is converted as soon as all of it has arrived."""

    uses_meta_device = True

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra: Any,
    ) -> None:
        """Declare the weight on the meta device; vLLM allocates it when its shards arrive."""
        register_weight(
            layer,
            output_partition_sizes,
            width=input_size_per_partition,
            dtype=params_dtype,
            device="meta",
            loader=extra.get("weight_loader"),
        )
        initialize_online_processing(layer)


class StoredParts(LinearMethodBase):
    """A layer whose shards (q, k, v, ...) are stored as several tensors each."""

    uses_meta_device = False
    parts: Mapping[str, torch.dtype]
    """The names of these tensors in the checkpoint, and their types."""

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra: Any,
    ) -> None:
        """Declare the expected tensors, empty; each shard arrives with buffers of its own."""
        layer.logical_widths = list(output_partition_sizes)
        self.dtype = params_dtype
        self.width = input_size_per_partition
        self.shards: list[dict[str, Tensor]] = [{} for _ in output_partition_sizes]
        for name, dtype in self.parts.items():
            empty = Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
            empty.weight_loader = partial(self.take_part, name)  # type: ignore[attr-defined]
            layer.register_parameter(name, empty)

    def take_part(
        self, name: str, empty: Parameter, loaded: Tensor, shard: str | int | None = None
    ) -> None:
        """Copy a part to the layer's device; vLLM identifies shards by q, k, v or a number."""
        index = "qkv".index(shard) if isinstance(shard, str) else shard or 0
        self.shards[index][name] = loaded.to(empty.device, copy=True)

    def forget(self, layer: Any) -> None:
        """Drop what has arrived, once it stands in its last place."""
        self.shards = []
        for name in self.parts:
            delattr(layer, name)
