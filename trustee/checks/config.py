"""The thresholds of all checks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from trustee.types import Record, Share


class GateConfig(Record, frozen=True):
    """The thresholds at which a run stops; `none` turns a check off."""

    effect_patience: Annotated[int, Meta(ge=1)] | None = 10
    """Number of consecutive changed versions without any effect on sampling after which a run
    stops; `none` turns the check off."""
    false_accepts: Share | None = 0.3
    """Maximum share of bad canaries that the judge may accept, of those on which it is asked;
    `none` turns the check off."""
    false_refuses: Share | None = 0.3
    """Maximum share of good canaries that the judge may refuse; `none` turns the check off."""
    agreement: Share | None = 0.75
    """Minimum agreement of the judge with a world that knows the truth; `none` turns the check
    off."""
    correlation: Share | None = 0.2
    """Minimum correlation of the judge's verdicts with an anchor's rewards; `none` turns the check
    off."""
    unread: Share | None = 0.05
    """Maximum share of a step's messages in which a simple count of calls differs from the
    parser's; `none` turns the check off."""
    forgetting: Annotated[float, Meta(gt=0)] | None = None
    """Maximum KL(base ‖ policy) per token on 16 general prompts, in nats, measured at every
    checkpoint; above it the run stops. `none` turns the check off."""

    @property
    def shows_canaries(self) -> bool:
        """Whether at least one check needs the judge's verdicts on canaries."""
        return self.false_accepts is not None or self.false_refuses is not None
