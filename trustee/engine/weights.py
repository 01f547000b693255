"""In which number format the base's weights are held and multiplied.

Source of the rule for CPUs: on a Xeon without BF16 instructions a bf16 product ran at 7 GFLOPS and
an fp32 product at 48; with them bf16 is the faster one (bench/RESULTS.md).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from trustee.decoding import decode_text, read_file

Weights = Literal["auto", "nf4", "int4", "bf16", "fp32"]
WeightFormat = Literal["nf4", "int4", "bf16", "fp32"]
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Processor flags, one of which means that bf16 products are computed as such."""


@cache
def read_processor(path: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """Return the processor's name and its flags; both are empty where they are not told."""
    try:
        lines = decode_text(read_file(path, error=ValueError), error=ValueError).splitlines()
    except ValueError:
        return "", frozenset()
    told = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    flags = told.get("flags", told.get("Features", ""))
    return told.get("model name", ""), frozenset(flags.split())


def choose_format(weights: Weights, device: str) -> WeightFormat:
    """Return the format that a setting means on a device: `auto` is the fastest that fits."""
    if weights != "auto":
        return weights
    if device == "cuda":
        return "nf4"
    return "bf16" if read_processor()[1] & BF16_FLAGS else "fp32"


def explain_format(weights: Weights, device: str) -> str:
    """Return one sentence on the format that is used, and why."""
    used = choose_format(weights, device)
    if weights != "auto":
        return f"weights in {used}, as engine.weights says"
    if device == "cuda":
        return f"weights in {used}, the default on a GPU"
    name, flags = read_processor()
    has = "has" if flags & BF16_FLAGS else "has no"
    return (
        f"weights in {used}, because this processor ({name or 'unknown'}) {has} BF16 instructions"
    )
