"""How long a run takes and what it draws: estimates from counts of operations and bytes.

The one idea: training is bound by arithmetic and decoding by memory, so a card's speed and
bandwidth give both, within a factor that is said openly: every figure is a range. The two add up,
for trainer and engine take turns on the one card. `trustee doctor` puts measured speeds in the
place of a card's. What an episode looks like is assumed, and the assumptions are printed; a run's
own `timing.jsonl` tells better after ten steps.
"""

from __future__ import annotations

from trustee.planning.budget import Budget
from trustee.planning.cards import Card
from trustee.planning.ledger import base_bytes, count_kv_tokens, kv_token_bytes
from trustee.planning.shapes import ModelShape
from trustee.types import Record

MIXED = (0.3, 0.7)
"""Share of groups whose rewards differ: the others are not trained on."""

TRAIN_SHARE = (0.6, 0.35)
"""Of a card's bf16 speed, what training reaches: at best and at worst."""
DECODE_SHARE = (0.75, 0.4)
"""Of a card's bandwidth, what decoding reaches: adapters and NF4 cost the rest."""
STEP_SECONDS = (0.004, 0.010)
"""Of one engine step, whatever it computes."""
READS = (1.0, 2.0)
"""How often each context is read: once, or again after the cache had to drop it."""
OVERBOOKING = 1.5
"""Contexts under way per context that the cache holds: idle ones may be dropped and read again."""


class Sizes(Record, frozen=True):
    """What an episode is assumed to use of tokens and limits."""

    prompt: int
    """Of the policy's first prompt: instructions and tools."""
    simulator: int
    """Of a simulator prompt, before the conversation."""
    reply: int
    """Of a user's or tool's answer."""
    verdict: int
    """Of a verdict, and of an episode's share of the writing of its task."""
    turns: float
    """Of the turn limit."""
    message: float
    """Of the token limit, what a policy message uses."""


USUAL = Sizes(prompt=1800, simulator=1200, reply=120, verdict=200, turns=0.6, message=0.2)
"""Of models of some billion parameters with the full-size prompts; not measured."""
BUILT_IN = Sizes(prompt=60, simulator=35, reply=18, verdict=40, turns=0.3, message=0.2)
"""Of the built-in model in its own world: rounded from what `bench/rollout.py` and runs showed."""


class Workload(Record, frozen=True):
    """What a step's episodes look like."""

    episodes: int
    """Of one step."""
    at_once: int
    """Episodes that may be under way."""
    turns: float
    message_tokens: float
    context: int
    """Longest context."""
    group_size: int = 1
    """Episodes that have one prompt in common."""
    sizes: Sizes = USUAL

    @property
    def policy_tokens(self) -> float:
        """Of an episode's whole context."""
        grown = self.sizes.prompt + self.turns * (self.message_tokens + self.sizes.reply)
        return min(float(self.context), grown)

    @property
    def trained_tokens(self) -> float:
        """Of an episode, what training computes: its share of the prompt, and the rest."""
        prompt = min(float(self.context), self.sizes.prompt)
        return prompt / self.group_size + self.policy_tokens - prompt

    @property
    def simulator_tokens(self) -> float:
        """Of the simulator's context beside it."""
        grown = self.sizes.simulator + self.turns * (self.message_tokens + self.sizes.reply)
        return min(float(self.context), grown)

    @property
    def episode_tokens(self) -> float:
        """What an episode wants of the KV cache: its own context and the simulator's."""
        return self.policy_tokens + self.simulator_tokens

    @property
    def generated_tokens(self) -> float:
        """Of one episode, by policy and simulator together."""
        return self.turns * (self.message_tokens + self.sizes.reply) + self.sizes.verdict


