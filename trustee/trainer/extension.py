"""What vLLM's worker gains: the trainer, called over the engine's own message channel.

vLLM refuses an extension whose names its worker has too, so they all begin with `trustee`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from trustee.algorithm.learner import TrainerSpec
from trustee.trainer import follow_parent
from trustee.trainer.counters import own_counters
from trustee.trainer.counting import count_layers, count_steps, count_training
from trustee.trainer.cpu_lora import fix_cpu_lora
from trustee.trainer.shared_model import share_model
from trustee.trainer.trainer import Trainer


class TrainerExtension:
    """Methods that vLLM's worker gains."""

    device: torch.device
    model_runner: Any
    trustee: Trainer
    trustee_kind = Trainer

    def trustee_build(self, request: bytes) -> dict[str, Any]:
        """Build the trainer over the worker's weights, and return figures about it."""
        follow_parent()
        fix_cpu_lora()
        spec = msgspec.msgpack.decode(request, type=TrainerSpec)
        torch.manual_seed(spec.seed)
        model = share_model(self, spec.folder, rank=spec.learn.rank)
        counters = own_counters()
        count_steps(self.model_runner, counters)
        if self.device.type == "cpu":
            count_layers(self.model_runner.model, counters)
        count_training(model, counters)
        self.trustee = self.trustee_kind(spec, model, device=self.device, worker=self)
        return self.trustee.prepare()

    def trustee_call(self, method: str, *args: Any) -> dict[str, Any]:
        """Call a method of the trainer; see `Trainer.answer`."""
        return self.trustee.answer(method, *args)
