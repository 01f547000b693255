"""A run in stages: a teacher plays, the policy imitates it, and then RL training starts.

Each stage has its own folder inside the run's folder and can be continued there, so a run that was
interrupted in any of them continues where it stopped.
Source: ToolMaster, arXiv 2601.12762: imitation of trials first, reinforcement learning second.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from trustee.config import Config
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.engine_simulator import EngineSimulator
from trustee.environments.protocol import Services
from trustee.errors import InputError
from trustee.events import Emit, Note
from trustee.jobs.assemble import prepare_model
from trustee.jobs.collect import PlayerConfig, counts_text, run_collection
from trustee.jobs.held_out import RunResult
from trustee.jobs.rl import run_training
from trustee.jobs.run_metadata import begin_record
from trustee.jobs.sft import run_sft
from trustee.jobs.tracked import run_tracked
from trustee.runs.adapters import find_adapter
from trustee.runs.checkpoint import find_checkpoints
from trustee.runs.files import write_lines
from trustee.runs.ownership import own_folder
from trustee.runs.store import Store
from trustee.sft.demonstrations import Demonstration
from trustee.tiny.teacher import play_demonstration

TEACHING, IMITATION = "teaching", "sft"


async def run_stages_of(
    config: Config, folder: Path, *, emit: Emit, resume: bool = False, profile: bool = False
) -> RunResult:
    """Train; if the config asks for a teacher, first imitate the teacher's demonstrations.

    Raises:
        InputError: if the world is not one that the requested teacher can play, or the package of a
            tracker is not installed.
        EngineDied: if the engine died twice; the run can be resumed.
    """
    emit(Note(text=foretell(config, folder)))
    return await run_tracked(
        config,
        folder,
        lambda tell: run_each(config, folder, emit=tell, resume=resume, profile=profile),
        emit=emit,
    )


async def run_each(
    config: Config, folder: Path, *, emit: Emit, resume: bool, profile: bool
) -> RunResult:
    """Run the stages of a run, one after the other."""
    if config.collect.tasks and not config.run.adapter:
        if not resume:
            # At the start of a run, so that its first stages can be resumed too.
            with own_folder(folder):
                config = begin_record(config, folder)
        adapter = await sft_on_teacher(config, folder, emit=emit)
        run_config = msgspec.structs.replace(config.run, adapter=str(adapter))
        config = msgspec.structs.replace(config, run=run_config)
        resume = False
    begins = not find_checkpoints(folder / "checkpoints")
    return await run_training(
        config, folder, emit=emit, resume=resume and not begins, profile=profile
    )


def foretell(config: Config, folder: Path) -> str:
    """Return what a run will do and how long it may take."""
    run, rollout = config.run, config.rollout
    limit = f" or {run.minutes:g} minutes, whichever is first" if run.minutes else ""
    told = [
        f"{config.model.path} is trained for {run.steps} steps"
        f" of {rollout.groups_per_step * rollout.group_size} episodes{limit}"
    ]
    if not run.minutes:
        told.append("there is no time limit (--minutes sets one, trustee plan estimates)")
    if config.eval.tasks:
        between = f", after and every {config.eval.every} steps"
        when = between if config.eval.every else " and after"
        told.append(f"{config.eval.tasks} held-out tasks are played before{when}")
    return "; ".join([*told, f"folder {folder}"])


async def sft_on_teacher(config: Config, folder: Path, *, emit: Emit) -> Path:
    """Let the teacher play and imitate it, skipping finished parts; return the adapter's folder."""
    sft_folder = folder / IMITATION
    if (sft_folder / "outcome.json").exists():
        return find_adapter(sft_folder).absolute()
    if config.collect.teacher == "script":
        await play_script(config, folder / TEACHING, emit=emit)
    else:
        counts = await run_collection(
            config,
            config.collect,
            folder / TEACHING,
            count=config.collect.tasks or 0,
            player=PlayerConfig(teacher=True),
            emit=emit,
        )
        emit(Note(text=counts_text(counts, folder / TEACHING)))
    has_started = bool(find_checkpoints(sft_folder / "checkpoints"))
    if not has_started:
        # Stopped before its first step, so there is nothing to continue.
        (sft_folder / "run.json").unlink(missing_ok=True)
    result = await run_sft(
        config,
        config.sft,
        folder / TEACHING,
        sft_folder,
        emit=emit,
        resume=has_started,
    )
    return result.adapter.absolute()


async def play_script(config: Config, folder: Path, *, emit: Emit) -> None:
    """Write the demonstrations of the micro-world's scripted teacher.

    Raises:
        InputError: if the world is not a trial world over the micro-world.
    """
    world = config.env
    if not world.plays_script():
        raise InputError(
            "collect.teacher = 'script' only plays trials in the micro-world: set env.kind = "
            "'trial' and env.inner.kind = 'microworld', or collect.teacher = 'base'"
        )
    _, renderer = prepare_model(config)
    silent = EngineSimulator(
        ScriptedEngine(lambda request: ""), renderer, sampling_by_role={}, tries=1
    )
    source = world.source(seed=config.run.seed)
    rows: list[Demonstration] = []
    wanted = config.collect.tasks or 0
    while len(rows) < wanted and (spec := source.draw()) is not None:
        rng = random.Random(f"{config.run.seed} script {spec.id}")
        services = Services(simulator=silent, rng=rng)
        task = await source.write(spec, services)
        played = await play_demonstration(world, task, services, habits=config.collect.script)
        shown = Demonstration(
            task_id=task.id,
            tools=played.lesson.tools,
            messages=played.lesson.messages,
            notes={"reward": played.reward},
        )
        if played.reward > config.collect.filter.reward:
            rows.append(shown)
    async with Store(folder) as store:
        write_lines(store.folder / "demonstrations.jsonl", rows)
    emit(Note(text=f"the scripted teacher played {len(rows)} tasks"))
