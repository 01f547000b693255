"""Alarms over a run: what has gone wrong before in silence stops it or rolls it back.

Collapse is absorbing: once all rewards are equal nothing pulls the policy back. The share of
clipped tokens tells beforehand (under 0.01 in every run that learnt, above 0.02 before each
collapse), so a run rolls back to its best earlier adapter when that share, or the want of mixed
groups, lasts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from trustee.algorithm.step import StepReport
from trustee.runs.store import Store
from trustee.types import Group, Record

NOT_FINITE = 3
"""Steps in a row that are not finite and end a run."""
SMOOTH = 0.5
"""Weight of the newest group in a version's mean reward."""


class WatchConfig(Record, frozen=True):
    """When to roll back or stop."""

    clip_ratio: Annotated[float, Meta(gt=0)] = 0.02
    """Clipped share of tokens above which a step counts as bad."""
    patience: Annotated[int, Meta(ge=1)] = 3
    """Bad steps in a row, or steps without a mixed group, before the run rolls back."""
    mismatch: Annotated[float, Meta(gt=0)] = 0.05
    """Mean |engine - trainer| logprob of fresh tokens above which the run stops."""
    mismatch_kl: Annotated[float, Meta(gt=0)] = 0.02
    """KL(engine, trainer) a fresh token, k3 estimate, above which the run stops: few tokens that
    are far off hide in the mean above."""
    keep_adapters: Annotated[int, Meta(ge=1)] = 5
    """Adapter folders kept beside the live ones and the best."""


class Decision(Record, frozen=True):
    """What to do after a step."""

    stop: str | None = None
    roll_back_to: int | None = None
    why: str = ""


class AlarmsState(Record, frozen=True):
    """What a checkpoint keeps of a watch."""

    clipped: int
    """Steps in a row with too much clipped."""
    unmixed: int
    """Steps in a row without a group of different rewards."""
    broken: int
    """Steps in a row that were not finite."""
    smooth: float | None
    """The smoothed mean reward; None before the first episode, and after rolling back."""
    best: tuple[float, int] | None
    """The best smoothed mean reward, and the version that reached it."""


class Watch:
    """Keeps count of bad steps, and of the best version so far."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self._clipped = 0
        self._unmixed = 0
        self._broken = 0
        self._smooth: float | None = None
        self._best: tuple[float, int] = (float("-inf"), 0)

    def observe(self, report: StepReport, groups: Sequence[Group]) -> Decision:
        """Look at a step and the groups that it trained on."""
        config = self._config
        rewards = [t.reward for group in groups for t in group.valid]
        if rewards:
            mean = sum(rewards) / len(rewards)
            before = mean if self._smooth is None else self._smooth
            self._smooth = (1 - SMOOTH) * before + SMOOTH * mean
            played = min(group.version for group in groups)
            if played and self._smooth > self._best[0]:
                self._best = (self._smooth, played)
        self._broken = 0 if report.finite else self._broken + 1
        if self._broken >= NOT_FINITE:
            return Decision(
                stop=f"{NOT_FINITE} steps in a row were not finite; see skipped-*.jsonl"
            )
        gap = report.gap_abs_sum / max(1, report.fresh_tokens)
        if gap > config.mismatch:
            return Decision(
                stop=f"engine and trainer differ by {gap:.3f} nats a token on fresh samples, more "
                f"than {config.mismatch:g} (watch.mismatch): the policy would learn from noise"
            )
        divergence = report.gap_kl_sum / max(1, report.fresh_tokens)
        if divergence > config.mismatch_kl:
            return Decision(
                stop=f"engine and trainer differ by a KL of {divergence:.3f} a token on fresh "
                f"samples, more than {config.mismatch_kl:g} (watch.mismatch_kl)"
            )
        share = report.clipped / max(1, report.tokens)
        self._clipped = self._clipped + 1 if share > config.clip_ratio else 0
        self._unmixed = 0 if report.mixed else self._unmixed + 1
        why = ""
        if self._clipped >= config.patience:
            why = f"more than {config.clip_ratio:g} of the tokens clipped in {self._clipped} steps"
        elif self._unmixed >= config.patience and (self._smooth or 0.0) < self._best[0]:
            why = f"no group with different rewards in {self._unmixed} steps"
        if not why or not self._best[1]:
            return Decision()
        self._clipped = self._unmixed = 0
        self._smooth = None
        return Decision(roll_back_to=self._best[1], why=why)

    def prune(self, store: Store, *, alive: Sequence[int]) -> None:
        """Delete adapter folders that nobody will ask for again."""
        folders = sorted((store.folder / "adapters").glob("policy-*"))
        needed = {store.adapter(version).path for version in (*alive, self._best[1])}
        for folder in folders[: -self._config.keep_adapters]:
            if folder not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def state(self) -> AlarmsState:
        """Return all that `restore` needs."""
        return AlarmsState(
            clipped=self._clipped,
            unmixed=self._unmixed,
            broken=self._broken,
            smooth=self._smooth,
            best=self._best if self._best[1] else None,
        )

    def restore(self, state: AlarmsState) -> None:
        """Continue from a stored state."""
        self._clipped, self._unmixed = state.clipped, state.unmixed
        self._broken, self._smooth = state.broken, state.smooth
        if state.best is not None:
            self._best = state.best
