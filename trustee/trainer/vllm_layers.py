"""Linear layers for vLLM whose weights the trainer can share.

vLLM's own linear methods repack weights (on CPUs) or hide them (quantised ones). These keep each
layer's bytes in a form that a Hugging Face module can use too, so that one copy of the base serves
engine and trainer, and that a cache of the base can be written from. Tested with vLLM 0.32 (CPU)
and 0.33 (GPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import torch
from torch import Tensor
from torch.nn import Parameter
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import (
    QuantizationConfig,
    QuantizeMethodBase,
)
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.platforms import current_platform
from vllm.utils.torch_utils import direct_register_custom_op

from trustee.trainer.counters import own_counters
from trustee.trainer.counting import count_loading
from trustee.trainer.host_embedding import HostEmbedding, lies_in_host
from trustee.trainer.int4_layers import choose_int4
from trustee.trainer.nf4 import NESTED_BLOCK, NF4_BLOCK
from trustee.trainer.online_linear import OnlineLinear, StoredParts, register_weight
from trustee.trainer.packing import Packed, can_pack
from trustee.trainer.quantised_cache import LOADER, read_tensors
from trustee.trainer.streams import on_default_stream

PARTS = {
    "weight": torch.uint8,
    "absmax": torch.uint8,
    "quant_map": torch.float32,
    "nested_absmax": torch.float32,
    "nested_quant_map": torch.float32,
    "nested_offset": torch.float32,
}
"""The tensors of a quantised shard, by their names in a cache."""


def _apply_nf4(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    from bitsandbytes import matmul_4bit

    rows = x.reshape(-1, x.shape[-1])
    into = out.view(-1, out.shape[-1])
    at = 0
    for packed, state in weight.nf4_shards:  # type: ignore[attr-defined]
        width = state.shape[0]
        into[:, at : at + width] = matmul_4bit(rows, packed.t(), state)
        at += width


def _apply_nf4_shape(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    return


direct_register_custom_op(
    op_name="trustee_nf4",
    op_func=_apply_nf4,
    mutates_args=["out"],
    fake_impl=_apply_nf4_shape,
    dispatch_key=current_platform.dispatch_key,
)


class NF4Linear(OnlineLinear):
    """Quantises a bf16 checkpoint to NF4 layer by layer while it loads."""

    def process_weights_after_loading(self, layer: Any) -> None:
        """Quantise each shard (q, k, v, ...) separately, then join them in one buffer."""
        if hasattr(layer.weight, "nf4_shards"):
            return
        with on_default_stream(layer.weight.device):
            quantised = [
                bnb.quantize_4bit(
                    shard.contiguous(),
                    quant_type="nf4",
                    compress_statistics=True,
                    blocksize=NF4_BLOCK,
                )
                for shard in layer.weight.data.split(layer.logical_widths, 0)
            ]
            del layer.weight
            _join_shards(layer, quantised)

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply with one custom op, which torch.compile does not look into."""
        width = sum(layer.logical_widths)
        out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
        torch.ops.vllm.trustee_nf4(x, layer.weight, out)
        return out if bias is None else out + bias


def _join_shards(layer: Any, quantised: list[tuple[torch.Tensor, bnb.QuantState]]) -> None:
    """Join a layer's quantised shards in one weight, of which the shards are views."""
    buffer = torch.cat([packed.view(-1, 1) for packed, _ in quantised])
    shards, at = [], 0
    for packed, state in quantised:
        shards.append((buffer[at : at + packed.numel()], state))
        at += packed.numel()
    weight = Parameter(buffer, requires_grad=False)
    weight.nf4_shards = shards  # type: ignore[attr-defined]
    layer.register_parameter("weight", weight)


class StoredNF4Linear(StoredParts, NF4Linear):
    """Loads the bytes and statistics that an earlier start quantised."""

    parts = PARTS

    def process_weights_after_loading(self, layer: Any) -> None:
        """Join the shards as if they had just been quantised."""
        if hasattr(layer.weight, "nf4_shards"):
            return
        quantised = []
        for height, parts in zip(layer.logical_widths, self.shards, strict=True):
            nested = bnb.QuantState(
                absmax=parts["nested_absmax"],
                code=parts["nested_quant_map"],
                blocksize=NESTED_BLOCK,
                dtype=torch.float32,
            )
            state = bnb.QuantState(
                absmax=parts["absmax"],
                shape=torch.Size((height, self.width)),
                code=parts["quant_map"],
                blocksize=NF4_BLOCK,
                quant_type="nf4",
                dtype=self.dtype,
                offset=parts["nested_offset"],
                state2=nested,
            )
            quantised.append((parts["weight"], state))
        self.forget(layer)
        _join_shards(layer, quantised)


