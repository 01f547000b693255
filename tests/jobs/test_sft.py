"""`trustee sft` with the real engine and the built-in model: it learns, and it can be resumed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from trustee.algorithm.learner import FinishRequest, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.config import Config, read_config
from trustee.engine.model_files import TINY
from trustee.engine.vllm import VllmEngine
from trustee.errors import InputError
from trustee.events import Emit, Event, SftStepTrained
from trustee.jobs.assemble import first_leaf, trainer_spec
from trustee.jobs.sft import SftResult, run_sft, sft_text
from trustee.rendering.renderer import Renderer
from trustee.runs.adapters import check_fit, read_adapter
from trustee.runs.store import read_lines
from trustee.sft.demonstration_files import read_demonstrations
from trustee.sft.demonstrations import Demonstration
from trustee.sft.samples import make_dataset
from trustee.sft.train import SftConfig
from trustee.tiny.lessons import FAULTLESS, teach
from trustee.types import Adapter

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.toml"
SMALL = ("engine.kv_bytes=67108864", "engine.max_sequences=8", "learn.threads=1", "learn.rank=8")
slow = pytest.mark.slow


def config() -> Config:
    """Give the built-in model's config with a small engine."""
    return read_config(CONFIG, SMALL)


def write_lessons(path: Path, count: int) -> Path:
    """Write faultless dialogues of the micro-world, and one row that cannot be used."""
    rng = random.Random(11)
    rows = []
    for number in range(count):
        lesson = teach(rng, habits=FAULTLESS)[-1]
        rows.append(
            Demonstration(task_id=str(number), tools=lesson.tools, messages=lesson.messages)
        )
    path.write_bytes(b"\n".join([b"{broken", *map(msgspec.json.encode, rows)]) + b"\n")
    return path


class Whole(NamedTuple):
    """A whole run of imitation."""

    folder: Path
    wanted: SftConfig
    outcome: SftResult
    events: list[Event]


