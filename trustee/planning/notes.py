"""What a plan says besides its figures: what is missing, what could be raised, what was assumed."""

from __future__ import annotations

from trustee.planning.budget import Budget
from trustee.planning.cards import Card
from trustee.planning.fit_search import BARELY, name_changes, raise_cache
from trustee.planning.hours import Workload, count_episodes, describe_decoding, list_assumptions
from trustee.planning.ledger import count_kv_tokens, kv_token_bytes, make_ledger
from trustee.planning.shapes import ModelShape
from trustee.planning.sizes import count_table
from trustee.types import GIB

WORTH_RAISING = 1.1
"""Factor by which the cache must be able to grow for a note to mention it."""


def list_notes(
    shape: ModelShape, budget: Budget, card: Card, work: Workload, *, tokens: int
) -> tuple[str, ...]:
    """Return notes on a run exactly as configured.

    Args:
        shape: the model.
        budget: its settings.
        card: the GPU.
        work: the episodes of a step.
        tokens: capacity of the KV cache.
    """
    notes = []
    if not card.has_bf16:
        major, minor = card.generation
        notes.append(
            f"{card.name} has compute capability {major}.{minor} and does not compute in bf16, "
            "which engine and trainer need; GPUs from 8.0 (RTX 30, A100) do"
        )
    if tokens < budget.engine.context:
        notes.append(
            f"the KV cache holds {tokens} tokens, fewer than "
            f"engine.context={budget.engine.context}, "
            "so the engine would not start"
        )
    most = count_episodes(shape, budget, work)
    if most < work.at_once:
        notes.append(
            f"up to {work.at_once} episodes run concurrently, but the KV cache supports {most} "
            f"well: one needs {work.episode_tokens:.0f} tokens of cache, for its context "
            f"({work.policy_tokens:.0f}) and the simulator's ({work.simulator_tokens:.0f}), and "
            f"1.5 times the cache may be requested; rollout.parallel={most} avoids "
            "reading contexts again"
        )
    notes += _list_room(shape, budget, card)
    return (*notes, *list_assumptions(work), describe_decoding(shape, budget, card, work))


def _list_room(shape: ModelShape, budget: Budget, card: Card) -> list[str]:
    """Return notes on settings that could be raised on a GPU with room to spare."""
    usable = int(card.usable_gib * GIB)
    if make_ledger(shape, budget).peak > usable:
        return []
    notes = []
    kept = (
        "recompute"
        if budget.learn.activation_checkpointing == "offload"
        else budget.learn.activation_checkpointing
    )
    faster = budget.change({"learn.activation_checkpointing": kept, "learn.mlp_tile": None})
    if faster != budget and make_ledger(shape, faster).peak <= usable:
        changes = " and ".join(name_changes(budget, faster))
        notes.append(f"the run also fits without these savings: {changes}")
    raised = raise_cache(shape, budget, usable=usable)
    if raised.engine.cache_bytes > WORTH_RAISING * budget.engine.cache_bytes:
        notes.append(
            "there is room for more episodes at once: "
            f"engine.kv_bytes={raised.engine.cache_bytes} would hold "
            f"{count_kv_tokens(shape, raised)} tokens"
        )
    if not (budget.engine.host_embedding or shape.tied):
        more = count_table(shape) // kv_token_bytes(shape)
        notes.append(
            f"engine.host_embedding=true would make room for {more} more tokens "
            f"({more / max(1, count_kv_tokens(shape, budget)):.0%}); no card has run it"
        )
    double = 2 * budget.engine.context
    longer = budget.change(
        {
            "engine.context": double,
            "learn.micro_tokens": max(budget.learn.micro_tokens, double),
        }
    )
    if (
        make_ledger(shape, longer).peak <= usable
        and count_kv_tokens(shape, longer) >= BARELY * longer.engine.context
    ):
        changes = " and ".join(name_changes(budget, longer))
        notes.append(f"there is room for longer episodes: {changes}")
    return notes
