"""The base and adapters on the same held-out tasks, one after another in one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.watchdog import Watchdog
from trustee.events import Emit
from trustee.jobs.assemble import (
    make_simulator,
    open_background,
    open_sandbox,
    open_watched,
    restart_once,
    serve_with,
)
from trustee.jobs.held_out import evaluation_world, held_out_tasks, make_eval_player, play_metered
from trustee.jobs.stage_meter import metered
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodePlayer
from trustee.runs.files import write_lines
from trustee.runs.store import Store
from trustee.types import Adapter, Task, Trajectory

FindTasks = Callable[[Store, EpisodePlayer], Awaitable[Mapping[int, Task]]]


async def play_policies(
    config: Config,
    run: Path,
    *,
    model: Path,
    renderer: Renderer,
    policies: Mapping[str, Path | None],
    find_tasks: FindTasks,
    stored_as: str,
    say: Callable[[str], str] = "the {}".format,
    repeats: int = 1,
    emit: Emit,
) -> tuple[Sequence[Task], Mapping[str, Sequence[Trajectory]]]:
    """Play the held-out tasks with some policies, and store the episodes of each.

    Args:
        config: the run's config, or one changed from it.
        run: the run's folder.
        model: folder of the base.
        renderer: the base's.
        policies: PEFT folders by label; None is the base.
        find_tasks: returns the tasks by their numbers, which the names of the episodes have.
        stored_as: what the names of the episodes' files begin with.
        say: names a policy to readers, by its label.
        repeats: attempts of each policy at each task.
        emit: receives progress events.

    Returns:
        the tasks, and the episodes by label, first attempts in front.
    """
    played: dict[str, Sequence[Trajectory]] = {}
    async with Store(run) as store:

        async def play() -> Sequence[Task]:
            opened = open_player(config, run, model=model, renderer=renderer, emit=emit)
            async with opened as (engine, player):
                placed = await find_tasks(store, player)
                tasks, count = tuple(placed.values()), len(placed) * repeats
                for version, (label, folder) in enumerate(policies.items()):
                    if label in played:
                        continue
                    stage = f"playing {count} tasks with {say(label)}"
                    async with loaded_policy(engine, run, folder, version=version) as adapter:
                        played[label] = await play_metered(
                            tasks,
                            player,
                            metered(stage, emit, of=count, unit="episodes", engine=engine.progress),
                            config=config,
                            adapter=adapter,
                            label=label,
                            repeats=repeats,
                            places=tuple(placed),
                        )
                    name = f"{stored_as}-{label.replace(':', '-')}"
                    store_played(store.folder, name, played[label], tasks=len(tasks))
                return tasks

        tasks = await restart_once(play, emit=emit)
    return tasks, played


def all_tasks(config: Config, name: str, *, emit: Emit) -> FindTasks:
    """Return what finds all held-out tasks in a file, which is written if it is missing."""

    async def find(store: Store, player: EpisodePlayer) -> Mapping[int, Task]:
        return dict(enumerate(await held_out_tasks(config, store, player, emit=emit, name=name)))

    return find


@asynccontextmanager
async def open_player(
    config: Config, run: Path, *, model: Path, renderer: Renderer, emit: Emit
) -> AsyncIterator[tuple[Watchdog, EpisodePlayer]]:
    """Start an engine, and all that held-out episodes need; yield it and what plays them."""
    clock = EngineClock()
    async with (
        open_sandbox(config) as sandbox,
        open_background() as background,
        open_watched(config, model, run, clock=clock, emit=emit) as engine,
    ):
        simulator = make_simulator(config, engine, renderer)
        yield (
            engine,
            make_eval_player(
                config,
                engine,
                world=evaluation_world(config),
                renderer=renderer,
                serve=serve_with(simulator, sandbox=sandbox, background=background),
                clock=clock,
            ),
        )


@asynccontextmanager
async def loaded_policy(
    engine: Watchdog, run: Path, folder: Path | None, *, version: int = 1
) -> AsyncIterator[Adapter | None]:
    """Have the engine speak with an adapter for a while; None is the base."""
    if folder is None:
        yield None
        return
    await engine.load_adapter(Adapter(version=version, path=folder))
    adapter = Adapter(version=version, path=run / "adapters" / "compared")
    await engine.publish(adapter)
    yield adapter
    await engine.retire(adapter)


def store_played(folder: Path, name: str, played: Sequence[Trajectory], *, tasks: int) -> None:
    """Store the first attempts, and further ones in a file of their own."""
    write_lines(folder / f"{name}.jsonl", played[:tasks])
    further = folder / f"{name}-repeats.jsonl"
    if len(played) > tasks:
        write_lines(further, played[tasks:])
    else:
        further.unlink(missing_ok=True)
