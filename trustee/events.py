"""What a job tells while it runs: one frozen type per kind of event.

`--json` writes each as an object whose `event` is the type's tag. A field that is None because it
does not apply is left out where None is its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from trustee.types import Record, RejectReason, Role


class Stage(Record, frozen=True, tag_field="event", tag="stage", omit_defaults=True):
    """A part of the job began."""

    name: str
    progress: float | None = None
    """The share of the run that was done before: of training, where it is resumed."""


class Note(Record, frozen=True, tag_field="event", tag="note"):
    """A sentence for the user."""

    text: str


class EpisodeBegun(Record, frozen=True, tag_field="event", tag="begin"):
    """A member of a group began to play."""

    group: int
    member: int


class TaskWritten(Record, frozen=True, tag_field="event", tag="task"):
    """A task spec became a task, or failed to."""

    group: int
    failed_by: Role | None
    failed: bool


class EpisodePlayed(Record, frozen=True, tag_field="event", tag="episode", omit_defaults=True):
    """An episode ended."""

    group: int
    member: int
    reward: float
    turns: int
    tokens: int
    """Ids that the policy sampled."""
    failed_by: Role | None
    """Also the policy, where it did not solve the task."""
    failed: bool
    """Whether something other than the policy failed."""
    rejected: RejectReason | None = None
    """In a collection: why the episode is not kept."""


class StepTrained(Record, frozen=True, tag_field="event", tag="step", omit_defaults=True):
    """An optimiser step of the training loop."""

    step: int
    version: int
    progress: float
    """The share of the run that is done."""
    reward: float
    frac_reward_zero_std: float
    clip_ratio: float
    mismatch_abs: float | None
    """None where no sample was fresh."""
    lag_mean: float
    lag_max: int
    waited_s: float
    train_s: float
    publish_s: float
    checkpoint_s: float
    tokens: Mapping[str, int]
    """Tokens that each simulated role has said so far."""
    difficulty: float | None = None
    anchor_correlation: float | None = None
    anchor_episodes: float | None = None
    figures: Mapping[str, Any] = {}
    """All figures of the step's lines in `metrics.jsonl` and `timing.jsonl`; `--json` writes them
    next to the fields."""


class SftStepTrained(Record, frozen=True, tag_field="event", tag="sft_step"):
    """An optimiser step of imitation."""

    step: int
    of: int
    progress: float
    loss: float
    held_out_loss: float | None
    """None where it was not measured."""
    figures: Mapping[str, Any] = {}
    """All figures of the step's line in `metrics.jsonl`; `--json` writes them next to the
    fields."""


class RolledBack(Record, frozen=True, tag_field="event", tag="rolled_back"):
    """Training went back to an earlier version."""

    to: int
    why: str


class TaskCollected(Record, frozen=True, tag_field="event", tag="collected"):
    """All episodes of a collection's task were played."""

    tasks: int
    of: int
    kept: int


class Compared(Record, frozen=True, tag_field="event", tag="compared"):
    """Base and adapter were compared on the held-out tasks."""

    base: float
    adapter: float
    gain_points: float


class CandidateBuilt(Record, frozen=True, tag_field="event", tag="built"):
    """A candidate became an environment."""

    place: int
    attempt: int
    scenario: str
    id: str
    accepted: int
    wanted: int
    candidates: int


class CandidateRejected(Record, frozen=True, tag_field="event", tag="rejected"):
    """A candidate was refused."""

    place: int
    attempt: int
    scenario: str
    stage: str
    kind: str
    reason: str
    accepted: int
    wanted: int
    candidates: int


Event = (
    Stage
    | Note
    | EpisodeBegun
    | TaskWritten
    | EpisodePlayed
    | StepTrained
    | SftStepTrained
    | RolledBack
    | TaskCollected
    | Compared
    | CandidateBuilt
    | CandidateRejected
)
Emit = Callable[[Event], None]


def encode_event(event: Event) -> bytes:
    """Return an event as one JSON object."""
    fields = msgspec.to_builtins(event)
    figures = fields.pop("figures", {})
    return msgspec.json.encode({**fields, **figures})
