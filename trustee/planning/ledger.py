"""What lies in a card's memory, byte by byte: pure arithmetic over a shape and a budget.

The one idea: trainer and engine share one process and take turns, for the trainer runs between the
engine's steps. So what they hold for the moment never adds up, and the peak is what is always there
plus the worst moment. The engine's freed blocks stay reserved by torch's allocator, but the trainer
gets the same ones: both run on one stream, and where no block fits, the allocator gives the unused
ones back to the card before it fails.

An entry is exact where it follows from sizes alone; the others are estimates, on the high side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from trustee.engine.weights import WeightFormat
from trustee.planning.activations import (
    count_head,
    count_hidden,
    count_kept,
    count_last_norm,
    count_layer,
)
from trustee.planning.budget import Budget
from trustee.planning.graphs import count_graph_pool
from trustee.planning.shapes import ModelShape
from trustee.planning.sizes import count_scales, count_states, count_table
from trustee.trainer.int4 import INT4_GROUP
from trustee.trainer.nf4 import NESTED_BLOCK, NF4_BLOCK
from trustee.types import MIB, Record

CONTEXT_BYTES = 600 * MIB
"""CUDA context, kernels and cuBLAS workspaces of one process."""
WORKSPACE_BYTES = 8 * MIB
"""What cuBLAS keeps for each stream that it is called on."""
STREAMS = 3
"""Streams of the process on the card: the default one, the engine's, and that of capturing."""
PENALTY_BYTES = 5
"""Per sequence and id of the vocabulary: counts and masks of penalties, allocated though unused."""
SLACK = 0.05
"""Share of what comes and goes that fragmentation may cost, beside `SLACK_BYTES`."""
SLACK_BYTES = 192 * MIB

When = Literal["always", "training", "layer", "norm", "head", "moving", "sampling"]
"""`layer`, `norm` and `head` are moments of `training`; `moving` is the optimiser's step."""


class Entry(Record, frozen=True):
    """Bytes with a reason."""

    name: str
    bytes: int
    when: When
    exact: bool
    reason: str


class Ledger(Record, frozen=True):
    """All entries of one card."""

    entries: tuple[Entry, ...]

    def total(self, *moments: When) -> int:
        """Add up the entries of some moments."""
        return sum(entry.bytes for entry in self.entries if entry.when in moments)

    @property
    def training(self) -> int:
        """What comes and goes with a training pass, at its worst moment."""
        worst = max(self.total("layer"), self.total("norm"), self.total("head"))
        return self.total("training") + worst

    @property
    def transient(self) -> int:
        """What comes and goes, at the worst moment."""
        return max(self.training, self.total("sampling"), self.total("moving"))

    @property
    def slack(self) -> int:
        """What fragmentation may cost."""
        return SLACK_BYTES + int(SLACK * self.transient)

    @property
    def peak(self) -> int:
        """The most bytes that are ever in use."""
        return self.total("always") + self.transient + self.slack

    def sizes(self) -> dict[str, int]:
        """Return bytes by entry, fragmentation last."""
        return {entry.name: entry.bytes for entry in self.entries} | {"fragmentation": self.slack}


def make_ledger(shape: ModelShape, budget: Budget) -> Ledger:
    """List what a run holds on its card."""
    return Ledger(
        entries=(
            *list_weights(
                shape, weights=budget.engine.weight_format, in_host=budget.engine.host_embedding
            ),
            *list_adapter(shape, budget),
            *list_engine(shape, budget),
            *list_training(shape, budget),
        )
    )


def base_bytes(shape: ModelShape, *, weights: WeightFormat) -> int:
    """Return the bytes of the frozen base."""
    return sum(entry.bytes for entry in list_weights(shape, weights=weights))


def enter_tables(shape: ModelShape, *, width: int, plain: str, in_host: bool) -> Entry:
    """Return the entry of embedding and head, of so many bytes a weight, a format of that name."""
    table = count_table(shape, width=width)
    reason = "one table for both" if shape.tied else "two tables"
    if in_host and not shape.tied:
        reason = "the head's; the other lies in host memory (engine.host_embedding)"
    return Entry(
        name="embedding and head",
        bytes=table if shape.tied or in_host else 2 * table,
        when="always",
        exact=True,
        reason=f"{plain}, {reason}",
    )


