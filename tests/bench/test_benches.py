"""The benches' own arithmetic and command lines; what they measure is not tested here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from transformers.utils import get_json_schema

from trustee.config import read_config
from trustee.engine.model_files import find_model
from trustee.environments.micro.world import Goal, MicroWorld, fact
from trustee.errors import InputError
from trustee.events import EpisodeBegun, EpisodePlayed, TaskWritten
from trustee.types import BadCall, Completion, Message, Role, Stop, ToolCall, Turn

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "tiny.toml"

pytestmark = pytest.mark.slow


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
# On the path since then, for both sides read the one file.
worlds: Any = sys.modules["worlds"]
grpo = load_bench("peers/grpo.py")


def timed(seconds: float, *, tokens: int = 100) -> Any:
    """Give a run of three equal steps."""
    return peers.Timed(
        seconds=(seconds,) * 3,
        cpu=(seconds / 2,) * 3,
        tokens=(tokens,) * 3,
        turns=2.5,
        reward=0.25,
        trained=64.0,
        phases=dict.fromkeys((*peers.PHASES, "sample_s"), (seconds / 8,) * 3),
    )


@pytest.mark.slow
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
    won, lost = (
        EpisodePlayed(
            group=0,
            member=0,
            reward=reward,
            turns=turns,
            tokens=9,
            failed_by=Role.USER if failed else None,
            failed=failed,
        )
        for reward, turns, failed in ((1.0, 3, False), (0.0, 4, True))
    )
    begun = EpisodeBegun(group=0, member=0)
    written = TaskWritten(group=0, failed_by=None, failed=False)
    for event in (begun, won, written, won, lost):
        counts.emit(event)
    assert (3, 10, 2, 1) == (counts.episodes, counts.turns, counts.won, counts.failed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("float32/1", ("float32", 1, "sdpa", 0, False)),
        ("float32/2/eager/rows16", ("float32", 2, "eager", 16, False)),
        ("float32/2/rows8", ("float32", 2, "sdpa", 8, False)),
        ("bfloat16/12/continuous", ("bfloat16", 12, "sdpa", 0, True)),
    ],
)
def test_setting_is_read(text: str, expected: tuple[str, int, str, int, bool]) -> None:
    """A setting names the type of the weights and threads; what is left out is TRL's default."""
    setting = peers.read_setting(text)
    assert expected == (
        setting.dtype,
        setting.threads,
        setting.attention,
        setting.rows,
        setting.continuous,
    )


@pytest.mark.parametrize(
    "text", ["float16/1", "float32", "float32/0", "float32/1/fast", "float32/1/rows0"]
)
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
    assert 8.0 == line["ratio"]
    assert 1.0 == line["ours_s_per_step"]
    assert 4.0 == line["trl_s_per_step"]
    assert 0.5 == line["ours_generate_alone_s"]
    assert (2.5, 0.25, 64.0) == (
        line["trl_rounds_per_step"],
        line["ours_reward"],
        line["ours_trained_per_step"],
    )
    assert {"sample_s", "train_s", "publish_s", "checkpoint_s", "rest_s"} == set(
        line["ours_phases_s"]
    )
    assert 0.5 == line["ours_phases_s"]["rest_s"]


def test_reward_is_the_share_of_even_ids() -> None:
    """No ids are not even."""
    assert [0.0, 1.0, 0.5, 0.25] == [
        worlds.even_share(ids) for ids in ((), (2,), (1, 2, 3, 4), (1, 2, 3, 5))
    ]


@pytest.mark.anyio
async def test_one_turn_ends_with_the_first_message() -> None:
    """The world gives the prompt, takes one message and scores its ids."""
    (task,) = worlds.write_tasks(1)
    services: Any = None
    world = worlds.OneTurn([task])
    environment = world.environment(task, services)
    assert task.messages == (await environment.open()).messages
    message = Message(role="assistant", content="ok")
    assert (await environment.reply(message)).done
    turn = spoken(message, ids=(2, 3))
    assert {"even": 0.5} == (await environment.score([turn], Stop.TOKENS)).rewards


def spoken(message: Message, *, ids: tuple[int, ...] = ()) -> Turn:
    """Give a turn of which only what was said matters."""
    completion = Completion(ids=ids, logprobs=(0.0,) * len(ids), stop="stop", version=0)
    return Turn(rendered_ids=(1,), completion=completion, message=message)


@pytest.mark.anyio
async def test_prompts_come_round_again() -> None:
    """The source never ends and gives its tasks in order."""
    tasks = worlds.write_tasks(2)
    source = worlds.Prompts(tasks)
    services: Any = None
    specs = [source.draw() for _ in range(3)]
    written = [await source.write(spec, services) for spec in specs]
    assert [tasks[0], tasks[1], tasks[0]] == written
    assert 3 == len({spec.id for spec in specs})


def test_tasks_need_no_user() -> None:
    """All goals are told in full by the query, and tools stand in order of name."""
    for task in worlds.write_tasks(20):
        goals = task.hidden["goals"]
        assert 2 <= len(goals) == task.hidden["told"]
        asked = task.messages[-1].content.split()
        told = {word for goal in goals for word in (goal["place"], goal["value"]) if word}
        assert told <= {int(word) if word.isdecimal() else word for word in asked}
        assert sorted(tool.name for tool in task.tools) == [tool.name for tool in task.tools]


