"""`trustee plan`: whether a run fits a GPU, what to change if it does not, and how long it takes.

A plan is a value, computed from a config, a model's shape and a GPU without loading anything. Any
change that it proposes is planned again before it is printed.
"""

from __future__ import annotations

import shlex

import msgspec

from trustee.config import Config, apply_changes
from trustee.planning.activations import count_parked
from trustee.planning.budget import Budget
from trustee.planning.cards import DRIVER_GIB, Card, resize_card
from trustee.planning.fit_search import fit, name_changes
from trustee.planning.hours import (
    BUILT_IN,
    LONGEST_SPEECH,
    MIXED,
    STATE,
    THOUGHT,
    USUAL,
    Hours,
    Range,
    StepTokens,
    Workload,
    count_episodes,
    count_tokens,
    estimate_hours,
)
from trustee.planning.ledger import (
    Ledger,
    base_bytes,
    count_kv_tokens,
    make_ledger,
)
from trustee.planning.notes import list_notes
from trustee.planning.self_fit import fill_card
from trustee.planning.shapes import ModelShape, find_shape, list_proposed
from trustee.planning.sizes import count_states, count_table
from trustee.types import GIB, Record

PROGRAM_BYTES = 7 * GIB
"""Host memory of the two processes: libraries, buffers, records."""
EPISODE_TOKEN_BYTES = 20
"""Bytes on disk per token of an episode: id, logprob and text."""
ROOM_FOR_A_PROMPT = 2048
"""Tokens that a context must have room for in addition to one policy message."""
FEW_EPISODES = 2
"""Episodes at once below which a smaller model is worth a note."""


class RunPlan(Record, frozen=True):
    """What a run needs and how long it takes."""

    model: str
    card: str
    vram_gib: float
    """Total memory of the GPU."""
    usable_gib: float
    """The same without what driver and desktop keep."""
    fits: bool
    peak_gib: float
    base_gib: float
    """Size of the frozen weights."""
    kv_tokens: int
    """Capacity of the KV cache."""
    train_length: int
    """Longest sequence that is trained on, in tokens."""
    episodes: int
    """Number of concurrent episodes that the KV cache supports well."""
    episode_tokens: int
    """Expected KV-cache tokens per episode: the policy's context and the simulator's."""
    ledger: dict[str, int]
    """Bytes by entry; not all entries are held at the same moment."""
    reasons: dict[str, str]
    """Description of each entry; that of an estimate ends with a question mark."""
    host_gib: float
    disk_gib: float
    steps: int
    """Steps of the run, if nothing ends it before."""
    tokens_per_step: StepTokens
    hours_per_100_steps: dict[str, Range]
    held_out_hours: Range
    """Of playing the held-out tasks, before the run and after it."""
    kwh_per_100_steps: Range
    api_calls: int
    """Calls to paid APIs."""
    changes: tuple[str, ...]
    """Values of `--set` that make the run fit; empty if it fits already or nothing helps."""
    notes: tuple[str, ...]
    settings: tuple[str, ...] = ()
    """Values of `--set` that were chosen for the card, where `engine.kv_bytes` is auto."""
    command: str = ""
    """The command line with these changes."""
    after: RunPlan | None = None
    """The plan with these changes."""


def read_budget(config: Config) -> Budget:
    """Return the settings of a config that determine memory."""
    limits = config.rollout.limits
    begins = config.run.adapter or config.collect.tasks
    sampled = limits.turns * limits.tokens
    return Budget(
        engine=config.engine,
        learn=config.learn,
        trained_tokens=min(sampled, limits.response or sampled),
        reference=bool(begins and config.learn.loss.kl_coef),
    )


