"""Environment variables for vLLM: settings that it takes in no other way."""

from __future__ import annotations

import math
import os
import platform
from typing import Literal

from trustee.trainer.variables import HOST_EMBEDDING

ALWAYS = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

ON_CPU = {
    "OMP_WAIT_POLICY": "passive",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
}
"""Threads that wait for each other sleep: where something else runs on the machine, waiting in a
busy loop makes a step up to ten times slower. The third variable keeps the worker inside the
engine's child process instead of starting another. Without the last one vLLM compiles a part of its
sampler at the first token, which takes seconds and needs a C++ compiler."""

ON_CUDA = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""FlashInfer's sampler would be compiled with nvcc, which few machines have, and is only used for
top-k and top-p, which are never set here."""

ON_WSL = {"VLLM_WSL2_ENABLE_PIN_MEMORY": "1"}
"""vLLM leaves pinned memory off under WSL, where some of it can be had; without it every copy
between host and GPU waits."""

READY = "VLLM_ENGINE_READY_TIMEOUT_S"
"""How long vLLM waits for its own child: 600 s, unless it is set. A slow disk and a first
compilation may take longer, and `engine.start_seconds` is the one limit that counts."""
READY_MARGIN = 60
"""Seconds by which vLLM waits longer than this program does."""

UNLESS_SET = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""On a GPU, unless the user has set it: engine and trainer take turns with blocks of all sizes."""


WORTH_SHARING = 100_000_000
"""Bytes of weights from which on several threads share each product. SmolLM2's 269 MB are decoded
and read 1.4 times as fast by two, the built-in model's 7 MB more slowly (bench/RESULTS.md)."""


def choose_threads(weight_bytes: int, *, cores: int) -> int:
    """Return how many CPU threads an engine step gets where the config does not say."""
    return cores if weight_bytes >= WORTH_SHARING else 1


def set_variables(
    device: Literal["cpu", "cuda"],
    *,
    start_seconds: float,
    threads: int = 1,
    host_embedding: bool = False,
) -> None:
    """Set the variables for this process and its children; call it before importing vLLM.

    Args:
        device: where the engine runs.
        start_seconds: how long its start may take.
        threads: number of threads of an engine step on a CPU.
        host_embedding: whether the embedding table lies in host memory.
    """
    os.environ.update(ALWAYS | (ON_CPU if device == "cpu" else ON_CUDA))
    os.environ[HOST_EMBEDDING] = "1" if host_embedding else "0"
    os.environ[READY] = str(math.ceil(start_seconds) + READY_MARGIN)
    if device == "cpu":
        os.environ["OMP_NUM_THREADS"] = str(threads)
    else:
        if "microsoft" in platform.release().lower():
            os.environ.update(ON_WSL)
        for name, value in UNLESS_SET.items():
            os.environ.setdefault(name, value)
