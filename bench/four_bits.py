"""What four bits cost: errors of weights and perplexity, in bf16, NF4 and int4.

    python bench/four_bits.py MODEL TEXT [--tokens 8192] [--json]

MODEL is a folder with a bf16 checkpoint, TEXT a file of plain text. Each linear layer's weight is
rounded as the engine rounds it while loading, opened again to bf16, and put back, so all formats
run through the same products. The error is the root mean square of what is lost, over that of
the weight itself. Perplexity is over windows of 512 tokens that do not overlap. Runs on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from trustee.trainer.marlin import quantise
from trustee.trainer.nf4 import NF4_BLOCK

WINDOW = 512
"""Tokens that are read at once."""


def round_to_nf4(weight: Tensor) -> Tensor:
    """Round a weight as bitsandbytes does, and open it."""
    packed, state = quantize_4bit(
        weight.contiguous(), quant_type="nf4", compress_statistics=True, blocksize=NF4_BLOCK
    )
    opened: Tensor = dequantize_4bit(packed, state)
    return opened


def round_to_int4(weight: Tensor) -> Tensor:
    """Round a weight as `engine.weights = "int4"` does, and open it."""
    return quantise(weight).open()


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {"nf4": round_to_nf4, "int4": round_to_int4}


def measure_error(weights: Sequence[Tensor], opened: Callable[[Tensor], Tensor]) -> float:
    """Return the relative error over all weights."""
    lost = whole = 0.0
    for weight in weights:
        lost += (opened(weight).float() - weight.float()).square().sum().item()
        whole += weight.float().square().sum().item()
    return math.sqrt(lost / whole)


@torch.inference_mode()
def measure_perplexity(model: Any, ids: Tensor) -> float:
    """Return the perplexity of a text [tokens]."""
    total, count = 0.0, 0
    for window in ids.split(WINDOW):
        if len(window) < 2:
            break
        logits = model(window[None]).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
        count += len(window) - 1
    return math.exp(total / count)


def measure(folder: Path, text: Path, *, tokens: int) -> dict[str, dict[str, float]]:
    """Measure every format, one copy of the model at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = torch.tensor(tokenizer(text.read_text(encoding="utf-8")).input_ids[:tokens])
    torch.manual_seed(1)
    gaussian = [torch.randn(2048, 2048).bfloat16()]
    found: dict[str, dict[str, float]] = {}
    for name in ("bf16", *FORMATS):
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True
        ).eval()
        linears = [
            module
            for layer in model.model.layers
            for module in layer.modules()
            if isinstance(module, torch.nn.Linear)
        ]
        figures = {"gaussian": 0.0, "weights": 0.0}
        if name in FORMATS:
            opened = FORMATS[name]
            figures["gaussian"] = measure_error(gaussian, opened)
            figures["weights"] = measure_error([linear.weight.data for linear in linears], opened)
            for linear in linears:
                linear.weight.data = opened(linear.weight.data)
        figures["perplexity"] = measure_perplexity(model, ids)
        found[name] = figures
        del model, linears
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    found = measure(options.model, options.text, tokens=options.tokens)
    if options.json:
        print(json.dumps({"bench": "four_bits", "model": options.model.name, **found}))
        return
    for name, figures in found.items():
        parts = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
        print(f"{name:5} {parts}")


if __name__ == "__main__":
    main()
