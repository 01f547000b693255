"""Putting a run together: folders, records, held-out tasks, and a whole run on scripted parts."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from command_line import write_adapter
from dice import Dice
from golden_errors import ErrorCheck
from scripted_program import (
    BASE,
    CONFIG,
    HAND_IN,
    hand_in,
    learnt,
    play_with,
    small_config,
    tiny_config,
)
from scripts import cast, make_player, make_simulator, mixed, silent
from trustee import __version__
from trustee.algorithm.learner import TrainerSpec
from trustee.cli.interrupt import until_interrupted
from trustee.config import read_config
from trustee.engine.model_files import TINY
from trustee.engine.script import Request, improvise
from trustee.engine.scripted import (
    ByteTokenizer,
    ScriptedEngine,
    ScriptedTrainer,
    scripted_renderer,
)
from trustee.environments.micro.environment import Microworld
from trustee.environments.prompts import hash_prompts
from trustee.environments.protocol import Services
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulator import RoleSampling
from trustee.errors import InputError, RunError, SimulatorError
from trustee.evaluation.evaluate import SuccessRate
from trustee.events import Event, Note, Stage, StepTrained
from trustee.jobs import assemble
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.jobs.held_out import evaluation_world, held_out_tasks, show_share
from trustee.jobs.rl import run_training
from trustee.jobs.run_metadata import describe_run, name_folder, read_metadata
from trustee.planning.cards import use_card
from trustee.runs.store import Store, read_lines
from trustee.types import Role, Trajectory

PUBLISHED = CONFIG.with_name("trustee-paper.toml")


def test_folder_is_named_by_time(tmp_path: Path) -> None:
    """A run's folder lies in `run.folder`, is named by the clock and not made yet."""
    earliest = time.strftime("%Y%m%d-%H%M%S")
    folder = name_folder(small_config(f"run.folder={tmp_path}"))
    assert tmp_path == folder.parent
    assert earliest <= folder.name <= time.strftime("%Y%m%d-%H%M%S")
    assert not folder.exists()


def test_folders_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the same second get numbers, also where something else took a name."""
    monkeypatch.setattr(time, "strftime", lambda form: "20260102-030405")
    config = small_config(f"run.folder={tmp_path}")
    (tmp_path / "20260102-030405-3").touch()
    names = []
    for _ in range(4):
        folder = name_folder(config)
        folder.mkdir()
        names.append(folder.name)
    stamp = "20260102-030405"
    assert [stamp, f"{stamp}-2", f"{stamp}-4", f"{stamp}-5"] == names


def test_record_describes_the_run() -> None:
    """The record has the resolved config, the versions and the prompts' hashes."""
    config = small_config()
    record = describe_run(config)
    assert config == record.config
    hashes = hash_prompts("tiny")
    assert {f"tiny/{name}": digest for name, digest in hashes.items()} == record.prompts
    assert (__version__, platform.python_version()) == (
        record.versions["trustee"],
        record.versions["python"],
    )
    assert {"torch", "transformers", "peft", "anyio"} <= record.versions.keys()
    assert platform.platform() == record.platform


def test_record_leaves_out_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed has no version, a world without prompts no hashes."""

    def version(name: str) -> str:
        if name != "torch":
            raise PackageNotFoundError
        return "9.9"

    monkeypatch.setattr("trustee.jobs.run_metadata.version", version)
    config = msgspec.structs.replace(small_config(), env=Dice())
    record = describe_run(config)
    assert {} == record.prompts
    assert {"trustee", "python", "torch"} == record.versions.keys()
    assert "9.9" == record.versions["torch"]


def test_record_is_read_back(tmp_path: Path) -> None:
    """What a run says of itself is enough to continue it."""
    record = describe_run(tiny_config("run.seed=7"))
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    assert record == read_metadata(tmp_path)


def test_record_cannot_unlock_the_sandbox(tmp_path: Path) -> None:
    """A stranger's folder may say what it likes: only the call at hand runs tools unconfined."""
    record = describe_run(tiny_config("sandbox.isolation=none", "sandbox.seconds=7"))
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    sandbox = read_metadata(tmp_path).config.sandbox
    assert ("auto", 7) == (sandbox.isolation, sandbox.seconds)


