"""Jobs in shards: what is merged is what one job makes, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripted_program import learnt, play_with, small_config
from scripts import Policy, cast, perfect, silent
from trustee.config import Config
from trustee.engine.script import Request
from trustee.errors import InputError
from trustee.events import Event, Stage
from trustee.jobs.collect import PlayerConfig, run_collection
from trustee.jobs.eval_shard import PlayedShard, play_shard, shard_text
from trustee.jobs.evaluate import Comparison, run_comparison
from trustee.jobs.merge import merge, rename
from trustee.jobs.policies import PolicyTable, run_policies
from trustee.jobs.run_metadata import describe_run
from trustee.runs.shards import Share, read_shard
from trustee.runs.store import EpisodeLine, read_lines
from trustee.sft.collect import CollectConfig, Counts
from trustee.types import CalledTool, Message, Outcome, SolveFacts, Task, ToolCall, Trajectory

pytestmark = pytest.mark.anyio
TEACHER = PlayerConfig(teacher=True)


def ignore(event: Event) -> None:
    """Hear an event without doing anything."""


def by_seed(request: Request) -> str:
    """Play well for every other seed, else say nothing useful."""
    seed = request.sampling.seed or 0
    turns = request.prompt.count("<|im_start|>assistant") - 1
    return (perfect if random.Random(seed - turns).random() < 0.5 else silent)(request)


def micro(*changes: str) -> Config:
    """Give a config of the scripted micro-world."""
    return small_config("env={kind='microworld'}", *changes)


async def collect(
    folder: Path, *, share: Share | None = None, player: PlayerConfig = TEACHER
) -> Counts:
    """Collect five tasks, or a share of them."""
    collection = CollectConfig(attempts=3, keep=2)
    return await run_collection(
        micro("rollout.temperature=1.0"),
        collection,
        folder,
        count=5,
        player=player,
        emit=ignore,
        share=share,
    )


def sorted_lines(path: Path) -> list[bytes]:
    """Return the lines of a file whose order is that in which episodes ended."""
    return sorted(path.read_bytes().splitlines())


@pytest.mark.parametrize(
    ("of", "player"), [(3, TEACHER), (5, PlayerConfig())], ids=["teacher", "base"]
)
async def test_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: int, player: PlayerConfig
) -> None:
    """Shards give the demonstrations of one collection, and play no task twice."""
    engine = play_with(monkeypatch, by_seed)
    whole = await collect(tmp_path / "whole", player=player)
    asked = len(engine.requests)
    engine = play_with(monkeypatch, by_seed)
    parts = [tmp_path / f"part-{number}" for number in range(1, of + 1)]
    for number, part in enumerate(parts, start=1):
        await collect(part, share=Share(number=number, of=of), player=player)
    assert asked == len(engine.requests)
    merged = merge([*reversed(parts)], tmp_path / "merged")
    assert (whole, True) == (merged.result, merged.complete)
    for name in ("demonstrations.jsonl", "states.jsonl", "collected.json", "collection.json"):
        one, other = (tmp_path / folder / name for folder in ("whole", "merged"))
        assert one.exists() == other.exists()
        assert not one.exists() or one.read_bytes() == other.read_bytes()
    for name in ("tasks.jsonl", "episodes.jsonl"):
        assert sorted_lines(tmp_path / "whole" / name) == sorted_lines(tmp_path / "merged" / name)


async def test_interrupted_shard_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that was ended is not merged before the same call has finished it."""
    play_with(monkeypatch, by_seed)
    share = Share(number=1, of=2)
    await collect(tmp_path / "a", share=share)
    await collect(tmp_path / "b", share=Share(number=2, of=2))
    record = read_shard(tmp_path / "a")
    (tmp_path / "a" / "shard.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(record, finished=False))
    )
    episodes = (tmp_path / "a" / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "a" / "episodes.jsonl").write_bytes(b"".join(episodes[:5]))
    with pytest.raises(InputError, match="not finished"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    await collect(tmp_path / "a", share=share)
    assert len(episodes) == len(read_lines(tmp_path / "a" / "episodes.jsonl", EpisodeLine))
    assert 5 == merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged").result.tasks  # type: ignore[union-attr]


def make_run(folder: Path, *adapters: str) -> Path:
    """Make the folder of a run with adapters."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(msgspec.json.encode(describe_run(small_config())))
    for name in adapters:
        place = folder / "adapters" / name
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
        (place / "adapter_model.safetensors").write_text(name)
    return folder


async def play_shards(
    config: Config, run: Path, *, of: int, adapters: Sequence[Path], repeats: int = 1
) -> list[Path]:
    """Play all shards of an evaluation; return their folders."""
    parts = [run.parent / f"part-{number}" for number in range(1, of + 1)]
    for number, part in enumerate(parts, start=1):
        await play_shard(
            config,
            run,
            part,
            share=Share(number=number, of=of),
            adapters=adapters,
            repeats=repeats,
            emit=ignore,
        )
    return parts


def check_files(run: Path, merged: Path, labels: Sequence[str]) -> None:
    """Check that a merge has the tasks and episodes of the run's own evaluation."""
    (tasks,) = (path.stem for path in run.glob("held-out-tasks*.jsonl"))
    assert (merged / f"{tasks}.jsonl").exists()
    names = [name for label in labels for name in (f"eval-{label}", f"eval-{label}-repeats")]
    for name in (tasks, *names):
        one, other = (folder / f"{name}.jsonl" for folder in (run, merged))
        assert one.exists() == other.exists()
        assert not one.exists() or one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("known", [False, True], ids=["tasks are written", "the run has tasks"])
async def test_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Shards give the tasks, episodes and figures of one comparison."""
    play_with(monkeypatch, learnt)
    config, run = small_config("eval.tasks=7"), make_run(tmp_path / "run", "policy-000002")
    if known:
        whole = await run_comparison(config, run, adapter=run, emit=ignore)
    parts = await play_shards(config, run, of=3, adapters=[run])
    if not known:
        assert ["adapters", "run.json"] == sorted(path.name for path in run.iterdir())
        whole = await run_comparison(config, run, adapter=run, emit=ignore)
    merged = merge(parts, tmp_path / "merged")
    assert isinstance(merged.result, Comparison)
    assert whole == merged.result
    assert 100.0 == whole.gain.points
    check_files(run, tmp_path / "merged", ["base", "adapter"])


async def test_table_of_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several adapters and attempts are joined in their order."""
    play_with(monkeypatch, by_seed)
    config = small_config("eval.tasks=5")
    run = make_run(tmp_path / "run", "policy-000001", "policy-000002")
    adapters = sorted((run / "adapters").iterdir())
    parts = await play_shards(config, run, of=2, adapters=adapters, repeats=2)
    whole = await run_policies(config, run, adapters=adapters, repeats=2, emit=ignore)
    merged = merge(parts, tmp_path / "merged")
    assert isinstance(merged.result, PolicyTable)
    assert whole == merged.result
    check_files(run, tmp_path / "merged", ["base", "adapter", "adapter-2"])


def poor_writer(policy: Policy) -> Policy:
    """Give a script whose writer fails at some tasks."""

    def speak(request: Request) -> str:
        schema = request.sampling.schema
        if schema is not None and '"query"' in schema and hash_of(request.prompt) % 2:
            return "{}"
        return policy(request)

    return speak


def hash_of(text: str) -> int:
    """Give a number that depends on the text alone."""
    return sum(text.encode())


async def test_unwritten_tasks_leave_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of episodes count the tasks that were written, whichever shard wrote none."""
    engine = play_with(monkeypatch, learnt)
    monkeypatch.setattr(engine, "_script", poor_writer(cast(learnt)))
    config = small_config("eval.tasks=8", "eval_env=same")
    run = make_run(tmp_path / "run", "policy-000002")
    parts = await play_shards(config, run, of=4, adapters=[run])
    whole = await run_comparison(config, run, adapter=run, emit=ignore)
    (tasks,) = run.glob("held-out-tasks*.jsonl")
    assert 0 < len(read_lines(tasks, Task)) < 8
    merged = merge(parts, tmp_path / "merged")
    assert whole == merged.result
    check_files(run, tmp_path / "merged", ["base", "adapter"])


async def test_shard_tells_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard has its share alone, says so, and plays the same tasks again."""
    engine = play_with(monkeypatch, learnt)
    config, run = small_config("eval.tasks=5"), make_run(tmp_path / "run", "policy-000002")
    told: list[Event] = []
    played: list[PlayedShard] = []
    for _ in range(2):
        engine.requests.clear()
        told.clear()
        played.append(
            await play_shard(
                config,
                run,
                tmp_path / "part",
                share=Share(number=2, of=2),
                adapters=[run],
                repeats=1,
                emit=told.append,
            )
        )
    first, second = played
    assert first == second
    assert ["playing 2 tasks with the base", "playing 2 tasks with the adapter"] == [
        event.name for event in told if isinstance(event, Stage) and "playing" in event.name
    ]
    assert not any("writing" in event.name for event in told if isinstance(event, Stage))
    assert (
        "shard 2/2\n"
        "base     0.0% (95 % interval 0.0% to 65.8%, 2 tasks)\n"
        "adapter  100.0% (95 % interval 34.2% to 100.0%, 2 tasks)\n"
        f"all shards together  trustee merge OUT {tmp_path / 'part'} ..."
    ) == shard_text(first)


async def test_other_adapter_is_refused(
    check_error: ErrorCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards that were played by two adapters of the same name do not belong together."""
    play_with(monkeypatch, learnt)
    config = small_config("eval.tasks=4")
    run = make_run(tmp_path / "run", "policy-000001", "policy-000002")
    parts = []
    for number, adapter in enumerate(sorted((run / "adapters").iterdir()), start=1):
        parts.append(tmp_path / f"part-{number}")
        await play_shard(
            config,
            run,
            parts[-1],
            share=Share(number=number, of=2),
            adapters=[adapter],
            repeats=1,
            emit=ignore,
        )
    with pytest.raises(InputError) as caught:
        merge(parts, tmp_path / "merged")
    check_error(caught, "part-1", "part-2", "adapter is")
    assert not (tmp_path / "merged").exists()


async def test_lost_episodes_are_found(
    check_error: ErrorCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard whose files were cut off gives no figures."""
    play_with(monkeypatch, learnt)
    config, run = small_config("eval.tasks=4"), make_run(tmp_path / "run", "policy-000002")
    parts = await play_shards(config, run, of=2, adapters=[run])
    lines = (parts[1] / "eval-adapter.jsonl").read_bytes().splitlines(keepends=True)
    (parts[1] / "eval-adapter.jsonl").write_bytes(lines[0])
    with pytest.raises(InputError) as caught:
        merge(parts, tmp_path / "merged")
    check_error(caught, "part-2", "2 episodes", "adapter")
    assert not (tmp_path / "merged").exists()


async def test_merge_needs_a_new_folder(
    check_error: ErrorCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is not overwritten, least of all a shard."""
    play_with(monkeypatch, by_seed)
    await collect(tmp_path / "part", share=Share(number=1, of=1))
    with pytest.raises(InputError) as caught:
        merge([tmp_path / "part"], tmp_path / "part")
    check_error(caught, tmp_path / "part", "new folder")


def test_renaming_reaches_all_ids() -> None:
    """Calls, their replies and what is noted of them carry the name of the episode."""

    def episode(name: str) -> Trajectory:
        call = ToolCall(id=f"{name}/0/1", name="look", arguments={"id": "adapter/1/0/1 is mine"})
        called = CalledTool(id=f"{name}/0/1", name="look", ok=True, solved=None)
        facts = {"calls": 1, "solved": 0, "needed": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}
        solve = SolveFacts(**facts, answered=False, called=(called,))  # type: ignore[arg-type]
        return msgspec.convert(
            {
                "id": name,
                "task_id": "adapter/1",
                "turns": [
                    {
                        "rendered_ids": [1],
                        "completion": {
                            "ids": [2],
                            "logprobs": [-0.5],
                            "stop": "stop",
                            "version": 1,
                        },
                        "message": msgspec.to_builtins(
                            Message(role="assistant", content="adapter/1/0", calls=(call,))
                        ),
                        "replies": [{"role": "tool", "call_id": f"{name}/0/1"}],
                    }
                ],
                "stop": "done",
                "outcome": msgspec.to_builtins(Outcome(solve=solve)),
            },
            Trajectory,
        )

    assert episode("adapter/7") == rename(episode("adapter/10"), old="adapter/10", new="adapter/7")
    other = episode("adapter/10")
    assert other == rename(other, old="adapter/1", new="adapter/7")
