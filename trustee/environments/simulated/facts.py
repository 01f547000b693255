"""What code can check about an episode before a judge is asked.

Facts come from the calls that ran, never from what the policy claims. If they settle a criterion,
the judge's opinion on it is not used.
"""

from __future__ import annotations

from collections.abc import Sequence

from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.quoting import quote_call
from trustee.tools.values import call_key, call_line, normalise
from trustee.types import ExpectedCall, Record, ToolCall


class Executed(Record, frozen=True):
    """A call of an offered tool."""

    call: ToolCall
    result: str
    """JSON text that the policy saw."""
    ok: bool
    """False if the call was refused or the tool answered with an error."""


class Facts(Record, frozen=True):
    """What happened, as far as code can tell."""

    expected: tuple[ExpectedCall, ...]
    made: tuple[bool, ...]
    """For each expected call, whether it was made with these arguments and worked."""
    unexpected: tuple[ToolCall, ...]
    """Calls that worked and match no expected call."""
    repeated: int
    """Number of calls that worked and equal an earlier one, except reads after a write."""
    malformed: int
    """Number of calls that could not be read or did not name an offered tool."""
    total: int
    """Number of calls of all kinds."""
    missing_writes: int = 0
    """Number of expected writes that were not made and that no other write can stand in for."""


def fits(call: ToolCall, expected: ExpectedCall) -> bool:
    """Return whether a call has the expected tool and equal values of all expected arguments."""
    return call.name == expected.name and all(
        key in call.arguments and normalise(call.arguments[key]) == normalise(value)
        for key, value in expected.arguments.items()
    )


def gather_facts(
    executed: Sequence[Executed],
    expected: Sequence[ExpectedCall],
    *,
    malformed: int,
    writes: frozenset[str] = frozenset(),
) -> Facts:
    """Match the calls that ran with the expected ones, using each call once.

    `writes` names the tools that write: a read after a successful write is not a repetition.
    """
    open_calls = [entry.call for entry in executed if entry.ok]
    keys = [call_key(call.name, call.arguments) for call in open_calls]
    repeated = 0
    written: set[str] = set()
    read: set[str] = set()
    for key, call in zip(keys, open_calls, strict=True):
        if key in written or key in read:
            repeated += 1
        if call.name in writes:
            written.add(key)
            read.clear()
        else:
            read.add(key)
    made: list[bool] = []
    rest = list(dict(zip(keys, open_calls, strict=True)).values())
    for wanted in expected:
        match = next((call for call in rest if fits(call, wanted)), None)
        made.append(match is not None)
        if match is not None:
            rest.remove(match)
    unwritten = sum(
        call.name in writes and not done for call, done in zip(expected, made, strict=True)
    )
    other_writes = sum(call.name in writes for call in rest)
    return Facts(
        missing_writes=max(0, unwritten - other_writes),
        expected=tuple(expected),
        made=tuple(made),
        unexpected=tuple(rest),
        repeated=repeated,
        malformed=malformed,
        total=len(executed) + malformed,
    )


def fact_lines(facts: Facts) -> str:
    """Return the facts as lines of the judge's prompt."""
    lines = [
        f"expected {call_line(call.name, call.arguments)}: {'made' if made else 'not made'}"
        for call, made in zip(facts.expected, facts.made, strict=True)
    ]
    lines += [f"unexpected {quote_call(call)}" for call in facts.unexpected]
    lines.append(f"repeated calls: {facts.repeated}")
    return "\n".join(lines)


def settle(facts: Facts, criterion: Criterion) -> bool | None:
    """Return whether a criterion holds if facts alone decide it; None leaves it to the judge."""
    nothing_worked = not any(facts.made) and not facts.unexpected
    match criterion:
        case Criterion.FULFILLED:
            # Whatever the policy claims, a request for a change needs a successful write.
            failed = facts.missing_writes or (facts.expected and nothing_worked)
            return False if failed else None
        case Criterion.RIGHT_TOOLS:
            if facts.malformed or (facts.expected and nothing_worked):
                return False
            return True if all(facts.made) and not facts.unexpected else None
        case Criterion.NO_INVENTION:
            return None
        case Criterion.NO_REPETITION:
            return False if facts.repeated else None
        case Criterion.EFFICIENT:
            # Few calls alone do not prove efficiency, because a question may have been needless.
            return False if facts.total > 2 * len(facts.expected) + 1 else None


def reward_of(facts: Facts, criteria: dict[Criterion, bool]) -> float:
    """Return the reward: -1, 0 or 1.

    -1: a call could not be read or did not name an offered tool, or the intent is not fulfilled;
    0: fulfilled, but another active criterion is violated; 1: all active criteria hold.
    Source: TRUSTEE defines the three values and the criteria; the mapping is ours.
    """
    if facts.malformed or not criteria[Criterion.FULFILLED]:
        return -1.0
    return 1.0 if all(criteria.values()) else 0.0
