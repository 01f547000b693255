"""A job and the GPU that it is given: settings that fit what is free, said before anything loads.

Only `engine.kv_bytes = "auto"` lets settings be chosen; whoever names a size has decided.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trustee.cli.terminal import complain, is_interactive
from trustee.errors import InputError

if TYPE_CHECKING:
    from trustee.config import Config
    from trustee.planning.cards import FoundCard
    from trustee.planning.plan import RunPlan


def fit_run(config: Config, gpu: int, *, yes: bool, may_change: bool) -> Config:
    """Return the config with settings that fit the memory which is free on the GPU now.

    What is going to run is said in one paragraph. A smaller model is taken if the user agrees.

    Args:
        config: the run, on a GPU.
        gpu: its number.
        yes: take a smaller model without asking.
        may_change: whether the run is a new one, whose model is still open.

    Raises:
        InputError: if the run does not fit, naming the changes that make it fit.
    """
    from trustee.config import apply_changes
    from trustee.planning.card_fit import plan_on
    from trustee.planning.cards import read_card
    from trustee.planning.plan_text import introduce

    found = read_card(gpu)
    if found is None:
        return config
    plan = plan_on(found, config)
    if plan.fits:
        complain(introduce(plan))
        return apply_changes(config, plan.settings)
    if config.engine.kv_bytes == "auto" and plan.after is not None and may_change:
        proposal = f"{_refusal(plan, found)} {introduce(plan.after)}"
        if not yes and not _agrees(proposal):
            raise InputError(f"{proposal} --yes takes it, --model DIR names another")
        if yes:
            complain(proposal)
        return apply_changes(config, plan.changes)
    raise InputError(
        f"{_shortage(plan, found)}; "
        "trustee plan shows where the memory goes, --force starts the run anyway"
    )


def fill_engine(config: Config, gpu: int, *, trains: bool = False) -> Config:
    """Return the config of another job than a run, with the engine that a run would have.

    Nothing is changed on a CPU, or where the size of the cache is given. The settings are said in
    one line.

    Args:
        config: the job's.
        gpu: number of the GPU.
        trains: whether the job trains; if not, the adapter's settings stay, whose rank it may need.

    Raises:
        InputError: if no settings fit, naming what does.
    """
    from msgspec.structs import replace

    from trustee.config import apply_changes
    from trustee.planning.card_fit import plan_on
    from trustee.planning.cards import read_card

    if not config.engine.on_gpu or config.engine.kv_bytes != "auto":
        return config
    found = read_card(gpu)
    if found is None:
        return config
    plan = plan_on(found, config)
    if not plan.fits:
        raise InputError(_shortage(plan, found))
    complain(f"chosen for {plan.card}: {', '.join(plan.settings)}")
    filled = apply_changes(config, plan.settings)
    return filled if trains else replace(filled, learn=config.learn)


def take_settings(config: Config, gpu: int) -> Config:
    """Return the config with the settings that fit if some do, and otherwise as it is."""
    from trustee.config import apply_changes
    from trustee.planning.card_fit import plan_on
    from trustee.planning.cards import read_card

    found = read_card(gpu) if config.engine.kv_bytes == "auto" else None
    return config if found is None else apply_changes(config, plan_on(found, config).settings)


def _refusal(plan: RunPlan, found: FoundCard) -> str:
    """Say that no settings of the wanted model fit, and what other programs hold."""
    from trustee.planning.card_fit import is_shared, show_holders
    from trustee.types import GIB

    held = (found.total - found.free) / GIB
    others = f"; other programs hold {held:.1f} GiB{show_holders(found)}"
    return (
        f"{plan.model} does not fit {plan.card}, whatever the settings"
        f"{others if is_shared(found) else ''}."
    )


def _shortage(plan: RunPlan, found: FoundCard) -> str:
    """Say what a run needs, what is free, and what helps."""
    from trustee.planning.card_fit import advise, show_holders
    from trustee.types import GIB

    return (
        f"this run needs {plan.peak_gib:.1f} GiB and {found.name} has {found.free / GIB:.1f} GiB "
        f"free{show_holders(found)}; {advise(plan, found)}"
    )


def _agrees(proposal: str) -> bool:
    """Ask whether to take a smaller model, where there is somebody to ask."""
    if not (is_interactive() and sys.stdin.isatty()):
        return False
    complain(proposal)
    complain("Train that model? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
