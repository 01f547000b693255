"""pass^k: its estimate against counting, and its intervals."""

from __future__ import annotations

from itertools import combinations
from math import comb, isclose

from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.evaluation.repeats import count_successes, estimate, gain_of_means, pass_all
from trustee.types import Failure, Role, Stop, Trajectory


def play(task: str, reward: float | None) -> Trajectory:
    """Make an episode; without a reward it was spoiled."""
    failure = Failure(source=Role.JUDGE, kind="SimulatorError", message="no verdict")
    if reward is None:
        return Trajectory(id=task, task_id=task, turns=(), stop=Stop.FAILED, failure=failure)
    return Trajectory(id=task, task_id=task, turns=(), stop=Stop.DONE, rewards={"a": reward})


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_the_estimate_is_the_share_of_choices_that_all_succeed(
    attempts: list[bool], data: st.DataObject
) -> None:
    """Counted one by one."""
    k = data.draw(st.integers(1, len(attempts)))
    chosen = [all(choice) for choice in combinations(attempts, k)]
    assert isclose(sum(chosen) / len(chosen), estimate(sum(attempts), len(attempts), k))


@given(st.floats(0, 1), st.integers(1, 6), st.data())
def test_the_estimate_has_no_bias(chance: float, valid: int, data: st.DataObject) -> None:
    """Over all outcomes of so many attempts its mean is the chance of k successes in a row."""
    k = data.draw(st.integers(1, valid))
    mean = sum(
        comb(valid, solved)
        * chance**solved
        * (1 - chance) ** (valid - solved)
        * estimate(solved, valid, k)
        for solved in range(valid + 1)
    )
    assert isclose(chance**k, mean, abs_tol=1e-12)


def test_failed_attempts_count_neither_way() -> None:
    """A task with too few valid attempts is left out, and its failures are told."""
    played = [play("a", 1), play("b", 1), play("c", 0), play("a", None), play("b", 0), play("c", 0)]
    assert {"a": (1, 1), "b": (1, 2), "c": (0, 2)} == count_successes(played)
    first, second = pass_all(played, 1), pass_all(played, 2)
    assert (0.5, 3, 1) == (first.value, first.count, first.failed)
    assert (0.0, 2, 1) == (second.value, second.count, second.failed)


def test_without_tasks_nothing_is_known() -> None:
    """The full range."""
    share = pass_all([], 2)
    assert (0.0, 0.0, 1.0, 0) == (share.value, share.low, share.high, share.count)
    gain = gain_of_means([], [])
    assert (0.0, -100.0, 100.0) == (gain.points, gain.low, gain.high)


@settings(max_examples=25)
@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=4), min_size=1, max_size=12))
def test_intervals_hold_the_value_and_have_a_width(tasks: list[list[bool]]) -> None:
    """Also where all attempts end alike; pass^2 is at most pass^1."""
    played = [play(f"t{n}", float(won)) for n, task in enumerate(tasks) for won in task]
    once, twice = pass_all(played, 1), pass_all(played, 2)
    for share in (once, twice):
        assert 0 <= share.low <= share.value <= share.high <= 1
        assert share.high - share.low > 0.01
    assert twice.value <= once.value + 1e-12


def test_more_tasks_make_the_interval_narrower() -> None:
    """By about the square root of their number."""

    def width(tasks: int) -> float:
        share = pass_all([play(f"t{n}", float(n % 2)) for n in range(tasks)], 1)
        return share.high - share.low

    assert 3 < width(20) / width(320) < 5


def test_a_gain_of_shares_is_told_by_task() -> None:
    """On the tasks that both played."""
    first = [play("a", 0), play("a", 0), play("b", 1), play("b", 0), play("c", 1), play("x", 1)]
    second = [play("a", 1), play("a", 0), play("b", 0), play("b", 0), play("c", 1), play("y", 1)]
    gain = gain_of_means(first, second)
    assert (0.0, 1, 1) == (gain.points, gain.better, gain.worse)
    assert gain.low < 0 < gain.high