def test_record_imports_no_script(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A script that only a run folder names is refused and not imported."""
    (tmp_path / "spy.py").write_text("raise AssertionError('imported')")
    record = describe_run(tiny_config("engine.kind=scripted", "engine.script=spy:play"))
    path = tmp_path / "run.json"
    path.write_bytes(msgspec.json.encode(record))
    with pytest.raises(InputError) as caught:
        read_metadata(tmp_path)
    check_error(caught, path, "engine.script", "'spy:play'", "start a new run")


@pytest.mark.parametrize("name", ["", "none", "file"])
def test_record_of_no_run(check_error: ErrorCheck, tmp_path: Path, name: str) -> None:
    """A folder without a record, a missing one and a file are no run folders."""
    (tmp_path / "file").touch()
    folder = tmp_path / name
    with pytest.raises(InputError) as caught:
        read_metadata(folder)
    check_error(caught, folder, "run.json")


def other_keys() -> bytes:
    """Give the record of a program that kept another key."""
    record = msgspec.to_builtins(describe_run(small_config()))
    record["config"]["run"]["epochs"] = 3
    return json.dumps(record).encode()


def other_value() -> bytes:
    """Give a record whose config no longer passes."""
    record = msgspec.to_builtins(describe_run(small_config()))
    record["config"]["run"]["steps"] = 0
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"{'a': 1}", "JSON is malformed: object keys must be strings (byte 1)"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `config`"),
        (other_keys(), "Object contains unknown field `epochs` - at `$.config.run`"),
        (other_value(), "Expected `int` >= 1 - at `$.config.run.steps`"),
    ],
)
def test_record_of_another_program(
    check_error: ErrorCheck, tmp_path: Path, data: bytes, reason: str
) -> None:
    """A record that this program did not write is refused with file, place and consequence."""
    path = tmp_path / "run.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_metadata(tmp_path)
    check_error(caught, path, reason)


def test_trainer_is_built_from_the_config() -> None:
    """Every figure of the trainer is the config's."""
    config = small_config(
        "run.seed=5",
        "learn.rank=64",
        "learn.betas=[0.5, 0.6]",
        "learn.weight_decay=0.25",
        "learn.head_chunk=77",
        "learn.activation_checkpointing='offload'",
        "learn.mlp_tile=99",
        "learn.threads=3",
    )
    assert TrainerSpec(
        folder="/models/base",
        base="/models/base",
        learn=msgspec.structs.replace(
            small_config().learn,
            rank=64,
            optimizer="adamw",
            betas=(0.5, 0.6),
            weight_decay=0.25,
            activation_checkpointing="offload",
            head_chunk=77,
            mlp_tile=99,
            threads=3,
        ),
        seed=5,
        cores=len(os.sched_getaffinity(0)),
    ) == trainer_spec(config, BASE)


@pytest.mark.anyio
async def test_each_role_has_its_sampling() -> None:
    """The simulator's roles speak as the config says, each for itself."""
    changes = [
        f"simulator.{role}={{ temperature = 0.{place}, max_tokens = {100 + place} }}"
        for place, role in enumerate(("writer", "user", "tool", "judge"))
    ]
    engine: Any = ScriptedEngine(lambda request: "{}")
    simulator = assemble.make_simulator(small_config(*changes), engine, scripted_renderer())
    for role in (Role.WRITER, Role.USER, Role.TOOL, Role.JUDGE):
        await simulator.ask(role, "prompt", answer=dict, schema="{}", seed=0)
    assert [RoleSampling(temperature=place / 10, max_tokens=100 + place) for place in range(4)] == [
        RoleSampling(temperature=r.sampling.temperature, max_tokens=r.sampling.max_tokens)
        for r in engine.requests
    ]


@pytest.mark.anyio
async def test_voices_of_the_published_config() -> None:
    """Each role is asked, thought and answer, as the published settings say and as often."""
    config = read_config(PUBLISHED)
    for role, tokens, penalty, tries in (
        (Role.WRITER, 8192, 0.0, 2),
        (Role.USER, 2048, 0.1, 3),
        (Role.TOOL, 2048, 0.1, 3),
        (Role.JUDGE, 2048, 0.1, 3),
    ):
        engine: Any = ScriptedEngine(
            lambda request: "hm</think>" if request.sampling.stop_ids else "[]", context=24576
        )
        simulator = assemble.make_simulator(config, engine, scripted_renderer())
        with pytest.raises(SimulatorError, match=f"no usable answer in {tries} tries"):
            await simulator.ask(role, "prompt", answer=dict, schema="{}", seed=0)
        asked = [request.sampling for request in engine.requests]
        assert [(None, tokens), ("{}", tokens - 3)] * tries == [
            (sampling.schema, sampling.max_tokens) for sampling in asked
        ]
        assert {(0.6, 0.95, 20, penalty)} == {
            (sampling.temperature, sampling.top_p, sampling.top_k, sampling.penalty)
            for sampling in asked
        }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("model.thinking=true", "model.thinking = true has no effect"),
        ("simulator.judge.thinking=true", "writes no thoughts in <think> and </think>"),
    ],
)
def test_thinking_of_a_model_that_cannot_think(
    check_error: ErrorCheck, change: str, why: str
) -> None:
    """The built-in model's template has no thoughts, so none are asked of it."""
    with pytest.raises(InputError) as caught:
        prepare_model(tiny_config(change))
    check_error(caught, why)


