"""An engine under check, and what checks ask of it.

The one idea: two ways to compute the same may break a tie differently, and one id changes all that
follow. So greedy answers are compared up to their first difference, and there the trainer says
whether it was a tie. The engine's logprobs are held against the trainer's everywhere.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio

from trustee.algorithm.config import LearnConfig, Optimizer
from trustee.algorithm.learner import FinishRequest, MicroRequest, TrainerSpec
from trustee.algorithm.loss import LossConfig
from trustee.checks.agreement import AT_ONCE, Gaps, measure_gaps
from trustee.engine.protocol import Sampling
from trustee.engine.vllm import VllmConfig, VllmEngine
from trustee.rendering.renderer import Renderer
from trustee.types import Adapter, Completion, Message, Record, Sample, Tool

BASE, FRESH, TRAINED = 0, 1, 2
"""Versions: no adapter, one never trained, one after some steps."""
VOICES = (BASE, FRESH, TRAINED)
LIMIT = 0.02
"""Most nats per token that engine and trainer may differ in the mean."""
COMPARED = 8
"""Answers, alone and of many at once, that the trainer computes again."""
TIE = 0.2
"""Nats between two ids that may change places: a step of bf16 logits around 16 to 32."""

TOOL = Tool(
    name="set_lamp",
    description="write the level of the lamp",
    parameters={
        "type": "object",
        "properties": {"room": {"type": "string"}, "level": {"type": "integer"}},
        "required": ["room", "level"],
    },
)


class Heard(Record, frozen=True):
    """What an engine said, by version: one greedy answer to each prompt."""

    solo: dict[int, tuple[Completion, ...]]
    mixed: dict[int, tuple[Completion, ...]]
    """To all versions and prompts at once."""
    gaps: dict[int, Gaps]
    """Mean difference of the engine's logprobs from the trainer's, asked one by one and at once."""
    worst: float
    """The largest difference of all."""


class Subject:
    """An engine with three voices."""

    def __init__(self, engine: VllmEngine, model: Path, folder: Path) -> None:
        self.engine = engine
        self.renderer = Renderer.load(model)
        self.prompts = tuple(
            self.render(f"please set the lamp in {room} to level {level}")
            for level, room in enumerate(("hall", "attic", "cellar", "kitchen"), 2)
        )
        self._folder = folder
        self._count = 0

    def render(self, query: str) -> tuple[int, ...]:
        """Give the ids of a prompt."""
        system = Message(role="system", content="be helpful .")
        return self.renderer.open([system, Message(role="user", content=query)], [TOOL])

    def adapter(self, version: int) -> Adapter:
        """Name a version."""
        return Adapter(version=version, path=self._folder / f"policy-{version}")

    async def sample(
        self,
        version: int,
        prompt: Sequence[int],
        *,
        temperature: float = 0.0,
        tokens: int = 24,
        seed: int = 5,
    ) -> Completion:
        """Complete a prompt with a version's voice."""
        self._count += 1
        return await self.engine.generate(
            prompt,
            Sampling(max_tokens=tokens, temperature=temperature, seed=seed, priority=1),
            adapter=self.adapter(version) if version else None,
            request_id=f"check-{self._count}",
        )

    async def train(self, steps: int, *, rate: float = 3e-4) -> None:
        """Move the adapter towards one thing that the base says now and then."""
        prompt = self.prompts[0]
        said = await self.sample(BASE, prompt, temperature=1.5, seed=3)
        request = MicroRequest(
            samples=(as_sample(prompt, said),), loss=LossConfig(), normaliser=float(len(said.ids))
        )
        for _ in range(steps):
            await self.engine.accumulate(request)
            done = await self.engine.finish(FinishRequest(learning_rate=rate, max_norm=1.0))
            assert done.moved, "the gradients of a step were not finite"

    async def gap(self, version: int, prompt: Sequence[int], said: Completion) -> list[float]:
        """Give the difference of engine and trainer at each id; the newest version's or none's."""
        ours = await self.engine.trainer_logprobs(
            as_sample(prompt, said), adapter=version >= TRAINED
        )
        return [abs(a - b) for a, b in zip(ours, said.logprobs, strict=True)]

    async def gaps_sampled(self, version: int, *, tokens: int = 48) -> Gaps:
        """Give the mean differences of engine and trainer over sampled answers, few and many."""

        async def ask(seed: int) -> Sample:
            prompt = self.prompts[seed % len(self.prompts)]
            said = await self.sample(version, prompt, temperature=1.0, seed=seed, tokens=tokens)
            return as_sample(prompt, said)

        return await measure_gaps(
            ask,
            lambda sample: self.engine.trainer_logprobs(sample, adapter=version >= TRAINED),
            requests=AT_ONCE,
            compared=COMPARED,
        )

    async def listen(self) -> Heard:
        """Ask every voice every prompt, one by one and then all at once."""
        solo: dict[int, tuple[Completion, ...]] = {}
        apart: dict[int, list[float]] = {}
        worst = 0.0
        for version in VOICES:
            solo[version] = tuple([await self.sample(version, prompt) for prompt in self.prompts])
            apart[version] = await self._gaps_of(version, solo[version])
            worst = max(worst, *apart[version])
        mixed = await self._ask_all()
        gaps = {
            version: Gaps(
                alone=fmean(apart[version]),
                at_once=fmean(await self._gaps_of(version, mixed[version])),
                requests=len(VOICES) * len(self.prompts),
            )
            for version in VOICES
        }
        return Heard(solo=solo, mixed=mixed, gaps=gaps, worst=worst)

    async def _gaps_of(self, version: int, answers: Sequence[Completion]) -> list[float]:
        """Give the differences at all ids of a version's answers to the prompts."""
        return [
            difference
            for prompt, said in zip(self.prompts, answers, strict=True)
            for difference in await self.gap(version, prompt, said)
        ]

    async def _ask_all(self) -> dict[int, tuple[Completion, ...]]:
        heard: dict[tuple[int, int], Completion] = {}

        async def ask(version: int, index: int) -> None:
            heard[version, index] = await self.sample(version, self.prompts[index])

        pairs = [(version, index) for version in VOICES for index in range(len(self.prompts))]
        random.Random("order of a mixed batch").shuffle(pairs)
        async with anyio.create_task_group() as tasks:
            for version, index in pairs:
                tasks.start_soon(ask, version, index)
        return {
            version: tuple(heard[version, index] for index in range(len(self.prompts)))
            for version in VOICES
        }

    async def compare(
        self, version: int, first: Sequence[Completion], second: Sequence[Completion]
    ) -> list[str]:
        """Say where greedy answers of a version differ by more than a tie."""
        found = []
        for prompt, one, other in zip(self.prompts, first, second, strict=True):
            at = first_difference(one.ids, other.ids)
            if at is None:
                continue
            ways = [
                await self._score(version, prompt, ids[: at + 1]) for ids in (one.ids, other.ids)
            ]
            if abs(ways[0] - ways[1]) > TIE:
                found.append(
                    f"version {version} says {one.ids[at]} ({ways[0]:.3f}) or {other.ids[at]} "
                    f"({ways[1]:.3f}) as token {at}"
                )
        return found

    async def _score(self, version: int, prompt: Sequence[int], ids: tuple[int, ...]) -> float:
        said = Completion(ids=ids, logprobs=(0.0,) * len(ids), stop="stop", version=version)
        sample = as_sample(prompt, said)
        return (await self.engine.trainer_logprobs(sample, adapter=version >= TRAINED))[-1]


