"""How close rollouts come to the engine's limit: their tokens/s over those of one large batch.

    python bench/rollout.py [--steps 3] [--config FILE] [--set KEY=VALUE] [--json]

One process and one engine play with `feed`, `play`, `record` and `learn` of the real loop, with a
learner that does nothing. Then every request that ended in the measured time is repeated, all at
once, with the same prompt, adapter, grammar and seed, exactly as many tokens, and nothing to wait
for. That is the engine's limit. A second repetition has only as many concurrent requests as the
rollout had on average; what is still missing is due to the loop and not to the batch size. With
`max_off_policy_steps` of 1 or more the measured time is from the first step to the last, with slots
always refilled; with 0 it is whole steps including their tails. On a CPU `ratio_by_cpu` counts the
engine's processor time and idle time, but not the time taken by other jobs on the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog

from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    MicroReport,
    MicroRequest,
)
from trustee.config import Config, apply_changes, read_config
from trustee.engine.protocol import EngineProgress, Sampling
from trustee.engine.timing import RequestTiming
from trustee.engine.vllm import VllmEngine
from trustee.events import Event, StepTrained
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.jobs.rl import make_run
from trustee.rendering.renderer import Renderer
from trustee.rl.train import train
from trustee.runs.store import Store
from trustee.types import Adapter, Completion, Record, Role

TICK_SECONDS = 0.01
"""Interval at which the lateness of the event loop is measured."""
ROLES = (Role.POLICY, Role.USER, Role.TOOL, Role.JUDGE, Role.WRITER)


class Asked(Record, frozen=True):
    """A request of the rollout."""

    ids: tuple[int, ...]
    sampling: Sampling
    adapter: Adapter | None
    tokens: int
    """Number of tokens sampled."""


class Phase(Record, frozen=True):
    """Measurements between two points in time."""

    started_at: float
    ended: float
    timings: tuple[RequestTiming, ...]
    """All finished requests of the phase, also those from before `started_at`."""
    main_cpu_s: float
    engine_cpu_s: float
    """Processor time of the engine's main thread, which does all computation on a CPU."""
    late_mean_s: float
    late_max_s: float
    """How late the event loop ran its timers, in seconds."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.ended - self.started_at


class IdleCore:
    """The real engine, recording all requests, and a learner that does nothing."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.asked: dict[str, Asked] = {}

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in tokens."""
        return self._engine.context

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Complete `ids`."""
        completion = await self._engine.generate(
            ids, sampling, adapter=adapter, request_id=request_id
        )
        self.asked[request_id] = Asked(
            ids=tuple(ids), sampling=sampling, adapter=adapter, tokens=len(completion.ids)
        )
        return completion

    async def publish(self, adapter: Adapter) -> None:
        """Publish a version."""
        await self._engine.publish(adapter)

    async def retire(self, adapter: Adapter) -> None:
        """Retire a version."""
        await self._engine.retire(adapter)

    def progress(self) -> EngineProgress:
        """Return what the engine has counted."""
        return self._engine.progress()

    def count_sampled(self, request_id: str) -> int:
        """Return the tokens that have arrived for a pending request."""
        return self._engine.count_sampled(request_id)

    def dump_stacks(self) -> None:
        """Make the engine's process write its stacks."""
        self._engine.dump_stacks()

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Count the trained tokens."""
        tokens = sum(sum(sample.mask) for sample in request.samples)
        return MicroReport(tokens=tokens, ratio_max=1.0)

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Leave the adapter unchanged, so that no version is published."""
        return FinishReport(norm=0.0, moved=False)

    async def save(self, folder: Path) -> None:
        """Write nothing."""

    async def load(self, folder: Path) -> None:
        """Read nothing."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load nothing."""

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Change nothing."""


class Gauges:
    """Reads processor times and the event loop's lateness, from `begin` to `end`."""

    def __init__(self, engine: VllmEngine) -> None:
        self._process = engine._process
        self.begin()

    def begin(self) -> None:
        """Discard earlier measurements."""
        self.started_at = time.monotonic()
        self._main_cpu = time.process_time()
        self._engine_cpu = self._read_engine()
        self._late: list[float] = []

    async def watch(self) -> None:
        """Measure the event loop's lateness repeatedly."""
        while True:
            due = time.monotonic() + TICK_SECONDS
            await anyio.sleep(TICK_SECONDS)
            self._late.append(time.monotonic() - due)

    def end(self, timings: Iterable[RequestTiming]) -> Phase:
        """Return the measurements."""
        return Phase(
            started_at=self.started_at,
            ended=time.monotonic(),
            timings=tuple(timings),
            main_cpu_s=time.process_time() - self._main_cpu,
            engine_cpu_s=self._read_engine() - self._engine_cpu,
            late_mean_s=sum(self._late) / max(1, len(self._late)),
            late_max_s=max(self._late, default=0.0),
        )

    def _read_engine(self) -> float:
        stat = Path(f"/proc/{self._process}/task/{self._process}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def watched(engine: VllmEngine) -> AsyncIterator[Gauges]:
    """Watch the event loop while the block runs."""
    gauges = Gauges(engine)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gauges.watch)
        yield gauges
        tasks.cancel_scope.cancel()


