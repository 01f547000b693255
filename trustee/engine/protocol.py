"""The interface to an engine that samples tokens: ids in, ids out.

One engine serves two models: `adapter=None` is the frozen base, which is the simulator; an adapter
is one version of the policy. A request uses the same one from start to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trustee.algorithm.divergence import Divergence
from trustee.algorithm.learner import Learner
from trustee.errors import EngineError
from trustee.types import Adapter, Completion, Record, Sample


class Sampling(Record, frozen=True):
    """Settings for sampling one completion."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are sampled."""
    top_k: int = 0
    """Only this many of the likeliest tokens are sampled; 0: all."""
    penalty: float = 0.0
    """Taken from a token's logit for each time that this request has sampled it before."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the completion besides the model's own, such as the end of a thought."""
    seed: int | None = None
    """Seed; the same seed, prompt and weights give the same ids."""
    schema: str | None = None
    """JSON Schema text that the completion must satisfy; simulator only, because a grammar mask
    makes raw logprobs differ from the sampling distribution."""
    priority: int = 0
    """Lower values are served first. The simulator unblocks episodes, so it precedes the policy."""


class Piece(Record, frozen=True):
    """What an engine has sampled since the last piece of a completion."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Raw logprob of each id, in nats."""


Hear = Callable[[Piece], None]
"""Is told of each piece of a completion as it comes."""


class EngineProgress(Record, frozen=True):
    """How much an engine has done since it started; each count only grows."""

    moves: int = 0
    """Parts of layers that were run for sampling, where the engine can count them."""
    steps: int = 0
    """Engine steps, each of which runs the whole model once."""
    read: int = 0
    """Tokens of prompts that were read."""
    sampled: int = 0
    """Tokens that were sampled."""
    trained: int = 0
    """Parts of layers that the trainer has run."""
    loaded: int = 0
    """Bytes of weights that were loaded."""
    to_load: int = 0
    """Bytes of weights that there are to load; 0 until it is known."""
    peak: int = 0
    """Most bytes of memory that were in use after a micro-batch; 0 before the first."""


def find_broken_logprob(completion: Completion) -> str:
    """Return a sentence about the first logprob that is not finite; empty if all are.

    An engine gives such logprobs if weights or activations are not finite. The ids are noise then,
    and the record of the episode could not be read again.
    """
    for place, logprob in enumerate(completion.logprobs, 1):
        if not math.isfinite(logprob):
            who = f"version {completion.version}" if completion.version else "the base"
            return (
                f"the engine sampled token {place} of {len(completion.ids)} of {who} with the "
                f"logprob {logprob}; weights or activations are not finite"
            )
    return ""


def check_completion(completion: Completion, *, request_id: str) -> None:
    """Refuse a completion with a logprob that is not finite.

    Raises:
        EngineError: naming the request, the version and the logprob.
    """
    broken = find_broken_logprob(completion)
    if broken:
        raise EngineError(f"request {request_id}: {broken}")


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
            RequestError: if the engine cannot take the request for another reason.
            EngineError: if the engine died or does not know the adapter.
        """
        ...

    async def publish(self, adapter: Adapter) -> None:
        """Make a version available under its new name, in addition to the existing ones."""
        ...

    async def retire(self, adapter: Adapter) -> None:
        """Remove a version that no request uses any more."""
        ...


class HeardEngine(Engine, Protocol):
    """An engine that tells what it samples while it does so."""

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        """Complete `ids`, telling `hear` of each piece; their sum is what is returned."""
        ...


class TrainingEngine(HeardEngine, Learner, Protocol):
    """An engine that also trains the policy it samples from and can be examined."""

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        """Return the trainer's logprobs of a sample's sampled ids, [C], in nats."""
        ...

    async def diverge(self, samples: Sequence[Sample]) -> tuple[Divergence, ...]:
        """Compare the base and the trainer's adapter at every sampled id, sample by sample.

        Raises:
            OutOfMemory: if the samples do not fit together.
        """
        ...

    async def memory(self) -> dict[str, int]:
        """Return the bytes of GPU memory that are `allocated`, and the `peak` so far."""
        ...

    def progress(self) -> EngineProgress:
        """Return what the engine has done so far, without asking its process."""
        ...

    def count_sampled(self, request_id: str) -> int:
        """Return how many tokens a pending request has got so far."""
        ...

    def dump_stacks(self) -> None:
        """Make every other process of the engine write its stacks to its error stream."""
        ...


class StartingEngine(AbstractAsyncContextManager[TrainingEngine], Protocol):
    """An engine that starts when it is entered, and tells before that how far it is."""

    def progress(self) -> EngineProgress:
        """Return what the engine has done so far."""
        ...
