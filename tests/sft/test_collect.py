"""Collecting: what is written, what is counted, and that an interrupt loses nothing."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blueprints import make_blueprint
from plain_sandbox import PlainSandbox
from scripted_program import BASE, play_with, small_config
from scripts import perfect, silent
from trustee.cli.episodes import show_trajectories
from trustee.config import Config, decode_stored
from trustee.engine.script import Request
from trustee.engine.scripted import scripted_renderer
from trustee.environments.executable.blueprint import TurnState
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.environments.executable.environment import Executable
from trustee.errors import InputError, RunError
from trustee.events import Emit, EpisodePlayed, Event, TaskCollected, encode_event
from trustee.jobs import collect as command
from trustee.jobs.assemble import first_leaf
from trustee.jobs.collect import CollectionMetadata, PlayerConfig, counts_text, run_collection
from trustee.runs.store import EpisodeLine, TaskLine, read_lines
from trustee.runs.view import Filter
from trustee.sft.collect import CollectConfig, Counts
from trustee.sft.demonstration_files import read_demonstrations
from trustee.sft.demonstrations import Demonstration
from trustee.sft.endpoint import Endpoint
from trustee.sft.rejection import FilterConfig
from trustee.sft.samples import make_dataset
from trustee.types import Adapter, RejectReason

pytestmark = pytest.mark.anyio
TEACHER = PlayerConfig(teacher=True)
THRICE = CollectConfig(attempts=3)


def config(*changes: str) -> Config:
    """Give a config of the scripted micro-world."""
    return small_config("env={kind='microworld'}", "rollout.temperature=1.0", *changes)


def moody(request: Request) -> str:
    """Play well for every other seed, else say nothing useful."""
    seed = request.sampling.seed or 0
    turns = request.prompt.count("<|im_start|>assistant") - 1
    return (perfect if random.Random(seed - turns).random() < 0.5 else silent)(request)


async def run(
    folder: Path,
    *,
    count: int = 6,
    player: PlayerConfig = TEACHER,
    changes: tuple[str, ...] = (),
    collection: CollectConfig = THRICE,
    emit: Any = lambda event: None,
) -> Counts:
    """Collect."""
    return await run_collection(
        config(*changes), collection, folder, count=count, player=player, emit=emit
    )


async def test_teacher_makes_demonstrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good episodes become demonstrations, one a task; the others are counted by reason."""
    play_with(monkeypatch, moody)
    events: list[Event] = []
    counts = await run(tmp_path, emit=events.append)
    lines: list[EpisodeLine] = read_lines(tmp_path / "episodes.jsonl", EpisodeLine)
    won = {(line.group, line.member) for line in lines if line.trajectory.reward > 0}
    verdicts = {(x.group, x.member): x.rejected for x in lines}
    assert (6, 0, 18, 0) == (counts.tasks, counts.unwritten, counts.episodes, counts.states)
    assert {RejectReason.UNSOLVED: 18 - len(won)} == counts.dropped
    assert 0 < len(won) == counts.kept < 18
    assert {key: None if key in won else RejectReason.UNSOLVED for key in verdicts} == verdicts
    shown: list[Demonstration] = read_lines(tmp_path / "demonstrations.jsonl", Demonstration)
    firsts = {group: min(m for g, m in won if g == group) for group, _ in won}
    assert [f"{g}/{m}" for g, m in sorted(firsts.items())] == [d.notes["episode"] for d in shown]
    assert counts.demonstrations == len(shown)
    assert counts == msgspec.json.decode((tmp_path / "collected.json").read_bytes(), type=Counts)
    played = [event for event in events if isinstance(event, EpisodePlayed)]
    assert verdicts == {(event.group, event.member): event.rejected for event in played}
    assert 18 == len(played)
    assert {None, "no success"} == {json.loads(encode_event(e)).get("rejected") for e in played}
    last = [event for event in events if isinstance(event, TaskCollected)][-1]
    assert TaskCollected(tasks=6, of=6, kept=len(won)) == last


async def test_hints_stay_out_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher reads them, and no file holds them; what is kept can be imitated."""
    engine = play_with(monkeypatch, perfect)
    await run(tmp_path)
    prompts = [request.prompt for request in engine.requests]
    assert {True} == {"solution: " in prompt for prompt in prompts}
    for name in ("episodes.jsonl", "demonstrations.jsonl"):
        assert "solution: " not in (tmp_path / name).read_text()
    lessons = make_dataset(read_demonstrations(tmp_path), scripted_renderer(), context=8192)
    assert (6, ()) == (len(lessons.samples), lessons.refused)
    assert "solution: " not in scripted_renderer().decode(lessons.samples[0].ids)


async def test_kept_episodes_can_be_viewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`trustee view` reads the folder, and shows why an episode was not kept."""
    play_with(monkeypatch, moody)
    counts = await run(tmp_path)
    out = io.StringIO()
    show_trajectories(tmp_path, Filter(limit=0), out=out, as_json=False)
    text = out.getvalue()
    assert (18, counts.dropped[RejectReason.UNSOLVED]) == (
        text.count("version 0"),
        text.count("rejected: no success"),
    )
    assert 18 == counts.kept + counts.dropped[RejectReason.UNSOLVED]
    assert "difficulty 60, tools:" in text


