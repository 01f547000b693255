"""Imitation without an engine: which samples a step takes, what is measured, what is kept."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.learner import FinishReport, FinishRequest, MicroReport, MicroRequest
from trustee.algorithm.memory_ladder import MemoryLadder, MemoryLevel
from trustee.engine.clock import EngineClock
from trustee.engine.scripted import ScriptedLearner, ScriptedTrainer
from trustee.engine.watchdog import Watchdog, WatchdogConfig
from trustee.errors import OutOfMemory
from trustee.events import Event, SftStepTrained, encode_event
from trustee.runs.checkpoint import open_checkpoint
from trustee.runs.store import Store, keep_steps, read_lines
from trustee.sft.samples import SftDataset
from trustee.sft.train import SftConfig, SftJob, SftState, continue_sft, hold_out, train_sft
from trustee.types import Sample

TOP = MemoryLevel(micro_tokens=12, activation_checkpointing="off", context=50, parallel=4)


def make_sample(name: str, length: int = 5) -> Sample:
    """Make a sample that learns all ids but the first, which no other has."""
    return Sample(
        ids=(int.from_bytes(name.encode()), *(1,) * (length - 1)),
        mask=(False, *(True,) * (length - 1)),
        logprobs=(0.0,) * length,
        advantage=1.0,
        version=0,
        trajectory_id=name,
    )


class Teachable(ScriptedLearner):
    """A learner whose loss falls with its steps; it may lack memory, or break."""

    def __init__(self, engine: ScriptedTrainer, *, room: int = 1000, broken: int = -1) -> None:
        super().__init__(engine)
        self._room = room
        self._broken = broken

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        if sum(len(sample.ids) for sample in request.samples) > self._room:
            raise OutOfMemory("no room")
        self.requests.append(request)
        tokens = sum(sum(sample.mask) for sample in request.samples)
        loss = math.nan if len(self.finished) == self._broken else 1 / (1 + len(self.finished))
        return MicroReport(loss=loss * tokens / request.normaliser, tokens=tokens, entropy_sum=2.0)

    async def finish(self, request: FinishRequest) -> FinishReport:
        self.finished.append(request)
        return FinishReport(norm=0.5, moved=request.move)


class Bench:
    """A run of imitation on scripted parts."""

    def __init__(self, folder: Path, store: Store, **learner: Any) -> None:
        self.engine = ScriptedTrainer(lambda request: "")
        self.learner = Teachable(self.engine, **learner)
        self.events: list[Event] = []
        self.job = SftJob(
            engine=Watchdog(
                self.engine,
                self.learner,
                config=WatchdogConfig(),
                clock=EngineClock(),
                folder=folder,
            ),
            config=SftConfig(
                epochs=2,
                demonstrations=2,
                warmup=2,
                decay=0.5,
                learning_rate=1.0,
                measure_every=3,
                checkpoint_every=2,
            ),
            learning=LearnConfig(max_norm=0.7),
            training=[make_sample(f"t{n}") for n in range(5)],
            held_out=[make_sample(f"h{n}", 4) for n in range(2)],
            ladder=MemoryLadder(TOP, shortest=2),
            store=store,
            seed=4,
            keep_checkpoints=2,
            emit=self.events.append,
        )

    def learnt(self) -> list[str]:
        """Name what was trained on, in order."""
        return [s.trajectory_id for r in self.learner.requests if r.learn for s in r.samples]


@pytest.mark.anyio
async def test_every_demonstration_is_seen_in_every_epoch(tmp_path: Path) -> None:
    """Two epochs of three steps; held-out ones are measured and never learnt."""
    async with Store(tmp_path) as store:
        bench = Bench(tmp_path, store)
        adapter = await train_sft(bench.job)
    names = bench.learnt()
    first, second = names[:5], names[5:]
    assert [{"t0", "t1", "t2", "t3", "t4"}] * 2 == [set(first), set(second)]
    assert first != second
    measured = Counter(
        s.trajectory_id for r in bench.learner.requests if not r.learn for s in r.samples
    )
    assert {"h0": 3, "h1": 3} == measured
    assert {("nll", 0.0)} == {(r.loss.kind, r.loss.kl_coef) for r in bench.learner.requests}
    assert {8.0, 4.0, 6.0} >= {r.normaliser for r in bench.learner.requests}
    assert (6, tmp_path / "adapters" / "policy-000006") == (adapter.version, adapter.path)
    assert [6] == list(bench.engine.known)


@pytest.mark.anyio
async def test_metrics_of_sft(tmp_path: Path) -> None:
    """A line a step: the loss of its tokens, its rate, the held-out loss where measured."""
    async with Store(tmp_path) as store:
        bench = Bench(tmp_path, store)
        await train_sft(bench.job)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [1, 2, 3, 4, 5, 6] == [row["step"] for row in rows]
    assert [0, 0, 0, 1, 1, 1] == [row["epoch"] for row in rows]
    assert [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6] == pytest.approx([row["loss"] for row in rows])
    held_out = [row["held_out_loss"] for row in rows]
    assert [None, None, 1 / 4, None, None, 1 / 7] == pytest.approx(held_out)
    assert [1.0, 1 / 7] == pytest.approx([bench.job.before, bench.job.last])
    rates = [finish.learning_rate for finish in bench.learner.finished]
    assert [0.5, 1 - 1 / 12, 1 - 2 / 12, 0.75, 1 - 4 / 12, 1 - 5 / 12] == pytest.approx(rates)
    assert {0.7} == {finish.max_norm for finish in bench.learner.finished}
    told = [
        json.loads(encode_event(event))
        for event in bench.events
        if isinstance(event, SftStepTrained)
    ]
    assert [
        {"event": "sft_step", **row, "of": 6, "progress": row["step"] / 6} for row in rows
    ] == told


@pytest.mark.anyio
async def test_sft_goes_on_where_it_was(tmp_path: Path) -> None:
    """From a checkpoint the same steps follow, and the same lines are written."""
    async with Store(tmp_path / "a") as store:
        whole = Bench(tmp_path / "a", store)
        await train_sft(whole.job)
    async with Store(tmp_path / "b") as store:
        begun = Bench(tmp_path / "b", store)
        begun.job.config = msgspec.structs.replace(begun.job.config, checkpoint_every=4)

        def stop(event: Event) -> None:
            if isinstance(event, SftStepTrained) and event.step == 5:
                raise KeyError

        begun.job.emit = stop
        with pytest.raises(KeyError):
            await train_sft(begun.job)
    async with Store(tmp_path / "b") as store:
        path, state = open_checkpoint(tmp_path / "b" / "checkpoints", SftState)
        assert 4 == state.step
        keep_steps(tmp_path / "b" / "metrics.jsonl", state.step)
        again = Bench(tmp_path / "b", store)
        again.learner.finished = list(begun.learner.finished[:4])
        await continue_sft(again.job, path, state)
        await train_sft(again.job)
    lines = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in "ab"]
    assert lines[0] == lines[1]
    assert whole.learnt() == begun.learnt()[: len(begun.learnt()) - 2] + again.learnt()
    assert (whole.job.before, whole.job.last) == (again.job.before, again.job.last)


@pytest.mark.anyio
async def test_what_does_not_fit_is_made_smaller(tmp_path: Path) -> None:
    """A step that needs too much memory is begun anew with smaller micro-batches."""
    async with Store(tmp_path) as store:
        bench = Bench(tmp_path, store, room=5)
        await train_sft(bench.job)
    assert {1} == {len(request.samples) for request in bench.learner.requests}
    assert 10 == len(set(enumerate(bench.learnt())))
    assert 1 <= read_lines(tmp_path / "metrics.jsonl")[-1]["memory_fallbacks"]


@pytest.mark.anyio
async def test_broken_step_moves_nothing(tmp_path: Path) -> None:
    """A loss that is not finite is stored beside the run and not learnt from."""
    async with Store(tmp_path) as store:
        bench = Bench(tmp_path, store, broken=2)
        await train_sft(bench.job)
    assert [True, True, False, True, True, True] == [f.move for f in bench.learner.finished]
    stored = read_lines(tmp_path / "skipped-000002.jsonl", Sample)
    assert bench.learnt()[4:5] == [sample.trajectory_id for sample in stored]


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abcdefg"), min_size=1), st.floats(0, 0.9), st.integers())
def test_held_out_tasks_are_whole(names: list[str], share: float, seed: int) -> None:
    """No task stands on both sides, nothing is lost, and something is left to train on."""
    samples = tuple(make_sample(name) for name in names)
    dataset = SftDataset(samples=samples, task_ids=tuple(names), refused=())
    training, held_out = hold_out(dataset, share=share, seed=seed)
    left, right = ({s.trajectory_id for s in part} for part in (training, held_out))
    assert not left & right
    assert Counter(names) == Counter(s.trajectory_id for s in (*training, *held_out))
    assert left
    assert bool(right) == (share > 0 and len(set(names)) > 1)