def test_roles_that_cannot_help_thinking(tmp_path: Path, check_error: ErrorCheck) -> None:
    """Where every prompt begins a thought, a role that is not to think is refused."""
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = (TINY / "chat_template.jinja").read_text()
    begun = "{{- '<|im_start|>assistant\\n' -}}"
    content = "{{- message.content if message.content -}}"
    assert 1 == template.count(begun) == template.count(content)
    template = template.replace(begun, begun.replace("\\n", "\\n<think>"))
    closed = "{{- '<think></think>' if message.role == 'assistant' -}}"
    template = template.replace(content, closed + content)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError) as caught:
        prepare_model(tiny_config(f"model.path={tmp_path}"))
    check_error(caught, "begins every answer with a thought", "simulator.<role>.thinking")


def test_evaluation_world() -> None:
    """Held-out tasks are of their own world where one is named, else of that of training."""
    config = small_config()
    assert Microworld() == evaluation_world(config)
    same = msgspec.structs.replace(config, eval_env=None)
    assert isinstance(config.env, Simulated)
    assert config.env == evaluation_world(same)


def test_model_is_prepared() -> None:
    """The built-in model is found and its template proves itself."""
    folder, renderer = prepare_model(tiny_config())
    assert (TINY, (2,)) == (folder, renderer.stop_ids)


def test_model_whose_template_cannot_be_used(tmp_path: Path) -> None:
    """A template that loses what is said is refused before anything heavy is loaded."""
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match="chat template"):
        prepare_model(tiny_config(f"model.path={tmp_path}"))


@pytest.mark.anyio
async def test_held_out_tasks_are_written_once(tmp_path: Path) -> None:
    """Every policy of a run meets the same tasks, whatever the config says the second time."""
    player = make_player(Microworld().environment, ScriptedEngine(silent))
    async with Store(tmp_path) as store:
        first = await held_out_tasks(small_config("eval.tasks=5"), store, player)
        text = (tmp_path / "held-out-tasks.jsonl").read_text()
        other = small_config("eval.tasks=9", "eval.seed=1")
        again = await held_out_tasks(other, store, player)
    assert 5 == len(first) == len({task.id for task in first})
    assert msgspec.json.encode(first) == msgspec.json.encode(again)
    assert text == (tmp_path / "held-out-tasks.jsonl").read_text()


@pytest.mark.anyio
async def test_no_held_out_task_is_an_error(tmp_path: Path) -> None:
    """A writer that never makes a task ends the run with its last refusal, and no empty table."""
    config = msgspec.structs.replace(small_config("eval.tasks=3"), eval_env=None)
    engine = ScriptedEngine(lambda request: "{}")
    simulator = make_simulator(engine, tries=1)
    player = make_player(
        config.env.environment, engine, serve=lambda rng: Services(simulator=simulator, rng=rng)
    )
    async with Store(tmp_path) as store:
        with pytest.raises(RunError, match=r"none of the 3 held-out tasks.*last refusal: \S"):
            await held_out_tasks(config, store, player)
        assert not (tmp_path / "held-out-tasks.jsonl").exists()


