"""The thresholds of all checks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from trustee.types import Record, Share


class GateConfig(Record, frozen=True):
    """What a run may get wrong before it stops; `none` leaves a check out."""

    effect_patience: Annotated[int, Meta(ge=1)] | None = 10
    """Versions in a row that moved without any effect on sampling, which end a run; none never
    looks."""
    false_accepts: Share | None = 0.25
    """Maximum share of the bad canaries that the judge may accept; none does not ask it."""
    false_refuses: Share | None = 0.3
    """Maximum share of the good canaries that the judge may refuse; none does not ask it."""
    agreement: Share | None = 0.75
    """Minimum agreement of the judge with a world that knows the truth; none does not compare."""
    correlation: Share | None = 0.2
    """Minimum correlation of the judge's verdicts with an anchor's rewards; none does not compare.
    """
    unread: Share | None = 0.05
    """Maximum share of a step's messages whose calls a simple count finds to be others than the
    parser did; none does not count."""

    @property
    def shows_canaries(self) -> bool:
        """Whether any number of wrong verdicts would matter."""
        return self.false_accepts is not None or self.false_refuses is not None
