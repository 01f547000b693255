"""`trustee collect`: collect episodes played by the base, an adapter or a teacher."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

import msgspec

from trustee.config import Config, decode_stored
from trustee.decoding import read_file
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Engine
from trustee.engine.watchdog import Watchdog
from trustee.environments.protocol import Services
from trustee.errors import InputError
from trustee.events import Emit, Stage
from trustee.jobs.assemble import (
    choose_adapter,
    make_simulator,
    open_background,
    open_sandbox,
    open_watched,
    prepare_model,
    serve_with,
)
from trustee.jobs.run_metadata import begin_record
from trustee.jobs.share_out import describe_shard
from trustee.rendering.renderer import Renderer
from trustee.rollout import EpisodePlayer
from trustee.runs.files import write_json
from trustee.runs.inputs import pin_inputs
from trustee.runs.shards import WHOLE, ShardRecord, Share, check_folder, noting
from trustee.runs.store import Store
from trustee.sft.collect import CollectConfig, Collection, Counts, collect
from trustee.sft.endpoint import Endpoint, read_address
from trustee.sft.remote_teacher import EndpointPlayer
from trustee.sft.teacher import Player, TeacherPlayer
from trustee.types import Adapter, Record, Task

COLLECTION_FILE = "collection.json"


class PlayerConfig(Record, frozen=True):
    """Which policy plays: the base, an adapter or a teacher."""

    teacher: bool = False
    """Whether a teacher plays: the base with hints, or with `url` an endpoint."""
    url: str = ""
    model: str = ""
    """Name of the endpoint's model."""
    adapter: str = ""
    """PEFT or run folder of the adapter that plays; empty: no adapter."""

    def __post_init__(self) -> None:
        """Refuse contradictory options.

        Raises:
            InputError: naming the options.
        """
        if self.adapter and (self.teacher or self.url):
            raise InputError("--adapter sets the player; leave it out, or the teacher options")
        if self.model and not self.url:
            raise InputError("--teacher-model needs --teacher-url; give --teacher-url too")

    @property
    def shows(self) -> bool:
        """Whether a teacher plays, whose episodes become demonstrations."""
        return self.teacher or bool(self.url)

    @property
    def public(self) -> PlayerConfig:
        """The player as it is written: its address has neither a password nor a query."""
        shown = read_address(self.url).shown if self.url else ""
        return msgspec.structs.replace(self, url=shown)


class CollectionMetadata(Record, frozen=True):
    """What a collection was started with; the config has hashes in place of its inputs' paths."""

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
    share: Share | None = None,
) -> Counts:
    """Play `count` tasks, or a share of them; tasks that an earlier call finished are not repeated.

    Raises:
        InputError: if the folder holds something else.
        EngineDied: if the engine died; repeating the same call continues the collection.
    """
    if count < 1:
        raise InputError(f"--count must be 1 or more, got {count}")
    model, renderer = prepare_model(config)
    given = player.adapter
    trained = choose_adapter(config, Path(given), model, emit=emit) if given else None
    record = CollectionMetadata(player=player.public, collect=collection, config=pin_inputs(config))
    shard = describe_part(record, config, share=share, count=count, model=model, adapter=trained)
    check_collection_folder(folder, record, shard)
    clock = EngineClock()
    async with (
        open_endpoint(player, parallel=config.rollout.episodes) as endpoint,
        Store(folder) as store,
        open_sandbox(config) as sandbox,
        open_background() as background,
        open_watched(config, model, folder, clock=clock, emit=emit) as engine,
    ):
        with noting(folder, shard):
            write_json(folder / COLLECTION_FILE, record, indent=2)
            config = begin_record(config, folder)
            adapter = await publish_adapter(engine, trained, folder=folder) if trained else None
            simulator = make_simulator(config, engine, renderer)
            serve = serve_with(simulator, sandbox=sandbox, background=background)
            emit(Stage(name=f"playing {(share or WHOLE).count(count)} tasks"))
            return await collect(
                Collection(
                    source=config.env.source(seed=config.run.seed),
                    player=make_player(config, engine, renderer, clock=clock, serve=serve),
                    player_of=players_of(config, player, engine, renderer, endpoint=endpoint),
                    adapter=adapter,
                    hinter=config.env.hints if player.shows else None,
                    config=collection,
                    rollout=config.rollout,
                    seed=config.run.seed,
                    store=store,
                    emit=emit,
                    count=count,
                    share=share or WHOLE,
                    states_of=config.env.cut_states,
                )
            )


