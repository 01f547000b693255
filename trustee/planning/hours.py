"""How long a run takes and how much energy it uses, estimated from operation and byte counts.

Training is bound by arithmetic; a decoding step's time is that of `decoding.py`, by card and
requests at once. Every figure is a range. The two times add up, because trainer and engine take
turns on the one GPU. `trustee doctor` replaces the data-sheet speeds with measured ones. The length
of an episode is assumed, and the assumptions are printed; after ten steps a run's own
`timing.jsonl` is more reliable.
"""

from __future__ import annotations

from trustee.planning.budget import Budget
from trustee.planning.cards import Card
from trustee.planning.decoding import bandwidth_share, step_seconds
from trustee.planning.ledger import count_kv_tokens
from trustee.planning.shapes import ModelShape
from trustee.types import Record

MIXED = (0.3, 0.7)
"""Share of groups with unequal rewards, at best and at worst; the others are not trained on."""

TRAIN_SHARE = (0.6, 0.35)
"""Share of a GPU's bf16 speed that training reaches, at best and at worst."""
ATTENTION_BACKWARD = 2.5
"""Operations of attention's backward pass by those of its forward pass: five products, not two."""
READS = (1.0, 2.0)
"""How often each context is prefilled: once, or again after the cache had to drop it."""
OVERBOOKING = 1.5
"""Active contexts per context that the cache can hold; idle ones may be dropped and read again."""


class Sizes(Record, frozen=True):
    """Assumed token counts of an episode, and shares of its limits."""

    prompt: int
    """Tokens of the policy's first prompt: instructions and tools."""
    simulator: int
    """Tokens of a simulator prompt, before the conversation."""
    reply: int
    """Tokens of a user's or tool's answer."""
    verdict: int
    """Tokens of a verdict plus an episode's share of writing its task."""
    turns: float
    """Share of the turn limit that an episode uses."""
    message: float
    """Share of the token limit that a policy message uses."""


USUAL = Sizes(prompt=1800, simulator=1200, reply=120, verdict=200, turns=0.6, message=0.2)
"""For models of a few billion parameters with the full-size prompts; not measured."""
STATE = Sizes(prompt=4800, simulator=0, reply=0, verdict=0, turns=0.0, message=0.2)
"""For single turns from states: about 15,000 characters of tools and half an episode before."""
THOUGHT = 600
"""Tokens of a thought, where policy or role thinks; not measured."""
LONGEST_SPEECH = 1024
"""Limit of a message of which a thinking policy uses its share besides the thought."""
BUILT_IN = Sizes(prompt=60, simulator=35, reply=18, verdict=40, turns=0.3, message=0.2)
"""For the built-in model in its own environment; rounded results of `bench/rollout.py` and runs."""


class Workload(Record, frozen=True):
    """The expected episodes of a step."""

    episodes: int
    """Episodes per step."""
    at_once: int
    """Maximum number of concurrent episodes."""
    turns: float
    """Policy turns per episode."""
    message_tokens: float
    """Tokens per policy message."""
    context: int
    """Maximum context length in tokens."""
    group_size: int = 1
    """Episodes that share a prompt."""
    sizes: Sizes = USUAL
    reply_thought: int = 0
    """Tokens that user or tool thinks before a reply; nobody else reads them."""
    mixed: tuple[float, float] = MIXED
    """Share of groups that are trained on, at best and at worst."""
    verdict_thought: int = 0
    """Tokens that the judge thinks, and an episode's share of the writer's."""

    @property
    def policy_tokens(self) -> float:
        """Tokens of an episode's whole context."""
        grown = self.sizes.prompt + self.turns * (self.message_tokens + self.sizes.reply)
        return min(float(self.context), grown)

    @property
    def trained_tokens(self) -> float:
        """Tokens computed per episode in training: a share of the common prompt plus the rest."""
        prompt = min(float(self.context), self.sizes.prompt)
        return prompt / self.group_size + self.policy_tokens - prompt

    @property
    def simulator_tokens(self) -> float:
        """Tokens of the simulator's context of an episode; 0 where there is none."""
        if not self.sizes.simulator:
            return 0.0
        grown = self.sizes.simulator + self.turns * (self.message_tokens + self.sizes.reply)
        return min(float(self.context), grown)

    @property
    def episode_tokens(self) -> float:
        """Tokens of KV cache that an episode needs: the policy's context and the simulator's."""
        return self.policy_tokens + self.simulator_tokens

    @property
    def generated_tokens(self) -> float:
        """Tokens that policy and simulator generate per episode."""
        replied = self.sizes.reply + self.reply_thought if self.sizes.simulator else 0
        said = self.turns * (self.message_tokens + replied)
        return said + self.sizes.verdict + self.verdict_thought


class Range(Record, frozen=True):
    """An estimate with its best and its worst case."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        """Return the sum, end by end."""
        return Range(low=self.low + other.low, high=self.high + other.high)

    def times(self, factor: float) -> Range:
        """Return the range with both ends multiplied."""
        return Range(low=self.low * factor, high=self.high * factor)


class StepTokens(Record, frozen=True):
    """Expected tokens of one step."""

    policy: float
    """Sampled by the policy."""
    simulator: float
    """Sampled by the simulator's roles."""
    read: Range
    """Prefilled, for both."""
    trained: Range
    """Computed in training by all updates together; each group's prompt counts once."""


class Hours(Record, frozen=True):
    """Hours per 100 steps."""

    rollout: Range
    training: Range

    @property
    def total(self) -> Range:
        """Rollout plus training; the two do not overlap."""
        return self.rollout + self.training


