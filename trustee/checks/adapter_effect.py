"""Check that a trained adapter changes the engine's samples."""

from __future__ import annotations

import anyio

from trustee.engine.protocol import Engine, Sampling, find_broken_logprob
from trustee.environments.engine_simulator import ChatRenderer
from trustee.errors import RunError
from trustee.types import Adapter, Completion, Message, Record

PROBE_TOKENS = 8


class EffectState(Record, frozen=True):
    """The state of an effect gate in a checkpoint."""

    without: int
    """Number of consecutive versions that sampled exactly like the base."""


class EffectGate:
    """Checks whether new versions of the policy sample differently from the base.

    An engine's logprobs may vary with its load and its cache, so both get the same new prompt at
    the same time: then only the adapter can make the results differ.
    """

    def __init__(self, engine: Engine, renderer: ChatRenderer, *, patience: int | None) -> None:
        self._engine = engine
        self._renderer = renderer
        self._patience = patience
        self._without = 0

    async def check(self, adapter: Adapter) -> None:
        """Compare a changed version with the base, right after it was published.

        Raises:
            RunError: if it is the last of `patience` versions in a row without any effect, or
                answers with logprobs that are not finite.
        """
        if self._patience is None:
            return
        # The number makes the prompt new; even with equal text, an adapter changes the logprobs.
        probe = Message(role="user", content=f"please set the lamp in hall to {adapter.version}")
        ids = self._renderer.open((probe,), ())
        said: dict[str, Completion] = {}

        async def ask(name: str, asked: Adapter | None) -> None:
            said[name] = await self._engine.generate(
                ids,
                Sampling(max_tokens=PROBE_TOKENS, temperature=0.0),
                adapter=asked,
                request_id=f"probe-{adapter.version}-{name}",
            )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "base", None)
            tasks.start_soon(ask, "policy", adapter)
        base, policy = said["base"], said["policy"]
        if broken := find_broken_logprob(policy):
            raise RunError(
                f"{adapter.name} cannot be used: {broken}; the last step broke the adapter: resume "
                "from the checkpoint before it, or start again with a lower learn.learning_rate"
            )
        same = (base.ids, base.logprobs) == (policy.ids, policy.logprobs)
        self._without = self._without + 1 if same else 0
        if self._without >= self._patience:
            raise RunError(
                f"{self._without} versions in a row, the last {adapter.name}, answered a probe of "
                f"{PROBE_TOKENS} greedy tokens with the base's logprobs to the last digit, and "
                f"gates.effect_patience allows {self._patience - 1}; the engine seems to ignore "
                "the adapter, so episodes would not reflect what was learnt: check that the "
                f"engine serves the modules of {adapter.path}, or raise learn.learning_rate or "
                "gates.effect_patience if steps are too small to show"
            )

    def state(self) -> EffectState:
        """Return the state that `restore` needs."""
        return EffectState(without=self._without)

    def restore(self, state: EffectState) -> None:
        """Continue from a stored state."""
        self._without = state.without
