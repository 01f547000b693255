"""Sifting: each fault is found, in its order, and a good episode has none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustee.environments.hints import Hints
from trustee.sft.rejection import FilterConfig, contains, find_reject_reason
from trustee.types import (
    Attempt,
    BadCall,
    Call,
    Completion,
    Failure,
    Label,
    Message,
    Outcome,
    Phase,
    RejectReason,
    Role,
    Stop,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    TrialFacts,
    Turn,
)

TASK = Task(
    id="t",
    messages=(Message(role="user", content="What is the capital of Peru?"),),
    tools=(Tool(name="find", description="find 9", parameters={"type": "object"}),),
    difficulty=1,
)
HINTS = Hints(lines=('solution: find {"of": "PE"}',), secrets=("Lima", "PE", "9"))


def call(name: str = "find", **arguments: Any) -> ToolCall:
    """Make a call."""
    return ToolCall(id="c", name=name, arguments=arguments)


def turn(said: str | Call, *answers: str) -> Turn:
    """Make a turn of ten ids: a text and the user's answers, or a call and its result."""
    completion = Completion(ids=(1,) * 5, logprobs=(0.0,) * 5, stop="stop", version=0)
    if isinstance(said, str):
        message = Message(role="assistant", content=said)
        replies = tuple(Message(role="user", content=answer) for answer in answers)
    else:
        message = Message(role="assistant", calls=(said,))
        replies = tuple(Message(role="tool", content=a, call_id="c") for a in answers)
    return Turn(rendered_ids=(0,) * 5, completion=completion, message=message, replies=replies)


def play(*turns: Turn, **changes: Any) -> Trajectory:
    """Make a successful episode."""
    trajectory = Trajectory(
        id="0/0", task_id="t", turns=turns, stop=Stop.DONE, rewards={"success": 1.0}
    )
    return msgspec.structs.replace(trajectory, **changes)


def fault(trajectory: Trajectory, *, context: int = 100, **config: Any) -> RejectReason | None:
    """Look for a fault."""
    return find_reject_reason(
        trajectory, TASK, HINTS, config=FilterConfig(**config), context=context
    )


ERROR = '{"error": "no such place"}'
LIMA = '{"capital": "Lima"}'
ANSWER = turn("Lima")
GOOD = play(turn(call(of="Peru"), LIMA), ANSWER)


def test_good_episode() -> None:
    """Success, every value known before it is said."""
    assert None is fault(GOOD)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"failure": Failure(source=Role.ENGINE, kind="k", message="m"), "rewards": {}},
            RejectReason.FAILED,
        ),
        ({"rewards": {"success": 0.0}}, RejectReason.UNSOLVED),
        ({"stop": Stop.TURNS}, RejectReason.UNFINISHED),
        (
            {"turns": (turn(BadCall(id="c", text="x", reason="y"), ERROR), *GOOD.turns)},
            RejectReason.UNREADABLE,
        ),
        ({"turns": (turn(call(of="Peru"), LIMA), turn(call(of="Chile"), ERROR), ANSWER)},
         RejectReason.UNCORRECTED),
        ({"turns": (turn(call(of="a"), ERROR), turn(call(of="a"), ERROR), *GOOD.turns)},
         RejectReason.LOOP),
        ({"turns": (ANSWER, *GOOD.turns)}, RejectReason.LEAK),
        ({"turns": (turn(call(of="PE"), LIMA), ANSWER)}, RejectReason.LEAK),
        ({"turns": (turn("my private notes say so", "well"), *GOOD.turns)}, RejectReason.LEAK),
        ({"turns": (turn('SOLUTION: find {"of": "pe"}', "well"), *GOOD.turns)}, RejectReason.LEAK),
    ],
)  # fmt: skip
def test_reject_reasons(changes: dict[str, Any], expected: RejectReason) -> None:
    """What spoils a good episode is named."""
    assert expected == fault(msgspec.structs.replace(GOOD, **changes))


@pytest.mark.parametrize(
    "turns",
    [
        (turn(call(of="Lima"), ERROR),),
        (turn("Which?", "the one with Lima"), turn(call(of="Lima"), "{}")),
        (turn(call(of="9"), "{}"),),
    ],
)
def test_what_somebody_said_is_known(turns: tuple[Turn, ...]) -> None:
    """Values of the user, of results and of the tools' own descriptions are no leak."""
    leaking = isinstance(turns[0].message.calls, tuple) and "Lima" in str(turns[0].message.calls)
    expected = RejectReason.LEAK if leaking else None
    assert expected == fault(play(*turns, *GOOD.turns))


def test_limits() -> None:
    """Messages and ids are counted, the opening included."""
    assert None is fault(GOOD, messages=2, ids=20)
    assert RejectReason.TOO_LONG == fault(GOOD, messages=1)
    assert RejectReason.TOO_LONG == fault(GOOD, ids=19)
    assert RejectReason.TOO_LONG == fault(GOOD, context=19)


def test_reward_must_be_above() -> None:
    """The bound itself is not enough."""
    assert [RejectReason.UNSOLVED, None] == [fault(GOOD, reward=1.0), fault(GOOD, reward=0.9)]


def test_same_call_after_another_is_no_loop() -> None:
    """Reading again after a call that worked is fine; after one that failed it is not."""
    read, write = turn(call("read"), "{}"), turn(call("write"), "{}")
    assert None is fault(play(read, write, read, *GOOD.turns))
    failed = turn(call("write"), ERROR)
    assert RejectReason.LOOP == fault(play(read, failed, read, *GOOD.turns))


def trial(*phases: Phase, trials: int) -> Outcome:
    """Make the outcome of an episode with a trial phase."""
    attempts = tuple(Attempt(phase=Phase.TRIAL, name="find") for _ in range(trials))
    facts = TrialFacts(
        phases=phases, note="note: x", attempts=attempts, labels=(Label.USEFUL,) * trials
    )
    return Outcome(trial=facts)


def test_trial_comes_before_execution() -> None:
    """Where there is a trial phase it must be used; its calls may come again in execution."""
    tried = turn(call(of="Peru"), LIMA)
    phases = (Phase.TRIAL, Phase.NOTE, Phase.EXECUTION, Phase.EXECUTION)
    note = turn("note: find works", "go")
    whole = play(tried, note, *GOOD.turns, outcome=trial(*phases, trials=1))
    assert None is fault(whole)
    without = play(note, *GOOD.turns, outcome=trial(*phases[1:], trials=0))
    assert RejectReason.NO_TRIAL == fault(without)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("in lima.", "lima", True),
        ("limassol", "lima", False),
        ("17", "1", False),
        ("a (b) c", "(b)", True),
    ],
)
def test_whole_words(text: str, value: str, expected: bool) -> None:
    """A value is found as words of its own."""
    assert expected == contains(text, value)
