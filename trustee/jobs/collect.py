"""`trustee collect`: put a collection together, with whom in the policy's seat was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from trustee.config import Config, decode_stored
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import Services
from trustee.errors import InputError
from trustee.events import Emit, Stage
from trustee.jobs.assemble import make_simulator, open_sandbox, open_watched, prepare_model
from trustee.jobs.run_metadata import describe_run
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodePlayer
from trustee.runs.adapters import check_fit, find_adapter, read_adapter
from trustee.runs.store import Store
from trustee.sft.collect import CollectConfig, Collection, Counts, collect
from trustee.sft.endpoint import Endpoint, EndpointPlayer
from trustee.sft.teacher import Player, TeacherPlayer
from trustee.types import Adapter, Record, Task

COLLECTION_FILE = "collection.json"


class PlayerConfig(Record, frozen=True):
    """Who plays: the base, an adapter, or a teacher."""

    teacher: bool = False
    """The base with hints, or with `url` an endpoint."""
    url: str = ""
    model: str = ""
    """Of the endpoint."""
    adapter: str = ""
    """PEFT or run folder."""

    def __post_init__(self) -> None:
        """Refuse two players in one seat.

        Raises:
            InputError: naming the options.
        """
        if self.adapter and (self.teacher or self.url):
            raise InputError("--adapter plays as the policy; leave it out, or the teacher")
        if self.model and not self.url:
            raise InputError("--teacher-model names a model of --teacher-url; give that too")


class CollectionMetadata(Record, frozen=True):
    """What a collection was begun with; the config is in `run.json`."""

    player: PlayerConfig
    collect: CollectConfig
    config: Config


async def run_collection(
    config: Config,
    collection: CollectConfig,
    folder: Path,
    *,
    count: int,
    player: PlayerConfig,
    emit: Emit,
) -> Counts:
    """Play `count` tasks into a folder; what an earlier call has played there is not played again.

    Raises:
        InputError: if the folder holds something else.
        EngineDied: if the engine dies; the same call goes on.
    """
    if count < 1:
        raise InputError(f"--count must be 1 or more, got {count}")
    model, renderer = prepare_model(config)
    trained = None
    if player.adapter:
        trained = find_adapter(Path(player.adapter))
        check_fit(read_adapter(trained), model, rank=config.learn.rank)
    record = CollectionMetadata(player=player, collect=collection, config=config)
    check_collection_metadata(folder, record)
    clock = EngineClock()
    async with (
        Store(folder) as store,
        open_sandbox(config) as sandbox,
        open_watched(config, model, folder, clock=clock, emit=emit) as engine,
    ):
        write_collection_metadata(folder, record)
        adapter = None if trained is None else await publish_adapter(engine, trained, folder=folder)
        simulator = make_simulator(config, engine, renderer)
        emit(Stage(name=f"playing {count} tasks"))
        return await collect(
            Collection(
                source=config.env.source(seed=config.run.seed),
                player=EpisodePlayer(
                    make_environment=config.env.environment,
                    serve=lambda rng: Services(simulator=simulator, rng=rng, sandbox=sandbox),
                    engine=engine,
                    renderer=renderer,
                    clock=clock,
                    limits=config.rollout.limits,
                    temperature=config.rollout.temperature,
                    context=config.engine.context,
                ),
                player_of=players_of(config, player, engine, renderer),
                adapter=adapter,
                hinter=config.env.hints if player.teacher or player.url else None,
                config=collection,
                rollout=config.rollout,
                seed=config.run.seed,
                store=store,
                emit=emit,
                count=count,
                states_of=config.env.cut_states,
            )
        )


async def publish_adapter(engine: Watchdog, trained: Path, *, folder: Path) -> Adapter:
    """Have an engine speak with a trained adapter; return the version that does."""
    await engine.load_adapter(Adapter(version=1, path=trained))
    adapter = Adapter(version=1, path=folder / "adapters" / "collecting")
    await engine.publish(adapter)
    return adapter


def write_collection_metadata(folder: Path, record: CollectionMetadata) -> None:
    """Write down what a collection is begun with."""
    for name, content in ((COLLECTION_FILE, record), ("run.json", describe_run(record.config))):
        text = msgspec.json.format(msgspec.json.encode(content), indent=2)
        (folder / name).write_bytes(text)


def check_collection_metadata(folder: Path, record: CollectionMetadata) -> None:
    """See that a folder is new or holds the same collection.

    Raises:
        InputError: if it does not.
    """
    path = folder / COLLECTION_FILE
    if not path.exists():
        if (folder / "run.json").exists():
            raise InputError(f"{folder} holds a run already; name another folder")
        return
    try:
        before = decode_stored(path.read_bytes(), CollectionMetadata)
    except InputError as error:
        raise InputError(f"{path}: {error}; name another folder") from error
    for key in ("player", "collect", "config"):
        if getattr(before, key) != getattr(record, key):
            raise InputError(
                f"{folder} was collected with another {key}; name another folder, or go on with "
                f"what {path} says"
            )


def players_of(
    config: Config, player: PlayerConfig, engine: Engine, renderer: Renderer
) -> Callable[[Task], Player]:
    """Give the function that seats whoever plays a task."""
    if not (player.teacher or player.url):
        return lambda task: Player(engine, renderer)
    hints, prompt_set = config.env.hints, config.env.teacher_prompts()
    if not player.url:
        return lambda task: TeacherPlayer(engine, renderer, hints(task), prompt_set=prompt_set)
    endpoint = Endpoint(player.url, model=player.model, parallel=config.rollout.episodes)
    return lambda task: EndpointPlayer(
        endpoint, renderer, hints(task), prompt_set=prompt_set, context=config.engine.context
    )


def counts_text(counts: Counts, folder: Path) -> str:
    """Say for people what was collected and what to do next."""
    lines = [f"{counts.tasks} tasks, {counts.episodes} episodes, {counts.kept} kept"]
    if counts.unwritten:
        lines.append(f"  {counts.unwritten} tasks could not be written")
    lines += [
        f"  {count:>6} dropped: {reason}"
        for reason, count in sorted(counts.dropped.items(), key=lambda item: -item[1])
    ]
    if counts.demonstrations:
        lines.append(
            f"{counts.demonstrations} demonstrations  {folder / 'demonstrations.jsonl'}\n"
            f"next  trustee sft CONFIG {folder}"
        )
    if counts.states:
        lines.append(f"{counts.states} states  {folder / 'states.jsonl'}")
    lines.append(f"read them  trustee view {folder} --limit 0")
    return "\n".join(lines)
