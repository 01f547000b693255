"""The split: combinations of tools and whole environments that are kept for evaluation.

A fixed share of all pairs of tool names is reserved. Training never offers both tools of a reserved
pair together; evaluation always does, so it tests combinations that are new to the policy.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import combinations

from trustee.types import Tool


def is_held_out(name: str, *, one_in: int) -> bool:
    """Whether an environment with its own tools is kept for evaluation, by its id alone."""
    return zlib.crc32(name.encode()) % one_in == 0


def is_reserved_pair(first: str, second: str, *, one_in: int) -> bool:
    """Whether a pair of tool names, in any order, is reserved; one pair in `one_in` is."""
    low, high = sorted((first, second))
    return zlib.crc32(f"{low} {high}".encode()) % one_in == 0


def is_reserved(tools: Sequence[Tool], *, one_in: int) -> bool:
    """Whether a set of tools contains a reserved pair."""
    return any(is_reserved_pair(a.name, b.name, one_in=one_in) for a, b in combinations(tools, 2))
