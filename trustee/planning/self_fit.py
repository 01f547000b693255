"""The settings with which a run fills its card: `engine.kv_bytes = "auto"`.

The one idea: the search for what fits starts from a cache of a few longest contexts, and all that
is left of the card afterwards is spent: on cache, then on more requests at once, then on settings
that make training faster at no loss of episodes.
"""

from __future__ import annotations

from typing import Any

from trustee.planning.budget import Budget
from trustee.planning.fit_search import COMFORT, cache_bytes, fit, raise_cache
from trustee.planning.hours import Workload, count_episodes
from trustee.planning.ledger import make_ledger
from trustee.planning.shapes import ModelShape
from trustee.types import MIB

RESERVE = 512 * MIB
"""Left free where the cache is raised, because a third of the ledger was never measured."""
WIDER = (128, 96, 64)
"""Requests at once that a large card may have; each costs logits, graphs and penalties."""
FASTER: tuple[dict[str, Any], ...] = (
    {"learn.activation_checkpointing": "recompute", "learn.mlp_tile": None},
    {"learn.activation_checkpointing": "recompute"},
)
"""What saves time where there is room: the first needs more of it."""


def fill_card(
    shape: ModelShape,
    budget: Budget,
    work: Workload,
    *,
    usable: int,
    shortest: int,
    offload: bool = True,
) -> Budget | None:
    """Change a budget so that it fits and uses the card; None where no change makes it fit.

    Args:
        shape: the model.
        budget: as configured; the size of its cache does not count.
        work: the episodes of a step, which more cache must serve.
        usable: bytes of the card.
        shortest: context below which episodes make no sense.
        offload: whether layer inputs may go to host memory.
    """
    tokens = int(COMFORT * budget.engine.context)
    wanted = budget.change({"engine.kv_bytes": cache_bytes(shape, budget, tokens=tokens)})
    fitted = fit(shape, wanted, usable=usable, shortest=shortest, offload=offload)
    if fitted is None:
        return None
    room = usable - RESERVE
    filled = raise_cache(shape, fitted, usable=room)
    filled = _widen(shape, fitted, filled, work, usable=room)
    return _quicken(shape, fitted, filled, work, usable=room)


def _widen(
    shape: ModelShape, fitted: Budget, filled: Budget, work: Workload, *, usable: int
) -> Budget:
    """Decode more requests at once where the cache holds episodes for most of them."""
    for sequences in WIDER:
        if sequences <= filled.engine.max_sequences:
            break
        wider = fitted.change({"engine.max_sequences": sequences})
        wider = raise_cache(shape, wider, usable=usable)
        fits = make_ledger(shape, wider).peak <= usable
        if fits and 4 * count_episodes(shape, wider, work) >= 3 * sequences:
            return wider
    return filled


def _quicken(
    shape: ModelShape, fitted: Budget, filled: Budget, work: Workload, *, usable: int
) -> Budget:
    """Train faster where that takes no episode away."""
    if filled.learn.activation_checkpointing != "offload":
        return filled
    sequences = {"engine.max_sequences": filled.engine.max_sequences}
    for changes in FASTER:
        faster = raise_cache(shape, fitted.change(changes | sequences), usable=usable)
        fits = make_ledger(shape, faster).peak <= usable
        enough = count_episodes(shape, faster, work) >= count_episodes(shape, filled, work)
        if fits and enough:
            return faster
    return filled
