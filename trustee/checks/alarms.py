"""Alarms of a run: they stop it or roll it back on failures that would otherwise go unnoticed.

A collapse is permanent, because once all rewards are equal no gradient brings the policy back. The
share of clipped tokens predicts it (under 0.01 in every run that learnt, above 0.02 before each
collapse). So a run rolls back to its best earlier version when that share stays too high, or when
mixed groups are missing for several steps. The base, version 0, is a version like any other. A run
that has rolled back twice without becoming better in between ends: it would do so for ever.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from trustee.algorithm.step import StepReport
from trustee.runs.store import Store
from trustee.types import Group, Record

NOT_FINITE = 3
"""Number of consecutive steps that are not finite after which a run stops."""
MOST_ROLLBACKS = 2
"""Number of rollbacks without a better version in between after which a run stops."""
SMOOTH = 0.5
"""Weight of the newest step in the smoothed mean reward."""


class WatchConfig(Record, frozen=True):
    """Thresholds for rolling back or stopping a run."""

    clip_ratio: Annotated[float, Meta(gt=0)] = 0.02
    """Maximum share of clipped tokens; a step above it counts as bad."""
    patience: Annotated[int, Meta(ge=1)] = 3
    """Number of consecutive bad steps, or steps without a mixed group, that cause a rollback."""
    mismatch: Annotated[float, Meta(gt=0)] = 0.05
    """Maximum mean |engine - trainer| logprob of fresh tokens in nats; above it the run stops."""
    mismatch_kl: Annotated[float, Meta(gt=0)] = 0.02
    """Maximum KL(engine, trainer) per fresh token (k3 estimate, in nats); above it the run stops.
    It shows a few large differences that the mean hides."""
    keep_adapters: Annotated[int, Meta(ge=1)] = 5
    """Number of newest adapter folders to keep, in addition to the live ones and the best."""


class Decision(Record, frozen=True):
    """What the run does after a step: stop, roll back, both, or continue."""

    stop: str | None = None
    roll_back_to: int | None = None
    why: str = ""


class AlarmsState(Record, frozen=True):
    """The state of a watch in a checkpoint."""

    clipped: int
    """Number of consecutive steps with too many clipped tokens."""
    unmixed: int
    """Number of consecutive steps without a group whose rewards differ."""
    broken: int
    """Number of consecutive steps that were not finite."""
    smooth: float | None
    """Smoothed mean reward; None before the first episode and after a rollback."""
    best: tuple[float, int] | None
    """Best smoothed mean reward and the version that reached it; None if there is none yet."""
    rollbacks: int = 0
    """Number of rollbacks since a version was the best."""
    restored: int | None = None
    """The version as which the best one was published at the last rollback."""


class Watch:
    """Counts bad steps and keeps track of the best version."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self._clipped = 0
        self._unmixed = 0
        self._broken = 0
        self._smooth: float | None = None
        self._best: tuple[float, int] | None = None
        self._rollbacks = 0
        self._restored: int | None = None

    def observe(self, report: StepReport, groups: Sequence[Group]) -> Decision:
        """Return the decision after a step and the groups that it trained on."""
        config = self._config
        self._measure(groups)
        self._broken = 0 if report.finite else self._broken + 1
        if self._broken >= NOT_FINITE:
            return Decision(
                stop=f"{NOT_FINITE} steps in a row were not finite; see skipped-*.jsonl"
            )
        gap = report.gap_abs_sum / max(1, report.fresh_tokens)
        # Negated, so that a gap that is not a number is not agreement.
        if report.finite and not gap <= config.mismatch:
            return Decision(
                stop=f"engine and trainer differ by {gap:.3f} nats a token on fresh samples, more "
                f"than {config.mismatch:g} (watch.mismatch): the policy would learn from noise"
            )
        divergence = report.gap_kl_sum / max(1, report.fresh_tokens)
        if report.finite and not divergence <= config.mismatch_kl:
            return Decision(
                stop=f"engine and trainer differ by a KL of {divergence:.3f} a token on fresh "
                f"samples, more than {config.mismatch_kl:g} (watch.mismatch_kl)"
            )
        return self._find_collapse(report)

    def _measure(self, groups: Sequence[Group]) -> None:
        """Update the smoothed reward and the best version."""
        rewards = [t.reward for group in groups for t in group.valid if math.isfinite(t.reward)]
        if not rewards:
            return
        mean = math.fsum(rewards) / len(rewards)
        before = mean if self._smooth is None else self._smooth
        self._smooth = (1 - SMOOTH) * before + SMOOTH * mean
        played = min(group.version for group in groups)
        # What was restored is the best version under a new number: only its successors can be
        # better, for otherwise luck would count as progress.
        is_new = self._restored is None or played > self._restored
        # At most what it earned itself: the smoothed reward still holds that of its predecessors.
        earned = min(mean, self._smooth)
        if is_new and (self._best is None or earned > self._best[0]):
            self._best = (earned, played)
            self._rollbacks = 0

    def _find_collapse(self, report: StepReport) -> Decision:
        """Return the decision about a step whose figures can be trusted."""
        config = self._config
        share = report.clipped / max(1, report.tokens)
        self._clipped = self._clipped + 1 if share > config.clip_ratio else 0
        self._unmixed = 0 if report.mixed else self._unmixed + 1
        why = ""
        if self._clipped >= config.patience:
            why = f"more than {config.clip_ratio:g} of the tokens clipped in {self._clipped} steps"
        elif self._unmixed >= config.patience and self._is_below_best():
            why = f"no group with different rewards in {self._unmixed} steps"
        if not why or self._best is None:
            return Decision()
        self._clipped = self._unmixed = 0
        self._smooth = None
        self._rollbacks += 1
        best = self._best[1]
        stop = None
        if self._rollbacks >= MOST_ROLLBACKS:
            stop = (
                f"rolled back {self._rollbacks} times to {name_version(best)} and no version since "
                f"was better (the last time: {why}); training makes this policy worse: use a lower "
                "learn.learning_rate or more groups per step (rollout.groups_per_step)"
            )
        return Decision(roll_back_to=best, why=why, stop=stop)

    def _is_below_best(self) -> bool:
        return self._best is not None and (self._smooth or 0.0) < self._best[0]

    def note_restored(self, version: int) -> None:
        """Remember under which number the best version was published again."""
        self._restored = version

    def prune(self, store: Store, *, alive: Sequence[int]) -> None:
        """Delete adapter folders that are no longer needed."""
        folders = sorted((store.folder / "adapters").glob("policy-*"))
        best = () if self._best is None else (self._best[1],)
        needed = {store.adapter(version).path for version in (*alive, *best)}
        for folder in folders[: -self._config.keep_adapters]:
            if folder not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def state(self) -> AlarmsState:
        """Return the state that `restore` needs."""
        return AlarmsState(
            clipped=self._clipped,
            unmixed=self._unmixed,
            broken=self._broken,
            smooth=self._smooth,
            best=self._best,
            rollbacks=self._rollbacks,
            restored=self._restored,
        )

    def restore(self, state: AlarmsState) -> None:
        """Continue from a stored state."""
        self._clipped, self._unmixed = state.clipped, state.unmixed
        self._broken, self._smooth = state.broken, state.smooth
        self._best = state.best
        self._rollbacks, self._restored = state.rollbacks, state.restored


def name_version(version: int) -> str:
    """Return how a version is called in texts."""
    return f"version {version}" if version else "the base"
