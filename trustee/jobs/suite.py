"""`trustee eval --suite`: play every environment of a file with the base and with an adapter."""

from __future__ import annotations

from pathlib import Path

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.environments.executable.blueprint_files import (
    RefusedBlueprint,
    read_blueprints,
    show_refused_blueprints,
)
from trustee.environments.executable.environment import Executable
from trustee.environments.protocol import Services
from trustee.evaluation.ftrl_suite import SuiteReport, SuiteReports, run_suite
from trustee.events import Emit, Note
from trustee.jobs.assemble import (
    choose_adapter,
    make_simulator,
    open_watched,
    prepare_model,
    restart_once,
)
from trustee.jobs.comparison import loaded_policy
from trustee.jobs.held_out import make_eval_player
from trustee.jobs.stage_meter import metered
from trustee.runs.files import write_lines
from trustee.runs.store import Store
from trustee.sandbox.host import ProcessSandbox


async def play_suite(
    config: Config,
    file: Path,
    folder: Path,
    *,
    adapter: Path | None,
    published: bool,
    emit: Emit,
) -> SuiteReports:
    """Play a suite with the base, and with an adapter if one is given; store every episode.

    Args:
        config: the base, prompts and limits.
        file: blueprints, in any form that `read_blueprints` reads.
        folder: where episodes and refused rows are written.
        adapter: PEFT or run folder; None: only the base plays.
        published: whether answers are compared as FTRL's own code does.
        emit: receives progress events.
    """
    model, renderer = prepare_model(config)
    world = Executable(path=str(file), published=published, prompts=config.env.teacher_prompts())
    count, refused = count_rows(file, emit=emit)
    policies: dict[str, Path | None] = {"base": None}
    if adapter is not None:
        policies["adapter"] = choose_adapter(config, adapter, model, emit=emit)
    reports: dict[str, SuiteReport] = {}
    async with Store(folder) as store, ProcessSandbox(config.sandbox) as sandbox:
        store.append("refused.jsonl", refused)

        async def play_with_an_engine() -> None:
            clock = EngineClock()
            async with open_watched(config, model, folder, clock=clock, emit=emit) as engine:
                simulator = make_simulator(config, engine, renderer)
                player = make_eval_player(
                    config,
                    engine,
                    world=world,
                    renderer=renderer,
                    serve=lambda rng: Services(simulator=simulator, rng=rng, sandbox=sandbox),
                    clock=clock,
                )
                for label in [name for name in policies if name not in reports]:
                    name = str(policies[label] or label)
                    stage = f"playing {file} with {name}"
                    async with loaded_policy(engine, folder, policies[label]) as version:
                        with metered(
                            stage, emit, of=count, unit="episodes", engine=engine.progress
                        ) as meter:
                            reports[label], played = await run_suite(
                                world,
                                player,
                                policy=name,
                                adapter=version,
                                parallel=config.eval.parallel,
                                done=meter.count,
                            )
                    write_lines(store.folder / f"suite-{label}.jsonl", played)

        await restart_once(play_with_an_engine, emit=emit)
    return SuiteReports(reports=tuple(reports.values()))


def count_rows(file: Path, *, emit: Emit) -> tuple[int, tuple[RefusedBlueprint, ...]]:
    """Return the number of usable rows of a file, and the others, which are told."""
    read = read_blueprints(file)
    if read.refused:
        why = show_refused_blueprints(read.refused)
        emit(Note(text=f"{len(read.refused)} rows of {file} are refused: {why}"))
    return len(read.blueprints), read.refused
