"""Hooks that count what an engine's worker and its trainer do.

A step of a slow processor that reads a long prompt may take minutes, so steps alone would not show
that it moves: there each part of a layer counts. A GPU runs a step of bounded size in one graph,
into which no hook reaches, and which is short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from trustee.trainer.counters import Counter, Counters

PARTS = ("self_attn", "mlp")
"""The parts of a decoder layer that are counted, in vLLM's models and in Hugging Face's."""


def count_steps(runner: Any, counters: Counters) -> None:
    """Count the steps of vLLM's model runner and their tokens."""
    execute = runner.execute_model

    def execute_counted(scheduled: Any, *args: Any, **named: Any) -> Any:
        output = execute(scheduled, *args, **named)
        counts = scheduled.num_scheduled_tokens.values()
        if not counts:
            return output
        # One token of a request is the last sampled one; more are a part of its prompt.
        if len(counts) != scheduled.total_num_scheduled_tokens:
            counters.add(Counter.READ, sum(count for count in counts if count > 1))
        counters.add(Counter.SAMPLED, len(counts))
        counters.add(Counter.STEPS)
        return output

    runner.execute_model = execute_counted


def count_layers(model: torch.nn.Module, counters: Counters) -> None:
    """Count the parts of the layers of an engine's model, which must run eagerly."""

    def count(*_: Any) -> None:
        counters.add(Counter.MOVES)

    for part in _parts_of(model):
        part.register_forward_hook(count)


def count_training(model: torch.nn.Module, counters: Counters) -> None:
    """Count the parts of the layers of a trained model, in its forward and backward passes."""

    def count_gradient(_: torch.Tensor) -> None:
        counters.add(Counter.TRAINED)

    def count(module: Any, inputs: Any, output: Any) -> None:
        counters.add(Counter.TRAINED)
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(count_gradient)

    for part in _parts_of(model):
        part.register_forward_hook(count)


def _parts_of(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in PARTS:
            yield module


def count_loading(
    tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, counters: Counters
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a folder of weights, counting the bytes of those that were taken in."""
    counters.add(Counter.TO_LOAD, sum(path.stat().st_size for path in folder.glob("*.safetensors")))
    for name, tensor in tensors:
        yield name, tensor
        counters.add(Counter.LOADED, tensor.nbytes)
