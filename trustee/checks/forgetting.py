"""The gate that stops a run whose policy moves too far from its base on general prompts."""

from __future__ import annotations

import math

from trustee.checks.general_prompts import choose_few, read_general_prompts
from trustee.checks.retention import answer_all, as_sample, diverge_all, render_prompts
from trustee.engine.protocol import TrainingEngine
from trustee.environments.engine_simulator import ChatRenderer
from trustee.errors import RunError
from trustee.types import Sample

PROMPTS = 16
"""General prompts that are measured at every checkpoint; two passes of the trainer each."""


class ForgettingGate:
    """Measures the policy of the trainer on a few general prompts.

    The base answers them once, before the first measurement; a measurement is then two forward
    passes over these answers and asks the engine for nothing.
    """

    def __init__(
        self, engine: TrainingEngine, renderer: ChatRenderer, *, most: float | None
    ) -> None:
        self._engine = engine
        self._renderer = renderer
        self._most = most
        """Largest KL a token, in nats; None: nothing is measured."""
        self._samples: tuple[Sample, ...] | None = None

    async def measure(self) -> float | None:
        """Return the mean KL(base ‖ policy) a token, in nats; None if the gate is off."""
        if self._most is None:
            return None
        if self._samples is None:
            self._samples = await self._ask_base()
        divergences = await diverge_all(self._samples, self._engine)
        values = [kl for divergence in divergences for kl in divergence.kl]
        return math.fsum(values) / len(values) if values else None

    async def _ask_base(self) -> tuple[Sample, ...]:
        chosen = choose_few(read_general_prompts(), PROMPTS)
        asked = render_prompts(chosen, self._renderer, context=self._engine.context)
        answers = await answer_all(asked, self._engine, adapter=None, label="gate")
        return tuple(
            as_sample(one.ids, answer.ids) for one, answer in zip(asked, answers, strict=True)
        )

    def check(self, kl: float | None, *, step: int) -> None:
        """Stop a run that forgets.

        Raises:
            RunError: if the KL is larger than allowed, or no number.
        """
        # Negated, so that a KL that is not a number is too large.
        if self._most is None or kl is None or kl <= self._most:
            return
        raise RunError(
            f"after step {step} the policy is a KL of {kl:.3f} nats a token away from the base on "
            f"{PROMPTS} general prompts, and gates.forgetting allows {self._most:g}: it forgets "
            "what it could do; the checkpoint before this step is kept: start again with a lower "
            "learn.learning_rate or with learn.loss.kl_coef, or raise gates.forgetting"
        )