class Interrupted(Exception):
    """What a test throws into a collection."""


def stop_after(episodes: int) -> Any:
    """Give a listener that ends a collection."""
    seen: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, EpisodePlayed):
            seen.append(event)
            if len(seen) == episodes:
                raise Interrupted

    return listen


@pytest.mark.parametrize("episodes", [1, 4, 11])
async def test_interrupted_collection_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, episodes: int
) -> None:
    """What was finished is kept, also as demonstrations; going on gives what one run gives."""
    play_with(monkeypatch, moody)
    whole = await run(tmp_path / "a")
    with pytest.raises(BaseExceptionGroup):
        await run(tmp_path / "b", emit=stop_after(episodes))
    begun = read_lines(tmp_path / "b" / "episodes.jsonl", EpisodeLine)
    assert episodes <= len(begun) < 18
    counted = json.loads((tmp_path / "b" / "collected.json").read_bytes())
    assert len(begun) == counted["episodes"]
    engine = play_with(monkeypatch, moody)
    events: list[Event] = []
    assert whole == await run(tmp_path / "b", emit=events.append)
    assert 18 - len(begun) == sum(isinstance(event, EpisodePlayed) for event in events)
    assert engine.requests
    files = [(tmp_path / name / "demonstrations.jsonl").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    keys = [(x.group, x.member) for x in read_lines(tmp_path / "b" / "episodes.jsonl", EpisodeLine)]
    assert 18 == len(set(keys)) == len(keys)


async def test_larger_count_adds_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder takes more tasks; those that it has are not played again."""
    play_with(monkeypatch, perfect)
    await run(tmp_path, count=2)
    before = read_lines(tmp_path / "tasks.jsonl", TaskLine)
    engine = play_with(monkeypatch, perfect)
    counts = await run(tmp_path, count=5)
    after = read_lines(tmp_path / "tasks.jsonl", TaskLine)
    assert (5, 15) == (counts.tasks, counts.episodes)
    assert before == after[:2]
    groups = {int(request.request_id.split("/")[0]) for request in engine.requests}
    assert {2, 3, 4} == groups


async def test_policy_plays_without_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a teacher all valid episodes are kept, and none is a demonstration."""
    engine = play_with(monkeypatch, moody)
    counts = await run(tmp_path, player=PlayerConfig())
    assert (18, 0, {}) == (counts.kept, counts.demonstrations, counts.dropped)
    assert not (tmp_path / "demonstrations.jsonl").exists()
    assert {None} == {request.adapter for request in engine.requests}
    assert {False} == {"solution: " in request.prompt for request in engine.requests}


async def test_adapter_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is checked, taken and published, and speaks."""
    engine = play_with(monkeypatch, moody)
    trained = tmp_path / "run" / "adapters" / "policy-000007"
    checked: list[tuple[Any, ...]] = []

    def choose(config: Config, path: Path, model: Path, *, emit: Emit) -> Path:
        checked.append((path, model))
        return trained

    monkeypatch.setattr(command, "choose_adapter", choose)
    await run(tmp_path / "out", player=PlayerConfig(adapter=str(tmp_path / "run")))
    assert [(tmp_path / "run", BASE)] == checked
    assert [Adapter(version=1, path=trained)] == engine.learner.loaded
    names = {request.adapter.name if request.adapter else "" for request in engine.requests}
    assert {"policy-000001"} == names


def find_text(folder: Path, text: bytes) -> list[Path]:
    """List the files below a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text in path.read_bytes()]


@pytest.mark.parametrize(("count", "said"), [(40, "episodes all failed"), (1, "all 3 episodes")])
async def test_hopeless_collection_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, said: str
) -> None:
    """Where every episode has failed, it ends and says why."""
    play_with(monkeypatch, perfect)
    monkeypatch.setattr(Endpoint, "_pause_before", lambda *given: 0.0)
    player = PlayerConfig(teacher=True, url="http://u:hush1@127.0.0.1:1/v1?k=hush1", model="m")
    with pytest.raises((BaseExceptionGroup, RunError)) as caught:
        await run(tmp_path, player=player, count=count)
    error = first_leaf(caught.value)
    assert isinstance(error, RunError)
    assert said in str(error)
    assert "failed, the last because of engine: http://127.0.0.1:1/v1 refused" in str(error)
    assert [] == find_text(tmp_path, b"hush1")
    counted = json.loads((tmp_path / "collected.json").read_bytes())
    assert {"failed, not by the policy": counted["episodes"]} == counted["dropped"]


