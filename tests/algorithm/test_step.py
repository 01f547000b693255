"""One optimiser step: what is cut from groups, at which rate, and what happens to broken sums."""

from __future__ import annotations

import math
import random
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps import CONFIG, make_group, make_trajectory, take
from trustee.algorithm.config import LearnConfig
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    MicroReport,
    MicroRequest,
)
from trustee.algorithm.loss import LossConfig
from trustee.algorithm.memory_ladder import MemoryLadder, MemoryLevel
from trustee.algorithm.step import (
    StepReport,
    build_samples,
    deal,
    rate_at,
    rewards_of,
)
from trustee.engine.scripted import ScriptedEngine, ScriptedLearner
from trustee.errors import OutOfMemory, RunError
from trustee.runs.store import read_lines
from trustee.types import (
    Failure,
    Group,
    Role,
    Sample,
)

pytestmark = pytest.mark.anyio

FAILED = Failure(source=Role.TOOL, kind="SimulatorError", message="said nothing")


def cut_plainly(*groups: Group) -> tuple[list[Sample], int]:
    """Cut groups whose advantages are their rewards less the mean."""
    return build_samples(groups, rewards_of(groups, shuffle=None), scale="none")


def test_constant_groups_are_not_cut() -> None:
    """Groups whose members all did equally well give no samples and are not counted as mixed."""
    groups = [make_group(0, 1, 1), make_group(1, 1, -1), make_group(2, 0, 0)]
    samples, mixed = cut_plainly(*groups)
    assert (["1/0", "1/1"], 1) == ([s.trajectory_id for s in samples], mixed)
    assert [1.0, -1.0] == [s.advantage for s in samples]


def test_constant_groups_are_cut_where_the_step_is_the_baseline() -> None:
    """With REINFORCE++ a group that always succeeds is better than the rest; it is not mixed."""
    groups = [make_group(0, 1, 1), make_group(1, -1, -1), make_group(2, 1, -1)]
    rewards = rewards_of(groups, shuffle=None)
    samples, mixed = build_samples(groups, rewards, scale="group", estimator="reinforce++")
    assert (6, 1) == (len(samples), mixed)
    assert [1, 1, -1, -1, 1, -1] == [math.copysign(1, s.advantage) for s in samples]
    equal = [make_group(0, 1, 1), make_group(1, 1, 1)]
    rewards = rewards_of(equal, shuffle=None)
    assert ([], 0) == build_samples(equal, rewards, scale="group", estimator="reinforce++")


def test_failed_members_neither_train_nor_steer() -> None:
    """The mean is that of the valid members alone."""
    failed = make_trajectory("0/2", 0, failure=FAILED)
    group = make_group(0, 1, -1)
    group = msgspec.structs.replace(group, trajectories=(*group.trajectories, failed))
    samples, mixed = cut_plainly(group)
    assert [("0/0", 1.0), ("0/1", -1.0)] == [(s.trajectory_id, s.advantage) for s in samples]
    assert 1 == mixed


def test_member_without_turns_counts_but_is_not_cut() -> None:
    """Who never spoke is part of the group's mean and has no ids to train."""
    group = make_group(0, 1, 1)
    mute = make_trajectory("0/2", -1, turns=0)
    group = msgspec.structs.replace(group, trajectories=(*group.trajectories, mute))
    samples, _ = cut_plainly(group)
    assert ["0/0", "0/1"] == [s.trajectory_id for s in samples]
    assert [2 / 3, 2 / 3] == pytest.approx([s.advantage for s in samples])


@given(
    st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=5), min_size=1, max_size=4
    )
)
def test_advantages_of_a_group_add_up_to_nothing(rewards: list[list[float]]) -> None:
    """Each mixed group gives all its members, in order, and its advantages sum to zero."""
    groups = [make_group(number, *own) for number, own in enumerate(rewards)]
    samples, mixed = build_samples(groups, rewards_of(groups, shuffle=None), scale="group")
    for number, own in enumerate(rewards):
        taken = [s for s in samples if s.trajectory_id.startswith(f"{number}/")]
        assert len(taken) == (len(own) if len(set(own)) > 1 else 0)
        assert 0 == pytest.approx(sum(s.advantage for s in taken), abs=1e-9)
    assert sum(len(set(own)) > 1 for own in rewards) == mixed


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=5), max_size=4),
    st.integers(),
)
def test_shuffled_rewards_are_the_same_rewards(rewards: list[list[float]], seed: int) -> None:
    """Shuffling deals the step's rewards out anew: none is lost, every group keeps its size."""
    groups = [make_group(number, *own) for number, own in enumerate(rewards)]
    assert rewards == rewards_of(groups, shuffle=None)
    dealt = rewards_of(groups, shuffle=random.Random(seed))
    assert [len(own) for own in rewards] == [len(own) for own in dealt]
    assert sorted(chain.from_iterable(rewards)) == sorted(chain.from_iterable(dealt))


