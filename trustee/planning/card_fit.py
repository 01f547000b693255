"""Whether a run fits what is free on the card of this machine, now.

The one idea: what the card can do follows from its name, what a run may have from what is free.
"""

from __future__ import annotations

from collections.abc import Iterator

from trustee.config import Config
from trustee.engine.model_files import find_model
from trustee.errors import InputError
from trustee.planning.cards import DRIVER_GIB, Card, FoundCard, choose_card, read_card, resize_card
from trustee.planning.machine import GIB, Finding
from trustee.planning.plan import RunPlan, make_plan
from trustee.planning.shapes import ModelShape, find_shape

OLDEST_DRIVER = 580
"""Of Linux; the first release with CUDA 13, for which the pinned packages are built."""


def look_at_card(config: Config, index: int) -> list[Finding]:
    """Look at the card and hold the plan against it; nothing where the config uses none."""
    if config.engine.device == "cpu":
        return [Finding(name="card", state="ok", why="none is used (engine.device = cpu)")]
    found = read_card(index)
    if found is None:
        return [
            Finding(
                name="card",
                state="warn",
                why="the driver's management library gives no answer",
                fix="nvidia-smi shows whether driver and card speak to each other",
            )
        ]
    why = (
        f"{found.name}, driver {found.driver}, {found.free / GIB:.1f} of "
        f"{found.total / GIB:.1f} GiB free{show_holders(found)}"
    )
    fix = "; ".join(advise_on_card(found))
    card = Finding(name="card", state="warn" if fix else "ok", why=why, fix=fix)
    return [card, look_at_plan(config, found)]


def look_at_plan(config: Config, found: FoundCard) -> Finding:
    """Say whether what a run needs is free on a card."""
    try:
        plan = plan_on(found, config)
    except InputError as error:
        fix = "name another model with --set model.path=DIR, or another card with --gpu N"
        return Finding(name="plan", state="fail", why=str(error), fix=fix)
    return Finding(
        name="plan",
        state="ok" if plan.fits else "fail",
        why=f"{plan.peak_gib:.2f} GiB at the peak, {plan.kv_tokens} tokens of cache, "
        f"{plan.train_length} tokens of training length",
        fix="" if plan.fits else advise(plan, found),
    )


def plan_on(found: FoundCard, config: Config) -> RunPlan:
    """Plan a run on what is free of a card.

    Raises:
        InputError: if the model is not known, or neither is the card and it is small.
    """
    # A plan takes off what driver and desktop keep, which is not free already.
    gib = min(found.total / GIB, found.free / GIB + DRIVER_GIB)
    card = resize_card(know_card(found), gib)
    return make_plan(config, know_shape(config.model.path), vram_gib=gib, card=card)


def advise_on_card(found: FoundCard) -> Iterator[str]:
    """Say what to do about a card that is there but not ready."""
    if is_shared(found):
        yield "close what else uses the card"
    release = found.driver.partition(".")[0]
    if release.isdigit() and int(release) < OLDEST_DRIVER:
        yield f"update the driver to {OLDEST_DRIVER} or later, which CUDA 13 wants"


def is_shared(found: FoundCard) -> bool:
    """Say whether others hold much of a card; what they leave is known even where they are not."""
    return found.total - found.free > GIB


def know_card(found: FoundCard) -> Card:
    """Give what is known of a card: by its name, else by all its memory, not by what is free."""
    try:
        return choose_card(found.name)
    except InputError:
        return choose_card(found.total / GIB)


def know_shape(path: str) -> ModelShape:
    """Find a model's shape, without a download where that is possible."""
    try:
        return find_shape(path)
    except InputError:
        return find_shape(str(find_model(path)))


def advise(plan: RunPlan, found: FoundCard) -> str:
    """Say what to do about a run that does not fit a card as it is."""
    if plan.command:
        return f"it fits with: {plan.command}"
    if is_shared(found) and know_card(found).has_bf16:
        return "no setting makes it fit what is free: close what else uses the card"
    return (
        "no setting makes it fit: use a smaller model, or a larger card of generation 8.0 "
        "(RTX 30, A100) or later"
    )


def show_holders(found: FoundCard) -> str:
    """Name the processes that hold memory of a card, with how much where the driver says."""
    if not found.holders:
        return ""
    named = (
        f"process {holder.process}"
        + (f" holds {holder.bytes / GIB:.1f} GiB" if holder.bytes else "")
        for holder in found.holders
    )
    return f" ({', '.join(named)})"
