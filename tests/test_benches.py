"""The benches' own arithmetic and command lines; what they measure is not tested here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trustee.config import read_config
from trustee.errors import InputError
from trustee.models import find_model
from trustee.types import Completion, Message, Stop, Turn

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny.toml"


def load_bench(path: str) -> ModuleType:
    """Import a bench, which stands outside of all packages."""
    name = f"bench_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


overhead = load_bench("overhead.py")
peers = load_bench("peers.py")
grpo = load_bench("peers/grpo.py")


def timed(seconds: float, *, tokens: int = 100) -> Any:
    """Give a run of three equal steps."""
    return peers.Timed(
        seconds=(seconds,) * 3,
        cpu=(seconds / 2,) * 3,
        tokens=(tokens,) * 3,
        phases=dict.fromkeys((*peers.PHASES, "sample_s"), (seconds / 8,) * 3),
    )


def test_overhead_line_has_every_level(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each figure stands under each number of episodes, all of which were under way at once."""
    monkeypatch.setattr(overhead, "STEP", 1)
    overhead.main(["--levels", "1", "8", "--turns", "8", "--json"])
    line = json.loads(capsys.readouterr().out)
    assert "overhead" == line["bench"]
    for key in ("cpu_ms_per_turn", "gc_ms_per_turn", "turns", "grown_mib", "written_mib"):
        assert ["1", "8"] == list(line[key])
    assert line["cpu_ms_per_turn"]["8"] > 0
    assert {"1": 5.0, "8": 5.0} == line["turns_per_episode"]


def test_overhead_keeps_as_many_episodes_as_wanted() -> None:
    """Groups are enough to keep a level's episodes under way, and no more may be."""
    config = read_config(CONFIG)
    for level, slots in ((1, 16), (8, 16), (128, 16), (1024, 128)):
        scaled = overhead.scale(config, level, turns=5 * 8 * 3 * slots)
        assert (level, slots, 3) == (
            scaled.rollout.episodes,
            scaled.rollout.slots,
            scaled.run.steps,
        )


def test_counts_follow_events() -> None:
    """Only the ends of episodes count, spoiled ones and those without a reward too."""
    counts = overhead.Counts()
    won = {"event": "episode", "turns": 3, "reward": 1.0, "spoiled": False}
    lost = {"event": "episode", "turns": 4, "reward": 0.0, "spoiled": True}
    for event in ({"event": "begin"}, won, {"event": "task"}, won, lost):
        counts.tell(event)
    assert (3, 10, 2, 1) == (counts.episodes, counts.turns, counts.won, counts.spoiled)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("float32/1", ("float32", 1, False)),
        ("bfloat16/12/continuous", ("bfloat16", 12, True)),
    ],
)
def test_setting_is_read(text: str, expected: tuple[str, int, bool]) -> None:
    """A setting names the type of the weights, threads, and the way of generating."""
    setting = peers.read_setting(text)
    assert expected == (setting.dtype, setting.threads, setting.continuous)


@pytest.mark.parametrize("text", ["float16/1", "float32", "float32/0", "float32/1/fast"])
def test_unknown_setting_is_refused(text: str) -> None:
    """The message repeats what was given and names the option."""
    with pytest.raises(InputError, match=rf"{text}.*--settings"):
        peers.read_setting(text)


def test_quickest_setting_is_chosen() -> None:
    """Settings that gave nothing do not count; without any other there is nothing to measure."""
    assert "b" == peers.choose({"a": timed(3.0), "b": timed(2.0), "c": None})
    with pytest.raises(InputError, match="--settings"):
        peers.choose({"c": None})


def test_ratio_is_that_of_seconds_per_token() -> None:
    """A side that generates twice the tokens in the same time is twice as quick."""
    line = peers.summarise(
        [timed(1.0, tokens=200), timed(9.0), timed(1.0, tokens=200)],
        [timed(4.0), timed(4.0)],
        [0.5, 0.25, 0.75],
    )
    assert "peers" == line["bench"]
    assert 8.0 == line["ratio"]
    assert 1.0 == line["ours_s_per_step"]
    assert 4.0 == line["trl_s_per_step"]
    assert 0.5 == line["ours_generate_alone_s"]
    assert {"sample_s", "train_s", "publish_s", "checkpoint_s", "rest_s"} == set(
        line["ours_phases_s"]
    )
    assert 0.5 == line["ours_phases_s"]["rest_s"]


def test_both_sides_reward_alike() -> None:
    """The peer's copy of the reward, which may import nothing of ours, gives the same."""
    for ids in ((), (2,), (1, 2, 3, 4), (7, 7, 8)):
        assert grpo.even_share(ids) == peers.even_share(ids)
    assert 0.25 == peers.even_share((1, 2, 3, 5))


@pytest.mark.anyio
async def test_one_turn_ends_with_the_first_message() -> None:
    """The world gives the prompt, takes one message and scores its ids."""
    (task,) = await peers_tasks(1)
    services: Any = None
    world = peers.OneTurn([task])
    environment = world.environment(task, services)
    assert task.messages == (await environment.open()).messages
    message = Message(role="assistant", content="ok")
    assert (await environment.reply(message)).done
    completion = Completion(ids=(2, 3), logprobs=(0.0, 0.0), stop="length", version=0)
    turn = Turn(rendered_ids=(1,), completion=completion, message=message)
    assert {"even": 0.5} == (await environment.score([turn], Stop.TOKENS)).rewards


@pytest.mark.anyio
async def test_prompts_come_round_again() -> None:
    """The source never ends and gives its tasks in order."""
    tasks = await peers_tasks(2)
    source = peers.Prompts(tasks)
    services: Any = None
    drafts = [source.draw() for _ in range(3)]
    written = [await source.write(draft, services) for draft in drafts]
    assert [tasks[0], tasks[1], tasks[0]] == written
    assert 3 == len({draft.id for draft in drafts})


async def peers_tasks(count: int) -> list[Any]:
    """Draw tasks inside an event loop."""
    source = peers.Microworld().source(seed=0)
    services: Any = None
    return [await source.write(source.draw(), services) for _ in range(count)]


def test_endless_copy_ends_no_turn(tmp_path: Path) -> None:
    """All files of the copy name another end of turn than the model that was copied."""
    folder = peers.copy_endless(find_model("tiny"), tmp_path / "endless")
    for name in ("config.json", "generation_config.json"):
        assert 0 == json.loads((folder / name).read_text())["eos_token_id"]
        assert 2 == json.loads((find_model("tiny") / name).read_text())["eos_token_id"]
    assert peers.NO_STOP == json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]


def test_job_sets_our_config(tmp_path: Path) -> None:
    """What the peer is given holds for our side too."""
    job = peers.Job(model=tmp_path, groups=3, group_size=4, tokens=17, steps=5, rank=8)
    config = peers.configure(CONFIG, job)
    assert str(tmp_path) == config.model.path
    assert (3, 4, 0) == (
        config.rollout.groups_per_step,
        config.rollout.group_size,
        config.rollout.max_lag,
    )
    assert (1, 17) == (config.rollout.limits.turns, config.rollout.limits.tokens)
    assert (5, 8, "adamw") == (config.run.steps, config.learn.rank, config.learn.optimizer)


def test_peer_requirements_are_exact_and_need_no_card() -> None:
    """Every line pins a version; torch is the build for CPUs and nothing is for CUDA."""
    lines = peers.REQUIREMENTS.read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [] == [line for line in pins if "==" not in line]
    assert [] == [line for line in pins if line.startswith("nvidia")]
    assert 1 == sum(line.startswith("torch==") and line.endswith("+cpu") for line in pins)