@pytest.mark.anyio
async def test_held_out_tasks_depend_on_their_own_seed(tmp_path: Path) -> None:
    """The seed of the held-out tasks is `eval.seed`; the run's seed changes nothing."""
    written = []
    for name, change in (("a", "run.seed=1"), ("b", "run.seed=2"), ("c", "eval.seed=3")):
        async with Store(tmp_path / name) as store:
            player = make_player(Microworld().environment, ScriptedEngine(silent))
            written.append(await held_out_tasks(small_config(change), store, player))
    assert written[0] == written[1]
    assert written[0] != written[2]


@pytest.mark.anyio
async def test_held_out_tasks_of_the_simulated_world(tmp_path: Path) -> None:
    """In the world of training the writer makes them, as tasks that training never makes."""
    config = msgspec.structs.replace(small_config("eval.tasks=3"), eval_env=None)
    engine = ScriptedEngine(cast(silent))
    simulator = make_simulator(engine, tries=4)
    player = make_player(
        config.env.environment, engine, serve=lambda rng: Services(simulator=simulator, rng=rng)
    )
    async with Store(tmp_path) as store:
        tasks = await held_out_tasks(config, store, player)
        asked = len(engine.requests)
        again = await held_out_tasks(config, store, player)
    assert 3 == len(tasks)
    assert all(len(task.tools) >= 2 for task in tasks)
    assert msgspec.json.encode(tasks) == msgspec.json.encode(again)
    assert asked == len(engine.requests)


def learnt_by_half(request: Request) -> str:
    """Succeed in half of the training episodes of the base, in no held-out one, and then in all."""
    if request.adapter is not None or request.request_id.startswith(("before", "after")):
        return learnt(request)
    return mixed(request)


@pytest.mark.anyio
async def test_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure, train, measure: files, events and outcome of a run whose policy learns it all."""
    engine = play_with(monkeypatch, learnt_by_half)
    config = small_config("rollout.group_size=4")
    events: list[Event] = []
    outcome = await run_training(config, tmp_path, emit=events.append)
    assert [trainer_spec(config, BASE)] == engine.opened
    assert config == read_metadata(tmp_path).config
    before = read_lines(tmp_path / "held-out-before.jsonl", Trajectory)
    after = read_lines(tmp_path / "held-out-after.jsonl", Trajectory)
    assert ([0.0] * 6, [1.0] * 6) == ([t.reward for t in before], [t.reward for t in after])
    assert {0} == {t.version for t in before}
    assert {outcome.version} == {t.version for t in after}
    assert (tmp_path, 2) == (outcome.folder, outcome.steps)
    assert outcome.before is not None
    assert outcome.after is not None
    assert (0.0, 1.0, 6, 6) == (
        outcome.before.value,
        outcome.after.value,
        outcome.before.count,
        outcome.after.count,
    )
    assert outcome.gain is not None
    assert (100.0, 6, 0) == (outcome.gain.points, outcome.gain.better, outcome.gain.worse)
    written = json.loads((tmp_path / "outcome.json").read_bytes())
    assert msgspec.to_builtins(outcome, enc_hook=str) == written
    assert str(tmp_path) == written["folder"]
    assert [
        "starting the engine on base (cpu)",
        "judging 48 episodes of known verdict",
        "judge on episodes of known verdict: 8 of 34 bad episodes accepted, 0 of 8 good ones "
        "refused",
        "writing 6 held-out tasks",
        "held-out tasks before training: 6",
        "held-out success before: 0.0% (95 % interval 0.0% to 39.0%, 6 tasks)",
        "a training sample of 8192 ids fits",
        "training, 2 steps",
        "held-out tasks after training: 6",
        "held-out success after: 100.0% (95 % interval 61.0% to 100.0%, 6 tasks)",
    ] == [
        event.text if isinstance(event, Note) else event.name
        for event in events
        if isinstance(event, Note | Stage)
    ]
    assert [1, 2] == [event.step for event in events if isinstance(event, StepTrained)]


SECRET = "I keep this to myself."
"""What a scripted policy thinks."""


def think_aloud(request: Request) -> str:
    """Play as the scripted engine does, with a thought of the policy's."""
    said = improvise(request)
    policy = not request.request_id.startswith(tuple(Role))
    return said.replace("</think>", f"{SECRET}</think>", 1) if policy else said


