"""The engine's side of sharing: weights that a trainer may read, and adapters in memory.

The only file in the engine's process that touches vLLM. vLLM's own linear methods repack weights
(on CPUs) or hide them (quantised ones); ours keep each layer's bytes where a Hugging Face module
can use them too, so that there is one copy of the base. Seen with vLLM 0.32 (CPU) and 0.33 (GPU).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import bitsandbytes.functional as bnb
import torch
from torch.nn import Parameter
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.model_loader.reload.layerwise import initialize_online_processing
from vllm.model_executor.parameter import ModelWeightParameter
from vllm.platforms import current_platform
from vllm.utils.torch_utils import direct_register_custom_op

NF4_BLOCK = 64
"""Weights per scale; the QLoRA paper's choice."""


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


class NF4Linear(LinearMethodBase):
    """Quantises a bf16 checkpoint to NF4 layer by layer while it loads."""

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
        """Declare the weight; vLLM materialises it when its shards arrive."""
        layer.logical_widths = list(output_partition_sizes)
        weight = ModelWeightParameter(
            data=torch.empty(
                sum(output_partition_sizes),
                input_size_per_partition,
                device="meta",
                dtype=params_dtype,
            ),
            input_dim=1,
            output_dim=0,
            weight_loader=extra.get("weight_loader"),
        )
        layer.register_parameter("weight", weight)
        initialize_online_processing(layer)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Quantise each shard (q, k, v, ...) by itself into one buffer."""
        if hasattr(layer.weight, "nf4_shards"):
            return
        if current_platform.is_cuda():
            # bitsandbytes quantises on the legacy default stream, vLLM loads on its own.
            torch.cuda.synchronize()
        quantised = [
            bnb.quantize_4bit(
                shard.contiguous(),
                quant_type="nf4",
                compress_statistics=True,
                blocksize=NF4_BLOCK,
            )
            for shard in layer.weight.data.split(layer.logical_widths, 0)
        ]
        buffer = torch.cat([packed.view(-1, 1) for packed, _ in quantised])
        shards, at = [], 0
        for packed, state in quantised:
            shards.append((buffer[at : at + packed.numel()], state))
            at += packed.numel()
        if current_platform.is_cuda():
            torch.cuda.synchronize()
        del layer.weight
        weight = Parameter(buffer, requires_grad=False)
        weight.nf4_shards = shards  # type: ignore[attr-defined]
        layer.register_parameter("weight", weight)

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply through one custom op, opaque to torch.compile."""
        width = sum(layer.logical_widths)
        out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
        torch.ops.vllm.trustee_nf4(x, layer.weight, out)
        return out if bias is None else out + bias


class PlainLinear(LinearMethodBase):
    """Keeps a bf16 weight as it is; vLLM's CPU method would pack it and drop the original."""

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
        """Make the weight."""
        layer.logical_widths = list(output_partition_sizes)
        weight = ModelWeightParameter(
            data=torch.empty(
                sum(output_partition_sizes), input_size_per_partition, dtype=params_dtype
            ),
            input_dim=1,
            output_dim=0,
            weight_loader=extra.get("weight_loader"),
        )
        layer.register_parameter("weight", weight)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Leave the bytes alone; a plain parameter spares each use vLLM's own dispatch."""
        layer.weight = Parameter(layer.weight.data, requires_grad=False)

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply."""
        return torch.nn.functional.linear(x, layer.weight, bias)


class _SharedConfig(QuantizationConfig):
    """What both methods tell vLLM about themselves."""

    method: Callable[[], LinearMethodBase]

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """Give the activation types."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Give the oldest GPU generation: Turing."""
        return 75

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Say that no file in the checkpoint describes the method."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _SharedConfig:
        """Make the config."""
        return cls()

    def get_quant_method(self, layer: Any, prefix: str) -> LinearMethodBase | None:
        """Take every linear layer; embeddings and heads stay as they are."""
        return type(self).method() if isinstance(layer, LinearBase) else None


