"""The environment variables that vLLM is started with: some things it learns in no other way."""

from __future__ import annotations

import os
from typing import Literal

ALWAYS = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

ON_CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
}
"""One thread: with more, a busy neighbour makes each barrier spin and steps 7 to 10 times slower.
The third keeps the worker inside the engine's child instead of a third process. Without the last
vLLM compiles a part of its sampler at the first token, which takes seconds and a C++ compiler."""

ON_CUDA = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""The other sampler is compiled at the first start, with nvcc, which few machines have, and serves
top-k and top-p alone, which nobody here asks for."""

UNLESS_SET = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""On a card: trainer and engine take turns with blocks of every size."""


def set_variables(device: Literal["cpu", "cuda"]) -> None:
    """Set them for this process and its children; must come before vLLM is imported."""
    os.environ.update(ALWAYS | (ON_CPU if device == "cpu" else ON_CUDA))
    if device == "cuda":
        for name, value in UNLESS_SET.items():
            os.environ.setdefault(name, value)
