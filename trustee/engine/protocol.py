"""The interface to an engine that samples tokens: ids in, ids out.

One engine serves two models: `adapter=None` is the frozen base, which is the simulator; an adapter
is one version of the policy. A request uses the same one from start to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trustee.algorithm.learner import Learner
from trustee.types import Adapter, Completion, Record, Sample


class Sampling(Record, frozen=True):
    """Settings for sampling one completion."""

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    """Seed; the same seed, prompt and weights give the same ids."""
    schema: str | None = None
    """JSON Schema text that the completion must satisfy; simulator only, because a grammar mask
    makes raw logprobs differ from the sampling distribution."""
    priority: int = 0
    """Lower values are served first. The simulator unblocks episodes, so it precedes the policy."""


class Engine(Protocol):
    """An async context manager that completes token ids; it starts on entry and stops on exit."""

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in tokens."""
        ...

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Complete `ids`.

        Cancelling the caller aborts the request and frees its slot.

        Raises:
            ContextError: if prompt and `max_tokens` do not fit `context`.
            EngineError: if the engine died or does not know the adapter.
        """
        ...

    async def publish(self, adapter: Adapter) -> None:
        """Make a version available under its new name, in addition to the existing ones."""
        ...

    async def retire(self, adapter: Adapter) -> None:
        """Remove a version that no request uses any more."""
        ...


class TrainingEngine(Engine, Learner, Protocol):
    """An engine that also trains the policy it samples from and can be examined."""

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        """Return the trainer's logprobs of a sample's sampled ids, [C], in nats."""
        ...

    async def memory(self) -> dict[str, int]:
        """Return the bytes of GPU memory that are `allocated`, and the `peak` so far."""
        ...

    def dump_stacks(self) -> None:
        """Make every other process of the engine write its stacks to its error stream."""
        ...