async def test_unwritten_tasks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft of which the writer makes no task is no task."""

    def refuse(request: Request) -> str:
        return "no" if request.sampling.schema else perfect(request)

    engine = play_with(monkeypatch, perfect)
    monkeypatch.setattr(engine, "_script", refuse)
    with pytest.raises((BaseExceptionGroup, RunError)) as caught:
        await run_collection(
            small_config(),
            CollectConfig(),
            tmp_path,
            count=3,
            player=PlayerConfig(),
            emit=lambda event: None,
        )
    error = first_leaf(caught.value)
    assert "the writing of all 3 tasks failed, the last because of writer" in str(error)
    counts = msgspec.json.decode((tmp_path / "collected.json").read_bytes(), type=Counts)
    assert (0, 3, 0) == (counts.tasks, counts.unwritten, counts.episodes)
    failures = [line.failure for line in read_lines(tmp_path / "tasks.jsonl", TaskLine)]
    assert {"writer"} == {failure.source for failure in failures if failure}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "--count must be 1 or more, got 0"),
        ({"player": PlayerConfig()}, "was collected with another player; name another folder"),
        ({"changes": ("run.seed=9",)}, "was collected with another config; name another"),
        (
            {"collection": CollectConfig(filter=FilterConfig(messages=3))},
            "was collected with another collect; name another folder",
        ),
    ],
)
async def test_folder_of_another_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    """Nothing of another origin is mixed in."""
    play_with(monkeypatch, perfect)
    await run(tmp_path, count=1)
    with pytest.raises(InputError) as caught:
        await run(tmp_path, **given)
    assert message in str(caught.value)


async def test_folder_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training run is not collected into."""
    play_with(monkeypatch, perfect)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="already holds a run; name another folder"):
        await run(tmp_path)


async def test_record_names_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder says who played and with which settings; no key is among them."""
    monkeypatch.setenv("TRUSTEE_TEACHER_KEY", "secret-key")
    play_with(monkeypatch, perfect)
    await run(tmp_path, count=1)
    text = (tmp_path / "collection.json").read_bytes()
    assert (CollectionMetadata(player=TEACHER, collect=THRICE, config=config())) == decode_stored(
        text, CollectionMetadata
    )
    names = ("collection.json", "run.json", "tasks.jsonl", "episodes.jsonl")
    assert {False} == {"secret-key" in (tmp_path / name).read_text() for name in names}


def solve_keys(request: Request) -> str:
    """Find the key's box, read its label, and say it."""
    results = re.findall(r"<\|im_start\|>tool\n(.*?)<\|im_end\|>", request.prompt)
    if len(results) == 2:
        return str(json.loads(results[1])["label"])
    place = json.loads(results[0])["place"] if results else ""
    call = ("read_label", {"place": place}) if results else ("find_thing", {"thing": "blue key"})
    return f"<tool_call>{json.dumps({'name': call[0], 'arguments': call[1]})}</tool_call>"


@pytest.mark.parametrize("player", [PlayerConfig(), TEACHER])
async def test_environments_that_run_give_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, player: PlayerConfig
) -> None:
    """Each episode is cut into states, which a world of single turns can read again."""

    @asynccontextmanager
    async def plain(config: Config) -> AsyncIterator[PlainSandbox]:
        yield PlainSandbox()

    write_blueprint(make_blueprint(3), tmp_path / "built")
    play_with(monkeypatch, solve_keys)
    monkeypatch.setattr(command, "open_sandbox", plain)
    world = f"env={{kind='executable', path='{tmp_path / 'built'}', reserve_one_in=1000}}"
    counts = await run_collection(
        small_config(world),
        CollectConfig(attempts=1),
        tmp_path / "out",
        count=2,
        player=player,
        emit=lambda event: None,
    )
    taught = 2 if player.teacher else 0
    assert (2, {}, taught, 6) == (counts.kept, counts.dropped, counts.demonstrations, counts.states)
    states: list[TurnState] = read_lines(tmp_path / "out" / "states.jsonl", TurnState)
    assert [0.0, 0.5, 1.0] * 2 == [state.solve_rate for state in states]
    read = Executable(
        path=str(tmp_path / "built"),
        states=str(tmp_path / "out" / "states.jsonl"),
        unit="turn",
        reserve_one_in=1000,
    )
    assert read.source(seed=0).draw() is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter": "a", "teacher": True}, "leave it out, or the teacher"),
        ({"model": "m"}, "--teacher-model needs --teacher-url; give --teacher-url too"),
    ],
)
def test_refused_players(fields: dict[str, Any], message: str) -> None:
    """Options that contradict each other are named."""
    with pytest.raises(InputError, match=message):
        PlayerConfig(**fields)


def test_counts_for_people(tmp_path: Path) -> None:
    """What was played, what was dropped and why, and what to do next."""
    counts = Counts(
        tasks=5,
        unwritten=1,
        episodes=15,
        kept=4,
        dropped={RejectReason.UNSOLVED: 3, RejectReason.TOO_LONG: 8},
        demonstrations=3,
        states=0,
    )
    assert (
        "5 tasks, 15 episodes, 4 kept\n"
        "  1 tasks could not be written\n"
        "       8 dropped: too long\n"
        "       3 dropped: no success\n"
        "3 demonstrations  out/demonstrations.jsonl\n"
        "next  trustee sft CONFIG out\n"
        "read them  trustee view out --limit 0"
    ) == counts_text(counts, Path("out"))