def list_weights(
    shape: ModelShape, *, weights: WeightFormat, in_host: bool = False
) -> Iterator[Entry]:
    """List the frozen base: one copy, which engine and trainer share.

    Args:
        shape: the model.
        weights: format of the linear layers.
        in_host: whether the embedding table lies in host memory.
    """
    width, plain = (4, "fp32") if weights == "fp32" else (2, "bf16")
    if weights == "nf4":
        yield Entry(
            name="linear layers",
            bytes=shape.linear_numel // 2,
            when="always",
            exact=True,
            reason="NF4: 4 bits a weight",
        )
        yield Entry(
            name="quantisation scales",
            bytes=count_scales(shape),
            when="always",
            exact=True,
            reason=f"one byte per {NF4_BLOCK} weights, fp32 per {NESTED_BLOCK} of those, tables",
        )
    elif weights == "int4":
        yield Entry(
            name="linear layers",
            bytes=shape.linear_numel // 2,
            when="always",
            exact=True,
            reason="int4: 4 bits a weight",
        )
        yield Entry(
            name="quantisation scales",
            bytes=shape.linear_numel * 5 // (2 * INT4_GROUP),
            when="always",
            exact=True,
            reason=f"two bytes of scale and a zero point of 4 bits per {INT4_GROUP} weights",
        )
    else:
        yield Entry(
            name="linear layers",
            bytes=width * shape.linear_numel,
            when="always",
            exact=True,
            reason=f"{plain}: {width} bytes a weight",
        )
    yield enter_tables(shape, width=width, plain=plain, in_host=in_host)
    yield Entry(
        name="norms and biases",
        bytes=width * shape.vector_numel,
        when="always",
        exact=True,
        reason=plain,
    )


def list_adapter(shape: ModelShape, budget: Budget) -> Iterator[Entry]:
    """List the adapter that is trained, and the versions that the engine holds."""
    numel = shape.adapter_numel(budget.learn.rank)
    yield Entry(
        name="adapter",
        bytes=4 * numel,
        when="always",
        exact=True,
        reason=f"LoRA of rank {budget.learn.rank} on all linear layers, fp32",
    )
    yield Entry(
        name="adapter gradients",
        bytes=4 * numel,
        when="always",
        exact=True,
        reason="fp32; between micro-batches the engine samples beside them",
    )
    yield Entry(
        name="optimiser states",
        bytes=count_states(shape, rank=budget.learn.rank, optimizer=budget.learn.optimizer),
        when="always",
        exact=True,
        reason=budget.learn.optimizer,
    )
    yield Entry(
        name="adapter versions",
        bytes=2 * budget.slots * shape.adapter_numel(max(8, budget.learn.rank)),
        when="always",
        exact=True,
        reason=f"{budget.slots} slots of the engine"
        + (", one a spare, bf16" if budget.slots > budget.engine.versions else ", bf16"),
    )
    if budget.reference:
        yield Entry(
            name="reference adapter",
            bytes=2 * numel,
            when="always",
            exact=True,
            reason="the weights that the KL term keeps the policy near, bf16",
        )
    yield Entry(
        name="optimiser step",
        bytes=8 * numel if budget.learn.optimizer == "adamw" else 4 * numel // shape.layers,
        when="moving",
        exact=False,
        reason="copies that torch makes of all states at once"
        if budget.learn.optimizer == "adamw"
        else "copies of a few tensors at a time",
    )


def list_engine(shape: ModelShape, budget: Budget) -> Iterator[Entry]:
    """List what the engine holds for itself."""
    yield Entry(
        name="KV cache",
        bytes=budget.engine.cache_bytes,
        when="always",
        exact=True,
        reason=f"engine.kv_bytes: {count_kv_tokens(shape, budget)} tokens",
    )
    yield Entry(
        name="CUDA context",
        bytes=CONTEXT_BYTES + STREAMS * WORKSPACE_BYTES,
        when="always",
        exact=False,
        reason=f"driver and kernels of the one process, workspaces of {STREAMS} streams",
    )
    yield Entry(
        name="CUDA graphs",
        bytes=count_graph_pool(
            budget, opened=count_opened(shape, weights=budget.engine.weight_format, tiled=False)
        ),
        when="always",
        exact=False,
        reason="none (engine.eager)" if budget.engine.eager else "decoding, captured by batch size",
    )
    yield Entry(
        name="penalties",
        bytes=PENALTY_BYTES * budget.engine.max_sequences * shape.vocab,
        when="always",
        exact=False,
        reason="the sampler's counts and masks over the vocabulary",
    )
    yield Entry(
        name="engine activations",
        bytes=count_engine_step(shape, budget),
        when="sampling",
        exact=False,
        reason=f"one step of {budget.engine.batched_tokens} tokens (engine.batched_tokens)",
    )
    yield Entry(
        name="engine logits",
        # The bf16 logits, and five fp32 tensors between them and the sampled ids.
        bytes=22 * budget.engine.max_sequences * shape.vocab,
        when="sampling",
        exact=False,
        reason=f"{budget.engine.max_sequences} sequences (engine.max_sequences) over the "
        "vocabulary",
    )


