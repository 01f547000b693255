"""The parts that jobs share, built from a config: engine, simulator, sandbox and trainer."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from trustee.algorithm.learner import TrainerSpec
from trustee.algorithm.memory_ladder import MemoryLadder, MemoryLevel
from trustee.checks.canaries import read_canaries
from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.model_files import TINY, name_base
from trustee.engine.protocol import Engine, TrainingEngine
from trustee.engine.timing import Observer
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import Services
from trustee.environments.simulator import RoleSampling, Simulator
from trustee.errors import EngineDied, InputError
from trustee.events import Emit, Note
from trustee.jobs.held_out import evaluation_world
from trustee.jobs.stage_meter import metered
from trustee.rendering.chat_templates import ChatStyle, read_template
from trustee.rendering.renderer import Renderer
from trustee.runs.adapters import find_adapter
from trustee.sandbox.calls import NoSandbox, Sandbox
from trustee.sandbox.host import ProcessSandbox
from trustee.types import Role

T = TypeVar("T")

SHORTEST_CONTEXT = 512
"""Shortest context in tokens that the memory ladder goes down to; no episode fits into less."""


def trainer_spec(config: Config, folder: Path) -> TrainerSpec:
    """Return the settings with which the trainer is built."""
    template = read_template(config.model.template)
    return TrainerSpec(
        folder=str(folder),
        learn=config.learn,
        seed=config.run.seed,
        cores=len(os.sched_getaffinity(0)),
        start=str(find_adapter(Path(config.run.adapter))) if config.run.adapter else None,
        base=name_base(config.model.path, folder),
        template=template.text if template else "",
        reference=bool(config.run.adapter and config.learn.loss.kl_coef),
    )


@asynccontextmanager
async def open_engine(
    config: Config, model: Path, *, emit: Emit, observer: Observer | None = None
) -> AsyncIterator[TrainingEngine]:
    """Start the engine of a config. No other function starts one.

    Args:
        config: the engine and trainer settings.
        model: folder of the base model.
        emit: receives progress events.
        observer: is called for every finished request.

    Raises:
        RunError: if the engine does not start.
    """
    if format_note := config.engine.explain_weights():
        emit(Note(text=format_note))
    starting = config.engine.open(trainer_spec(config, model), observer=observer)
    name = f"starting the engine on {show_place(config, model)}"
    async with AsyncExitStack() as stack:
        with metered(name, emit, of=0, unit="MiB", engine=starting.progress):
            engine = await stack.enter_async_context(starting)
        yield engine


@asynccontextmanager
async def open_watched(
    config: Config, model: Path, folder: Path, *, clock: EngineClock, emit: Emit
) -> AsyncIterator[Watchdog]:
    """Start the engine under the watchdog, which also guards the event loop while it is open.

    Args:
        config: the engine and trainer settings.
        model: folder of the base model.
        folder: where stack dumps are written if something hangs.
        clock: clock that is stopped while the trainer works.
        emit: receives progress events.

    Raises:
        RunError: if the engine does not start.
    """
    async with open_engine(config, model, emit=emit) as engine:
        guarded = Watchdog(
            engine,
            engine,
            config=config.watchdog,
            clock=clock,
            folder=folder,
            interrupt=engine.dump_stacks,
        )
        async with guarded.guard():
            yield guarded


async def restart_once(job: Callable[[], Awaitable[T]], *, emit: Callable[[Note], None]) -> T:
    """Run a job that starts an engine; if the engine dies, run the job once more.

    The job itself keeps, on disk or in its own variables, the work that need not be repeated.

    Raises:
        EngineDied: if the engine died a second time.
    """
    try:
        return await job()
    except (EngineDied, BaseExceptionGroup) as error:
        if not is_engine_death(error):
            raise
        emit(Note(text=f"{first_leaf(error)}; starting the engine again", about="engine"))
    return await job()


def first_leaf(error: BaseException) -> BaseException:
    """Return the first exception inside nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_engine_death(error: BaseException) -> bool:
    """Whether a job ended only because the engine died."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(EngineDied)[1] is None
    return isinstance(error, EngineDied)


def sampling_of(config: Config) -> dict[Role, RoleSampling]:
    """Return how each role of the simulator samples."""
    simulator = config.simulator
    return {
        Role.WRITER: simulator.writer,
        Role.USER: simulator.user,
        Role.TOOL: simulator.tool,
        Role.JUDGE: simulator.judge,
        Role.BUILDER: simulator.builder,
    }


def make_simulator(config: Config, engine: Engine, renderer: Renderer) -> Simulator:
    """Return the simulator of a config."""
    return Simulator(
        engine, renderer, sampling_by_role=sampling_of(config), tries=config.simulator.tries
    )


@asynccontextmanager
async def open_sandbox(config: Config) -> AsyncIterator[Sandbox]:
    """Open the sandbox if a world of this run needs one.

    Raises:
        InputError: if this machine has no mechanism that can confine untrusted code.
    """
    if not (config.env.needs_sandbox() or evaluation_world(config).needs_sandbox()):
        yield NoSandbox()
        return
    async with ProcessSandbox(config.sandbox) as sandbox:
        yield sandbox


def serve_with(
    simulator: Simulator, *, sandbox: Sandbox, background: TaskGroup
) -> Callable[[random.Random], Services]:
    """Return what gives each episode its services, which differ in their randomness alone."""
    return lambda rng: Services(
        simulator=simulator, rng=rng, sandbox=sandbox, background=background
    )


@asynccontextmanager
async def open_background() -> AsyncIterator[TaskGroup]:
    """Open the tasks of a job in which episodes keep connections; they end with the job."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as error:
        # What a job raises leaves it as it is, and not as a group of tasks that have ended well.
        if len(error.exceptions) > 1:
            raise
        raise error.exceptions[0] from None


