"""What to change so that a run fits its card: the mildest settings first, and no more than needed.

The one idea: levers are tried in the order of what they cost the user. They pile up until the rest
of the card holds enough KV cache: first all that was asked for, then a few longest contexts. Then
each lever that turns out not to be needed is taken back, the harshest first, so that nothing can be
dropped from what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from trustee.planning.budget import Budget
from trustee.planning.ledger import count_kv_tokens, kv_token_bytes, make_ledger
from trustee.planning.shapes import ModelShape
from trustee.types import GIB, MIB

SECTIONS = ("engine", "learn")
"""Sections that a budget shares with the config it was read from."""

KV_STEP = 128 * MIB
"""Cache sizes are proposed in these steps."""
FINE_STEP = 16 * MIB
"""The same for small caches."""
COMFORT = 3.0
"""Longest contexts that the cache should hold."""
BARELY = 1.5
"""Longest contexts that it must hold: an episode's, and a usual one of its simulator."""


class Lever(NamedTuple):
    """Settings that are lowered together; one that is low enough already stays."""

    key: str
    """The config key."""
    value: Any

    def pull(self, budget: Budget) -> Budget:
        """Return the changed budget."""
        now = budget.setting(self.key)
        match self.key:
            case "engine.context":
                micro_tokens = min(budget.learn.micro_tokens, self.value)
                return budget.change(
                    {self.key: min(now, self.value), "learn.micro_tokens": micro_tokens}
                )
            case "learn.mlp_tile":
                lower = now if now is not None and now <= self.value else self.value
            case "learn.activation_checkpointing" if self.value == "recompute":
                lower = self.value if now == "off" else now
            case "learn.optimizer" | "learn.activation_checkpointing" | "engine.eager":
                lower = self.value
            case "engine.weights":
                # Of nearly the same size, so whoever asked for int4 keeps it.
                lower = now if now == "int4" else self.value
            case _:
                lower = min(now, self.value)
        return budget.change({self.key: lower})


FREE = (
    Lever("learn.optimizer", "adamw8bit"),
    Lever("learn.activation_checkpointing", "recompute"),
    Lever("learn.activation_checkpointing", "offload"),
    Lever("learn.head_chunk", 256),
)
"""These cost next to nothing."""

MILD = (
    *FREE,
    Lever("learn.mlp_tile", 2048),
    Lever("engine.weights", "nf4"),
)
"""These cost a little time, and the last a little quality."""

HARSH = (
    Lever("engine.max_sequences", 32),
    Lever("engine.batched_tokens", 1024),
    Lever("engine.versions", 2),
    Lever("engine.max_sequences", 16),
    Lever("engine.context", 12288),
    Lever("engine.context", 8192),
    Lever("learn.rank", 16),
    Lever("engine.context", 6144),
    Lever("engine.context", 4096),
    Lever("learn.rank", 8),
    Lever("engine.max_sequences", 8),
    Lever("engine.eager", True),
)
"""These cost length, speed or capacity."""


def fit(
    shape: ModelShape, budget: Budget, *, usable: int, shortest: int, offload: bool = True
) -> Budget | None:
    """Change a budget so that it fits; None where no change helps.

    Args:
        shape: the model.
        budget: as wanted.
        usable: bytes of the card.
        shortest: context below which episodes make no sense.
        offload: whether layer inputs may go to host memory.
    """
    if count_kv_tokens(shape, budget) < budget.engine.context:
        # The engine would not start.
        needed = cache_bytes(shape, budget, tokens=int(BARELY * budget.engine.context))
        budget = budget.change({"engine.kv_bytes": needed})
    if make_ledger(shape, budget).peak <= usable:
        return budget
    for contexts, levers in ((math.inf, FREE), (COMFORT, MILD), (BARELY, MILD + HARSH)):
        pulled: list[Lever] = []
        for lever in (None, *levers):
            if lever is not None:
                if lever.key == "engine.context" and lever.value < shortest:
                    continue
                if lever.value == "offload" and not offload:
                    continue
                pulled.append(lever)
            if _settle(shape, budget, pulled, usable=usable, contexts=contexts) is not None:
                return _prune(shape, budget, pulled, usable=usable, contexts=contexts)
    return None


def raise_cache(shape: ModelShape, budget: Budget, *, usable: int) -> Budget:
    """Return the budget with all that is left of the GPU as KV cache."""
    spare = usable - make_ledger(shape, budget).peak
    added = max(0, spare) // KV_STEP * KV_STEP
    return budget.change({"engine.kv_bytes": budget.engine.cache_bytes + added})


def name_changes(before: Budget, after: Budget) -> tuple[str, ...]:
    """Write the differences of two budgets as the values of `--set`."""
    return tuple(
        f"{section}.{name}={_write_value(new)}"
        for section in SECTIONS
        for name, new in msgspec.structs.asdict(getattr(after, section)).items()
        if new != getattr(getattr(before, section), name)
    )


def _write_value(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _settle(
    shape: ModelShape, budget: Budget, levers: Sequence[Lever], *, usable: int, contexts: float
) -> Budget | None:
    """Pull levers and give the rest of the card to the cache; None where that is not enough."""
    for lever in levers:
        budget = lever.pull(budget)
    room = usable - make_ledger(shape, budget).peak + budget.engine.cache_bytes
    if room >= budget.engine.cache_bytes:
        return budget
    wanted = min(contexts * budget.engine.context, count_kv_tokens(shape, budget))
    step = KV_STEP if room >= GIB else FINE_STEP
    cut = budget.change({"engine.kv_bytes": max(0, room) // step * step})
    return cut if count_kv_tokens(shape, cut) >= wanted else None


def _prune(
    shape: ModelShape, budget: Budget, levers: Sequence[Lever], *, usable: int, contexts: float
) -> Budget:
    """Take back the levers that are not needed, the harshest first."""
    kept = list(levers)
    for lever in reversed(levers):
        fewer = [other for other in kept if other is not lever]
        if _settle(shape, budget, fewer, usable=usable, contexts=contexts) is not None:
            kept = fewer
    settled = _settle(shape, budget, kept, usable=usable, contexts=contexts)
    assert settled is not None, "each lever that was taken back was not needed"
    return settled


def cache_bytes(shape: ModelShape, budget: Budget, *, tokens: int) -> int:
    """Return the bytes of a KV cache for so many tokens, in proposed steps."""
    blocks = -(-tokens // budget.block) + 1
    needed = blocks * budget.block * kv_token_bytes(shape)
    return -(-needed // FINE_STEP) * FINE_STEP
