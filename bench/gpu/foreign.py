"""Graphs with the mix of fused and opened products that a consumer card would capture.

The one idea: on a data-centre card bitsandbytes opens nearly every weight, so its graphs are
another program than a 3090's. Told that the card is another one, it captures that card's mix;
whether the result is right can be seen here, how fast it is cannot. Weights are random but as wide
as the full-size model's, because the choice depends on their shape; so the figures say whether
engine and graphs compute the same, and nothing about a model's mismatch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gpu.instruments import FOREIGN, forget_choices, instruments
from gpu.models import FULL, make_full, read_full
from gpu.report import Figures, Setting, report, round_all
from gpu.sameness import prepare, small_config
from gpu.subject import BASE, TRAINED, VOICES, Heard, describe_gaps, subject
from trustee.planning.shapes import find_shape

LAYERS = 2
"""Of the wide model: enough for one layer to follow another."""
ROWS = (1, 4, 8, 16, 32, 48, 64)
"""Requests at once for which the mix is told."""
CHECKS = tuple(f"foreign_{name.split()[1]}" for name in FOREIGN)


async def check_foreign(setting: Setting) -> None:
    """Check each foreign card against this one."""
    heard: list[Heard] = []
    for check, card in zip(CHECKS, FOREIGN, strict=True):
        await report(setting, check, partial(compare_card, setting, card=card, known=heard))


def make_wide(folder: Path) -> Path:
    """Write a random model of the full-size one's widths with few layers."""
    return make_full(folder, config=read_full() | {"num_hidden_layers": LAYERS})


async def compare_card(setting: Setting, *, card: str, known: list[Heard]) -> Figures:
    """Start as on this card, unless that was done before, then as on another; compare answers."""
    model = make_wide(setting.scratch / "wide")
    folder = setting.scratch / "foreign"
    config = small_config(setting, weights="nf4", eager=False)
    if not known:
        async with subject(config, model, folder / "own") as one:
            await prepare(one, folder / "state", known=False)
            known.append(await one.listen())
    with instruments(card):
        async with subject(config, model, folder / card) as one:
            await prepare(one, folder / "state", known=True)
            heard = await one.listen()
            problems = [
                text
                for version in VOICES
                for text in (
                    *await one.compare(version, known[0].solo[version], heard.solo[version]),
                    *await one.compare(version, heard.solo[version], heard.mixed[version]),
                )
            ]
            gaps = {version: await one.gaps_sampled(version) for version in (BASE, TRAINED)}
    figures = {"mix": mix(card), "gap_of_random_weights": describe_gaps(gaps)}
    return {**round_all(figures), "problems": problems}


def mix(card: str) -> dict[str, dict[str, str]]:
    """Ask bitsandbytes which products of the full-size model it would fuse on a card.

    Returns:
        `fused` or `opened` by the name of a linear layer, by requests at once.
    """
    import torch
    from bitsandbytes.backends.cuda import ops

    usual: Any = ops._gpu_dispatch_props
    ops._gpu_dispatch_props = lambda index: FOREIGN[card]
    forget_choices()
    try:
        return {
            str(rows): {
                name.rpartition(".")[2]: "fused"
                if ops._gemm_4bit_use_custom_cuda(0, torch.bfloat16, rows, *sizes)
                else "opened"
                for name, sizes in find_shape(FULL).linears.items()
            }
            for rows in ROWS
        }
    finally:
        ops._gpu_dispatch_props = usual
        forget_choices()
