"""Held-out results by task, and what two policies differ in on the tasks that both played."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.evaluation.evaluate import Gain, SuccessRate, share_of
from trustee.evaluation.intervals import paired_interval
from trustee.runs.following import LineFollower
from trustee.types import Record


class Pairing(Record, frozen=True):
    """Two policies on the tasks that both played."""

    first: SuccessRate
    second: SuccessRate
    gain: Gain
    shared: int
    """Number of tasks that both played without a failure."""
    won: tuple[str, ...]
    """Ids of the tasks that only the second policy solved."""
    lost: tuple[str, ...]


class _Outcome(msgspec.Struct, frozen=True):
    success: bool | None = None


class _Played(msgspec.Struct):
    task_id: str
    rewards: dict[str, float] = {}
    outcome: _Outcome = _Outcome()
    failure: msgspec.Raw = msgspec.Raw(b"null")


class Measured:
    """Success by task, from a file of held-out episodes; read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFollower(path)
        self.success: dict[str, bool | None] = {}
        """By task id; None where something other than the policy failed."""
        self.reward: dict[str, float] = {}
        self.rows: dict[str, int] = {}
        """The row of each task in the file."""
        self._read = 0

    def advance(self) -> None:
        """Read what is new; lines that cannot be read are left out."""
        if self._lines.look():
            self.success, self.reward, self.rows, self._read = {}, {}, {}, 0
        try:
            for line in self._lines.read_new():
                played = decode_json(line.data or b"", _Played, error=InputError)
                reward = sum(played.rewards.values())
                won = reward > 0 if played.outcome.success is None else played.outcome.success
                failed = bytes(played.failure) != b"null"
                self.success[played.task_id] = None if failed else won
                self.reward[played.task_id] = reward
                self.rows[played.task_id] = self._read
                self._read += 1
        except InputError:
            return

    def share(self) -> SuccessRate | None:
        """Return the share of tasks that were solved; None if none was played."""
        known = [won for won in self.success.values() if won is not None]
        return share_of(known, failed=len(self.success) - len(known)) if self.success else None


def pair(first: Mapping[str, bool | None], second: Mapping[str, bool | None]) -> Pairing | None:
    """Return what two policies differ in; None if they share no task."""
    one = {task: won for task, won in first.items() if won is not None}
    two = {task: won for task, won in second.items() if won is not None}
    shared = sorted(one.keys() & two.keys())
    if not shared:
        return None
    won = tuple(task for task in shared if two[task] and not one[task])
    lost = tuple(task for task in shared if one[task] and not two[task])
    low, high = paired_interval(len(won), len(lost), len(shared))
    return Pairing(
        first=share_of([one[task] for task in shared]),
        second=share_of([two[task] for task in shared]),
        gain=Gain(
            points=100 * (len(won) - len(lost)) / len(shared),
            low=100 * low,
            high=100 * high,
            better=len(won),
            worse=len(lost),
        ),
        shared=len(shared),
        won=won,
        lost=lost,
    )
