"""Adapters of the built-in model that nobody has trained."""

from __future__ import annotations

import json
from pathlib import Path

from trustee.engine.model_files import TINY
from trustee.runs.adapters import adapter_shapes


def write_random_adapter(folder: Path, *, size: float, rank: int = 4) -> Path:
    """Write a LoRA on the built-in model, whose second halves have this size."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(3)
    folder.mkdir(parents=True)
    tensors = {
        name: torch.randn(shape) * (size if "lora_B" in name else 0.1)
        for name, shape in adapter_shapes(TINY, rank=rank).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