def describe_part(
    record: CollectionMetadata,
    config: Config,
    *,
    share: Share | None,
    count: int,
    model: Path,
    adapter: Path | None,
) -> ShardRecord | None:
    """Return what a shard of a collection is; where an endpoint is reached says nothing of it."""
    player = record.player
    return describe_shard(
        config,
        "collect",
        share=share,
        count=count,
        model=model,
        adapters={} if adapter is None else {"adapter": adapter},
        more={
            "collect": msgspec.to_builtins(record.collect),
            "seed": config.run.seed,
            "player": {
                "teacher": player.teacher,
                "endpoint": bool(player.url),
                "model": player.model,
            },
        },
    )


def make_player(
    config: Config,
    engine: Engine,
    renderer: Renderer,
    *,
    clock: EngineClock,
    serve: Callable[[random.Random], Services],
) -> EpisodePlayer:
    """Return the player of all episodes, whose engine and renderer each teacher replaces."""
    return EpisodePlayer(
        make_environment=config.env.environment,
        serve=serve,
        engine=engine,
        renderer=renderer,
        clock=clock,
        limits=config.rollout.limits,
        temperature=config.rollout.temperature,
        context=config.engine.context,
    )


async def publish_adapter(engine: Watchdog, trained: Path, *, folder: Path) -> Adapter:
    """Publish a trained adapter to an engine and return its published version."""
    await engine.load_adapter(Adapter(version=1, path=trained))
    adapter = Adapter(version=1, path=folder / "adapters" / "collecting")
    await engine.publish(adapter)
    return adapter


def check_collection_folder(
    folder: Path, record: CollectionMetadata, shard: ShardRecord | None
) -> None:
    """Check that a folder is new or holds the same collection, and the same shard of it.

    Raises:
        InputError: if it holds something else.
    """
    check_folder(folder, shard)
    path = folder / COLLECTION_FILE
    if not path.exists():
        if (folder / "run.json").exists():
            raise InputError(f"{folder} already holds a run; name another folder")
        return
    try:
        before = decode_stored(read_file(path, error=InputError), CollectionMetadata)
    except InputError as error:
        raise InputError(f"{path}: {error}; name another folder") from error
    for key in ("player", "collect", "config"):
        if getattr(before, key) != getattr(record, key):
            raise InputError(
                f"{folder} was collected with another {key}; name another folder, or continue with "
                f"the settings in {path}"
            )


def open_endpoint(
    player: PlayerConfig, *, parallel: int
) -> AbstractAsyncContextManager[Endpoint | None]:
    """Return the client of the teacher's endpoint; None where no endpoint plays."""
    if not player.url:
        return nullcontext()
    return Endpoint(player.url, model=player.model, parallel=parallel)


def players_of(
    config: Config,
    player: PlayerConfig,
    engine: Engine,
    renderer: Renderer,
    *,
    endpoint: Endpoint | None,
) -> Callable[[Task], Player]:
    """Return the function that chooses the player of a task."""
    if not player.shows:
        return lambda task: Player(engine, renderer)
    hints, prompt_set = config.env.hints, config.env.teacher_prompts()
    if endpoint is None:
        return lambda task: TeacherPlayer(engine, renderer, hints(task), prompt_set=prompt_set)
    return lambda task: EndpointPlayer(
        endpoint, renderer, hints(task), prompt_set=prompt_set, context=config.engine.context
    )


def counts_text(counts: Counts, folder: Path) -> str:
    """Return a readable summary of a collection and the command to run next."""
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