def test_rewards_are_shuffled_over_groups() -> None:
    """A shuffle crosses the borders of groups, and the same step is always dealt alike."""
    groups = [make_group(0, 1, 1, 1, 1), make_group(1, -1, -1, -1, -1)]
    dealt = [rewards_of(groups, shuffle=random.Random("shuffle 3")) for _ in range(2)]
    assert dealt[0] == dealt[1] != rewards_of(groups, shuffle=None)


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [
        (0, 0.0, 1e-3 / 4),
        (1, 0.0, 2e-3 / 4),
        (3, 0.0, 1e-3),
        (100, 0.0, 1e-3),
        (100, 0.5, 0.75e-3),
        (100, 1.0, 0.5e-3),
        (100, 2.0, 0.5e-3),
    ],
)
def test_rate_rises_and_decays(step: int, progress: float, expected: float) -> None:
    """The rate rises evenly over the warm-up and then loses its share by the end of the run."""
    config = LearnConfig(learning_rate=1e-3, warmup=4, decay=0.5)
    assert expected == pytest.approx(rate_at(config, step=step, progress=progress), rel=1e-12)


def test_rate_without_warmup_is_the_peak() -> None:
    """No warm-up starts at the peak."""
    assert 1e-3 == rate_at(LearnConfig(learning_rate=1e-3, warmup=0), step=0, progress=0.9)


class Learner(ScriptedLearner):
    """A learner whose report and norm a test chooses."""

    def __init__(self, *, norm: float = 1.0, **report: float) -> None:
        super().__init__(ScriptedEngine(lambda request: ""))
        self.report = msgspec.structs.replace(self.report, **report)
        self._norm = norm

    async def finish(self, request: FinishRequest) -> FinishReport:
        await super().finish(request)
        return FinishReport(norm=self._norm, moved=request.move and math.isfinite(self._norm))


async def test_shuffle_of_a_step_reaches_the_learner(tmp_path: Path) -> None:
    """With shuffled rewards constant groups become mixed: the control that must not learn."""
    groups = [make_group(0, 1, 1, 1, 1), make_group(1, -1, -1, -1, -1)]
    shuffled = msgspec.structs.replace(CONFIG, shuffle_rewards=True)
    counts = []
    for config in (CONFIG, shuffled):
        learner = Learner()
        report = await take(tmp_path, learner, *groups, config=config)
        counts.append((report.mixed, report.samples))
    assert [(0, 0), (2, 8)] == counts


async def test_each_sample_reaches_the_learner_once(tmp_path: Path) -> None:
    """Micro-batches hold every sample once, stay in their budget and share one denominator."""
    learner = Learner(tokens=3)
    groups = [make_group(0, 1, -1, 0), make_group(1, 1, 0)]
    report = await take(tmp_path, learner, *groups, config=CONFIG)
    names = [s.trajectory_id for request in learner.requests for s in request.samples]
    assert ["0/0", "0/1", "0/2", "1/0", "1/1"] == sorted(names)
    assert {2, 1} == {len(request.samples) for request in learner.requests}
    assert {15.0} == {request.normaliser for request in learner.requests}
    assert [FinishRequest(learning_rate=2e-5, max_norm=1.0, move=True)] == learner.finished
    assert (True, True, 2, 2, 5, 1.0, 9) == (
        report.moved,
        report.finite,
        report.groups,
        report.mixed,
        report.samples,
        report.norm,
        report.tokens,
    )


async def test_mismatch_counts_fresh_samples_only(tmp_path: Path) -> None:
    """Engine and trainer are compared on what the trained version sampled itself."""
    learner = Learner(tokens=4, gap_abs_sum=1.0, gap_kl_sum=2.0)
    groups = [make_group(0, 1, -1, version=7), make_group(1, 1, -1, version=6)]
    report = await take(tmp_path, learner, *groups, config=CONFIG, version=7)
    assert (8, 4, 1.0, 2.0) == (
        report.tokens,
        report.fresh_tokens,
        report.gap_abs_sum,
        report.gap_kl_sum,
    )
    metrics = report.metrics()
    assert (0.25, 0.5, 4) == (
        metrics["mismatch_abs"],
        metrics["mismatch_kl"],
        metrics["mismatch_tokens"],
    )


