"""Progress events of a running job: one frozen type per kind of event.

`--json` writes each as an object whose `event` is the type's tag. A field that is
None because it does not apply is left out if None is its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from trustee.types import Record, RejectReason, Role


class Stage(Record, frozen=True, tag_field="event", tag="stage", omit_defaults=True):
    """A stage of the job began."""

    name: str
    progress: float | None = None
    """Fraction of the run already done when the stage began, if training is resumed."""


class StageMoved(Record, frozen=True, tag_field="event", tag="moved"):
    """How far the present stage is; told every few seconds while it lasts."""

    done: int
    of: int
    """All that is to be done; 0 while it is unknown."""
    unit: str
    seconds: float
    """Time since the stage began."""
    sampled_per_s: float
    """Tokens sampled a second, over the last minute."""
    read_per_s: float
    """Tokens of prompts read a second, over the last minute."""
    left_s: float | None
    """Estimated time to the end of the stage; None before the first is done."""


class Note(Record, frozen=True, tag_field="event", tag="note", omit_defaults=True):
    """A message for the user."""

    text: str
    about: Literal["", "gate", "engine"] = ""
    """What a reader may want to find again: a gate's answer, or something about the engine."""


class Ended(Record, frozen=True, tag_field="event", tag="ended", omit_defaults=True):
    """A job ended; recorded, not shown."""

    code: int
    """Exit code of the process."""
    text: str = ""
    """What was said at the end, if anything went wrong."""


class EpisodeBegun(Record, frozen=True, tag_field="event", tag="begin"):
    """An episode of a group began."""

    group: int
    member: int


class TaskWritten(Record, frozen=True, tag_field="event", tag="task"):
    """A task was written from its task spec, or writing it failed."""

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
    """Number of ids that the policy sampled."""
    failed_by: Role | None
    """The part that failed, or the policy if it did not solve the task; None for a success."""
    failed: bool
    """Whether a part other than the policy failed."""
    rejected: RejectReason | None = None
    """In a collection: the reason for not keeping the episode."""


class StepTrained(Record, frozen=True, tag_field="event", tag="step", omit_defaults=True):
    """An optimiser step of the training loop."""

    step: int
    version: int
    progress: float
    """Fraction of the run that is done."""
    reward: float
    frac_reward_zero_std: float
    clip_ratio: float
    mismatch_abs: float | None
    """Mean |engine - trainer| logprob of fresh tokens, in nats; None if no token was fresh."""
    lag_mean: float
    lag_max: int
    waited_s: float
    train_s: float
    publish_s: float
    checkpoint_s: float
    tokens: Mapping[str, int]
    """Number of tokens that each simulated role has generated so far."""
    difficulty: float | None = None
    anchor_correlation: float | None = None
    anchor_episodes: float | None = None
    figures: Mapping[str, Any] = {}
    """All values of the step's lines in `metrics.jsonl` and `timing.jsonl`; `--json` writes them
    next to the fields."""


class SftStepTrained(Record, frozen=True, tag_field="event", tag="sft_step"):
    """An optimiser step of imitation."""

    step: int
    of: int
    progress: float
    loss: float
    held_out_loss: float | None
    """Loss on the held-out demonstrations, in nats a token; None if it was not measured."""
    figures: Mapping[str, Any] = {}
    """All values of the step's line in `metrics.jsonl`; `--json` writes them next to the fields."""


class HeldOutPlayed(Record, frozen=True, tag_field="event", tag="held_out", omit_defaults=True):
    """The policy played the held-out tasks."""

    label: str
    """When: `before` or `after` training, or the step."""
    step: int
    success: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    count: int
    """Number of valid episodes."""
    file: str
    """The file of the run folder that has the episodes."""
    failed: int = 0


class RolledBack(Record, frozen=True, tag_field="event", tag="rolled_back"):
    """Training went back to an earlier version."""

    to: int
    why: str


class TaskCollected(Record, frozen=True, tag_field="event", tag="collected"):
    """All episodes of one task of a collection were played."""

    tasks: int
    of: int
    kept: int


class Compared(Record, frozen=True, tag_field="event", tag="compared"):
    """The base and the adapter were compared on the held-out tasks."""

    base: float
    adapter: float
    gain_points: float


class CandidateBuilt(Record, frozen=True, tag_field="event", tag="built"):
    """A candidate was accepted as an environment."""

    place: int
    attempt: int
    scenario: str
    id: str
    accepted: int
    wanted: int
    candidates: int


class CandidateRejected(Record, frozen=True, tag_field="event", tag="rejected"):
    """A candidate was rejected."""

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
    | StageMoved
    | Note
    | Ended
    | EpisodeBegun
    | TaskWritten
    | EpisodePlayed
    | StepTrained
    | SftStepTrained
    | HeldOutPlayed
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