class Range(Record, frozen=True):
    """An estimate: at best and at worst."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        """Add both ends."""
        return Range(low=self.low + other.low, high=self.high + other.high)

    def times(self, factor: float) -> Range:
        """Multiply both ends."""
        return Range(low=self.low * factor, high=self.high * factor)


class Hours(Record, frozen=True):
    """Hours of a hundred steps."""

    rollout: Range
    training: Range

    @property
    def total(self) -> Range:
        """Both, one after the other."""
        return self.rollout + self.training


class Speeds(Record, frozen=True):
    """What a machine did when it was tried, in tokens a second."""

    reading: float
    """Of prompts."""
    decoding: float
    """Of all requests together."""
    training: float
    """Forward and back."""


def count_episodes(shape: ModelShape, budget: Budget, work: Workload) -> int:
    """Count the episodes that run well at once; never less than one."""
    fitting = int(OVERBOOKING * count_kv_tokens(shape, budget) / work.episode_tokens)
    return max(1, min(fitting, work.at_once, budget.engine.max_sequences))


def forward_operations(shape: ModelShape, *, length: float) -> float:
    """Count the operations of a forward pass per token of a context of `length`."""
    return 2.0 * shape.linear_numel + shape.layers * 2.0 * length * shape.query


def training_operations(
    shape: ModelShape, budget: Budget, *, length: float, sampled_share: float
) -> float:
    """Count the operations that training on one token takes.

    Forward, again if layers are recomputed, and backward, which needs gradients of inputs alone;
    the head's logits are computed twice and differentiated once, for sampled positions.
    """
    runs = 2 if budget.learn.activation_checkpointing == "off" else 3
    head = 3 * 2.0 * shape.hidden * shape.vocab * sampled_share
    tiles = (
        2.0 * shape.layers * 3 * shape.hidden * shape.intermediate if budget.learn.mlp_tile else 0.0
    )
    # A tiled MLP runs once more where the layers themselves are not recomputed.
    again = tiles if budget.learn.activation_checkpointing == "off" else 0.0
    return runs * forward_operations(shape, length=length) + head + again


def estimate_hours(shape: ModelShape, budget: Budget, card: Card, work: Workload) -> Hours:
    """Estimate the hours of a hundred steps."""
    return Hours(
        rollout=Range(
            low=_rollout_seconds(shape, budget, card, work, end=0) / 36,
            high=_rollout_seconds(shape, budget, card, work, end=1) / 36,
        ),
        training=Range(
            low=_training_seconds(shape, budget, card, work, end=0) / 36,
            high=_training_seconds(shape, budget, card, work, end=1) / 36,
        ),
    )


def measured_hours(work: Workload, speeds: Speeds) -> Hours:
    """Give the hours of a hundred steps at measured speeds; what an episode is stays assumed."""
    decode = work.generated_tokens / speeds.decoding
    low, high = (decode + reads * work.episode_tokens / speeds.reading for reads in READS)
    train = work.trained_tokens / speeds.training
    return Hours(
        rollout=Range(low=low, high=high).times(work.episodes / 36),
        training=Range(low=MIXED[0], high=MIXED[1]).times(train * work.episodes / 36),
    )


def _rollout_seconds(
    shape: ModelShape, budget: Budget, card: Card, work: Workload, *, end: int
) -> float:
    """Give the seconds of one step's episodes; a hundred steps are as many hours by 36."""
    live = count_episodes(shape, budget, work)
    # The embedding is looked up, not read through; a tied head is.
    tables = 0 if shape.tied else 2 * shape.vocab * shape.hidden
    weights = base_bytes(shape, weights=budget.engine.weights) - tables
    cache = live * work.episode_tokens / 2 * kv_token_bytes(shape)
    step = (weights + cache) / (card.bandwidth * 1e9 * DECODE_SHARE[end]) + STEP_SECONDS[end]
    decode = work.episodes * work.generated_tokens / live * step
    operations = forward_operations(shape, length=work.policy_tokens)
    speed = card.tflops * 1e12 * TRAIN_SHARE[end]
    return decode + work.episodes * READS[end] * work.episode_tokens * operations / speed


def _training_seconds(
    shape: ModelShape, budget: Budget, card: Card, work: Workload, *, end: int
) -> float:
    tokens = work.trained_tokens
    operations = training_operations(
        shape,
        budget,
        length=work.policy_tokens,
        sampled_share=min(1.0, work.turns * work.message_tokens / tokens),
    )
    return (
        MIXED[end] * work.episodes * tokens * operations / (card.tflops * 1e12 * TRAIN_SHARE[end])
    )


def list_assumptions(work: Workload) -> tuple[str, ...]:
    """Say in words what the hours rest on."""
    return (
        f"an episode has {work.turns:.1f} policy turns of {work.message_tokens:.0f} tokens, each "
        f"answered with {work.sizes.reply}",
        f"its context ends at {work.policy_tokens:.0f} tokens, the simulator's at "
        f"{work.simulator_tokens:.0f}",
        f"{MIXED[0]:.0%} to {MIXED[1]:.0%} of the groups differ in reward and are trained on, each "
        f"prompt once",
        f"training reaches {TRAIN_SHARE[1]:.0%} to {TRAIN_SHARE[0]:.0%} of the card's bf16 speed, "
        f"decoding {DECODE_SHARE[1]:.0%} to {DECODE_SHARE[0]:.0%} of its bandwidth",
        "held-out tasks before and after the run are not included",
    )
