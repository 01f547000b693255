"""What calls of an episode with a trial phase were good for."""

from __future__ import annotations

import pytest

from trustee.environments.trial.metrics import brings_nothing, figures_of, label_attempts
from trustee.types import Attempt, Label, Outcome, Phase, Stop, Trajectory, TrialFacts


def attempt(
    name: str, answer: str = '{"ok": true}', *, room: str = "hall", phase: Phase = Phase.TRIAL
) -> Attempt:
    """Make one call and its answer."""
    return Attempt(
        phase=phase,
        name=name,
        arguments={"room": room},
        answer=answer,
        failed=not name or answer == ERROR,
    )


ERROR = '{"error": "down"}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", True),
        (" ", True),
        ("null", True),
        ("[]", True),
        ("{}", True),
        ('{"error": "down"}', True),
        ('{"result": null}', True),
        ('{"result": null, "rows": []}', True),
        ('{"error": "", "level": 3}', False),
        ('{"level": 0}', False),
        ('{"ok": false}', False),
        ("0", False),
        ("sunny", False),
    ],
)
def test_answer_that_brings_nothing(answer: str, expected: bool) -> None:
    """Errors and empty values bring nothing; zero and false are values."""
    assert expected == brings_nothing(answer)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], []),
        ([attempt("a"), attempt("b", ERROR)], [Label.USEFUL, Label.USEFUL]),
        ([attempt("a"), attempt("a", room="attic")], [Label.USEFUL, Label.UNPRODUCTIVE]),
        ([attempt("a"), attempt("a")], [Label.USEFUL, Label.REPEAT]),
        ([attempt("a", ERROR), attempt("a", room="attic")], [Label.USEFUL, Label.USEFUL]),
        (
            [attempt("a", ERROR), attempt("a", ERROR, room="attic")],
            [Label.USEFUL, Label.UNPRODUCTIVE],
        ),
        ([attempt("", ERROR), attempt("", ERROR)], [Label.UNPRODUCTIVE, Label.UNPRODUCTIVE]),
        (
            [attempt("a"), attempt("a", phase=Phase.EXECUTION)],
            [Label.USEFUL, Label.DIRECT],
        ),
        (
            [attempt("a", phase=Phase.EXECUTION), attempt("a", phase=Phase.EXECUTION)],
            [Label.DIRECT, Label.REPEAT],
        ),
    ],
)
def test_label_follows_from_what_was_known(attempts: list[Attempt], expected: list[Label]) -> None:
    """A trial is useful where it shows something new of its tool, and a repeat shows nothing."""
    assert tuple(expected) == label_attempts(attempts)


def test_case_and_number_type_make_no_other_call() -> None:
    """Arguments are compared as expected calls are."""
    first = Attempt(phase=Phase.TRIAL, name="a", arguments={"n": 1, "s": "Hall"}, answer="1")
    again = Attempt(phase=Phase.TRIAL, name="a", arguments={"s": "hall", "n": 1.0}, answer="1")
    assert (Label.USEFUL, Label.REPEAT) == label_attempts([first, again])


def trajectory(reward: float, *attempts: Attempt, note: str = "note : use a") -> Trajectory:
    """Make an episode of some attempts."""
    facts = TrialFacts(
        phases=(), note=note, attempts=attempts, labels=label_attempts(attempts), refused=("x",)
    )
    return Trajectory(
        id="0/0",
        task_id="t",
        turns=(),
        stop=Stop.DONE,
        rewards={"success": reward},
        outcome=Outcome(trial=facts),
    )


def test_figures_of_episodes() -> None:
    """Means per episode; success after an error counts only episodes with an error."""
    played = [
        trajectory(1.0, attempt("a", ERROR), attempt("b"), attempt("b", phase=Phase.EXECUTION)),
        trajectory(0.0, attempt("a", ERROR, phase=Phase.EXECUTION), note=""),
        trajectory(1.0, attempt("a"), attempt("a"), attempt("a", phase=Phase.EXECUTION)),
        trajectory(0.0),
    ]
    assert {
        "trial_calls": 1.0,
        "trial_share": 0.5,
        "note_share": 0.75,
        "success_after_error": 0.5,
        "errors_share": 0.5,
        "transforms_refused": 1.0,
        "calls_direct": 0.75,
        "calls_useful": 0.75,
        "calls_unproductive": 0.0,
        "calls_repeat": 0.25,
    } == figures_of(played)


def test_episodes_of_other_worlds_have_no_figures() -> None:
    """Without a trial phase there is nothing to count."""
    other = Trajectory(id="0/0", task_id="t", turns=(), stop=Stop.DONE, notes={"facts": ""})
    assert {} == figures_of([other])
