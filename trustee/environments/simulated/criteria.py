"""What a judge decides about an episode."""

from __future__ import annotations

from enum import StrEnum


class Criterion(StrEnum):
    """What the judge decides, in the order in which growing difficulty adds the criteria."""

    FULFILLED = "fulfilled"
    RIGHT_TOOLS = "right_tools"
    NO_INVENTION = "no_invention"
    NO_REPETITION = "no_repetition"
    EFFICIENT = "efficient"