def read_workload(config: Config) -> Workload:
    """Return the expected episodes of a step."""
    rollout = config.rollout
    sizes = BUILT_IN if config.model.path == "tiny" else USUAL
    if config.env.trains_turns():
        sizes = STATE
    elif not config.env.asks_simulator():
        # The replies are as long, but nobody samples them.
        sizes = msgspec.structs.replace(sizes, simulator=0, verdict=0)
    spoken, most = rollout.limits.tokens, rollout.limits.tokens
    thought = THOUGHT if config.model.thinking else 0
    if thought:
        spoken = min(spoken, LONGEST_SPEECH)
    roles = config.simulator
    thinking = (roles.user.thinking + roles.tool.thinking) * THOUGHT // 2
    replying = thinking if sizes.simulator else 0
    # A group's task is written once, and each of its episodes is judged.
    written = roles.writer.thinking / rollout.group_size
    return Workload(
        episodes=rollout.groups_per_step * rollout.group_size,
        at_once=rollout.episodes,
        turns=max(1.0, sizes.turns * rollout.limits.turns),
        message_tokens=min(float(most), sizes.message * spoken + thought),
        # Updates are dealt episodes of all groups, and each computes a prompt of its own.
        group_size=max(1, rollout.group_size // config.learn.updates),
        context=config.engine.context,
        sizes=sizes,
        mixed=(1.0, 1.0) if config.learn.keep_flat else MIXED,
        reply_thought=replying,
        verdict_thought=round((roles.judge.thinking + written) * THOUGHT) if replying else 0,
    )


def make_plan(config: Config, shape: ModelShape, *, vram_gib: float, card: Card) -> RunPlan:
    """Plan a run; if it does not fit, look for changes that make it fit.

    With `engine.kv_bytes = "auto"` the plan is of the settings that were chosen for the card.
    """
    most = config.engine.memory_gib
    card = resize_card(card, vram_gib if most is None else min(vram_gib, most + DRIVER_GIB))
    if config.engine.kv_bytes == "auto" and card.has_bf16:
        chosen = find_changes(config, shape, card)
        if chosen:
            plan = _describe(apply_changes(config, chosen), shape, card)
            advice = (
                *_advise_smaller(plan, config, shape, card),
                *_advise_without_offload(config, shape, card, chosen),
            )
            return msgspec.structs.replace(plan, settings=chosen, notes=(*advice, *plan.notes))
    plan = _describe(config, shape, card)
    if plan.fits or not card.has_bf16:
        return plan
    changes = find_changes(config, shape, card) or _find_smaller(config, shape, card)
    if not changes:
        note = f"no known model fits {card.name}, whatever the settings"
        return msgspec.structs.replace(plan, notes=(*plan.notes, note))
    changed = apply_changes(config, changes)
    smaller = changed.model.path != config.model.path
    after = _describe(changed, find_shape(changed.model.path) if smaller else shape, card)
    notes = plan.notes
    if smaller:
        note = f"{shape.name} does not fit {card.name}, whatever the settings; {after.model} does"
        notes = (*notes, note)
    return msgspec.structs.replace(
        plan, changes=changes, notes=notes, command=write_command(changed, changes), after=after
    )


def write_command(config: Config, changes: tuple[str, ...]) -> str:
    """Return the command line of a run with some changes; it always names the model."""
    model = f"model.path={config.model.path}"
    settings = (model, *(change for change in changes if change != model))
    return " ".join(("trustee run", *(f"--set {shlex.quote(setting)}" for setting in settings)))


def find_changes(
    config: Config, shape: ModelShape, card: Card, *, offload: bool = True
) -> tuple[str, ...]:
    """Return the smallest set of changes that makes a run fit; empty if there is none.

    Args:
        config: the run.
        shape: its model.
        card: the GPU.
        offload: whether layer inputs may go to host memory.
    """
    budget, usable, limits = read_budget(config), _usable(card), config.rollout.limits
    shortest = max(limits.tokens, limits.response or 0) + ROOM_FOR_A_PROMPT
    if config.engine.kv_bytes != "auto":
        fitted = fit(shape, budget, usable=usable, shortest=shortest)
        return () if fitted is None else name_changes(budget, fitted)
    work = read_workload(config)
    filled = fill_card(shape, budget, work, usable=usable, shortest=shortest, offload=offload)
    if filled is None:
        return ()
    changes = name_changes(budget, filled)
    changed = apply_changes(config, changes)
    live = count_episodes(shape, filled, read_workload(changed))
    if config.rollout.parallel is None and live < config.rollout.episodes:
        changes = (*changes, f"rollout.parallel={live}")
    return changes


def _advise_smaller(
    plan: RunPlan, config: Config, shape: ModelShape, card: Card
) -> tuple[str, ...]:
    """Return a note on a smaller model where the wanted one fits, but barely."""
    if plan.episodes >= FEW_EPISODES and 2 * plan.train_length >= config.engine.context:
        return ()
    changes = _find_smaller(config, shape, card)
    if not changes:
        return ()
    changed = apply_changes(config, changes)
    other = _describe(changed, find_shape(changed.model.path), card)
    if (other.episodes, other.train_length) <= (plan.episodes, plan.train_length):
        return ()
    return (
        f"{shape.name} fits with little room: --model {other.model} would train on up to "
        f"{other.train_length} tokens and play {other.episodes} episodes at once",
    )


def _advise_without_offload(
    config: Config, shape: ModelShape, card: Card, chosen: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a note on the second choice where host memory cannot be pinned."""
    if apply_changes(config, chosen).learn.activation_checkpointing != "offload":
        return ()
    kept = apply_changes(config, ["learn.activation_checkpointing=recompute"])
    changes = find_changes(kept, shape, card, offload=False)
    if not changes:
        return ()
    settings = ("learn.activation_checkpointing=recompute", *changes)
    return (
        "where the log says pages_not_pinned (some containers, WSL) offload is several times "
        f"slower; without it the run fits with {' '.join(f'--set {one}' for one in settings)}",
    )


def _find_smaller(config: Config, shape: ModelShape, card: Card) -> tuple[str, ...]:
    """Return the changes to a smaller known model that fits; empty if none does.

    Models of the same family come first, because a run's settings suit them; then larger ones.
    """
    known = [find_shape(name) for name in list_proposed()]
    for other in sorted(known, key=lambda one: (one.model_type != shape.model_type, -one.numel)):
        if other.numel >= shape.numel:
            continue
        renamed = f"model.path={other.name}"
        changed = apply_changes(config, [renamed])
        if config.engine.kv_bytes != "auto" and _describe(changed, other, card).fits:
            return (renamed,)
        changes = find_changes(changed, other, card)
        if changes:
            return (renamed, *changes)
    return ()


def _usable(card: Card) -> int:
    return int(card.usable_gib * GIB)


def _describe(config: Config, shape: ModelShape, card: Card) -> RunPlan:
    """Plan a run exactly as configured."""
    budget, work = read_budget(config), read_workload(config)
    ledger = make_ledger(shape, budget)
    tokens = count_kv_tokens(shape, budget)
    hours = estimate_hours(shape, budget, card, work)
    return RunPlan(
        model=shape.name,
        card=card.name,
        vram_gib=card.gib,
        usable_gib=card.usable_gib,
        fits=ledger.peak <= _usable(card) and tokens >= budget.engine.context and card.has_bf16,
        peak_gib=ledger.peak / GIB,
        base_gib=base_bytes(shape, weights=budget.engine.weight_format) / GIB,
        kv_tokens=tokens,
        train_length=budget.engine.context,
        episodes=count_episodes(shape, budget, work),
        episode_tokens=round(work.episode_tokens),
        ledger=ledger.sizes(),
        reasons=_reasons(ledger),
        host_gib=count_host(shape, budget) / GIB,
        disk_gib=count_disk(config, shape, budget, work) / GIB,
        steps=config.run.steps,
        tokens_per_step=count_tokens(work),
        hours_per_100_steps=_by_name(hours),
        held_out_hours=hours.rollout.times(2 * (config.eval.tasks or 0) / (100 * work.episodes)),
        kwh_per_100_steps=hours.total.times(card.watts / 1000),
        api_calls=0,
        changes=(),
        notes=list_notes(shape, budget, card, work, tokens=tokens),
    )


def _by_name(hours: Hours) -> dict[str, Range]:
    return {"rollout": hours.rollout, "training": hours.training, "total": hours.total}


def _reasons(ledger: Ledger) -> dict[str, str]:
    reasons = {entry.name: entry.reason + ("" if entry.exact else "?") for entry in ledger.entries}
    return reasons | {"fragmentation": "memory the allocator cannot use?"}


def count_host(shape: ModelShape, budget: Budget) -> int:
    """Return the bytes of host memory that a run needs, without the file cache."""
    parked = (
        count_parked(shape, budget.positions)
        if budget.learn.activation_checkpointing == "offload"
        else 0
    )
    # The engine keeps every version in host memory, and a publish copies one more.
    versions = 2 * (budget.slots + 1) * shape.adapter_numel(budget.learn.rank)
    table = count_table(shape) if budget.engine.host_embedding else 0
    return PROGRAM_BYTES + parked + versions + table


def count_disk(config: Config, shape: ModelShape, budget: Budget, work: Workload) -> int:
    """Return the bytes on disk: model, quantised copy, adapters, checkpoints, episodes."""
    adapter = 4 * shape.adapter_numel(budget.learn.rank)
    states = count_states(shape, rank=budget.learn.rank, optimizer=budget.learn.optimizer)
    model = 2 * shape.numel
    if budget.engine.weight_format in ("nf4", "int4"):
        model += base_bytes(shape, weights=budget.engine.weight_format)
    kept = (config.watch.keep_adapters + 1) * adapter
    kept += config.run.keep_checkpoints * (adapter + states)
    episodes = config.run.steps * work.episodes * work.policy_tokens * EPISODE_TOKEN_BYTES
    return model + kept + int(episodes)
