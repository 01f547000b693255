"""Putting a run together: the one place where concrete engine, world and store meet."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from trustee.adapter_files import check_fit, find_adapter, read_adapter
from trustee.canaries import read_canaries
from trustee.chat import Simulator, Voice
from trustee.checkpoint import RunState, find_checkpoints, open_checkpoint
from trustee.config import Config
from trustee.deadlines import EngineClock
from trustee.engine import Engine
from trustee.engines.vllm import VllmEngine
from trustee.environment import TaskSource
from trustee.environments import judged_part, runs_code
from trustee.errors import EngineDied
from trustee.gates import EffectGate, check_canaries
from trustee.ladder import Ladder, Rung
from trustee.learn import publish, store_checkpoint
from trustee.learner import TrainerSpec
from trustee.models import find_model
from trustee.outcome import Outcome, conclude, evaluation_world, measure
from trustee.record import describe_run
from trustee.rendering import Renderer
from trustee.run import Event, Run
from trustee.sandbox.calls import NoSandbox, Sandbox
from trustee.sandbox.host import ProcessSandbox
from trustee.step import probe
from trustee.store import Store, keep_lines
from trustee.timeline import TimedLearner, TimedSource, TimedStore, Timeline
from trustee.train import train
from trustee.types import Blame
from trustee.versions import Versions
from trustee.watch import Watch
from trustee.watchdog import Watchdog

Tell = Callable[[Event], None]

SHORTEST_CONTEXT = 512
"""Ids below which no episode makes sense, whatever the card."""


def trainer_spec(config: Config, folder: Path) -> TrainerSpec:
    """Say how the trainer is built."""
    learn = config.learn
    return TrainerSpec(
        folder=str(folder),
        rank=learn.rank,
        seed=config.run.seed,
        optimizer=learn.optimizer,
        betas=learn.betas,
        weight_decay=learn.weight_decay,
        checkpointing=learn.checkpointing,
        head_chunk=learn.head_chunk,
        mlp_tile=learn.mlp_tile,
        threads=learn.threads or len(os.sched_getaffinity(0)),
        start=str(find_adapter(Path(config.run.adapter))) if config.run.adapter else "",
        reference=bool(config.run.adapter and learn.loss.kl_coef),
    )


def make_simulator(config: Config, engine: Engine, renderer: Renderer) -> Simulator:
    """Make the simulator."""
    voices: dict[Blame, Voice] = {
        Blame.WRITER: config.simulator.writer,
        Blame.USER: config.simulator.user,
        Blame.TOOL: config.simulator.tool,
        Blame.JUDGE: config.simulator.judge,
        Blame.BUILDER: config.simulator.builder,
    }
    return Simulator(engine, renderer, voices=voices, tries=config.simulator.tries)


@asynccontextmanager
async def open_sandbox(config: Config) -> AsyncIterator[Sandbox]:
    """Open the sandbox where a world of this run needs one.

    Raises:
        InputError: if nothing on this machine can hold foreign code.
    """
    if not (runs_code(config.env) or runs_code(evaluation_world(config))):
        yield NoSandbox()
        return
    async with ProcessSandbox(config.sandbox) as sandbox:
        yield sandbox


def prepare_model(config: Config) -> tuple[Path, Renderer]:
    """Find the model and prove that its template can be used.

    Raises:
        InputError: with the reason, before anything heavy is loaded.
    """
    folder = find_model(config.model.path)
    renderer = Renderer.load(folder, thinking=config.model.thinking)
    renderer.self_test()
    if config.run.adapter:
        start = read_adapter(find_adapter(Path(config.run.adapter)))
        check_fit(start, folder, rank=config.learn.rank)
    judged = judged_part(config.env)
    if judged is not None and config.gates.shows_canaries:
        read_canaries(judged.prompts)
    return folder, renderer


async def run_training(
    config: Config, folder: Path, *, tell: Tell, resume: bool = False, profile: bool = False
) -> Outcome:
    """Measure, train, measure again; an engine that dies is started once more.

    With `profile` all of it is drawn into a `timeline-*.json` of the folder.

    Raises:
        EngineDied: if it dies again; the run can be resumed.
    """
    begun = time.monotonic()
    model, renderer = prepare_model(config)
    if resume:
        open_checkpoint(folder / "checkpoints")
    async with AsyncExitStack() as stack:
        timeline = None
        if profile:
            timeline = await stack.enter_async_context(Timeline(name_timeline(folder)))
            tell = timeline.listen(tell)
        store = await stack.enter_async_context(
            TimedStore(folder, timeline) if timeline else Store(folder)
        )
        if not resume:
            (folder / "run.json").write_bytes(
                msgspec.json.format(msgspec.json.encode(describe_run(config)), indent=2)
            )
        sandbox = await stack.enter_async_context(open_sandbox(config))
        run: Run | None = None
        for chance in range(2):
            tell({"event": "stage", "name": f"starting the engine on {show_place(config, model)}"})
            try:
                async with VllmEngine(
                    config.engine,
                    trainer_spec(config, model),
                    observer=timeline.request if timeline else None,
                ) as engine:
                    dead = run
                    run = make_run(
                        config,
                        engine,
                        renderer,
                        store,
                        sandbox=sandbox,
                        tell=tell,
                        dead=dead,
                        timeline=timeline,
                    )
                    return await run_stages(config, run, resume=resume, dead=dead, begun=begun)
            except (EngineDied, BaseExceptionGroup) as error:
                if chance or run is None or not is_death(error):
                    raise
                tell({"event": "note", "text": f"{find_death(error)}; it is started once more"})
    raise AssertionError("the second death is raised")


def find_death(error: BaseException) -> BaseException:
    """Give the first of the errors in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def name_timeline(folder: Path) -> Path:
    """Name the next timeline of a run folder, which is made where it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"timeline-{len(list(folder.glob('timeline-*.json')))}.json"


def is_death(error: BaseException) -> bool:
    """Say whether an engine's death, and nothing else, ended a run."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(EngineDied)[1] is None
    return isinstance(error, EngineDied)