def _choose_nf4() -> LinearMethodBase:
    """Return the method for vLLM's load format: read a quantised cache, or quantise on loading."""
    stored = get_current_vllm_config().load_config.load_format == LOADER
    return StoredNF4Linear() if stored else NF4Linear()


@register_model_loader(LOADER)
class BaseCacheLoader(BaseModelLoader):
    """Reads a quantised base from its cache; config and tokenizer stay with the model."""

    def download_model(self, model_config: Any) -> None:
        """Do nothing: the cache is a local folder."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Pass each tensor to the layer that it belongs to."""
        extra: Any = self.load_config.model_loader_extra_config
        folder = Path(extra["folder"])
        model.load_weights(count_loading(read_tensors(folder), folder, own_counters()))


def count_default_loading() -> None:
    """Let vLLM's own loader count what it reads; calling it again changes nothing."""
    read = DefaultModelLoader.get_all_weights
    if getattr(read, "counted", False):
        return

    def read_counted(self: Any, model_config: Any, model: Any) -> Iterator[tuple[str, Tensor]]:
        tensors = read(self, model_config, model)
        return count_loading(tensors, Path(model_config.model), own_counters())

    read_counted.counted = True  # type: ignore[attr-defined]
    DefaultModelLoader.get_all_weights = read_counted


class PlainLinear(LinearMethodBase):
    """Keeps a bf16 weight as it is; vLLM's CPU method would pack it and drop the original.

    On a CPU it keeps a packed copy as well, which stays valid because the base is frozen.
    """

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
        """Create the weight."""
        register_weight(
            layer,
            output_partition_sizes,
            width=input_size_per_partition,
            dtype=params_dtype,
            loader=extra.get("weight_loader"),
        )

    def process_weights_after_loading(self, layer: Any) -> None:
        """Keep the bytes; a plain parameter avoids vLLM's dispatch at every use."""
        layer.weight = Parameter(layer.weight.data, requires_grad=False)
        layer.trustee_packed = Packed(layer.weight) if can_pack(layer.weight) else None

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply with the packed copy if there is one, else with the weight."""
        packed: Packed | None = layer.trustee_packed
        # On a GPU the compiler must see the layer's own weight.
        if packed is None:
            return torch.nn.functional.linear(x, layer.weight, bias)
        return packed.multiply(x, bias)


class _SharedConfig(QuantizationConfig):
    """What all quantisation configs tell vLLM about themselves."""

    method: Callable[[], LinearMethodBase]

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """Return the supported activation dtypes."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Return the oldest supported compute capability, times ten: Turing."""
        return 75

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Return no names: the method is not described in the checkpoint."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _SharedConfig:
        """Return a config; there is nothing to read."""
        return cls()

    def get_quant_method(self, layer: Any, prefix: str) -> QuantizeMethodBase | None:
        """Return the method for linear layers; None for embeddings and heads, which stay as is."""
        if isinstance(layer, LinearBase):
            return type(self).method()
        model = get_current_vllm_config().model_config.hf_text_config
        return HostEmbedding() if lies_in_host(layer, tied=model.tie_word_embeddings) else None


@register_quantization_config("trustee_nf4")
class NF4Config(_SharedConfig):
    """NF4 weights with nested scales."""

    method = staticmethod(_choose_nf4)

    def get_name(self) -> str:
        """Return the name."""
        return "trustee_nf4"


@register_quantization_config("trustee_int4")
class Int4Config(_SharedConfig):
    """Four bits with zero points, in the layout of Marlin's kernels."""

    method = staticmethod(choose_int4)

    @classmethod
    def override_quantization_method(
        cls, hf_quant_cfg: dict[str, Any], user_quant: str | None, hf_config: Any = None
    ) -> Any:
        """Take a checkpoint of AWQ, which vLLM would give to a method of its own."""
        return user_quant if user_quant == "trustee_int4" else None

    def get_name(self) -> str:
        """Return the name."""
        return "trustee_int4"


@register_quantization_config("trustee_plain")
class PlainConfig(_SharedConfig):
    """Weights as they are in the checkpoint."""

    method = PlainLinear

    def get_name(self) -> str:
        """Return the name."""
        return "trustee_plain"