def prepare_model(config: Config) -> tuple[Path, Renderer]:
    """Find the model and check that its chat template is usable.

    Raises:
        InputError: if the model or template is unusable; raised before anything heavy is loaded.
    """
    engine, roles = config.engine, sampling_of(config)
    style = ChatStyle(
        thinking=config.model.thinking,
        cuts_thoughts=any(role.thinking for role in roles.values()),
        template=read_template(config.model.template),
        call_format=config.model.call_format,
    )
    folder, renderer = engine.load_renderer(config.model.path, style)
    renderer.self_test()
    if config.model.thinking and not renderer.knows_thinking:
        raise InputError(
            "model.thinking = true has no effect: the chat template neither reads enable_thinking "
            "nor writes thoughts; set model.thinking to false"
        )
    silent = [str(name) for name, role in roles.items() if not role.thinking]
    if silent and renderer.with_thinking(False).opens_thought:
        raise InputError(
            "this model's chat template begins every answer with a thought, so a grammar would "
            f"apply within it: set simulator.<role>.thinking = true for {', '.join(silent)}"
        )
    if config.run.adapter:
        start = find_adapter(Path(config.run.adapter))
        engine.check_adapter(start, folder, rank=config.learn.rank)
    rules = config.env.judge_rules()
    if rules is not None and config.gates.shows_canaries:
        read_canaries(rules.prompts)
    return folder, renderer


def choose_adapter(config: Config, path: Path, model: Path, *, emit: Emit) -> Path:
    """Return the adapter folder at a path, checked against the base, and say which one it is.

    Raises:
        InputError: if there is none, or it does not fit.
    """
    found = find_adapter(path)
    config.engine.check_adapter(found, model, rank=config.learn.rank)
    which = "" if found == path else f", the newest of {path}"
    emit(Note(text=f"adapter {found}{which}"))
    return found


def show_place(config: Config, model: Path) -> str:
    """Return the names of model and device for display; the built-in model's folder has none."""
    name = "tiny" if model == TINY else model.name
    return f"{name} ({config.engine.device})"


def make_memory_ladder(config: Config) -> MemoryLadder:
    """Return the memory ladder, whose top rung is the config's own settings."""
    top = MemoryLevel(
        micro_tokens=config.learn.micro_tokens,
        activation_checkpointing=config.learn.activation_checkpointing,
        context=config.engine.context,
        parallel=config.rollout.episodes,
    )
    # A message as long as half the context is a limit and no expectation.
    shortest = min(2 * config.rollout.limits.tokens, config.engine.context // 2)
    return MemoryLadder(top, shortest=max(SHORTEST_CONTEXT, shortest))
