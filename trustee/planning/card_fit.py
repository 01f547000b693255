"""Whether a run fits into the GPU memory that is free on this machine now.

The GPU's speed comes from its name, the memory budget from what is free now.
"""

from __future__ import annotations

from collections.abc import Iterator

from trustee.config import Config
from trustee.engine.model_files import find_model
from trustee.errors import InputError
from trustee.planning.cards import DRIVER_GIB, Card, FoundCard, choose_card, read_card, resize_card
from trustee.planning.machine import Finding
from trustee.planning.plan import RunPlan, make_plan
from trustee.planning.shapes import ModelShape, find_shape
from trustee.types import GIB

OLDEST_DRIVER = 580
"""Oldest supported Linux driver: the first release with CUDA 13, which the pinned packages need."""


def look_at_card(config: Config, index: int) -> list[Finding]:
    """Check the GPU, and whether the planned run fits it; on a CPU there is nothing to check."""
    if config.engine.device == "cpu":
        return [Finding(name="card", state="ok", why="not used (engine.device = cpu)")]
    found = read_card(index)
    if found is None:
        return [
            Finding(
                name="card",
                state="warn",
                why="the driver's management library does not answer",
                fix="run nvidia-smi to see whether the driver finds the GPU",
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
    """Check whether the memory that a run needs is free on a GPU."""
    try:
        plan = plan_on(found, config)
    except InputError as error:
        fix = "choose another model with --set model.path=DIR, or another GPU with --gpu N"
        return Finding(name="plan", state="fail", why=str(error), fix=fix)
    chosen = f", with {', '.join(plan.settings)}" if plan.settings else ""
    return Finding(
        name="plan",
        state="ok" if plan.fits else "fail",
        why=f"{plan.peak_gib:.2f} GiB at the peak, a KV cache of {plan.kv_tokens} tokens, "
        f"training on up to {plan.train_length} tokens{chosen}",
        fix="" if plan.fits else advise(plan, found),
    )


def plan_on(found: FoundCard, config: Config) -> RunPlan:
    """Plan a run with the free memory of a GPU.

    Raises:
        InputError: if the model is unknown, or the GPU is unknown and too small.
    """
    # The plan subtracts what driver and desktop hold, which is already missing from the free part.
    gib = min(found.total / GIB, found.free / GIB + DRIVER_GIB)
    card = resize_card(know_card(found), gib)
    return make_plan(config, know_shape(config.model.path), vram_gib=gib, card=card)


def advise_on_card(found: FoundCard) -> Iterator[str]:
    """Yield what to do about a GPU that was found but is not ready."""
    if is_shared(found):
        yield "close other programs that use the GPU"
    release = found.driver.partition(".")[0]
    if release.isdigit() and int(release) < OLDEST_DRIVER:
        yield f"update the driver to {OLDEST_DRIVER} or later, which CUDA 13 needs"


def is_shared(found: FoundCard) -> bool:
    """Return whether other programs hold more than 1 GiB of a GPU, even if they are not listed."""
    return found.total - found.free > GIB


def know_card(found: FoundCard) -> Card:
    """Return the data of a GPU by its name, or by its total memory if the name is unknown."""
    try:
        return choose_card(found.name)
    except InputError:
        return choose_card(found.total / GIB)


def know_shape(path: str) -> ModelShape:
    """Return a model's shape, without a download if possible."""
    try:
        return find_shape(path)
    except InputError:
        return find_shape(str(find_model(path)))


def advise(plan: RunPlan, found: FoundCard) -> str:
    """Return what to do about a run that does not fit a GPU as configured."""
    if plan.command:
        return f"it fits with: {plan.command}"
    if is_shared(found) and know_card(found).has_bf16:
        return "no setting makes it fit the free memory: close other programs that use the GPU"
    return (
        "no setting makes it fit: use a smaller model, or a larger GPU of compute capability 8.0 "
        "(RTX 30, A100) or later"
    )


def show_holders(found: FoundCard) -> str:
    """Return a note of the processes that hold GPU memory, with amounts if they are known."""
    if not found.holders:
        return ""
    named = (
        f"process {holder.process}"
        + (f" holds {holder.bytes / GIB:.1f} GiB" if holder.bytes else "")
        for holder in found.holders
    )
    return f" ({', '.join(named)})"
