"""The rules of a simulated episode: whose prompts, what the roles are shown, and what pays."""

from __future__ import annotations

from typing import Literal

from trustee.types import Record

VerdictRule = Literal["facts", "published"]
Withheld = Literal["intent", "persona", "calls"]


class Rules(Record, frozen=True):
    """How the episodes of a world are played and judged; `Simulated` describes each."""

    prompts: str
    verdict: VerdictRule
    thoughts: bool
    withheld: tuple[Withheld, ...]
    calls_at_once: int
    result_chars: int
