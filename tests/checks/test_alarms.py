"""Alarms: when a run stops, when it rolls back and to what, and what is kept for that."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from trustee.algorithm.step import StepReport
from trustee.checks.alarms import AlarmsState, Decision, Watch, WatchConfig
from trustee.runs.store import Store
from trustee.types import Group, Stop, Trajectory

GOOD = StepReport(
    moved=True,
    finite=True,
    groups=2,
    mixed=2,
    samples=4,
    too_long=0,
    norm=1.0,
    learning_rate=1e-5,
    tokens=1000,
    fresh_tokens=1000,
)
CLIPPED = msgspec.structs.replace(GOOD, clipped=21)
UNMIXED = msgspec.structs.replace(GOOD, mixed=0, samples=0, tokens=0, fresh_tokens=0)
BROKEN = msgspec.structs.replace(GOOD, finite=False, moved=False)
NOTHING = Decision()


def play(reward: float, version: int) -> list[Group]:
    """Make a group that a version played for a reward."""
    member = Trajectory(id="0/0", task_id="t", turns=(), stop=Stop.DONE, rewards={"a": reward})
    return [Group(id=0, version=version, task=None, trajectories=(member,))]


def trained() -> Watch:
    """Make a watch that saw version 2 do well and version 3 badly."""
    watch = Watch(WatchConfig())
    for version, reward in ((1, 0.2), (2, 0.9), (3, -0.5)):
        assert NOTHING == watch.observe(GOOD, play(reward, version))
    return watch


def test_good_steps_pass() -> None:
    """A run without fault is left alone."""
    watch = Watch(WatchConfig())
    assert [NOTHING] * 20 == [watch.observe(GOOD, play(0.5, n)) for n in range(20)]


def test_few_tokens_that_are_far_off_stop_the_run() -> None:
    """A mean difference under its limit may hide a divergence above its own."""
    close = msgspec.structs.replace(GOOD, gap_abs_sum=40.0, gap_kl_sum=19.0)
    assert NOTHING == Watch(WatchConfig()).observe(close, play(0.5, 1))
    apart = msgspec.structs.replace(GOOD, gap_abs_sum=40.0, gap_kl_sum=21.0)
    assert Watch(WatchConfig()).observe(apart, play(0.5, 1)).stop == (
        "engine and trainer differ by a KL of 0.021 a token on fresh samples, more than 0.02 "
        "(watch.mismatch_kl)"
    )


def test_clipping_that_lasts_rolls_back_to_the_best() -> None:
    """The third bad step in a row takes the best version up again, and says why."""
    watch = trained()
    assert [
        NOTHING,
        NOTHING,
        Decision(roll_back_to=2, why="more than 0.02 of the tokens clipped in 3 steps"),
        NOTHING,
    ] == [watch.observe(CLIPPED, play(-0.5, 3)) for _ in range(4)]


def test_good_step_between_ends_the_alarm() -> None:
    """Bad steps that do not follow each other do not add up."""
    watch = trained()
    for _ in range(5):
        assert [NOTHING] * 3 == [
            watch.observe(report, play(-0.5, 3)) for report in (CLIPPED, CLIPPED, GOOD)
        ]


def test_share_at_the_threshold_is_good() -> None:
    """Only more than the threshold is bad."""
    watch = trained()
    bare = msgspec.structs.replace(GOOD, clipped=20)
    assert [NOTHING] * 5 == [watch.observe(bare, play(-0.5, 3)) for _ in range(5)]


def test_clipping_of_the_published_run_is_no_alarm() -> None:
    """Several updates a step clip much; with the published file's threshold nothing is undone."""
    watch = Watch(WatchConfig(clip_ratio=1.0))
    clipped = msgspec.structs.replace(GOOD, clipped=GOOD.tokens)
    assert [NOTHING] * 6 == [watch.observe(clipped, play(0.5, n)) for n in range(6)]