async def test_step_without_mixed_groups_does_nothing(tmp_path: Path) -> None:
    """Nothing differed: the learner is not asked, and that is no fault."""
    learner = Learner()
    report = await take(tmp_path, learner, make_group(0, 1, 1), config=CONFIG)
    assert ([], []) == (learner.requests, learner.finished)
    assert (False, True, 0, 1.0) == (
        report.moved,
        report.finite,
        report.samples,
        report.metrics()["frac_reward_zero_std"],
    )


def many_groups(*, version: int = 0) -> list[Group]:
    """Make the 128 episodes of 16 tasks, half of each group with a reward."""
    rewards = (1.0, -1.0) * 4
    return [make_group(number, *rewards, version=version) for number in range(16)]


async def test_four_updates_of_thirty_two(tmp_path: Path) -> None:
    """128 episodes give four updates of 32 rows each, every one at the same rate."""
    learner = Learner(tokens=3)
    four = msgspec.structs.replace(CONFIG, updates=4, loss=LossConfig(kind="grpo"))
    report = await take(tmp_path, learner, *many_groups(), config=four)
    assert [FinishRequest(learning_rate=2e-5, max_norm=1.0, move=True)] * 4 == learner.finished
    assert {32.0} == {request.normaliser for request in learner.requests}
    names = [s.trajectory_id for request in learner.requests for s in request.samples]
    assert 128 == len(names) == len(set(names))
    assert (True, 128, 4, 16) == (report.moved, report.samples, report.updates, report.mixed)


async def test_updates_are_dealt_by_the_step(tmp_path: Path) -> None:
    """A step deals its episodes out alike whenever it is taken; another step does not."""
    four = msgspec.structs.replace(CONFIG, updates=4)
    orders = []
    for _ in range(2):
        learner = Learner()
        await take(tmp_path, learner, *many_groups(), config=four)
        orders.append([s.trajectory_id for r in learner.requests for s in r.samples])
    assert orders[0] == orders[1]
    samples, _ = cut_plainly(*many_groups())
    assert deal(samples, 4, seed="deal 3") != deal(samples, 4, seed="deal 4")


@given(st.integers(0, 40), st.integers(1, 9))
def test_hands_are_even_and_whole(count: int, updates: int) -> None:
    """Every sample is dealt once, hands differ by at most one, and none is empty."""
    samples, _ = cut_plainly(*many_groups()[:5])
    hands = deal(samples[:count], updates, seed="")
    assert min(count, updates) == len(hands)
    assert all(hands)
    if hands:
        assert max(map(len, hands)) - min(map(len, hands)) <= 1
    dealt = sorted(sample.trajectory_id for hand in hands for sample in hand)
    assert sorted(sample.trajectory_id for sample in samples[:count]) == dealt


async def test_engine_and_trainer_are_compared_before_the_first_update(tmp_path: Path) -> None:
    """Later updates compare another policy with the one that sampled, so they say nothing."""
    four = msgspec.structs.replace(CONFIG, updates=4)

    class Drifting(Learner):
        """A learner that differs from the engine more with every update."""

        async def accumulate(self, request: MicroRequest) -> MicroReport:
            report = await super().accumulate(request)
            tokens = sum(sum(sample.mask) for sample in request.samples)
            gap = 0.25 * tokens * (1 + 100 * len(self.finished))
            return msgspec.structs.replace(report, tokens=tokens, gap_abs_sum=gap, clipped=1)

    learner = Drifting()
    report = await take(tmp_path, learner, *many_groups(version=7), config=four, version=7)
    assert (32 * 3, 0.25) == (report.fresh_tokens, report.mismatch)
    assert (128 * 3, len(learner.requests)) == (report.tokens, report.clipped)


async def test_one_broken_update_leaves_the_others(tmp_path: Path) -> None:
    """An update that is not finite moves nothing and is stored; the step goes on."""
    two = msgspec.structs.replace(CONFIG, updates=2)

    class BrokenFirst(Learner):
        """A learner whose first update is not finite."""

        async def accumulate(self, request: MicroRequest) -> MicroReport:
            loss = 1.0 if self.finished else math.nan
            return msgspec.structs.replace(await super().accumulate(request), loss=loss)

    learner = BrokenFirst()
    report = await take(tmp_path, learner, *many_groups()[:2], config=two)
    assert [False, True] == [request.move for request in learner.finished]
    assert (True, False) == (report.moved, report.finite)
    assert 8 == len(read_lines(tmp_path / "skipped-000003.jsonl", Sample))


