"""When a run measures itself between its steps, which version was best, and when that is enough.

A run ends early once so many measurements in a row were no better than the best one. Whatever is
needed to go on after a kill is in the checkpoint; a measurement that is due and not in there is
taken again from its file.
"""

from __future__ import annotations

from pathlib import Path

from trustee.types import Record

STEP = "step-"
"""Beginning of the label of a measurement between steps."""
FILES = "held-out-step-*.jsonl"
BEST = "best.json"
"""File of a run folder with the best measurement: success, step, version."""


class Measured(Record, frozen=True):
    """What one version was measured at."""

    success: float
    """Share of the held-out tasks that it solved."""
    step: int
    version: int


class InterimState(Record, frozen=True):
    """The state of the measurements in a checkpoint."""

    best: Measured | None = None
    """The first of those with the most success; None before the first."""
    last: Measured | None = None
    misses: int = 0
    """Measurements since the best one."""
    ended: bool = False
    """Whether training ended early."""


class Interim:
    """Measurements between steps, as far as they were taken."""

    def __init__(self, *, every: int | None, patience: int | None) -> None:
        self._every = every
        self._patience = patience
        self._state = InterimState()

    def is_due(self, step: int) -> bool:
        """Whether a step is followed by a measurement that was not taken yet."""
        last = self._state.last
        return bool(self._every and step and not step % self._every) and (
            last is None or last.step < step
        )

    def note(self, measured: Measured) -> None:
        """Take a measurement into account."""
        if self._every is None:
            return
        best, misses = self._state.best, self._state.misses + 1
        if best is None or measured.success > best.success:
            best, misses = measured, 0
        ended = self._patience is not None and misses >= self._patience
        self._state = InterimState(best=best, last=measured, misses=misses, ended=ended)

    @property
    def best(self) -> Measured | None:
        """The best measurement; None before the first."""
        return self._state.best

    @property
    def last(self) -> Measured | None:
        """The latest measurement; None before the first."""
        return self._state.last

    @property
    def ended(self) -> bool:
        """Whether training ends early."""
        return self._state.ended

    @property
    def misses(self) -> int:
        """Measurements since the best one."""
        return self._state.misses

    def kept(self) -> tuple[int, ...]:
        """Return the versions whose adapters must stay."""
        return () if self.best is None or not self.best.version else (self.best.version,)

    def state(self) -> InterimState:
        """Return the state that `restore` needs."""
        return self._state

    def restore(self, state: InterimState) -> None:
        """Continue from a stored state."""
        self._state = state


def name_interim(step: int) -> str:
    """Return the label of the measurement after a step."""
    return f"{STEP}{step:06d}"


def forget_later(folder: Path, step: int) -> None:
    """Delete what was measured after a later step than the one that a run goes on from."""
    for path in folder.glob(FILES):
        number = path.stem.rpartition("-")[2]
        if number.isdigit() and int(number) > step:
            path.unlink()