def measured_steps(steps: int, max_off_policy_steps: int) -> tuple[int, int]:
    """Return the steps after which measuring begins and ends.

    With lag the first steps end in a burst, because all slots were filled at once, and the last
    step only lets running episodes end. Without lag no episode runs between steps.
    """
    return (max_off_policy_steps + 1, steps - 1) if max_off_policy_steps else (0, steps)


async def play(
    config: Config,
    engine: VllmEngine,
    *,
    renderer: Renderer,
    timings: list[RequestTiming],
    adapter: Adapter,
    folder: Path,
) -> tuple[Phase, dict[str, Asked]]:
    """Play the steps of a config; return the measured part and all requests."""
    core = IdleCore(engine)
    timings.clear()
    await engine.reset_prefix_cache()
    first, last = measured_steps(config.run.steps, config.rollout.max_off_policy_steps)
    phases: list[Phase] = []
    async with Store(folder) as store, watched(engine) as gauges:

        def emit(event: Event) -> None:
            if isinstance(event, StepTrained) and event.step == first:
                gauges.begin()
            if isinstance(event, StepTrained) and event.step == last:
                phases.append(gauges.end(()))

        # The loop accepts any object with the methods of engine and learner.
        run = make_run(config, core, renderer, store, emit=emit, previous=None)  # type: ignore[arg-type]
        await run.versions.announce(adapter)
        gauges.begin()
        async with run.engine.guard():
            await train(run)
    # Requests that were running at the last measured step have ended since.
    (phase,) = phases
    return msgspec.structs.replace(phase, timings=tuple(timings)), core.asked


async def ask_again(
    engine: VllmEngine,
    asked: dict[str, Asked],
    *,
    timings: list[RequestTiming],
    slots: int,
) -> Phase:
    """Repeat requests, at most `places` concurrently, each with as many tokens as before."""
    timings.clear()
    await engine.reset_prefix_cache()
    usual = engine._params
    engine._params = partial(usual, ignore_eos=True)
    limiter = anyio.CapacityLimiter(slots)

    async def ask(name: str, request: Asked) -> None:
        sampling = msgspec.structs.replace(request.sampling, max_tokens=request.tokens, priority=0)
        async with limiter:
            await engine.generate(request.ids, sampling, adapter=request.adapter, request_id=name)

    try:
        async with watched(engine) as gauges:
            gauges.begin()
            async with anyio.create_task_group() as tasks:
                for name, request in asked.items():
                    tasks.start_soon(ask, name, request)
            return gauges.end(timings)
    finally:
        engine._params = usual


def overlap(started_at: float, ended: float, phase: Phase) -> float:
    """Return the seconds of an interval that lie in a phase."""
    return max(0.0, min(ended, phase.ended) - max(started_at, phase.started_at))


def first_token(timing: RequestTiming) -> float:
    """Return the time of a request's first token."""
    return timing.queued + timing.queue_s + timing.prefill_s


