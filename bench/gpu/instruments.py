"""What checks see and change inside the engine's process: bytes by kind, costs, a foreign card.

The one idea: the program itself knows nothing of its checks. The class that vLLM mixes into its
worker is replaced by one that knows more, and an environment variable tells it what to pretend.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trustee.algorithm.learner import MicroReport, MicroRequest
from trustee.engine import vllm
from trustee.trainer.extension import TrainerExtension
from trustee.trainer.trainer import Trainer

PRETEND = "TRUSTEE_BENCH_CARD"
"""Multiprocessors and compute capability, as `82,8,6`."""
ROOM = "TRUSTEE_BENCH_ROOM"
"""Ids that a micro-batch may have; a longer one fails as if memory had run out."""
FOREIGN = {"RTX 3090": (82, 8, 6), "RTX 4090": (128, 8, 9), "RTX 5090": (170, 12, 0)}
"""What bitsandbytes asks of a card before it chooses between its ways to multiply."""
TOP = 20
"""Operations that a profile names."""
OTHERS = (0, 0)
"""Id of the allocator's pool that no graph owns."""


def pretend(environment: Mapping[str, str]) -> tuple[int, int, int] | None:
    """Have bitsandbytes choose as on another card, if the environment names one.

    Only the choice between its fused kernel and an opened weight is another one: kernels and their
    tiles remain those of the card at hand, so results are worth something and times are not.
    """
    told = environment.get(PRETEND, "")
    if not told:
        return None
    from bitsandbytes.backends.cuda import ops

    processors, major, minor = map(int, told.split(","))
    ops._gpu_dispatch_props = lambda index: (processors, major, minor)
    forget_choices()
    return processors, major, minor


def forget_choices() -> None:
    """Have bitsandbytes choose anew: it remembers its choice for each size."""
    from bitsandbytes.backends.cuda import ops

    for function in (ops._gpu_dispatch_props, ops._gemm_4bit_use_custom_cuda):
        clear = getattr(function, "cache_clear", None)
        if clear is not None:
            clear()


class WatchedTrainer(Trainer):
    """The trainer, with what only checks ask for."""

    def gather(self, micro: MicroRequest) -> MicroReport:
        """Add a micro-batch's gradients, unless it is longer than the environment allows."""
        room, asked = os.environ.get(ROOM), sum(len(sample.ids) for sample in micro.samples)
        if room and asked > int(room):
            raise torch.OutOfMemoryError(f"{asked} ids of at most {room} were asked for")
        return super().gather(micro)

    def watched_bytes(self) -> dict[str, int]:
        """Return the bytes of the card by who holds them."""
        return count_bytes(self._worker, self.device)

    def watched_start(self) -> None:
        """Begin to write down what each operation costs."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)
        self._profiler.start()

    def watched_stop(self) -> dict[str, Any]:
        """Return the costliest operations since then."""
        self._profiler.stop()
        rows = [
            (event.key, self_micros(event, self.device), event.count)
            for event in self._profiler.key_averages()
        ]
        return summarise(rows)


class Instruments(TrainerExtension):
    """Methods that vLLM's worker gains under check."""

    trustee_kind = WatchedTrainer
    # When vLLM looks the class up, before it loads or captures anything.
    pretends = pretend(os.environ)


@contextmanager
def instruments(card: str = "") -> Iterator[None]:
    """Have engines that start now mix the class above into their worker.

    Args:
        card: a name of `FOREIGN` as which bitsandbytes is to choose.
    """
    usual, vllm.EXTENSION = vllm.EXTENSION, f"{__name__}.Instruments"
    if card:
        os.environ[PRETEND] = ",".join(map(str, FOREIGN[card]))
    try:
        yield
    finally:
        vllm.EXTENSION = usual
        os.environ.pop(PRETEND, None)


def count_bytes(worker: Any, device: torch.device) -> dict[str, int]:
    """Count a card's bytes apart: torch's, those of graphs, the driver's own, the penalties'.

    All but the penalties are zeros on a CPU.
    """
    penalties = penalty_bytes(worker)
    if device.type != "cuda":
        return {"graph_pool": 0, "allocated": 0, "reserved": 0, "driver": 0, "penalties": penalties}
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    return {
        "graph_pool": pool_bytes(torch.cuda.memory_snapshot()),
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": reserved,
        "driver": total - free - reserved,
        "penalties": penalties,
    }


def pool_bytes(segments: list[dict[str, Any]]) -> int:
    """Count the bytes of all pools that graphs own, in an allocator's snapshot."""
    return sum(
        segment["total_size"]
        for segment in segments
        if tuple(segment.get("segment_pool_id", OTHERS)) != OTHERS
    )


def penalty_bytes(worker: Any) -> int:
    """Count the tensors of the sampler that counts ids for penalties; 0 where there is none."""
    sampler = getattr(worker.model_runner, "sampler", None)
    state = getattr(sampler, "penalties_state", None)
    if state is None:
        return 0
    found = 0
    for value in vars(state).values():
        # Some are held by a buffer that has a host and a device side.
        tensor = getattr(value, "gpu", value)
        found += tensor.nbytes if isinstance(tensor, torch.Tensor) else 0
    return found


def self_micros(event: Any, device: torch.device) -> float:
    """Give the microseconds that an operation itself took, without those that it calls."""
    kind = "device" if device.type == "cuda" else "cpu"
    return float(getattr(event, f"self_{kind}_time_total"))


KINDS = {
    "products": ("gemm", "mm", "marlin", "cutlass", "gemv", "matmul", "linear"),
    "attention": ("flash", "attention", "attn", "fmha"),
    "opening": ("dequantize", "kDequantize", "open"),
    "adapters": ("lora", "sgmv", "bgmv"),
    "copies": ("copy", "Memcpy", "memcpy"),
}
"""Words by which an operation is known; all others are small ones."""


def kind_of(name: str) -> str:
    """Return the kind of an operation, by its name."""
    for kind in ("adapters", "attention", "opening", "copies", "products"):
        if any(word in name for word in KINDS[kind]):
            return kind
    return "small"


def summarise(rows: list[tuple[str, float, int]]) -> dict[str, Any]:
    """Return the costliest operations in order, and the share of each kind.

    Args:
        rows: name, microseconds and number of calls.
    """
    whole = sum(micros for _, micros, _ in rows)
    shares: dict[str, float] = {}
    for name, micros, _ in rows:
        shares[kind_of(name)] = shares.get(kind_of(name), 0.0) + micros / max(whole, 1e-9)
    first = sorted(rows, key=lambda row: -row[1])[:TOP]
    return {
        "ms": whole / 1000,
        "shares": dict(sorted(shares.items(), key=lambda item: -item[1])),
        "top": [[name[:80], micros / 1000, count] for name, micros, count in first if micros],
    }