async def test_an_update_that_does_not_fit_begins_anew_by_itself(tmp_path: Path) -> None:
    """The ladder goes down within a step, and updates that are done are not repeated."""
    two = msgspec.structs.replace(CONFIG, updates=2)

    class FullLater(Learner):
        """A learner whose card is full in the second update, until less is kept."""

        async def accumulate(self, request: MicroRequest) -> MicroReport:
            if self.finished and not self.modes:
                raise OutOfMemory("no room")
            return await super().accumulate(request)

    ladder = MemoryLadder(
        MemoryLevel(micro_tokens=5, activation_checkpointing="off", context=10, parallel=4),
        shortest=2,
    )
    learner = FullLater()
    report = await take(tmp_path, learner, *many_groups()[:2], config=two, ladder=ladder)
    names = [s.trajectory_id for request in learner.requests for s in request.samples]
    assert (16, 16) == (len(names), len(set(names)))
    assert (["recompute"], 2, 2) == (learner.modes, len(learner.finished), report.updates)


async def test_flat_groups_are_kept_for_the_divergence(tmp_path: Path) -> None:
    """Where asked for, episodes without an advantage reach the learner, with none."""
    loss = LossConfig(kind="grpo", kl_coef=0.001)
    kept = msgspec.structs.replace(CONFIG, keep_flat=True, loss=loss)
    learner = Learner()
    report = await take(tmp_path, learner, make_group(0, 1, 1), make_group(1, 1, -1), config=kept)
    rows = [sample for request in learner.requests for sample in request.samples]
    assert {"0/0": 0.0, "0/1": 0.0, "1/0": 1.0, "1/1": -1.0} == {
        sample.trajectory_id: sample.advantage for sample in rows
    }
    assert {4.0} == {request.normaliser for request in learner.requests}
    assert (1, 2, 0.5) == (report.mixed, report.groups, report.metrics()["frac_reward_zero_std"])


async def test_epsilon_reaches_the_advantages(tmp_path: Path) -> None:
    """The config's epsilon is the one that is added."""
    found = []
    for epsilon in (1e-4, 1e-6):
        learner = Learner()
        config = LearnConfig(warmup=0, epsilon=epsilon)
        await take(tmp_path, learner, make_group(0, 1, -1), config=config)
        (request,) = learner.requests
        found.append(request.samples[0].advantage)
    assert [1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-6)] == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"keep_flat": True}, "loss.kl_coef is 0"),
        ({"epsilon": 1e-6, "scale": "none"}, "which scale = none does not use"),
        ({"epsilon": 1e-6, "estimator": "reinforce++"}, "which estimator = reinforce"),
    ],
)
def test_settings_without_effect_are_refused(raw: dict[str, Any], message: str) -> None:
    """A key that would do nothing is refused with the reason."""
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(raw, LearnConfig)


@pytest.mark.parametrize("field", ["loss", "gap_abs_sum", "entropy_sum"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_broken_sum_is_stored_and_does_not_move(
    tmp_path: Path, field: str, value: float
) -> None:
    """A step with a figure that is not finite moves nothing, and its samples can be looked at."""
    learner = Learner(**{field: value})
    report = await take(tmp_path, learner, make_group(0, 1, -1), config=CONFIG)
    assert (False, False) == (report.moved, report.finite)
    assert [False] == [request.move for request in learner.finished]
    stored = read_lines(tmp_path / "skipped-000003.jsonl", Sample)
    assert [s for request in learner.requests for s in request.samples] == stored


async def test_broken_norm_is_stored(tmp_path: Path) -> None:
    """Gradients that are not finite count as a broken step too."""
    report = await take(tmp_path, Learner(norm=math.nan), make_group(0, 1, -1), config=CONFIG)
    assert (False, False) == (report.moved, report.finite)
    assert 2 == len(read_lines(tmp_path / "skipped-000003.jsonl", Sample))


async def test_broken_step_that_cannot_be_stored_stops(tmp_path: Path) -> None:
    """A file that cannot be written is not passed over."""
    (tmp_path / "skipped-000003.jsonl").mkdir()
    with pytest.raises(RunError, match=r"skipped-000003\.jsonl: Is a directory"):
        await take(tmp_path, Learner(loss=math.nan), make_group(0, 1, -1), config=CONFIG)


def test_metrics_divide_sums_by_tokens() -> None:
    """Sums become means over the trained tokens; shares are of groups."""
    report = StepReport(
        moved=True,
        finite=True,
        groups=4,
        mixed=1,
        samples=2,
        too_long=0,
        norm=0.5,
        learning_rate=1e-5,
        tokens=10,
        clipped=3,
        kl_sum=4.0,
        entropy_sum=5.0,
    )
    metrics = report.metrics()
    assert (0.3, 0.4, 0.5, 0.75) == (
        metrics["clip_ratio"],
        metrics["kl"],
        metrics["entropy"],
        metrics["frac_reward_zero_std"],
    )