def tokens_in(phase: Phase) -> float:
    """Return the tokens sampled in a phase; a request's tokens are spread over its decoding."""
    total = 0.0
    for timing in phase.timings:
        first = first_token(timing)
        total += phase.started_at <= first <= phase.ended
        if timing.decode_s > 0:
            share = overlap(first, first + timing.decode_s, phase) / timing.decode_s
            total += share * (timing.completion_tokens - 1)
    return total


def prompt_tokens_in(phase: Phase) -> int:
    """Return the prompt tokens computed in a phase, without those from the prefix cache."""
    return sum(
        timing.prompt_tokens - timing.cached_tokens
        for timing in phase.timings
        if phase.started_at <= first_token(timing) <= phase.ended
    )


def load_of(phase: Phase, slots: int) -> dict[str, float]:
    """Return how many requests the engine held, waiting or in its batch, over a phase."""
    held = [(t.queued, first_token(t) + t.decode_s) for t in phase.timings]
    batch = [(t.queued + t.queue_s, first_token(t) + t.decode_s) for t in phase.timings]
    edges = sorted([(a, 1) for a, _ in held] + [(b, -1) for _, b in held])
    count, at = 0, phase.started_at
    empty = quarter = 0.0
    for moment, change in edges:
        spent = overlap(at, moment, phase)
        empty += spent * (count == 0)
        quarter += spent * (count < slots / 4)
        count, at = count + change, max(at, moment)
    return {
        "batch_mean": sum(overlap(a, b, phase) for a, b in batch) / phase.seconds,
        "held_mean": sum(overlap(a, b, phase) for a, b in held) / phase.seconds,
        "idle_share": empty / phase.seconds,
        "under_quarter_share": quarter / phase.seconds,
    }


def describe(phase: Phase, slots: int) -> dict[str, Any]:
    """Return a phase's figures."""
    tokens, prompts, load = tokens_in(phase), prompt_tokens_in(phase), load_of(phase, slots)
    by_cpu = tokens / max(0.01, phase.engine_cpu_s) * (1 - load["idle_share"])
    return {
        "seconds": round(phase.seconds, 2),
        "tokens": round(tokens),
        "tokens_per_s": round(tokens / phase.seconds, 1),
        "prompt_tokens_computed": prompts,
        "processed_per_s": round((tokens + prompts) / phase.seconds, 1),
        **{key: round(value, 3) for key, value in load.items()},
        "main_cpu_share": round(phase.main_cpu_s / phase.seconds, 3),
        "engine_cpu_s": round(phase.engine_cpu_s, 2),
        "loop_late_mean_ms": round(1000 * phase.late_mean_s, 2),
        "loop_late_max_ms": round(1000 * phase.late_max_s, 1),
        "tokens_per_cpu_s": round(by_cpu, 1),
        "preemptions": sum(timing.preemptions for timing in phase.timings),
        "roles": {str(role): row for role in ROLES if (row := describe_role(phase, role))},
    }


def describe_role(phase: Phase, role: Role) -> dict[str, float]:
    """Return mean seconds and tokens of a role's requests that ended in a phase."""
    ended = [
        t for t in phase.timings if t.role is role and phase.started_at <= t.finished <= phase.ended
    ]
    if not ended:
        return {}
    return {"requests": len(ended)} | {
        key: round(sum(getattr(timing, key) for timing in ended) / len(ended), 3)
        for key in (
            *("hand_over_s", "queue_s", "prefill_s", "decode_s"),
            *("prompt_tokens", "cached_tokens", "completion_tokens"),
        )
    }


async def compare(
    config: Config,
    engine: VllmEngine,
    *,
    renderer: Renderer,
    timings: list[RequestTiming],
    adapter: Adapter,
    folder: Path,
) -> dict[str, Any]:
    """Play, repeat the requests, and return both with their ratios."""
    played, asked = await play(
        config, engine, renderer=renderer, timings=timings, adapter=adapter, folder=folder
    )
    measured = {
        timing.request_id: asked[timing.request_id]
        for timing in played.timings
        if played.started_at <= timing.finished <= played.ended
    }
    slots = config.engine.max_sequences
    first = describe(played, slots)
    load = max(1, round(first["held_mean"]))
    limit, same = [
        describe(await ask_again(engine, measured, timings=timings, slots=count), slots)
        for count in (len(measured), load)
    ]
    return {
        "ratio": ratio_of(first, limit, "tokens_per_s"),
        "ratio_by_cpu": ratio_of(first, limit, "tokens_per_cpu_s"),
        "ratio_processed": ratio_of(first, limit, "processed_per_s"),
        "ratio_same_load": ratio_of(first, same, "tokens_per_s"),
        "rollout": first,
        "same_load": same,
        "at_once": limit,
    }


