"""The split: combinations of tools and whole environments that are kept for evaluation.

A fixed share of all pairs of tool names is reserved, and at least one pair. Training never offers
both tools of a reserved pair together; evaluation always does, so it tests combinations that are
new to the policy.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from trustee.types import Tool


def is_held_out(name: str, *, one_in: int) -> bool:
    """Whether an environment with its own tools is kept for evaluation, by its id alone."""
    return zlib.crc32(name.encode()) % one_in == 0


def is_reserved_pair(first: str, second: str, *, one_in: int) -> bool:
    """Whether a pair of tool names, in any order, is reserved; one pair in `one_in` is."""
    return hash_pair(first, second) % one_in == 0


def reserved_pairs(names: Iterable[str], *, one_in: int) -> Iterator[tuple[str, str]]:
    """Yield the reserved pairs of some tools, each in order of names.

    Few tools may have no pair whose hash falls into the share; then the pair with the lowest hash
    is reserved, because evaluation needs one. A single tool has no pair.
    """
    known = sorted(names)
    found = False
    for pair in combinations(known, 2):
        if is_reserved_pair(*pair, one_in=one_in):
            found = True
            yield pair
    if not found and len(known) > 1:
        yield min(combinations(known, 2), key=lambda pair: (hash_pair(*pair), pair))


def hash_pair(first: str, second: str) -> int:
    """Return the number that decides whether a pair of names, in any order, is reserved."""
    return zlib.crc32(" ".join(sorted((first, second))).encode())


def is_reserved(tools: Sequence[Tool], *, one_in: int) -> bool:
    """Whether a set of tools contains a reserved pair."""
    return any(is_reserved_pair(a.name, b.name, one_in=one_in) for a, b in combinations(tools, 2))