def test_no_mixed_group_for_long_rolls_back() -> None:
    """A policy whose groups are all alike, and worse than its best, is rolled back."""
    watch = trained()
    assert [NOTHING, NOTHING, (2, "no group with different rewards in 3 steps")] == [
        decision if decision == NOTHING else (decision.roll_back_to, decision.why)
        for decision in (watch.observe(UNMIXED, play(-1.0, 4)) for _ in range(3))
    ]


def test_mastered_tasks_are_no_collapse() -> None:
    """Groups that are all alike because all succeed, better than ever, are no reason to go back."""
    watch = trained()
    assert [NOTHING] * 6 == [watch.observe(UNMIXED, play(1.0, 4 + n)) for n in range(6)]


def test_base_is_a_version_to_roll_back_to() -> None:
    """A first step that ruins the adapter leads back to the base, not to what it ruined."""
    watch = Watch(WatchConfig())
    assert [NOTHING, NOTHING, NOTHING, 0] == [
        NOTHING if decision == NOTHING else decision.roll_back_to
        for decision in (
            watch.observe(UNMIXED if version else GOOD, play(-1.0 if version else 0.2, version))
            for version in (0, 1, 2, 3)
        )
    ]


def test_nothing_to_roll_back_to() -> None:
    """Before an episode was ever valid there is no best; the run goes on."""
    watch = Watch(WatchConfig())
    assert [NOTHING] * 6 == [watch.observe(CLIPPED, []) for _ in range(6)]


def test_two_rollbacks_without_a_better_version_stop() -> None:
    """The second rollback is made, and then the run ends: it would go on like that for ever."""
    watch = trained()
    first, second = (
        [watch.observe(CLIPPED, play(-0.5, number)) for number in numbers][-1]
        for numbers in ((3, 4, 5), (7, 8, 9))
    )
    assert (2, None) == (first.roll_back_to, first.stop)
    assert (
        2,
        "rolled back 2 times to version 2 and no version since was better (the last time: ",
    ) == (
        second.roll_back_to,
        (second.stop or "").partition("more than")[0],
    )


def test_luck_of_the_restored_version_is_no_progress() -> None:
    """What was restored may be lucky; only a version that was trained since can be better."""
    watch = trained()
    for version in (3, 4, 5):
        watch.observe(CLIPPED, play(-0.5, version))
    watch.note_restored(6)
    decisions = [watch.observe(CLIPPED, play(1.0, 6)) for _ in range(3)]
    assert (2, True) == (decisions[-1].roll_back_to, decisions[-1].stop is not None)


def test_ruined_version_does_not_inherit_the_reward_of_the_one_before() -> None:
    """The smoothed reward falls slowly, but the best version is one that earned it itself."""
    watch = Watch(WatchConfig())
    for reward, version in ((-1.0, 0), (1.0, 1), (1.0, 1), (-1.0, 2)):
        watch.observe(GOOD, play(reward, version))
    assert (0.5, 1) == watch.state().best


def test_a_better_version_between_two_rollbacks_lets_the_run_go_on() -> None:
    """A run that becomes better than ever may roll back as often as it needs."""
    watch = trained()
    for start in (3, 13, 23, 33):
        first = [watch.observe(CLIPPED, play(-0.5, start + n)) for n in range(3)][-1]
        assert (True, None) == (first.roll_back_to is not None, first.stop)
        watch.note_restored(start + 3)
        assert NOTHING == watch.observe(GOOD, play(1.0 + start, start + 4))


def test_rewards_and_gaps_that_are_no_numbers() -> None:
    """A reward that is not finite counts for nothing, and a gap that is none stops the run."""
    watch = trained()
    assert NOTHING == watch.observe(GOOD, play(float("nan"), 9))
    assert NOTHING == watch.observe(GOOD, play(float("inf"), 9))
    assert (0.9 + 0.2) / 2 == (watch.state().best or (0, 0))[0]
    for field in ("gap_abs_sum", "gap_kl_sum"):
        report = msgspec.structs.replace(GOOD, **{field: float("nan")})
        assert "engine and trainer differ by" in (watch.observe(report, play(0.5, 9)).stop or "")


