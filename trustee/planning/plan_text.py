"""What `trustee plan` prints: the ledger, tokens and hours, and the changes that make a run fit."""

from __future__ import annotations

import msgspec

from trustee.config import Config, apply_changes
from trustee.engine.vllm import VllmConfig
from trustee.planning.cards import pick_card
from trustee.planning.hours import Range, StepTokens
from trustee.planning.plan import RunPlan, make_plan
from trustee.planning.shapes import find_shape
from trustee.types import GIB

MINUTES_BELOW = 10.0
"""Hours below which a time is said in minutes."""


def plan_text(plan: RunPlan) -> str:
    """Return a plan as text."""
    hours, power = plan.hours_per_100_steps, plan.kwh_per_100_steps
    whole = hours["total"].times(plan.steps / 100)
    verdict = "fits" if plan.fits else "does not fit"
    lines = [
        f"{plan.model} {verdict} {plan.card}: {plan.peak_gib:.2f} of {plan.usable_gib:.2f} GiB "
        f"usable ({plan.vram_gib:g} GiB minus what driver and desktop keep)",
        "",
        *_table(plan),
        "",
        f"{'KV cache':<22}{plan.kv_tokens} tokens, enough for {plan.episodes} concurrent episodes",
        f"{'training length':<22}up to {plan.train_length} tokens",
        f"{'host memory':<22}{plan.host_gib:.1f} GiB",
        f"{'disk':<22}{plan.disk_gib:.0f} GiB",
        f"{'calls to paid APIs':<22}{plan.api_calls}",
        "",
        *_show_tokens(plan.tokens_per_step),
        "",
        "estimates for 100 steps",
        *(f"  {name:<20}{show_range(span)} hours" for name, span in hours.items()),
        f"  {'energy of the GPU':<20}{show_range(power)} kWh",
        f"  {f'all {plan.steps} steps':<20}{show_range(whole)} hours",
        f"  {'held-out tasks':<20}{show_range(plan.held_out_hours)} hours, before and after",
        "",
        *(f"- chosen for this card: {setting}" for setting in plan.settings),
        *(f"- {note}" for note in plan.notes),
    ]
    if plan.after is not None:
        lines += ["", *_show_changes(plan, plan.after)]
    return "\n".join(lines)


def _show_tokens(step: StepTokens) -> list[str]:
    return [
        "estimates for one step, in thousands of tokens",
        f"  {'sampled':<20}{step.policy / 1000:.0f} by the policy, "
        f"{step.simulator / 1000:.0f} by the simulator",
        f"  {'read':<20}{step.read.low / 1000:.0f} to {step.read.high / 1000:.0f}",
        f"  {'trained on':<20}{step.trained.low / 1000:.0f} to {step.trained.high / 1000:.0f}",
    ]


def introduce(plan: RunPlan) -> str:
    """Return one paragraph on what is going to run, and how long that may take."""
    total = plan.hours_per_100_steps["total"]
    step, whole = show_time(total.times(1 / 100)), show_time(total.times(plan.steps / 100))
    chosen = f" Chosen for this card: {', '.join(plan.settings)}." if plan.settings else ""
    held_out = plan.held_out_hours
    tested = f", held-out tasks at {show_time(held_out)}" if held_out.high else ""
    return (
        f"{plan.model} on {plan.card}: a base of {plan.base_gib:.1f} GiB, training on up to "
        f"{plan.train_length} tokens, a KV cache of {plan.kv_tokens} tokens for {plan.episodes} "
        f"episodes at once; the computed peak is {plan.peak_gib:.1f} of {plan.usable_gib:.1f} GiB."
        f"{chosen} A step is estimated at {step}, all {plan.steps} at {whole}{tested}; no card "
        "has confirmed these figures yet."
    )


def show_time(hours: Range) -> str:
    """Return a range of hours as text: in minutes up to ten hours."""
    if hours.high < MINUTES_BELOW:
        return f"{show_range(hours.times(60))} minutes"
    return f"{show_range(hours)} hours"


def _table(plan: RunPlan) -> list[str]:
    """Return the lines of the ledger, largest entry first; `~` marks estimates."""
    entries = sorted(plan.ledger.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        f"{name:<22}{'~' if plan.reasons[name].endswith('?') else ' '}{size / GIB:8.3f} GiB  "
        f"{plan.reasons[name].removesuffix('?')}"
        for name, size in entries
        if size
    ]
    return [
        *rows,
        "~ marks estimates; engine and trainer take turns, so not all is held at the same time",
    ]


def _show_changes(plan: RunPlan, after: RunPlan) -> list[str]:
    return [
        f"it fits with these changes ({after.model}, {after.peak_gib:.2f} GiB, {after.kv_tokens} "
        f"KV tokens, training on up to {after.train_length} tokens):",
        f"  {plan.command}",
    ]


def show_range(span: Range) -> str:
    """Return a range as text, with two significant digits, or all before the point."""
    return " to ".join(f"{end:.0f}" if end >= 10 else f"{end:.2g}" for end in (span.low, span.high))


def run_plan(
    config: Config,
    *,
    model: str | None,
    vram: float | None,
    card: str | None,
    as_json: bool,
) -> tuple[str, bool]:
    """Plan a run for the command line; return the text to print, and whether the run fits.

    Args:
        config: the run.
        model: replaces the config's `model.path`.
        vram: memory of the GPU in GiB; with `card`, what is free of it.
        card: name of the GPU.
        as_json: return JSON instead of a table.

    Raises:
        InputError: if model or GPU is unknown, or no GPU is given and none is found.
    """
    if model is not None:
        config = apply_changes(config, [f"model.path={msgspec.json.encode(model).decode()}"])
    chosen, notes = pick_card(card, vram_gib=vram)
    weights = config.engine.weights if isinstance(config.engine, VllmConfig) else None
    shape = find_shape(config.model.path, weights=weights)
    plan = make_plan(config, shape, vram_gib=chosen.gib, card=chosen)
    plan = msgspec.structs.replace(plan, notes=(*notes, *plan.notes))
    if as_json:
        return msgspec.json.format(msgspec.json.encode(plan), indent=2).decode(), plan.fits
    return plan_text(plan), plan.fits
