"""`trustee run`: put engine, world and store together, and train."""

from __future__ import annotations

import gc
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import msgspec
from anyio.abc import TaskGroup

from trustee.algorithm.fallback import dry_run_largest
from trustee.checks.adapter_effect import EffectGate
from trustee.checks.alarms import Watch
from trustee.checks.canaries import read_canaries
from trustee.checks.forgetting import ForgettingGate
from trustee.checks.judge import check_canaries
from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import TrainingEngine
from trustee.engine.versions import Versions
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import TaskSource
from trustee.events import Emit, Note
from trustee.jobs.assemble import (
    make_memory_ladder,
    make_simulator,
    open_background,
    open_engine,
    open_sandbox,
    prepare_model,
    restart_once,
)
from trustee.jobs.held_out import (
    AFTER,
    BEFORE,
    RunResult,
    conclude,
    finished_text,
    measure,
    measure_interim,
    measured_as,
    read_finished,
    read_played,
)
from trustee.jobs.resume import find_state, restore, settings_of
from trustee.jobs.run_metadata import begin_record
from trustee.jobs.stage_meter import metered
from trustee.rendering.renderer import Renderer
from trustee.rl.interim import Interim
from trustee.rl.learn import measure_between, publish, store_checkpoint, tell_training
from trustee.rl.run import GroupQueue, Run, RunState
from trustee.rl.timeline import TimedLearner, TimedSource, TimedStore, Timeline
from trustee.rl.train import train
from trustee.runs.adapters import find_adapter
from trustee.runs.checkpoint import find_checkpoints, open_checkpoint
from trustee.runs.store import Store
from trustee.sandbox.calls import NoSandbox, Sandbox


async def run_training(
    config: Config, folder: Path, *, emit: Emit, resume: bool = False, profile: bool = False
) -> RunResult:
    """Measure, train and measure again; if the engine dies, restart it once.

    With `profile`, the whole run is recorded in a `timeline-*.json` of the folder.

    Raises:
        EngineDied: if the engine died again; the run can be resumed.
    """
    started_at = time.monotonic()
    model, renderer = prepare_model(config)
    config = pin_adapter(config)
    if resume:
        state = find_state(config, folder, model=model, tell=lambda text: emit(Note(text=text)))
        finished = read_finished(config, folder, state)
        if finished is not None:
            emit(Note(text=finished_text(folder, state)))
            return finished
    async with AsyncExitStack() as stack:
        timeline = None
        if profile:
            timeline = await stack.enter_async_context(Timeline(name_timeline(folder)))
            emit = timeline.listen(emit)
        store = await stack.enter_async_context(
            TimedStore(folder, timeline) if timeline else Store(folder)
        )
        if not resume:
            config = begin_record(config, folder)
        sandbox = await stack.enter_async_context(open_sandbox(config))
        background = await stack.enter_async_context(open_background())
        run: Run | None = None

        async def train_with_an_engine() -> RunResult:
            nonlocal run
            observer = timeline.request if timeline else None
            async with open_engine(config, model, emit=emit, observer=observer) as engine:
                previous = run
                run = make_run(
                    config,
                    engine,
                    renderer,
                    store,
                    sandbox=sandbox,
                    background=background,
                    emit=emit,
                    previous=previous,
                    timeline=timeline,
                )
                async with run.engine.guard():
                    return await run_stages(
                        config, run, resume=resume, previous=previous, started_at=started_at
                    )

        return await restart_once(train_with_an_engine, emit=emit)


def pin_adapter(config: Config) -> Config:
    """Return the config with the adapter's own folder where it names the folder of a run.

    Otherwise a resumed run could start from, or be compared with, an adapter that came later.
    """
    if not config.run.adapter:
        return config
    found = find_adapter(Path(config.run.adapter)).absolute()
    return msgspec.structs.replace(
        config, run=msgspec.structs.replace(config.run, adapter=str(found))
    )


