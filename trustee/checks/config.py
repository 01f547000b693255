"""The thresholds of all checks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from trustee.types import Record

SuccessRate = Annotated[float, Meta(ge=0, le=1)]


class GateConfig(Record, frozen=True):
    """What a run may get wrong before it stops."""

    effect_patience: Annotated[int, Meta(ge=0)] = 10
    """Moved versions in a row without any effect on sampling that end a run; 0 never looks."""
    false_accepts: SuccessRate = 0.25
    """Bad canaries that the judge may accept; 1 allows all."""
    false_refuses: SuccessRate = 0.3
    """Good canaries that the judge may refuse; 1 allows all."""
    agreement: SuccessRate = 0.75
    """Least agreement of the judge with a world that knows the truth; 0 allows none."""
    correlation: SuccessRate = 0.2
    """Least correlation of the judge's verdicts with an anchor's rewards; 0 allows any."""
    unread: SuccessRate = 0.05
    """Messages of a step in which a simple count of calls differs from the parser's."""

    @property
    def shows_canaries(self) -> bool:
        """Say whether any number of wrong verdicts would matter."""
        return min(self.false_accepts, self.false_refuses) < 1
