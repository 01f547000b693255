"""What a started engine is tried with, one finding for each thing that a run does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from trustee.algorithm.fallback import dry_run_largest
from trustee.algorithm.learner import FinishRequest, MicroRequest
from trustee.checks.adapter_effect import EffectGate
from trustee.checks.agreement import AT_ONCE, Gaps, measure_gaps
from trustee.checks.judge import check_canaries
from trustee.config import Config
from trustee.engine.protocol import Sampling
from trustee.engine.watchdog import Watchdog
from trustee.errors import RunError
from trustee.jobs.assemble import make_memory_ladder, make_simulator
from trustee.planning.hours import Speeds, measured_hours
from trustee.planning.machine import Finding, FindingState
from trustee.planning.plan import read_workload
from trustee.planning.plan_text import show_range
from trustee.rendering.renderer import Renderer
from trustee.types import GIB, Adapter, Completion, Message, Sample

ANSWER_TOKENS = 64
"""Tokens sampled after the longest prompt."""
GROWTH_GIB = 0.1
"""GiB by which the memory peak may grow in one round."""
ADVICE: dict[FindingState, str] = {
    "ok": "",
    "warn": "nothing to do: only requests that are alone differ, and a run's seldom are; if it "
    "stops for its mismatch all the same, try --set engine.weights=int4",
    "fail": "try --set engine.eager=true and report it with the model's name",
}
"""Advice when the logprobs of engine and trainer differ."""


class EngineExam:
    """An examination of one running engine."""

    def __init__(
        self, config: Config, engine: Watchdog, renderer: Renderer, *, folder: Path
    ) -> None:
        self._config = config
        self._engine = engine
        self._renderer = renderer
        self._folder = folder
        self._version = 0
        self._peak = 0
        self._reading = self._decoding = self._training = 0.0
        """Tokens per second of prompt reading, sampling and training."""

    @property
    def decoding(self) -> float:
        """Tokens per second of the last `sample_several`."""
        return self._decoding

    def attempts(self) -> tuple[Callable[[], Awaitable[Finding]], ...]:
        """Return one check per activity of a run, in the order in which they can run."""
        return (
            self.sample_longest,
            self.sample_several,
            self.train_longest,
            self.publish_and_compare,
            self.see_effect,
            self.ask_judge,
            self.measure_memory,
            self.count_hours,
        )

    def prompt(self, length: int) -> tuple[int, ...]:
        """Return a prompt of `length` tokens: a real one, repeated, different for each version."""
        # A repeated prompt would come from the prefix cache and not be computed.
        content = f"please set the lamp in the hall to level {self._version}"
        message = Message(role="user", content=content)
        ids = self._renderer.open((message,), ())
        whole = ids * (length // len(ids) + 1)
        return whole[-length:]

    async def speak(
        self, prompt: Sequence[int], *, adapter: Adapter | None, seed: int, tokens: int
    ) -> Completion:
        """Sample an answer at temperature 1."""
        return await self._engine.generate(
            prompt,
            Sampling(max_tokens=tokens, temperature=1.0, seed=seed),
            adapter=adapter,
            request_id=f"doctor-{self._version}-{seed}",
        )

    async def sample_longest(self) -> Finding:
        """Compute the longest prompt and sample an answer to it."""
        context = self._config.engine.context
        tokens = min(ANSWER_TOKENS, context // 4)
        prompt = self.prompt(context - tokens)
        started_at = time.monotonic()
        await self.speak(prompt, adapter=None, seed=1, tokens=1)
        self._reading = len(prompt) / (time.monotonic() - started_at)
        await self.speak(prompt, adapter=None, seed=0, tokens=tokens)
        seconds = time.monotonic() - started_at
        why = f"{context - tokens} prompt tokens and up to {tokens} new ones in {seconds:.1f} s"
        return Finding(name="longest rollout", state="ok", why=why)

    async def sample_several(self) -> Finding:
        """Sample as many answers at once as a run has concurrent episodes."""
        several = min(self._config.rollout.episodes, self._config.engine.max_sequences)
        lengths: list[int] = []
        prompt = self.prompt(min(256, self._config.engine.context // 2))

        async def ask(seed: int) -> None:
            said = await self.speak(prompt, adapter=None, seed=seed, tokens=ANSWER_TOKENS)
            lengths.append(len(said.ids))

        started_at = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for seed in range(several):
                tasks.start_soon(ask, seed)
        self._decoding = sum(lengths) / (time.monotonic() - started_at)
        why = f"{self._decoding:.0f} tokens/s, {several} at once"
        return Finding(name="decoding", state="ok", why=why)

    async def train_longest(self) -> Finding:
        """Compute the gradients of the largest micro-batch."""
        ladder = make_memory_ladder(self._config)
        started_at = time.monotonic()
        length = await dry_run_largest(self._engine, self._config.learn.loss, ladder=ladder)
        seconds = time.monotonic() - started_at
        rows = max(1, ladder.level.micro_tokens // length)
        self._training = rows * length / seconds
        if ladder.changes:
            return Finding(
                name="longest training",
                state="warn",
                why=f"it fits only with {'; '.join(ladder.changes)}",
                fix="trustee plan proposes settings; a run reduces them this way by itself",
            )
        why = f"forward and backward pass over {rows} x {length} tokens in {seconds:.1f} s"
        return Finding(name="longest training", state="ok", why=why)

    async def publish_and_compare(self) -> Finding:
        """Train a version, publish it and compare the logprobs of engine and trainer."""
        gaps = {"base": await self.gaps(None)}
        await self.train(await self.speak_and_cut(None))
        adapter = await self.publish()
        gaps["adapter"] = await self.gaps(adapter)
        limit = self._config.watch.mismatch
        why = "; ".join(f"{label} {gap.describe()}" for label, gap in gaps.items())
        states = {gap.judge(limit) for gap in gaps.values()}
        state: FindingState = "fail" if "fail" in states else "warn" if "warn" in states else "ok"
        return Finding(
            name="same logprobs",
            state=state,
            why=f"mean |engine - trainer| in nats per token: {why}; at most {limit:g} is allowed",
            fix=ADVICE[state],
        )

    async def speak_and_cut(self, adapter: Adapter | None, *, seed: int = 7) -> Sample:
        """Sample an answer and return it as a training sample."""
        prompt = self.prompt(min(128, self._config.engine.context // 2))
        said = await self.speak(prompt, adapter=adapter, seed=seed, tokens=ANSWER_TOKENS)
        return Sample(
            ids=(*prompt, *said.ids),
            mask=(*(False,) * len(prompt), *(True,) * len(said.ids)),
            logprobs=(*(0.0,) * len(prompt), *said.logprobs),
            advantage=1.0,
            version=said.version,
            trajectory_id="doctor",
        )

    async def gaps(self, adapter: Adapter | None) -> Gaps:
        """Return the mean gaps of the logprobs of engine and trainer."""
        return await measure_gaps(
            lambda seed: self.speak_and_cut(adapter, seed=seed),
            lambda sample: self._engine.trainer_logprobs(sample, adapter=adapter is not None),
            requests=min(AT_ONCE, self._config.engine.max_sequences),
        )

    async def train(self, sample: Sample) -> None:
        """Take one step on a sample."""
        request = MicroRequest(
            samples=(sample,), loss=self._config.learn.loss, normaliser=float(sum(sample.mask))
        )
        await self._engine.accumulate(request)
        await self._engine.finish(
            FinishRequest(
                learning_rate=self._config.learn.learning_rate, max_norm=self._config.learn.max_norm
            )
        )

    async def publish(self) -> Adapter:
        """Publish the trained adapter as the next version and retire the one before the last."""
        self._version += 1
        adapter = self.adapter(self._version)
        await self._engine.publish(adapter)
        if self._version > 1:
            await self._engine.retire(self.adapter(self._version - 1))
        return adapter

    def adapter(self, version: int) -> Adapter:
        """Return the adapter record of a version."""
        return Adapter(version=version, path=self._folder / f"policy-{version:06d}")

    async def see_effect(self) -> Finding:
        """Check that the trained version answers differently from the base."""
        gate = EffectGate(self._engine, self._renderer, patience=1)
        try:
            await gate.check(self.adapter(self._version))
        except RunError:
            return Finding(
                name="adapter's effect",
                state="warn",
                why="one step changed no logprob of a greedy answer",
                fix="raise learn.learning_rate; if it stays so, the engine ignores the adapter",
            )
        return Finding(name="adapter's effect", state="ok", why="one step changes the answer")

    async def ask_judge(self) -> Finding:
        """Let the judge score episodes whose correct verdict is known."""
        simulator = make_simulator(self._config, self._engine, self._renderer)
        try:
            verdicts = await check_canaries(self._config.env, simulator, config=self._config.gates)
        except RunError as error:
            fix = "a stronger base (model.path)"
            return Finding(name="judge", state="fail", why=str(error), fix=fix)
        why = verdicts.count() if verdicts else "this world has none"
        return Finding(name="judge", state="ok", why=why)

    async def measure_memory(self) -> Finding:
        """Report the GPU memory that torch holds and its peak."""
        held = await self._engine.memory()
        if not held["peak"]:
            return Finding(name="card memory", state="ok", why="no GPU, nothing to measure")
        self._peak = max(self._peak, held["peak"])
        why = f"{held['allocated'] / GIB:.2f} GiB held, {held['peak'] / GIB:.2f} GiB at the peak"
        return Finding(name="card memory", state="ok", why=why)

    async def count_hours(self) -> Finding:
        """Estimate how long a run takes at the measured speeds."""
        speeds = Speeds(reading=self._reading, decoding=self._decoding, training=self._training)
        hours = measured_hours(read_workload(self._config), speeds)
        why = (
            f"100 steps take about {show_range(hours.total)} hours at these speeds, if episodes "
            f"are as long as `trustee plan` assumes: {show_range(hours.rollout)} playing, "
            f"{show_range(hours.training)} training"
        )
        return Finding(name="hours", state="ok", why=why)

    async def soak(self, number: int) -> Finding:
        """Run one more round; memory must not grow, and engine and trainer must agree."""
        before = self._peak
        await self.sample_longest()
        trained = await self.train_longest()
        await self.train(await self.speak_and_cut(self.adapter(self._version)))
        gaps = await self.gaps(await self.publish())
        await self.measure_memory()
        name, grown = f"round {number}", (self._peak - before) / GIB
        why = f"version {self._version}, mismatch {gaps.describe()}, peak grown by {grown:.2f} GiB"
        state = gaps.judge(self._config.watch.mismatch)
        if state != "ok":
            return Finding(name=name, state=state, why=why, fix=ADVICE[state])
        if trained.state != "ok":
            why = f"{why}; training: {trained.why}"
            return Finding(name=name, state="warn", why=why, fix=trained.fix)
        if grown > GROWTH_GIB:
            fix = "try a longer --soak to see whether it stops growing; if not, report it"
            return Finding(name=name, state="warn", why=why, fix=fix)
        return Finding(name=name, state="ok", why=why)