def as_sample(prompt: Sequence[int], said: Completion) -> Sample:
    """Make a training sample of an answer."""
    before = len(prompt)
    return Sample(
        ids=(*prompt, *said.ids),
        mask=(*(False,) * before, *(True,) * len(said.ids)),
        logprobs=(*(0.0,) * before, *said.logprobs),
        advantage=1.0,
        version=said.version,
        trajectory_id="check",
    )


def describe_gaps(gaps: Mapping[Any, Gaps]) -> dict[str, str]:
    """Give both figures of each version as text."""
    return {str(version): gap.describe() for version, gap in gaps.items()}


def name_gaps(gaps: Mapping[str, Gaps]) -> list[str]:
    """Name the versions in which engine and trainer differ by too much, with many at once.

    With one request alone a kernel that rounds more often may be at work; that figure is told with
    the others and fails nothing.
    """
    return [
        f"version {version} is {gap.describe()} nats from the trainer, at most {LIMIT} are allowed"
        for version, gap in gaps.items()
        if gap.judge(LIMIT) == "fail"
    ]


def first_difference(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Give the place of the first different id; None where one goes on as the other."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), None)


@asynccontextmanager
async def subject(
    config: VllmConfig, model: Path, folder: Path, *, optimizer: Optimizer = "adamw8bit"
) -> AsyncIterator[Subject]:
    """Start an engine over a small model."""
    spec = TrainerSpec(
        folder=str(model),
        learn=LearnConfig(rank=8, optimizer=optimizer, head_chunk=16),
    )
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    async with VllmEngine(config, spec) as engine:
        yield Subject(engine, model, folder)