def ratio_of(first: dict[str, Any], second: dict[str, Any], key: str) -> float:
    """Divide a figure of one phase by that of another."""
    return round(float(first[key] / second[key]), 3)


async def measure(config: Config, *, steps: int, lags: Sequence[int]) -> dict[str, Any]:
    """Compare for each `max_off_policy_steps`, all with one engine."""
    model, renderer = prepare_model(config)
    timings: list[RequestTiming] = []
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with VllmEngine(
            config.engine, trainer_spec(config, model), observer=timings.append
        ) as engine:
            # As a run does before training; otherwise a collection would block for half a second.
            gc.collect()
            gc.freeze()
            for number, lag in enumerate(lags, 1):
                count = steps + (lag + 2 if lag else 0)
                adapter = Adapter(version=number, path=folder / f"adapter-{number}")
                await engine.publish(adapter)
                found[f"max_lag_{lag}"] = await compare(
                    apply_changes(
                        config, [f"rollout.max_off_policy_steps={lag}", f"run.steps={count}"]
                    ),
                    engine,
                    renderer=renderer,
                    timings=timings,
                    adapter=adapter,
                    folder=folder / f"run-{number}",
                )
                await engine.retire(adapter)
    return found


def summarise(found: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return the result line; `ratio` is that of the largest lag, `ratio_sync` that without lag."""
    best = found[max(found)]
    line: dict[str, Any] = {"bench": "rollout", "ratio": best["ratio"]}
    if "max_lag_0" in found:
        line["ratio_sync"] = found["max_lag_0"]["ratio"]
    if config.engine.device == "cpu":
        line["ratio_by_cpu"] = best["ratio_by_cpu"]
        if "max_lag_0" in found:
            line["ratio_sync_by_cpu"] = found["max_lag_0"]["ratio_by_cpu"]
    return line | {
        "tokens": best["rollout"]["tokens"],
        "tokens_per_s": best["rollout"]["tokens_per_s"],
        "max_sequences": config.engine.max_sequences,
        "group_size": config.rollout.group_size,
        "groups_per_step": config.rollout.groups_per_step,
        "device": config.engine.device,
        **found,
    }


def show(line: dict[str, Any]) -> str:
    """Return the figures as a table."""
    rows = []
    for name, pair in line.items():
        if not name.startswith("max_lag_"):
            rows.append(f"{name:<24} {pair}")
            continue
        rows.append(
            f"\n{name}: ratio {pair['ratio']}, with prompts {pair['ratio_processed']}, "
            f"against the same load {pair['ratio_same_load']}"
        )
        phases = ("rollout", "same_load", "at_once")
        rows.append("  " + f"{'':<24} " + " ".join(f"{phase:>12}" for phase in phases))
        rows += [
            f"  {key:<24} " + " ".join(f"{pair[phase][key]:>12}" for phase in phases)
            for key in pair["rollout"]
            if key != "roles"
        ]
        columns = list(next(iter(pair["rollout"]["roles"].values())))
        rows.append("  " + " ".join(f"{word:>17}" for word in ("role", *columns)))
        for phase in phases:
            for role, figures in pair[phase]["roles"].items():
                values = " ".join(f"{figures[column]:>17}" for column in columns)
                rows.append(f"  {role:>17} {values}  {phase}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each kind")
    parser.add_argument(
        "--lags", type=int, nargs="+", default=[1, 0], help="values of max_off_policy_steps"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/tiny.toml"))
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    config = read_config(options.config, options.changes)
    found = anyio.run(partial(measure, config, steps=options.steps, lags=options.lags))
    line = summarise(found, config)
    print(json.dumps(line) if options.json else show(line))


if __name__ == "__main__":
    # Standard output is for the figures alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main()