@pytest.fixture(scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Imitate 64 dialogues, two epochs long."""
    folder = tmp_path_factory.mktemp("sft_step")
    events: list[Event] = []
    file = write_lessons(folder / "shown.jsonl", 64)
    wanted = SftConfig(
        epochs=2,
        demonstrations=8,
        learning_rate=1e-3,
        warmup=2,
        held_out=0.2,
        checkpoint_every=2,
        measure_every=7,
    )
    outcome = await run_sft(config(), wanted, file, folder / "run", emit=events.append)
    return Whole(folder / "run", wanted, outcome, events)


@slow
@pytest.mark.anyio
@pytest.mark.timeout(400)
async def test_sft_lowers_the_held_out_loss(whole: Whole) -> None:
    """The careless model learns to do what it is shown, also what it is shown elsewhere."""
    folder, _, outcome, events = whole
    assert outcome.before is not None
    assert outcome.after is not None
    assert outcome.after < 0.85 * outcome.before, (outcome.before, outcome.after)
    assert (51, 13, 1, 14) == (
        outcome.demonstrations,
        outcome.held_out,
        outcome.refused,
        outcome.steps,
    )
    losses = [row["loss"] for row in read_lines(folder / "metrics.jsonl")]
    assert sum(losses[-5:]) < sum(losses[:5])
    check_fit(read_adapter(outcome.adapter), TINY, rank=8)
    assert [1] == [row["row"] for row in read_lines(folder / "refused.jsonl")]
    assert 14 == sum(isinstance(event, SftStepTrained) for event in events)


@slow
@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_training_starts_at_the_imitated_adapter(whole: Whole, tmp_path: Path) -> None:
    """An engine that starts from an adapter trains that one, and keeps near it by its KL term."""
    dataset = make_dataset(
        read_demonstrations(whole.folder.parent / "shown.jsonl"), Renderer.load(TINY), context=640
    )
    sample = dataset.samples[0]
    spec = trainer_spec(config(), TINY)
    start = str(whole.outcome.adapter)
    started = msgspec.structs.replace(spec, start=start, reference=True)
    near = MicroRequest(samples=(sample,), loss=LossConfig(kind="nll", kl_coef=1.0), normaliser=1.0)
    async with VllmEngine(config().engine, started) as engine:
        imitated = await engine.trainer_logprobs(sample, adapter=True)
        bare = await engine.trainer_logprobs(sample, adapter=False)
        first = await engine.accumulate(near)
        await engine.finish(FinishRequest(learning_rate=1e-3, max_norm=1.0))
        second = await engine.accumulate(near)
        await engine.finish(FinishRequest(learning_rate=0.0, max_norm=1.0, move=False))
        await engine.load_adapter(Adapter(version=1, path=whole.outcome.adapter))
        again = await engine.trainer_logprobs(sample, adapter=True)
        third = await engine.accumulate(near)
    assert imitated == again
    assert sum(imitated) > sum(bare)
    assert -sum(imitated) == pytest.approx(first.loss, rel=1e-2)
    assert (0.0, 0.0) == (first.kl_sum, third.kl_sum)
    assert second.kl_sum > 0


class Interrupted(Exception):
    """What a test throws into a run."""


def stop_after(step: int) -> Emit:
    """Give a listener that ends a run once a step is done."""

    def listen(event: Event) -> None:
        if isinstance(event, SftStepTrained) and event.step == step:
            raise Interrupted

    return listen


@slow
@pytest.mark.anyio
@pytest.mark.timeout(400)
async def test_resumed_sft_is_the_same(whole: Whole, tmp_path: Path) -> None:
    """A run that was cut off in its ninth step and one that was not leave equal bytes."""
    file = write_lessons(tmp_path / "shown.jsonl", 64)
    folder = tmp_path / "run"
    with pytest.raises((BaseExceptionGroup, Interrupted)) as caught:
        await run_sft(config(), whole.wanted, file, folder, emit=stop_after(9))
    assert isinstance(first_leaf(caught.value), Interrupted)
    again = await run_sft(
        config(), whole.wanted, file, folder, emit=lambda event: None, resume=True
    )
    outcome = whole.outcome
    assert (outcome.before, outcome.after, outcome.steps) == (
        again.before,
        again.after,
        again.steps,
    )
    for name in ("metrics.jsonl", f"adapters/policy-{outcome.steps:06d}/adapter_model.safetensors"):
        assert (whole.folder / name).read_bytes() == (folder / name).read_bytes()
    file.write_bytes(file.read_bytes() + b"{}\n")
    # The run has kept its own copy, so it goes on with what it was begun with.
    kept = await run_sft(config(), whole.wanted, file, folder, emit=lambda event: None, resume=True)
    assert outcome.steps == kept.steps


@pytest.mark.anyio
async def test_run_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    """A folder with a run is named with the way to go on."""
    (tmp_path / "run.json").write_text("{}")
    file = write_lessons(tmp_path / "shown.jsonl", 4)
    with pytest.raises(InputError, match="already holds a run; continue it with --resume"):
        await run_sft(config(), SftConfig(), file, tmp_path, emit=lambda event: None)


@pytest.mark.anyio
async def test_folder_without_sft_cannot_be_resumed(tmp_path: Path) -> None:
    """Resuming needs what the run was begun with."""
    with pytest.raises(InputError, match=r"is not a trustee sft run: sft\.json cannot"):
        await run_sft(
            config(), SftConfig(), tmp_path, tmp_path, emit=lambda event: None, resume=True
        )


def test_outcome_for_people() -> None:
    """What was learnt, from how much, and what to do next."""
    outcome = SftResult(
        folder=Path("runs/a"),
        adapter=Path("runs/a/adapters/policy-000014"),
        steps=14,
        demonstrations=51,
        held_out=13,
        refused=1,
        before=0.5,
        after=0.25,
        seconds=90,
    )
    assert (
        "trained on 51 demonstrations in 14 steps and 1.5 minutes; 1 rows were refused\n"
        "held-out loss 0.5000 -> 0.2500 nats per token (13 demonstrations)\n"
        "adapter  runs/a/adapters/policy-000014\n"
        "next  trustee run --adapter runs/a"
    ) == sft_text(outcome)
    bare = msgspec.structs.replace(outcome, before=None, after=None)
    assert 3 == len(sft_text(bare).splitlines())