@pytest.mark.anyio
@pytest.mark.parametrize("shown", [False, True])
async def test_run_in_the_published_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    """All think; the policy's thoughts are trained, and shown to the roles only by `env.thoughts`.

    A step has as many updates as the config says.
    """
    engine = ScriptedTrainer(think_aloud, context=24576)
    hand_in(monkeypatch, engine)
    config = read_config(
        PUBLISHED,
        (
            *HAND_IN,
            "engine.device=cpu",
            "run.steps=2",
            "rollout.group_size=4",
            "rollout.groups_per_step=2",
            "eval.tasks=none",
            f"env.thoughts={str(shown).lower()}",
        ),
    )
    events: list[Event] = []
    outcome = await run_training(config, tmp_path, emit=events.append)
    assert 2 == outcome.steps
    figures = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Flat groups are kept, so that no update is without episodes.
    assert [(4, 8), (4, 8)] == [(row["updates"], row["samples"]) for row in figures]
    tokenizer = ByteTokenizer()
    for micro in engine.learner.requests:
        for sample in micro.samples:
            if sample.trajectory_id != "probe":
                kept = [id for id, own in zip(sample.ids, sample.mask, strict=True) if own]
                assert SECRET in tokenizer.decode(kept)
    heard = [r.prompt for r in engine.requests if r.request_id.startswith(("judge", "tool"))]
    assert heard
    assert shown is any(SECRET in prompt for prompt in heard)


@pytest.mark.anyio
async def test_run_begins_with_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is where the trainer starts and the first version that plays and is measured."""
    engine = play_with(monkeypatch, learnt)
    start = write_adapter(tmp_path / "start", rank=16)
    config = small_config(f"run.adapter={start}", "learn.loss.kl_coef=0.1")
    outcome = await run_training(config, tmp_path / "run", emit=lambda event: None)
    (spec,) = engine.opened
    assert (str(start), True) == (spec.start, spec.reference)
    before = read_lines(tmp_path / "run" / "held-out-before.jsonl", Trajectory)
    assert [(1, 1.0)] * 6 == [(played.version, played.reward) for played in before]
    assert 2 == outcome.steps
    assert not [r for r in engine.requests if r.request_id.startswith("0/") and r.adapter is None]


@pytest.mark.parametrize(
    ("change", "reference"), [("learn.loss.kl_coef=0.1", True), ("learn.loss.kl_coef=0", False)]
)
def test_reference_is_kept_where_a_kl_term_needs_it(
    tmp_path: Path, change: str, reference: bool
) -> None:
    """The start adapter of a run folder is its newest; without a KL term none is kept beside."""
    write_adapter(tmp_path / "adapters" / "policy-000002", rank=16)
    newest = write_adapter(tmp_path / "adapters" / "policy-000014", rank=16)
    spec = trainer_spec(small_config(f"run.adapter={tmp_path}", change), BASE)
    assert (str(newest), reference) == (spec.start, spec.reference)
    bare = trainer_spec(small_config(change), BASE)
    assert (None, False) == (bare.start, bare.reference)


def test_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    """An adapter that cannot be trained on is refused before anything heavy is loaded."""
    start = write_adapter(tmp_path / "start", rank=32)
    with pytest.raises(
        InputError, match=r"has rank 32, but learn\.rank is 16; set learn\.rank=32 or"
    ):
        prepare_model(tiny_config(f"run.adapter={start}"))


@pytest.mark.anyio
async def test_run_without_held_out_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured, and the outcome says so."""
    play_with(monkeypatch, learnt_by_half)
    outcome = await run_training(small_config("eval.tasks=none"), tmp_path, emit=lambda event: None)
    assert (None, None, None) == (outcome.before, outcome.after, outcome.gain)
    assert not (tmp_path / "held-out-tasks.jsonl").exists()
    written = json.loads((tmp_path / "outcome.json").read_bytes())
    assert (None, None, None) == (written["before"], written["after"], written["gain"])


