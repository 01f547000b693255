"""The bytes of the full-size model, measured, against the ledger's; each kind by itself."""

from __future__ import annotations

import math
import os
from pathlib import Path

from gpu.models import FULL, read_full
from trustee.engine.vllm import VllmEngine
from trustee.engine.weights import WeightFormat
from trustee.planning.cards import read_card
from trustee.planning.ledger import Ledger, base_bytes
from trustee.planning.shapes import find_shape
from trustee.types import GIB

TOLERANCE = 0.05
"""Share by which the measured bytes may miss the planned ones."""
NOT_TORCH = ("CUDA context", "CUDA graphs")
"""Entries of a ledger that torch does not count as allocated."""
LATER = ("adapter gradients",)
"""Entries that are not there yet after the start: the first micro-batch makes them."""


async def held_bytes(engine: VllmEngine, *, idle: int | None) -> dict[str, int]:
    """Give what torch holds, and what the driver says is taken of the card.

    Args:
        engine: that holds it.
        idle: bytes of the card that were taken before; None without one.
    """
    held = await engine.memory()
    return held | ({} if idle is None else {"card": taken_of_card() - idle})


def taken_of_card() -> int:
    """Give the bytes of the card that the driver calls taken; 0 without one."""
    card = read_card(0)
    return 0 if card is None else card.total - card.free


def count_cache() -> int:
    """Count the bytes of the cache of quantised bases."""
    root = Path(os.environ["TRUSTEE_CACHE"])
    return sum(path.stat().st_size for path in root.rglob("*.safetensors"))


def hold_against_plan(ledger: Ledger, held: dict[str, int], after: dict[str, int]) -> list[str]:
    """Say where measured bytes miss the planned ones; nothing without a card."""
    if not held["peak"]:
        return []
    always = [entry for entry in ledger.entries if entry.when == "always"]
    in_torch = sum(entry.bytes for entry in always if entry.name not in NOT_TORCH)
    later = sum(entry.bytes for entry in always if entry.name in LATER)
    pairs = {
        "held after the start": (held["allocated"], in_torch - later),
        "torch's peak": (after["peak"], in_torch + ledger.transient),
    }
    problems = [
        f"{name}: {found / GIB:.2f} GiB measured, {planned / GIB:.2f} planned"
        for name, (found, planned) in pairs.items()
        if abs(found / planned - 1) > TOLERANCE
    ]
    taken = after.get("card", 0)
    if taken > (1 + TOLERANCE) * ledger.peak:
        problems.append(f"{taken / GIB:.2f} GiB of the card taken, {ledger.peak / GIB:.2f} planned")
    return problems


def hold_apart(ledger: Ledger, found: dict[str, int]) -> list[str]:
    """Say which bytes outside torch's tensors are more than planned, each by itself."""
    planned = ledger.sizes()
    pairs = {
        "graphs": (found["graph_pool"], planned["CUDA graphs"]),
        "driver and context": (found["driver"], planned["CUDA context"]),
        "penalties": (found["penalties"], planned["penalties"]),
    }
    return [
        f"{name}: {taken / GIB:.2f} GiB measured, {most / GIB:.2f} planned"
        for name, (taken, most) in pairs.items()
        if taken > (1 + TOLERANCE) * most
    ]


def count_on_meta() -> tuple[dict[WeightFormat, int], list[str]]:
    """Count the parameters of the full-size model without memory, and hold the ledger to them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = find_shape(FULL)
    config = AutoConfig.for_model(**read_full())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    linears = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    whole = sum(parameter.nbytes for parameter in model.parameters())
    in_bf16 = sum(weight.nbytes for weight in linears)
    blocks = [weight.numel() // 64 for weight in linears]
    scales = sum(n + 4 * math.ceil(n / 256) + 4 + 4 * (16 + 256) for n in blocks)
    counted: dict[WeightFormat, int] = {
        "bf16": whole,
        "nf4": whole - in_bf16 + sum(weight.numel() // 2 for weight in linears) + scales,
    }
    problems = [
        f"{weights}: {size} bytes counted, {base_bytes(shape, weights=weights)} in the ledger"
        for weights, size in counted.items()
        if size != base_bytes(shape, weights=weights)
    ]
    return counted, problems
