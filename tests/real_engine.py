"""The real engine on the built-in model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trustee.algorithm.config import LearnConfig, Optimizer
from trustee.algorithm.learner import FinishRequest, MicroRequest, TrainerSpec
from trustee.algorithm.loss import LossConfig
from trustee.engine.model_files import TINY
from trustee.engine.protocol import Sampling
from trustee.engine.vllm import VllmConfig, VllmEngine
from trustee.engine.weights import WeightFormat
from trustee.rendering.renderer import Renderer
from trustee.types import (
    Adapter,
    Completion,
    Message,
    Sample,
    Tool,
)

TOOL = Tool(
    name="set_lamp",
    description="write the level of the lamp",
    parameters={
        "type": "object",
        "properties": {"room": {"type": "string"}, "level": {"type": "integer"}},
        "required": ["room", "level"],
    },
)


def trainer_spec(optimizer: Optimizer = "adamw8bit") -> TrainerSpec:
    """Give a small trainer."""
    return TrainerSpec(
        folder=str(TINY),
        learn=LearnConfig(rank=8, optimizer=optimizer, head_chunk=16),
    )


def engine_config(weights: WeightFormat) -> VllmConfig:
    """Give a small engine."""
    return VllmConfig(
        device="cpu",
        weights=weights,
        context=512,
        kv_bytes=64 << 20,
        max_sequences=8,
        versions=3,
    )


class Bench:
    """An engine with three trained versions, and what the tests ask of it."""

    def __init__(self, engine: VllmEngine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.renderer = Renderer.load(TINY)
        self.prompt = self.render("please set the lamp in hall to level 7")
        self.hash = ""
        self._count = 0

    def render(self, query: str) -> tuple[int, ...]:
        system = Message(role="system", content="be helpful .")
        return self.renderer.open([system, Message(role="user", content=query)], [TOOL])

    def scratch(self) -> Path:
        """Give a folder for the trainer's state."""
        path = self.folder / "scratch"
        path.mkdir(exist_ok=True)
        return path

    def adapter(self, version: int) -> Adapter:
        return Adapter(version=version, path=self.folder / f"policy-{version}")

    async def sample(
        self,
        version: int | None,
        *,
        prompt: Sequence[int] | None = None,
        temperature: float = 0.0,
        tokens: int = 24,
        seed: int = 5,
    ) -> Completion:
        self._count += 1
        return await self.engine.generate(
            prompt or self.prompt,
            Sampling(max_tokens=tokens, temperature=temperature, seed=seed, priority=1),
            adapter=None if version is None else self.adapter(version),
            request_id=f"test-{self._count}",
        )

    def as_sample(
        self,
        completion: Completion,
        advantage: float = 1.0,
        *,
        prompt: tuple[int, ...] | None = None,
    ) -> Sample:
        prompt = prompt or self.prompt
        n = len(prompt)
        return Sample(
            ids=(*prompt, *completion.ids),
            mask=(False,) * n + (True,) * len(completion.ids),
            logprobs=(0.0,) * n + completion.logprobs,
            advantage=advantage,
            version=completion.version,
            trajectory_id="test",
        )

    async def train(self, steps: int, rate: float = 3e-4) -> None:
        """Move the adapter towards one thing that the base says now and then."""
        said = await self.sample(None, temperature=1.5, seed=3)
        request = MicroRequest(
            samples=(self.as_sample(said),),
            loss=LossConfig(),
            normaliser=float(len(said.ids)),
        )
        for _ in range(steps):
            await self.engine.accumulate(request)
            report = await self.engine.finish(FinishRequest(learning_rate=rate, max_norm=1.0))
            assert report.moved
