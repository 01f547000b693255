"""The seam to whatever samples tokens: ids in, ids out.

One engine speaks with two voices: `adapter=None` is the frozen base, the simulator; an adapter is
one version of the policy. A request uses one of them from start to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trustee.algorithm.learner import Learner
from trustee.types import Adapter, Completion, Record, Sample


class Sampling(Record, frozen=True):
    """How to draw one completion."""

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    """Same seed, prompt and weights: same ids."""
    schema: str | None = None
    """JSON Schema text that the completion must satisfy; simulator only, for a grammar mask makes
    raw logprobs differ from the sampling distribution."""
    priority: int = 0
    """Lower goes first. The simulator unblocks episodes, so it goes before the policy."""


class Engine(Protocol):
    """Anything that completes token ids. Engines are async context managers that start and stop."""

    @property
    def context(self) -> int:
        """Longest prompt plus completion, in tokens."""
        ...

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Complete `ids`.

        Cancelling the caller aborts the request and frees its place.

        Raises:
            ContextError: if prompt and `max_tokens` do not fit `context`.
            EngineError: if the engine died or does not know the adapter.
        """
        ...

    async def publish(self, adapter: Adapter) -> None:
        """Make a version known under its new name, beside the ones that are alive."""
        ...

    async def retire(self, adapter: Adapter) -> None:
        """Forget a version that no request uses any more."""
        ...


class TrainingEngine(Engine, Learner, Protocol):
    """An engine that also trains the policy it samples from, and lets itself be examined."""

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        """Return the trainer's logprobs of a sample's sampled ids, [C] in nats."""
        ...

    async def memory(self) -> dict[str, int]:
        """Return the bytes of GPU memory that are `allocated`, and the `peak` so far."""
        ...

    def dump_stacks(self) -> None:
        """Have every other process of the engine write its stacks to its error stream."""
        ...