def name_timeline(folder: Path) -> Path:
    """Return the path of the next timeline in a run folder, creating the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"timeline-{len(list(folder.glob('timeline-*.json')))}.json"


def make_run(
    config: Config,
    engine: TrainingEngine,
    renderer: Renderer,
    store: Store,
    *,
    sandbox: Sandbox | None = None,
    background: TaskGroup | None = None,
    emit: Emit,
    previous: Run | None = None,
    timeline: Timeline | None = None,
) -> Run:
    """Return a run built from its parts; after an engine death, with the finished groups."""
    clock = EngineClock()
    source: TaskSource = config.env.source(seed=config.run.seed)
    guarded = Watchdog(
        engine,
        TimedLearner(engine, timeline) if timeline else engine,
        config=config.watchdog,
        clock=clock,
        folder=store.folder,
        interrupt=engine.dump_stacks,
    )
    return Run(
        world=config.env,
        source=TimedSource(source, timeline) if timeline else source,
        engine=guarded,
        clock=clock,
        renderer=renderer,
        simulator=make_simulator(config, guarded, renderer),
        sandbox=sandbox or NoSandbox(),
        background=background,
        versions=Versions(guarded, slots=config.engine.versions),
        store=store,
        watch=Watch(config.watch),
        gates=config.gates,
        effect=EffectGate(guarded, renderer, patience=config.gates.effect_patience),
        forgetting=ForgettingGate(guarded, renderer, most=config.gates.forgetting),
        ladder=make_memory_ladder(config),
        rollout=config.rollout,
        learning=config.learn,
        seed=config.run.seed,
        settings=settings_of(config),
        steps=config.run.steps,
        minutes=config.run.minutes,
        tokens=config.run.tokens,
        keep_checkpoints=config.run.keep_checkpoints,
        emit=emit,
        started_at=time.monotonic() if previous is None else previous.started_at,
        seconds_before=0.0 if previous is None else previous.seconds_before,
        untrained=GroupQueue(() if previous is None else previous.untrained),
        interim=Interim(every=config.eval.every, patience=config.eval.patience),
        measure=partial(measure_interim, config) if config.eval.tasks else None,
    )


async def show_canaries(config: Config, run: Run) -> None:
    """Test the judge, if there is one, on episodes of known verdict.

    Raises:
        RunError: if it is wrong about too many.
    """
    rules = config.env.judge_rules()
    if rules is None or not config.gates.shows_canaries:
        return
    count, engine = len(read_canaries(rules.prompts)), run.engine.progress
    name = f"judging {count} episodes of known verdict"
    with metered(name, run.emit, of=count, unit="episodes", engine=engine) as meter:
        verdicts = await check_canaries(
            config.env, run.simulator, config=config.gates, done=meter.count
        )
    if verdicts is not None:
        text = f"judge on episodes of known verdict: {verdicts.count()}"
        run.emit(Note(text=text, about="gate"))


async def run_stages(
    config: Config, run: Run, *, resume: bool, previous: Run | None, started_at: float
) -> RunResult:
    """Measure, train and measure again with one engine."""
    await show_canaries(config, run)
    begins = not find_checkpoints(run.store.folder / "checkpoints")
    unmeasured = bool(config.eval.tasks) and read_played(run.store.folder, BEFORE) is None
    if config.run.adapter and begins:
        run.emit(Note(text=f"training starts from adapter {config.run.adapter}"))
    if config.run.adapter and (begins or unmeasured):
        await publish(run, 1)
    before = await measure(config, run, run.versions.current, label=BEFORE)
    if not begins and (resume or previous is not None):
        path, state = open_checkpoint(
            run.store.folder / "checkpoints",
            RunState,
            accept=lambda state: run.source.restore(state.source),
        )
        await restore(run, path, state, previous=previous)
    if begins or previous is None:
        # What was measured before is not training.
        run.started_at = time.monotonic()
    if run.progress < 1:
        if begins:
            if before:
                run.interim.note(measured_as(run, before))
            await store_checkpoint(run)
        length = await dry_run_largest(run.engine, run.learning.loss, ladder=run.ladder)
        run.episode_limiter.total_tokens = run.ladder.level.parallel
        run.emit(Note(text=f"a training sample of {length} ids fits"))
        if begins or previous is None:
            run.started_at = time.monotonic()
        tell_training(run, progress=run.progress)
        # Start-up objects live for the whole run; not scanning them saves 5 % of all turns.
        gc.freeze()
        # One may be due that a kill cut short.
        if await measure_between(run, progress=run.progress) < 1:
            await train(run)
    after = await measure(config, run, run.versions.current, label=AFTER)
    return conclude(run, before, after, seconds=time.monotonic() - started_at)