class Speeds(Record, frozen=True):
    """Measured speeds of a machine, in tokens per second."""

    reading: float
    """Prefill."""
    decoding: float
    """Decoding, over all concurrent requests."""
    training: float
    """Training, forward and backward."""


def count_episodes(shape: ModelShape, budget: Budget, work: Workload) -> int:
    """Return how many concurrent episodes the KV cache supports well; at least 1."""
    fitting = int(OVERBOOKING * count_kv_tokens(shape, budget) / work.episode_tokens)
    return max(1, min(fitting, work.at_once, budget.engine.max_sequences))


def forward_operations(shape: ModelShape, *, length: float) -> float:
    """Return the operations of a forward pass per token in a context of `length` tokens."""
    return 2.0 * shape.linear_numel + attention_operations(shape, length=length)


def attention_operations(shape: ModelShape, *, length: float) -> float:
    """Return the operations of attention's forward pass per token; half the context is masked."""
    return shape.layers * 2.0 * length * shape.query


def training_operations(
    shape: ModelShape, budget: Budget, *, length: float, sampled_share: float
) -> float:
    """Return the operations of training on one token.

    They are a forward pass, another one if layers are recomputed, and a backward pass that costs
    as much as a forward pass, because frozen weights need no gradients; that of attention costs
    `ATTENTION_BACKWARD` times as much. The head's logits are computed twice and differentiated
    once, at sampled positions only.
    """
    forwards = 1 if budget.learn.activation_checkpointing == "off" else 2
    head = 3 * 2.0 * shape.hidden * shape.vocab * sampled_share
    tiles = (
        2.0 * shape.layers * 3 * shape.hidden * shape.intermediate if budget.learn.mlp_tile else 0.0
    )
    # A tiled MLP costs another run only if the layers themselves are not recomputed.
    again = tiles if budget.learn.activation_checkpointing == "off" else 0.0
    linear = (forwards + 1) * forward_operations(shape, length=0)
    attention = (forwards + ATTENTION_BACKWARD) * attention_operations(shape, length=length)
    return linear + attention + head + again


def estimate_hours(shape: ModelShape, budget: Budget, card: Card, work: Workload) -> Hours:
    """Estimate the hours per 100 steps from a GPU's data sheet."""
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


def count_tokens(work: Workload) -> StepTokens:
    """Return the expected tokens of a step."""
    policy = work.turns * work.message_tokens
    read, trained = work.episodes * work.episode_tokens, work.episodes * work.trained_tokens
    return StepTokens(
        policy=work.episodes * policy,
        simulator=work.episodes * (work.generated_tokens - policy),
        read=Range(low=READS[0], high=READS[1]).times(read),
        trained=Range(low=work.mixed[0], high=work.mixed[1]).times(trained),
    )


def measured_hours(work: Workload, speeds: Speeds) -> Hours:
    """Return the hours per 100 steps at measured speeds; episode lengths are still assumed."""
    decode = work.generated_tokens / speeds.decoding
    low, high = (decode + reads * work.episode_tokens / speeds.reading for reads in READS)
    train = work.trained_tokens / speeds.training
    return Hours(
        rollout=Range(low=low, high=high).times(work.episodes / 36),
        training=Range(low=work.mixed[0], high=work.mixed[1]).times(train * work.episodes / 36),
    )


def _rollout_seconds(
    shape: ModelShape, budget: Budget, card: Card, work: Workload, *, end: int
) -> float:
    """Return the seconds that one step's episodes take; divided by 36, hours per 100 steps."""
    live = count_episodes(shape, budget, work)
    step = step_seconds(
        shape,
        card,
        weights=budget.engine.weight_format,
        sequences=live,
        tokens=live * work.episode_tokens / 2,
        end=end,
    )
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
        work.mixed[end]
        * work.episodes
        * tokens
        * operations
        / (card.tflops * 1e12 * TRAIN_SHARE[end])
    )


def list_assumptions(work: Workload) -> tuple[str, ...]:
    """Return the assumptions behind the hours, as sentences."""
    return (
        f"an episode has {work.turns:.1f} policy turns of {work.message_tokens:.0f} tokens, each "
        f"answered with {work.sizes.reply} tokens"
        + (f" after a thought of {work.reply_thought}" if work.reply_thought else ""),
        f"its context grows to {work.policy_tokens:.0f} tokens, "
        + (
            f"the simulator's to {work.simulator_tokens:.0f}"
            if work.simulator_tokens
            else "and nobody else samples"
        ),
        (
            f"{work.mixed[0]:.0%} to {work.mixed[1]:.0%} of the groups have unequal rewards and "
            "are trained on, with each prompt computed once"
            if work.mixed == MIXED
            else "all groups are trained on (learn.keep_flat)"
        ),
        f"training reaches {TRAIN_SHARE[1]:.0%} to {TRAIN_SHARE[0]:.0%} of the GPU's bf16 speed",
    )


def describe_decoding(shape: ModelShape, budget: Budget, card: Card, work: Workload) -> str:
    """Return the assumed decoding step of a card as a sentence."""
    live, weights = count_episodes(shape, budget, work), budget.engine.weight_format
    tokens = live * work.episode_tokens / 2
    seconds, shares = (
        [
            compute(shape, card, weights=weights, sequences=live, tokens=tokens, end=end)
            for end in (0, 1)
        ]
        for compute in (step_seconds, bandwidth_share)
    )
    return (
        f"a decoding step of {live} requests takes {1e3 * seconds[0]:.0f} to "
        f"{1e3 * seconds[1]:.0f} ms in {weights} on {card.name}, {shares[1]:.0%} to "
        f"{shares[0]:.0%} of its bandwidth"
    )