@register_quantization_config("trustee_nf4")
class NF4Config(_SharedConfig):
    """NF4 weights with nested scales."""

    method = NF4Linear

    def get_name(self) -> str:
        """Give the name."""
        return "trustee_nf4"


@register_quantization_config("trustee_plain")
class PlainConfig(_SharedConfig):
    """Weights as they are in the checkpoint."""

    method = PlainLinear

    def get_name(self) -> str:
        """Give the name."""
        return "trustee_plain"


def shards_of(layer: Any) -> list[Any]:
    """Give the weights of a layer's parts: NF4 (bytes, state) pairs, or row views."""
    layer = getattr(layer, "base_layer", layer)
    if hasattr(layer.weight, "nf4_shards"):
        return list(layer.weight.nf4_shards)
    return list(layer.weight.data.split(layer.logical_widths, 0))


def bias_shards_of(layer: Any) -> list[torch.Tensor | None]:
    """Give the biases of a layer's parts, None where it has none."""
    layer = getattr(layer, "base_layer", layer)
    bias = getattr(layer, "bias", None)
    if bias is None:
        return [None] * len(layer.logical_widths)
    return list(bias.data.split(layer.logical_widths, 0))


def install_adapter(
    worker: Any, version: int, tensors: dict[str, torch.Tensor], config: dict[str, Any]
) -> None:
    """Give the engine a LoRA from tensors, without a file.

    Args:
        worker: vLLM's worker.
        version: id of the adapter, never used before in this engine.
        tensors: names as in a PEFT file; copied.
        config: a PEFT `LoraConfig` as a dict.
    """
    lora_worker = worker.model_runner.lora_manager
    adapters = lora_worker._adapter_manager
    helper = PEFTHelper.from_dict(config)
    helper.validate_legal(lora_worker.lora_config)
    mapper = getattr(adapters.model, "hf_to_vllm_mapper", None)
    adapters.add_adapter(
        LoRAModel.from_lora_tensors(
            lora_model_id=version,
            tensors=tensors,
            peft_helper=helper,
            device="cpu",
            dtype=lora_worker.lora_config.lora_dtype,
            model_vocab_size=lora_worker.vocab_size,
            weights_mapper=mapper.get_rename_mapper() if mapper else None,
        )
    )
    adapters.activate_adapter(version)


def remove_adapter(worker: Any, version: int) -> bool:
    """Forget an adapter; False where the engine does not hold it."""
    return bool(worker.model_runner.lora_manager._adapter_manager.remove_adapter(version))


def held_adapters(worker: Any) -> list[int]:
    """Give the ids of the adapters that the engine holds."""
    return sorted(worker.model_runner.lora_manager._adapter_manager.list_adapters())


@cache
def mend_cpu_lora() -> None:
    """Replace vLLM's CPU LoRA product by one matrix product per adapter, once a process.

    The stock one copies the whole adapter once per token, three times slower for the tiny model,
    and in 0.32 applies the last slot to rows of the base when both are in one batch.
    """
    if not current_platform.is_cpu():
        return
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    stock_update = PunicaWrapperCPU.update_metadata

    def update_metadata(self: Any, *args: Any, **kwargs: Any) -> None:
        stock_update(self, *args, **kwargs)
        index = self.token_lora_indices
        slots = index.unique().tolist()
        self.trustee_rows = [
            (slot, None if len(slots) == 1 else (index == slot).nonzero()[:, 0])
            for slot in slots
            if slot >= 0
        ]

    def add_lora_linear(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **unused: Any,
    ) -> None:
        into, rows_in = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self.trustee_rows:
            taken = rows_in if rows is None else rows_in[rows]
            at = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                low = taken @ a[slot].view(-1, a.shape[-1]).t()
                high = (low @ b[slot].view(-1, b.shape[-1]).t()).mul_(scale)
                target = into[:, at : at + width]
                if rows is None:
                    target += high
                else:
                    target.index_add_(0, rows, high.to(target.dtype))
                at += width

    PunicaWrapperCPU.update_metadata = update_metadata
    PunicaWrapperCPU.add_lora_linear = add_lora_linear