def list_training(shape: ModelShape, budget: Budget) -> Iterator[Entry]:
    """List what a training pass holds at the longest length."""
    positions, tile = budget.positions, budget.learn.mlp_tile
    kept, work = (
        count(
            shape,
            activation_checkpointing=budget.learn.activation_checkpointing,
            positions=positions,
            tile=tile,
            rank=budget.learn.rank,
        )
        for count in (count_kept, count_layer)
    )
    yield Entry(
        name="layer inputs",
        bytes=kept,
        when="training",
        exact=True,
        reason=f"learn.activation_checkpointing={budget.learn.activation_checkpointing}, "
        f"{positions} positions",
    )
    tiled = f"MLP and norms by {tile}" if tile else "MLP and norms at once"
    yield Entry(
        name="layer at work",
        bytes=work,
        when="layer",
        exact=False,
        reason=f"one layer's backward pass, {positions} positions, {tiled} (learn.mlp_tile)",
    )
    yield Entry(
        name="opened weight",
        bytes=count_opened(shape, weights=budget.engine.weight_format, tiled=bool(tile)),
        when="layer",
        exact=False,
        reason="an MLP's three weights in bf16, kept open for all its tiles"
        if tile
        else "the largest linear layer in bf16, and its scales in fp32",
    )
    yield Entry(
        name="last norm",
        bytes=count_last_norm(shape, positions=positions, trained=budget.trained),
        when="norm",
        exact=False,
        reason=f"its backward pass, {positions} positions, six fp32 tensors",
    )
    yield Entry(
        name="hidden states",
        bytes=count_hidden(shape, positions=positions, trained=budget.trained),
        when="head",
        exact=False,
        reason=f"the last norm, and those of at most {budget.trained} sampled ids",
    )
    yield Entry(
        name="logits",
        bytes=count_head(shape, trained=budget.trained, chunk=budget.learn.head_chunk),
        when="head",
        exact=True,
        reason=f"{budget.learn.head_chunk} positions at a time (learn.head_chunk), five fp32 "
        "tensors",
    )


def count_opened(shape: ModelShape, *, weights: WeightFormat, tiled: bool) -> int:
    """Count the bytes of weights that are open at once, and of the scales while one is opened."""
    largest = max(rows * columns for rows, columns in shape.linears.values())
    opened = 2 * max(largest, 3 * shape.intermediate * shape.hidden if tiled else 0)
    return {"nf4": opened + 4 * largest // NF4_BLOCK, "int4": opened}.get(weights, 0)


def count_engine_step(shape: ModelShape, budget: Budget) -> int:
    """Count the bytes of one layer of the engine's largest step, and of a weight opened for it."""
    tokens = max(budget.engine.batched_tokens, budget.engine.max_sequences)
    # Gate and up twice, for each part is computed apart and copied, and their product once.
    wide = 2 * (2 * 2 + 1) * shape.intermediate
    narrow = 2 * (4 * shape.hidden + 2 * (shape.query + 2 * shape.key))
    adapters = 2 * 4 * budget.learn.rank
    rows, columns = shape.intermediate, shape.hidden
    opened = 2 * rows * columns if budget.engine.weight_format == "nf4" else 0
    return tokens * (wide + narrow + adapters) + opened


def kv_token_bytes(shape: ModelShape) -> int:
    """Return the bytes of one token's keys and values in bf16."""
    return 2 * 2 * shape.layers * shape.key


def count_kv_tokens(shape: ModelShape, budget: Budget) -> int:
    """Count the tokens of the KV cache, in whole blocks; the engine keeps one for itself."""
    blocks = budget.engine.cache_bytes // (kv_token_bytes(shape) * budget.block)
    return max(0, blocks - 1) * budget.block