def show_place(config: Config, model: Path) -> str:
    """Name model and device."""
    return f"{model.name} ({config.engine.device})"


def make_ladder(config: Config) -> Ladder:
    """Make the ladder, with the config's own settings as its top."""
    top = Rung(
        micro_tokens=config.learn.micro_tokens,
        checkpointing=config.learn.checkpointing,
        context=config.engine.context,
        parallel=config.rollout.episodes,
    )
    return Ladder(top, shortest=max(SHORTEST_CONTEXT, 2 * config.rollout.limits.tokens))


def make_run(
    config: Config,
    engine: VllmEngine,
    renderer: Renderer,
    store: Store,
    *,
    sandbox: Sandbox | None = None,
    tell: Tell,
    dead: Run | None = None,
    timeline: Timeline | None = None,
) -> Run:
    """Put a run together; after a dead one, with the groups that it had finished."""
    clock = EngineClock()
    source: TaskSource = config.env.source(seed=config.run.seed)
    core = Watchdog(
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
        core=core,
        clock=clock,
        renderer=renderer,
        simulator=make_simulator(config, core, renderer),
        sandbox=sandbox or NoSandbox(),
        versions=Versions(core, slots=config.engine.versions),
        store=store,
        watch=Watch(config.watch),
        gates=config.gates,
        effect=EffectGate(core, renderer, patience=config.gates.effect_patience),
        ladder=make_ladder(config),
        rollout=config.rollout,
        learning=config.learn,
        seed=config.run.seed,
        steps=config.run.steps,
        minutes=config.run.minutes,
        tokens=config.run.tokens,
        keep_checkpoints=config.run.keep_checkpoints,
        tell=tell,
        begun=time.monotonic() if dead is None else dead.begun,
        waiting=[] if dead is None else list(dead.waiting),
    )


async def run_stages(
    config: Config, run: Run, *, resume: bool, dead: Run | None, begun: float
) -> Outcome:
    """Measure, train, measure again, with one engine."""
    verdicts = await check_canaries(config.env, run.simulator, config=config.gates)
    if verdicts is not None:
        run.tell(
            {"event": "note", "text": f"judge on episodes of known verdict: {verdicts.count()}"}
        )
    if config.run.adapter and not find_checkpoints(run.store.folder / "checkpoints"):
        await publish(run, 1)
    before = await measure(config, run, run.versions.current, label="before")
    if find_checkpoints(run.store.folder / "checkpoints") and (resume or dead is not None):
        await restore(run, *open_checkpoint(run.store.folder / "checkpoints"), dead=dead)
    if run.step < run.steps:
        if not find_checkpoints(run.store.folder / "checkpoints"):
            await store_checkpoint(run)
        length = await probe(run.core, run.learning.loss, ladder=run.ladder)
        run.places.total_tokens = run.ladder.rung.parallel
        run.tell({"event": "note", "text": f"a training sample of {length} ids fits"})
        if dead is None:
            run.begun = time.monotonic()
        name = f"training, {config.run.steps} steps"
        run.tell({"event": "stage", "name": name, "spent": run.spent})
        # What start-up made lives on: the collector need not look at it again, 5 % of all turns.
        gc.freeze()
        await train(run)
    after = await measure(config, run, run.versions.current, label="after")
    return conclude(config, run, before, after, seconds=time.monotonic() - begun)


async def restore(run: Run, path: Path, state: RunState, *, dead: Run | None = None) -> None:
    """Continue from a checkpoint: weights, optimiser, source, counts; later lines are cut off.

    After a dead run the drafts that it had drawn are passed over, and its finished groups are kept.
    """
    await run.core.load(path)
    run.source.restore(state.source)
    run.watch.restore(state.watch)
    run.effect.restore(state.effect)
    run.ladder.restore(state.ladder)
    await run.core.adjust(run.ladder.rung.checkpointing)
    run.places.total_tokens = run.ladder.rung.parallel
    run.step, run.next_group, run.said = state.step, state.next_group, state.said
    if dead is not None:
        run.waiting = [group for group in dead.waiting if group.version <= state.version]
        while run.next_group < dead.next_group and run.source.draw() is not None:
            run.next_group += 1
    for name in ("metrics.jsonl", "timing.jsonl"):
        keep_lines(run.store.folder / name, state.step)
    if state.version:
        adapter = run.store.adapter(state.version)
        await run.core.publish(adapter)
        await run.versions.announce(adapter)
    run.tell({"event": "note", "text": f"continuing after step {state.step} from {path}"})


async def until_interrupted(job: Callable[[], Any]) -> Any:
    """Run a job; an interrupt or a polite kill cancels it.

    Raises:
        KeyboardInterrupt: if it was interrupted.
    """
    interrupted = False
    result: Any = None
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                nonlocal interrupted
                async for _ in signals:
                    interrupted = True
                    tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            result = await job()
            tasks.cancel_scope.cancel()
    if interrupted:
        raise KeyboardInterrupt
    return result


def use_card(index: int) -> None:
    """Show the engine one card only."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = str(index)


def is_terminal() -> bool:
    """Say whether the user watches on a terminal."""
    return sys.stdout.isatty()
