"""The embedding table in host memory, from where the GPU reads the few rows that a step looks up.

The one idea: a table of a GiB is read at a few rows a step, and pinned host memory has an address
on the GPU. What engine and trainer hold is a tensor over that address, so neither knows. It frees
1.16 GiB for Qwen3-8B, a tenth of its KV cache on 24 GB. No card has run it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from trustee.errors import RunError
from trustee.trainer.variables import HOST_EMBEDDING


def lies_in_host(layer: Any, *, tied: bool) -> bool:
    """Return whether a layer is a table that was asked to lie in host memory.

    Args:
        layer: of the engine's model.
        tied: whether the head is the same table, which is read whole at every step.
    """
    # The head is a subclass.
    is_table = type(layer) is VocabParallelEmbedding
    return is_table and not tied and os.environ.get(HOST_EMBEDDING) == "1"


class HostEmbedding(UnquantizedEmbeddingMethod):
    """An embedding whose table moves to host memory as soon as it is loaded."""

    def process_weights_after_loading(self, layer: Any) -> None:
        """Move the table, once."""
        if hasattr(layer, "trustee_table"):
            return
        # Held by the layer, because a view over its address does not keep it alive.
        layer.trustee_table, view = move_to_host(layer.weight.data)
        layer.weight = Parameter(view, requires_grad=False)


def move_to_host(table: Tensor) -> tuple[Tensor, Tensor]:
    """Copy a table to host memory; return the copy, and the same as its device sees it.

    Raises:
        RunError: if so much host memory cannot be pinned.
    """
    on_gpu = table.device.type == "cuda"
    try:
        host = torch.empty_like(table, device="cpu", pin_memory=on_gpu)
    except RuntimeError as error:
        raise RunError(
            f"{table.nbytes >> 20} MiB of host memory could not be pinned ({error}); set "
            "engine.host_embedding to false"
        ) from error
    host.copy_(table)
    return host, see_from_gpu(host) if on_gpu else host


def see_from_gpu(host: Tensor) -> Tensor:
    """Return a tensor on the GPU over the address of pinned host memory."""
    from vllm.utils.torch_utils import get_accelerator_view_from_cpu_tensor

    view: Tensor = get_accelerator_view_from_cpu_tensor(host)
    return view
