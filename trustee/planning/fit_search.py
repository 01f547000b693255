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

from trustee.planning.ledger import GIB, MIB, Budget, count_kv_tokens, kv_token_bytes, make_ledger
from trustee.planning.shapes import ModelShape

CONFIG_KEYS = {
    "optimizer": "learn.optimizer",
    "activation_checkpointing": "learn.activation_checkpointing",
    "head_chunk": "learn.head_chunk",
    "mlp_tile": "learn.mlp_tile",
    "weights": "engine.weights",
    "kv_bytes": "engine.kv_bytes",
    "max_sequences": "engine.max_sequences",
    "batched_tokens": "engine.batched_tokens",
    "versions": "engine.versions",
    "context": "engine.context",
    "micro_tokens": "learn.micro_tokens",
    "rank": "learn.rank",
    "eager": "engine.eager",
}
"""Where a field of the budget stands in a config."""

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

    field: str
    value: Any

    def pull(self, budget: Budget) -> Budget:
        """Give the changed budget."""
        now = getattr(budget, self.field)
        match self.field:
            case "context":
                return msgspec.structs.replace(
                    budget,
                    context=min(now, self.value),
                    micro_tokens=min(budget.micro_tokens, self.value),
                )
            case "mlp_tile":
                lower = now if 0 < now <= self.value else self.value
            case "activation_checkpointing" if self.value == "recompute":
                lower = self.value if now == "off" else now
            case "optimizer" | "activation_checkpointing" | "weights" | "eager":
                lower = self.value
            case _:
                lower = min(now, self.value)
        return msgspec.structs.replace(budget, **{self.field: lower})


FREE = (
    Lever("optimizer", "adamw8bit"),
    Lever("activation_checkpointing", "recompute"),
    Lever("activation_checkpointing", "offload"),
    Lever("head_chunk", 256),
)
"""These cost next to nothing."""

MILD = (
    *FREE,
    Lever("mlp_tile", 2048),
    Lever("weights", "nf4"),
)
"""These cost a little time, and the last a little quality."""

HARSH = (
    Lever("max_sequences", 32),
    Lever("batched_tokens", 1024),
    Lever("versions", 2),
    Lever("max_sequences", 16),
    Lever("context", 12288),
    Lever("context", 8192),
    Lever("rank", 16),
    Lever("context", 6144),
    Lever("context", 4096),
    Lever("rank", 8),
    Lever("max_sequences", 8),
    Lever("eager", True),
)
"""These cost length, speed or capacity."""


def fit(shape: ModelShape, budget: Budget, *, usable: int, shortest: int) -> Budget | None:
    """Change a budget so that it fits; None where no change helps.

    Args:
        shape: the model.
        budget: as wanted.
        usable: bytes of the card.
        shortest: context below which episodes make no sense.
    """
    if count_kv_tokens(shape, budget) < budget.context:
        # The engine would not start.
        budget = msgspec.structs.replace(
            budget, kv_bytes=cache_bytes(shape, budget, tokens=int(BARELY * budget.context))
        )
    if make_ledger(shape, budget).peak <= usable:
        return budget
    for contexts, levers in ((math.inf, FREE), (COMFORT, MILD), (BARELY, MILD + HARSH)):
        pulled: list[Lever] = []
        for lever in (None, *levers):
            if lever is not None:
                if lever.field == "context" and lever.value < shortest:
                    continue
                pulled.append(lever)
            if _settle(shape, budget, pulled, usable=usable, contexts=contexts) is not None:
                return _prune(shape, budget, pulled, usable=usable, contexts=contexts)
    return None


def raise_cache(shape: ModelShape, budget: Budget, *, usable: int) -> Budget:
    """Give all that is left of the card to the KV cache."""
    spare = usable - make_ledger(shape, budget).peak
    return msgspec.structs.replace(
        budget, kv_bytes=budget.kv_bytes + max(0, spare) // KV_STEP * KV_STEP
    )


def name_changes(before: Budget, after: Budget) -> tuple[str, ...]:
    """Write the differences of two budgets as the values of `--set`."""
    return tuple(
        f"{key}={msgspec.json.encode(new).decode() if not isinstance(new, str) else new}"
        for field, key in CONFIG_KEYS.items()
        if (new := getattr(after, field)) != getattr(before, field)
    )


def _settle(
    shape: ModelShape, budget: Budget, levers: Sequence[Lever], *, usable: int, contexts: float
) -> Budget | None:
    """Pull levers and give the rest of the card to the cache; None where that is not enough."""
    for lever in levers:
        budget = lever.pull(budget)
    room = usable - make_ledger(shape, budget).peak + budget.kv_bytes
    if room >= budget.kv_bytes:
        return budget
    wanted = min(contexts * budget.context, count_kv_tokens(shape, budget))
    step = KV_STEP if room >= GIB else FINE_STEP
    cut = msgspec.structs.replace(budget, kv_bytes=max(0, room) // step * step)
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
    """Give the bytes of a KV cache for so many tokens, in proposed steps."""
    blocks = -(-tokens // budget.block) + 1
    needed = blocks * budget.block * kv_token_bytes(shape)
    return -(-needed // FINE_STEP) * FINE_STEP
