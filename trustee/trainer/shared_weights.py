"""Reading the engine's weights, and writing its adapters, from within the engine's process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bitsandbytes.functional as bnb
import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

from trustee.trainer.int4_layers import INT4_PARTS
from trustee.trainer.marlin import Int4Weight
from trustee.trainer.vllm_layers import PARTS


def shards_of(layer: Any) -> list[Any]:
    """Return the weights of a layer's parts: NF4 (bytes, state) pairs, int4, or views of rows."""
    layer = getattr(layer, "base_layer", layer)
    if hasattr(layer, "int4_shards"):
        return list(layer.int4_shards)
    if hasattr(layer.weight, "nf4_shards"):
        return list(layer.weight.nf4_shards)
    return list(layer.weight.data.split(layer.logical_widths, 0))


def bias_shards_of(layer: Any) -> list[torch.Tensor | None]:
    """Return the biases of a layer's parts; None for each part if the layer has no bias."""
    layer = getattr(layer, "base_layer", layer)
    bias = getattr(layer, "bias", None)
    if bias is None:
        return [None] * len(layer.logical_widths)
    return list(bias.data.split(layer.logical_widths, 0))


def _parts_of(packed: torch.Tensor, state: bnb.QuantState) -> tuple[torch.Tensor, ...]:
    nested = state.state2
    return packed, state.absmax, state.code, nested.absmax, nested.code, state.offset


def tensors_of_base(worker: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the base's tensors under their checkpoint names, a quantised shard as its `PARTS`.

    The tensors are the engine's own storage, not copies.
    """
    model = worker.model_runner.model
    for path, layer in model.named_modules():
        whole = path.removesuffix(".base_layer")
        name = whole.rpartition(".")[2]
        if name == "lm_head" and model.config.tie_word_embeddings:
            continue
        names = model.packed_modules_mapping.get(name, [name])
        for kind, parameter in layer.named_parameters(recurse=False):
            if not hasattr(layer, "logical_widths"):
                yield f"{whole}.{kind}", parameter[: getattr(layer, "org_vocab_size", None)]
                continue
            if kind in ("scales", "zeros"):
                continue  # parts of the weight
            pieces = shards_of(layer) if kind == "weight" else bias_shards_of(layer)
            for one, piece in zip(names, pieces, strict=True):
                own = whole.removesuffix(name) + one
                stored = _stored_parts(piece)
                if stored:
                    yield from ((f"{own}.{part}", tensor) for part, tensor in stored.items())
                else:
                    yield f"{own}.{kind}", piece


def _stored_parts(shard: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a quantised shard by their names in a cache; none if it is plain."""
    if isinstance(shard, Int4Weight):
        return dict(zip(INT4_PARTS, (shard.words, shard.scales, shard.zeros), strict=True))
    if isinstance(shard, tuple):
        return dict(zip(PARTS, _parts_of(*shard), strict=True))
    return {}


def install_adapter(
    worker: Any, version: int, tensors: dict[str, torch.Tensor], config: dict[str, Any]
) -> None:
    """Load a LoRA into the engine from tensors, without a file.

    Args:
        worker: vLLM's worker.
        version: id of the adapter; must be new to this engine.
        tensors: weights under the names of a PEFT file; copied.
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
    """Unload an adapter; return False if the engine does not hold it."""
    return bool(worker.model_runner.lora_manager._adapter_manager.remove_adapter(version))


def held_adapters(worker: Any) -> list[int]:
    """Return the ids of the adapters that the engine holds."""
    return sorted(worker.model_runner.lora_manager._adapter_manager.list_adapters())
