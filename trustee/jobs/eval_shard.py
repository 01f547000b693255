"""`trustee eval --shard K/N`: a part of a comparison, in a folder of its own.

The folder holds what the run folder would after `trustee eval`, for the share's tasks alone, and
shared-tasks.jsonl, the tasks with their places among all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from trustee.config import Config
from trustee.engine.protocol import EngineProgress
from trustee.errors import InputError
from trustee.evaluation.evaluate import SuccessRate, success_of, write_share
from trustee.events import Emit
from trustee.jobs.assemble import choose_adapter, prepare_model
from trustee.jobs.comparison import play_policies
from trustee.jobs.evaluate import label_adapters, name_tasks
from trustee.jobs.held_out import evaluation_world, read_whole, show_share
from trustee.jobs.run_metadata import begin_record
from trustee.jobs.share_out import describe_shard
from trustee.jobs.stage_meter import metered
from trustee.rollout import EpisodePlayer
from trustee.runs.files import write_lines
from trustee.runs.inputs import hash_input
from trustee.runs.ownership import own_folder
from trustee.runs.shards import Share, check_folder, noting
from trustee.runs.store import Store
from trustee.types import Record, Task

SHARED_TASKS = "shared-tasks.jsonl"


class PlacedTask(Record, frozen=True):
    """A line of `shared-tasks.jsonl`."""

    place: int
    """Number of the task among all of them, also those of other shards."""
    task: Task


class PlayedShard(Record, frozen=True):
    """What a shard of a comparison found; a figure on few tasks, which only the merge completes."""

    folder: Path
    share: Share
    policies: dict[str, SuccessRate]


async def play_shard(
    config: Config,
    run: Path,
    folder: Path,
    *,
    share: Share,
    adapters: Sequence[Path],
    repeats: int,
    emit: Emit,
) -> PlayedShard:
    """Play a share of the tasks of `play_adapters`, in a folder beside the run's.

    Raises:
        InputError: if there are no tasks, or the folder holds something else.
    """
    if not config.eval.tasks:
        raise InputError("eval.tasks is none, so there are no tasks to play; give --tasks N")
    model, renderer = prepare_model(config)
    labelled = label_adapters(
        [choose_adapter(config, adapter, model, emit=emit) for adapter in adapters]
    )
    name = name_tasks(config, run)
    known = read_whole(run / name, Task)
    record = describe_shard(
        config,
        "eval",
        share=share,
        count=len(known) if known else config.eval.tasks,
        model=model,
        adapters=labelled,
        more={
            "repeats": repeats,
            "tasks_file": name,
            "tasks": hash_input(run / name) if known else "",
        },
    )
    check_folder(folder, record)
    with own_folder(folder), noting(folder, record):
        config = begin_record(config, folder)
        _, played = await play_policies(
            config,
            folder,
            model=model,
            renderer=renderer,
            policies={"base": None, **labelled},
            stored_as="eval",
            repeats=repeats,
            find_tasks=partial(find_share, config, known, share=share, emit=emit),
            emit=emit,
        )
    return PlayedShard(
        folder=folder,
        share=share,
        policies={label: success_of(episodes) for label, episodes in played.items()},
    )


async def find_share(
    config: Config,
    known: Sequence[Task] | None,
    store: Store,
    player: EpisodePlayer,
    *,
    share: Share,
    emit: Emit,
) -> Mapping[int, Task]:
    """Return a share of the held-out tasks by their places: the run's own, or new ones.

    What an earlier call wrote into the shard's folder is not written again.
    """
    path = store.folder / SHARED_TASKS
    if known:
        placed = {place: task for place, task in enumerate(known) if share.takes(place)}
    elif (before := read_whole(path, PlacedTask)) is not None:
        return {line.place: line.task for line in before}
    else:
        source = evaluation_world(config).source(seed=config.eval.seed, held_out=True)
        count = share.count(config.eval.tasks or 0)
        stage = f"writing {count} held-out tasks"
        with metered(stage, emit, of=count, unit="tasks", engine=EngineProgress) as meter:
            placed = await write_share(
                source, player, config=config.eval, share=share, done=meter.count
            )
    write_lines(path, [PlacedTask(place=place, task=task) for place, task in placed.items()])
    return placed


def shard_text(played: PlayedShard) -> str:
    """Return what a shard found as readable text."""
    width = max(map(len, played.policies))
    lines = [
        f"{label:<{width}}  {show_share(success)}" for label, success in played.policies.items()
    ]
    return "\n".join(
        [
            f"shard {played.share}",
            *lines,
            f"all shards together  trustee merge OUT {played.folder} ...",
        ]
    )
