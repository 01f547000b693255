"""What a run may hold: the settings that decide memory, each where the config has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from trustee.algorithm.config import LearnConfig
from trustee.engine.vllm import VllmConfig
from trustee.types import Record

GPU_BLOCK, CPU_BLOCK = 16, 32
"""Tokens of a block of KV cache."""


class Budget(Record, frozen=True):
    """All that decides memory: two sections of the config, and what follows from others."""

    engine: VllmConfig
    learn: LearnConfig
    trained_tokens: int
    """Most sampled ids of one episode: turns times tokens of a turn, or its own limit."""
    reference: bool = False
    """The start adapter is kept beside the trained one, for the KL term."""

    @property
    def block(self) -> int:
        """Tokens of one block of KV cache."""
        return CPU_BLOCK if self.engine.device == "cpu" else GPU_BLOCK

    @property
    def positions(self) -> int:
        """Most ids of one forward pass of the trainer."""
        return max(self.engine.context, self.learn.micro_tokens)

    @property
    def trained(self) -> int:
        """Most sampled ids of one forward pass of the trainer."""
        rows = max(1, self.learn.micro_tokens // self.engine.context)
        return min(self.positions, rows * self.trained_tokens)

    @property
    def slots(self) -> int:
        """Adapters that the engine has room for."""
        return self.engine.slots

    def setting(self, key: str) -> Any:
        """Return the value of a config key, such as `learn.mlp_tile`."""
        section, name = key.split(".")
        return getattr(getattr(self, section), name)

    def change(self, settings: Mapping[str, Any]) -> Budget:
        """Return the budget with other values of config keys, such as `learn.mlp_tile`."""
        budget = self
        for key, value in settings.items():
            section, name = key.split(".")
            changed = replace(getattr(budget, section), **{name: value})
            budget = replace(budget, **{section: changed})
        return budget
