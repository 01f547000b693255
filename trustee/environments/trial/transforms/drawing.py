"""Drawing the perturbations of a task, and refusing those that would make it unsolvable."""

from __future__ import annotations

import random
from collections.abc import Sequence

from trustee.environments.trial.transforms import Transform
from trustee.environments.trial.transforms.perturbation import (
    Perturbation,
    prove_solvable,
    shown_tools,
    to_shown_call,
)
from trustee.types import ExpectedCall, Tool

TRANSFORM_DRAWS = 8
"""Attempts to draw a transform before it is left out of a task it would make unsolvable."""


def draw_chain(
    transforms: Sequence[Transform],
    tools: Sequence[Tool],
    reference: Sequence[ExpectedCall],
    *,
    seed: int,
    held_out: bool,
) -> tuple[tuple[Perturbation, ...], tuple[str, ...]]:
    """Draw each transform over those before it; return the chain and what was left out and why."""
    chain: tuple[Perturbation, ...] = ()
    refused: list[str] = []
    for index, transform in enumerate(transforms):
        reason = ""
        for attempt in range(TRANSFORM_DRAWS):
            rng = random.Random(f"{seed} transform {index} {attempt}")
            shown_calls = tuple(w for call in reference if (w := to_shown_call(chain, call)))
            drawn = transform.draw(
                shown_tools(tools, chain), rng, reference=shown_calls, held_out=held_out
            )
            if drawn is None:
                break
            reason = prove_solvable(tools, (*chain, drawn), reference) or ""
            if not reason:
                chain = (*chain, drawn)
                break
        if reason:
            refused.append(f"{transform.__struct_config__.tag}: {reason}")
    return chain, tuple(refused)