def test_three_broken_steps_stop() -> None:
    """The third step in a row that is not finite ends the run."""
    watch = Watch(WatchConfig())
    stop = Decision(stop="3 steps in a row were not finite; see skipped-*.jsonl")
    assert [NOTHING, NOTHING, stop] == [watch.observe(BROKEN, play(0, 0)) for _ in range(3)]


def test_broken_steps_apart_do_not_stop() -> None:
    """A finite step in between starts the count again."""
    watch = Watch(WatchConfig())
    reports = (BROKEN, BROKEN, GOOD) * 3
    assert [NOTHING] * 9 == [watch.observe(report, play(0, 0)) for report in reports]


def test_mismatch_on_fresh_tokens_stops() -> None:
    """Engine and trainer that disagree on what was just sampled end the run at once."""
    report = msgspec.structs.replace(GOOD, gap_abs_sum=51.0)
    decision = Watch(WatchConfig()).observe(report, play(0, 0))
    assert (
        "engine and trainer differ by 0.051 nats a token on fresh samples, more than 0.05 "
        "(watch.mismatch): the policy would learn from noise"
    ) == decision.stop


def test_mismatch_below_the_gate_passes() -> None:
    """A gap at the gate, or no fresh token at all, is no mismatch."""
    watch = Watch(WatchConfig())
    stale = msgspec.structs.replace(GOOD, fresh_tokens=0)
    at_gate = msgspec.structs.replace(GOOD, gap_abs_sum=50.0)
    assert [NOTHING, NOTHING] == [watch.observe(r, play(0, 0)) for r in (stale, at_gate)]


def read_again(state: AlarmsState) -> AlarmsState:
    """Write a state as JSON and read it."""
    text = msgspec.json.encode(state)
    json.loads(text, parse_constant=pytest.fail)
    return msgspec.json.decode(text, type=AlarmsState)


def test_state_round_trip() -> None:
    """A watch restored from JSON decides as the first would have, whatever comes."""
    for seen in range(5):
        first = trained()
        for _ in range(seen):
            first.observe(CLIPPED, play(-0.5, 3))
        other = Watch(WatchConfig())
        other.restore(read_again(first.state()))
        following = [CLIPPED, CLIPPED, UNMIXED, CLIPPED, UNMIXED, UNMIXED, BROKEN, BROKEN, BROKEN]
        assert [first.observe(r, play(-0.6, 5)) for r in following] == [
            other.observe(r, play(-0.6, 5)) for r in following
        ]


def test_state_of_a_fresh_watch_round_trips() -> None:
    """A watch that saw nothing has a state of plain JSON too."""
    fresh = Watch(WatchConfig()).state()
    state = read_again(fresh)
    watch = Watch(WatchConfig())
    watch.restore(state)
    assert fresh == state == watch.state()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make a store with ten adapter folders."""
    for version in range(1, 11):
        (tmp_path / "adapters" / f"policy-{version:06d}").mkdir(parents=True)
    return Store(tmp_path)


def versions_in(store: Store) -> list[int]:
    """List the adapter folders that are there."""
    return sorted(int(path.name[-6:]) for path in (store.folder / "adapters").iterdir())


def test_prune_keeps_the_newest_the_live_and_the_best(store: Store) -> None:
    """What may still be asked for stays; the rest goes."""
    watch = Watch(WatchConfig(keep_adapters=3))
    watch.observe(GOOD, play(0.9, 2))
    watch.observe(GOOD, play(0.1, 5))
    watch.prune(store, alive=(4, 10))
    assert [2, 4, 8, 9, 10] == versions_in(store)


def test_prune_without_a_best(store: Store) -> None:
    """Before there is a best version only the newest and the live ones stay."""
    Watch(WatchConfig(keep_adapters=1)).prune(store, alive=(9,))
    assert [9, 10] == versions_in(store)


def test_prune_of_few_folders_deletes_nothing(store: Store) -> None:
    """Fewer folders than may stay all stay."""
    Watch(WatchConfig(keep_adapters=50)).prune(store, alive=())
    assert list(range(1, 11)) == versions_in(store)
