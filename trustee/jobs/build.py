"""`trustee build`: write tool environments with the base model of a config."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.watchdog import Watchdog
from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.build import build
from trustee.environments.executable.building.report import BuildReport
from trustee.events import CandidateBuilt, Emit, Event
from trustee.jobs.assemble import make_simulator, open_watched, prepare_model, restart_once
from trustee.jobs.share_out import describe_shard
from trustee.jobs.stage_meter import StageMeter, metered
from trustee.runs.ownership import own_folder
from trustee.runs.shards import WHOLE, Share, noting
from trustee.sandbox.host import ProcessSandbox


async def run_build(
    config: Config,
    folder: Path,
    *,
    count: int,
    seed: int,
    scenario: Scenario | None,
    resume: bool,
    emit: Emit,
    share: Share | None = None,
) -> BuildReport:
    """Build `count` environments, or a share of them; if the engine dies, restart it once.

    Raises:
        InputError: if the folder holds another build, or it holds this one and `resume` is False.
        EngineDied: if the engine died again; the build can be resumed.
    """
    model, renderer = prepare_model(config)
    has_begun = resume
    more = {"seed": seed, "scenario": scenario}
    record = describe_shard(config, "build", share=share, count=count, model=model, more=more)
    wanted = (share or WHOLE).count(count)
    with own_folder(folder), noting(folder, record):
        async with ProcessSandbox(config.sandbox) as sandbox:

            async def build_with_an_engine() -> BuildReport:
                nonlocal has_begun
                clock = EngineClock()
                async with open_watched(config, model, folder, clock=clock, emit=emit) as engine:
                    resuming, has_begun = has_begun, True
                    with building(folder, emit, wanted=wanted, engine=engine) as meter:
                        return await build(
                            config.build,
                            count=count,
                            seed=seed,
                            folder=folder,
                            simulator=make_simulator(config, engine, renderer),
                            sandbox=sandbox,
                            emit=partial(count_built, emit, meter),
                            scenario=scenario,
                            resume=resuming,
                            share=share or WHOLE,
                        )

            return await restart_once(build_with_an_engine, emit=emit)


def building(
    folder: Path, emit: Emit, *, wanted: int, engine: Watchdog
) -> AbstractContextManager[StageMeter]:
    """Return the stage of a build, which shows how many environments there are."""
    name = f"building {wanted} environments in {folder}"
    return metered(name, emit, of=wanted, unit="environments", engine=engine.progress)


def count_built(emit: Emit, meter: StageMeter, event: Event) -> None:
    """Pass an event on, and tell the meter how many environments there are."""
    if isinstance(event, CandidateBuilt):
        meter.advance_to(event.accepted)
    emit(event)