@pytest.mark.anyio
async def test_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run with more steps goes on; what the base did before is read, not played."""
    play_with(monkeypatch, learnt_by_half)
    await run_training(small_config(), tmp_path, emit=lambda event: None)
    before = (tmp_path / "held-out-before.jsonl").read_text()
    record = (tmp_path / "run.json").read_text()
    engine = play_with(monkeypatch, learnt_by_half)
    events: list[Event] = []
    config = small_config("run.steps=3")
    outcome = await run_training(config, tmp_path, emit=events.append, resume=True)
    assert 3 == outcome.steps
    assert [1, 2, 3] == [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert [3] == [event.step for event in events if isinstance(event, StepTrained)]
    assert (before, record) == (
        (tmp_path / "held-out-before.jsonl").read_text(),
        (tmp_path / "run.json").read_text(),
    )
    assert 6 == len(read_lines(tmp_path / "held-out-after.jsonl"))
    assert not [r for r in engine.requests if r.request_id.startswith("before/")]
    step_2 = tmp_path / "checkpoints" / "step-000002"
    assert f"continuing after step 2 from {step_2}" in [
        event.text for event in events if isinstance(event, Note)
    ]


@pytest.mark.anyio
async def test_nothing_to_continue_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint a run cannot be continued, and no engine is started."""
    engine = play_with(monkeypatch, silent)
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        await run_training(small_config(), tmp_path, emit=lambda event: None, resume=True)
    assert [] == engine.opened


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (
            SuccessRate(value=0.5, low=0.402, high=0.598, count=96),
            "50.0% (95 % interval 40.2% to 59.8%, 96 tasks)",
        ),
        (
            SuccessRate(value=0.125, low=0.0, high=1.0, count=8, failed=2),
            "12.5% (95 % interval 0.0% to 100.0%, 8 tasks, 2 failed)",
        ),
    ],
)
def test_share_for_people(share: SuccessRate, text: str) -> None:
    """A share is shown with its interval, its count and what was spoiled."""
    assert text == show_share(share)


def test_job_that_ends_gives_its_result() -> None:
    """Nobody interrupts: the job's result is the result, at once."""

    async def job() -> str:
        await anyio.sleep(0.01)
        return "done"

    assert "done" == anyio.run(until_interrupted, job)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_job_that_is_interrupted(kind: signal.Signals) -> None:
    """A signal cancels the job, which may clean up, and is a KeyboardInterrupt outside."""
    seen: list[str] = []

    async def job() -> None:
        try:
            os.kill(os.getpid(), kind)
            await anyio.sleep(30)
            seen.append("slept")
        finally:
            seen.append("cleaned up")

    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt):
        anyio.run(until_interrupted, job)
    assert ["cleaned up"] == seen
    assert before == signal.getsignal(kind)


def test_job_that_fails() -> None:
    """A job's own error comes out, inside a group."""

    async def job() -> None:
        raise InputError("no such thing")

    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(until_interrupted, job)
    (error,) = caught.value.exceptions
    assert (InputError, "no such thing") == (type(error), str(error))


def test_one_card_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine sees the chosen card alone, counted as the driver counts."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    use_card(1)
    assert ("PCI_BUS_ID", "1") == (
        os.environ["CUDA_DEVICE_ORDER"],
        os.environ["CUDA_VISIBLE_DEVICES"],
    )


@pytest.mark.anyio
async def test_a_judge_that_accepts_everything_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episodes of known verdict are shown before anything is measured or trained."""

    def say_yes(request: Request) -> str:
        if request.request_id.startswith("judge"):
            fields = json.loads(request.sampling.schema or "{}")["properties"]
            return json.dumps(dict.fromkeys(fields, True) | {"evidence": "fine"})
        return silent(request)

    engine = play_with(monkeypatch, silent)
    engine._script = lambda request: say_yes(request)
    with pytest.raises(RunError, match=r"^the judge fails on canaries: it accepted \d+ of 34"):
        await run_training(small_config(), tmp_path, emit=lambda event: None)
    assert not (tmp_path / "held-out-tasks.jsonl").exists()
