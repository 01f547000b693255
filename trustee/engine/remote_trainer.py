"""The trainer of an engine's process, seen from the main process: each method is a call by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.divergence import Divergence
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    MemoryReport,
    MicroReport,
    MicroRequest,
)
from trustee.errors import OutOfMemory
from trustee.types import Adapter, Sample


def read_answer(answer: dict[str, Any]) -> Any:
    """Return the value of what `Trainer.answer` gave.

    Raises:
        OutOfMemory: if there was not enough memory for it.
    """
    if "memory" in answer:
        report = msgspec.msgpack.decode(answer["memory"], type=MemoryReport)
        raise OutOfMemory(report.describe())
    return answer["value"]


class RemoteTrainer(ABC):
    """The methods of a learner and of an examined engine that only pass a call on."""

    @abstractmethod
    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the trainer in the engine's process."""

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Add the gradients of one micro-batch."""
        answer = await self.call("accumulate", msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(answer, type=MicroReport)

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Update the adapter, unless a value was not finite."""
        answer = await self.call("finish", msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(answer, type=FinishReport)

    async def save(self, folder: Path) -> None:
        """Write the states of adapter, optimiser and random generators."""
        await self.call("save", str(folder))

    async def load(self, folder: Path) -> None:
        """Continue from the states that `save` wrote."""
        await self.call("load", str(folder))

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load an earlier version's weights, or start anew, and reset the optimiser's momentum."""
        await self.call("load_adapter", str(adapter.path) if adapter.version else "")

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Choose which activations of a layer the trainer keeps."""
        await self.call("adjust", mode)

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        """Return the trainer's logprobs of a sample's sampled ids, in nats."""
        encoded = msgspec.msgpack.encode(sample)
        return list(await self.call("logprobs", encoded, adapter))

    async def diverge(self, samples: Sequence[Sample]) -> tuple[Divergence, ...]:
        """Compare base and adapter at every sampled id of some samples."""
        answer = await self.call("diverge", msgspec.msgpack.encode(tuple(samples)))
        return msgspec.msgpack.decode(answer, type=tuple[Divergence, ...])

    async def hash_base(self) -> str:
        """Return a hash over every byte of the frozen weights."""
        return str(await self.call("hash_base"))

    async def memory(self) -> dict[str, int]:
        """Return the bytes that torch holds on the GPU."""
        return dict(await self.call("memory"))