def faultless(task: Any) -> tuple[list[ToolCall], str]:
    """Give the calls that solve a task, and the report of what is so."""
    goals = msgspec.convert(task.hidden["goals"], list[Goal])
    calls = [
        ToolCall(id=str(index), name=goal.call.name, arguments=goal.call.arguments)
        for index, goal in enumerate(goals)
    ]
    world = MicroWorld(seed=task.hidden["seed"])
    facts = [
        fact(goal.thing, goal.place, goal.value or world.value(goal.thing, goal.place))
        for goal in goals
    ]
    return calls, "ok , " + " ; ".join(facts)


@pytest.mark.anyio
@pytest.mark.parametrize("index", range(6))
async def test_both_sides_play_and_reward_alike(index: int) -> None:
    """The same episode through our environment and through the peer's class gives the same."""
    task = worlds.write_tasks(index + 1)[index]
    calls, report = faultless(task)
    services: Any = None
    ours = worlds.Tools([task]).environment(task, services)
    asking = Message(role="assistant", calls=tuple(calls))
    reply = await ours.reply(asking)
    assert not reply.done
    closing = Message(role="assistant", content=report)
    assert (await ours.reply(closing)).done
    turns = [spoken(asking, ids=(2, 3)), spoken(closing, ids=(4, 6))]
    score = await ours.score(turns, Stop.DONE)
    assert {"success": 1.0, "even": 0.0075} == score.rewards
    world = grpo.make_environment(task)()
    world.reset(environment="0000")
    results = [getattr(world, call.name)(**call.arguments) for call in calls]
    assert [message.content for message in reply.messages] == results
    completion = [
        {"role": "assistant", "content": "", "tool_calls": [{}]},
        *({"role": "tool", "content": result} for result in results),
        {"role": "assistant", "content": report},
    ]
    assert [1.0075, 0.01] == grpo.reward_tools(
        [completion, completion[:2]], [(2, 3, 4, 6), (2, 4)], [world, world]
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    "message",
    [
        Message(role="assistant", content="which room ?"),
        Message(role="assistant", calls=(BadCall(id="0", text="{", reason="no JSON"),)),
    ],
)
async def test_tools_end_where_nothing_can_be_called(message: Message) -> None:
    """A question ends the episode, for nobody answers, and so does a call that is no JSON."""
    (task,) = worlds.write_tasks(1)
    services: Any = None
    reply = await worlds.Tools([task]).environment(task, services).reply(message)
    assert ((), True) == (reply.messages, reply.done)


def test_method_of_a_tool_reads_as_its_schema() -> None:
    """What transformers makes of the method's signature and text names the same arguments."""
    task = worlds.write_tasks(1)[0]
    world = grpo.make_environment(task)()
    for tool in task.tools:
        function = get_json_schema(getattr(world, tool.name))["function"]
        assert (tool.name, tool.description) == (function["name"], function["description"])
        assert tool.parameters["required"] == function["parameters"]["required"]
        kinds = {
            name: schema["type"] for name, schema in function["parameters"]["properties"].items()
        }
        assert {
            name: schema["type"] for name, schema in tool.parameters["properties"].items()
        } == kinds


def test_world_reads_nothing_that_the_peer_lacks() -> None:
    """The peer's environment has all that the micro-world imports, by the names of its files."""
    script = (
        "import sys, runpy; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); "
        "import worlds; worlds.write_tasks(1); "
        "worlds.ToolEpisode(t := worlds.write_tasks(1)[0]).run_call(t.tools[0].name, {}); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "bench" / "peers")],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = peers.REQUIREMENTS.read_text().lower().replace("-", "_").splitlines()
    pinned = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    packages = {PACKAGES.get(name, name) for name in answer.stdout.split()}
    assert set() == packages - pinned - {"trustee", "worlds"}


PACKAGES = {"attr": "attrs", "rpds": "rpds_py", "yaml": "pyyaml"}
"""Of modules that are named otherwise than their package."""


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
        config.rollout.max_off_policy_steps,
    )
    assert (1, 17) == (config.rollout.limits.turns, config.rollout.limits.tokens)
    tools = msgspec.structs.replace(job, play="tools", turns=5, lag=2)
    several = peers.configure(CONFIG, tools).rollout
    assert (5, 2) == (several.limits.turns, several.max_off_policy_steps)
    assert (5, 8, "adamw") == (config.run.steps, config.learn.rank, config.learn.optimizer)


def test_job_sets_the_peers_config(tmp_path: Path) -> None:
    """As many turns and tokens as ours, and with a lag as many steps generated at once."""
    job = peers.Job(
        model=tmp_path, groups=3, group_size=4, tokens=17, steps=5, play="tools", turns=5, lag=1
    )
    given = msgspec.to_builtins(job, enc_hook=str) | msgspec.to_builtins(
        peers.read_setting("float32/1/rows6")
    )
    fields = grpo.configure(given, tmp_path)
    assert (6, 2, 4) == (
        fields["per_device_train_batch_size"],
        fields["gradient_accumulation_steps"],
        fields["steps_per_generation"],
    )
    assert (85, 4, {"max_new_tokens": 17}) == (
        fields["max_completion_length"],
        fields["max_tool_calling_iterations"],
        fields["generation_kwargs"],
    )


def test_peer_requirements_are_exact_and_need_no_card() -> None:
    """Every line pins a version; torch is the build for CPUs and nothing is for CUDA."""
    lines = peers.REQUIREMENTS.read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [] == [line for line in pins if "==" not in line]
    assert [] == [line for line in pins if line.startswith("nvidia")]
    assert 1 == sum(line.startswith("torch==") and line.endswith("+cpu") for line in pins)
