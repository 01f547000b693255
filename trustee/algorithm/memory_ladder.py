"""The memory ladder: the order of reductions when a training step does not fit into memory.

Smaller micro-batches come first, because they cost only speed; then layer inputs move to host
memory; then new episodes get shorter, and longer samples are skipped; then fewer episodes run
concurrently. A run never goes back up, because what did not fit once would not fit again.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from trustee.algorithm.config import ActivationCheckpointing
from trustee.errors import OutOfMemory, RunError
from trustee.types import Record

SHORTER = 0.75
"""Factor by which one level shortens the context."""


class MemoryLevel(Record, frozen=True):
    """Memory-related limits of a run."""

    micro_tokens: Annotated[int, Meta(ge=1)]
    """Maximum number of ids in one forward pass; a common prefix counts once."""
    activation_checkpointing: ActivationCheckpointing
    context: Annotated[int, Meta(ge=1)]
    """Maximum length in ids of an episode and of a training sample."""
    parallel: Annotated[int, Meta(ge=1)]
    """Maximum number of concurrent episodes."""


class LadderState(Record, frozen=True):
    """The state of a ladder in a checkpoint."""

    level: MemoryLevel
    changes: tuple[str, ...]
    """Reductions so far, in order."""


class Descent(NamedTuple):
    """The next lower level and a description of the change."""

    level: MemoryLevel
    change: str


def descend(level: MemoryLevel, *, longest: int, shortest: int) -> Descent | None:
    """Return the next lower level; None at the lowest.

    Args:
        level: the current level.
        longest: length in ids of the longest sample that did not fit.
        shortest: context in ids below which episodes make no sense.
    """
    if level.micro_tokens > longest:
        half = max(longest, level.micro_tokens // 2)
        return Descent(
            msgspec.structs.replace(level, micro_tokens=half),
            f"micro-batches of {half} instead of {level.micro_tokens} ids (learn.micro_tokens)",
        )
    if level.activation_checkpointing != "offload":
        mode: ActivationCheckpointing = (
            "recompute" if level.activation_checkpointing == "off" else "offload"
        )
        return Descent(
            msgspec.structs.replace(level, activation_checkpointing=mode),
            f"{mode} layer inputs (learn.activation_checkpointing)",
        )
    if level.context > shortest:
        context = max(shortest, int(min(level.context, longest) * SHORTER))
        return Descent(
            msgspec.structs.replace(level, context=context),
            f"episodes of at most {context} instead of {level.context} ids (engine.context)",
        )
    if level.parallel > 1:
        parallel = level.parallel // 2
        return Descent(
            msgspec.structs.replace(level, parallel=parallel),
            f"{parallel} instead of {level.parallel} episodes at once (rollout.parallel)",
        )
    return None


class MemoryLadder:
    """A run's current level, and the reductions that led to it."""

    def __init__(self, top: MemoryLevel, *, shortest: int) -> None:
        self.level = top
        self._shortest = min(shortest, top.context)
        self.changes: list[str] = []
        """Reductions so far, in order."""

    def descend(self, error: OutOfMemory, *, longest: int) -> str:
        """Go one level down and return a description of the change.

        Raises:
            RunError: at the lowest level, with the exact memory figures.
        """
        descent = descend(self.level, longest=longest, shortest=self._shortest)
        if descent is None:
            given_up = "; ".join(self.changes) or "nothing could be"
            raise RunError(
                f"a training step does not fit into memory, whatever is given up ({given_up}): "
                f"{error}; trustee plan says what fits"
            ) from error
        self.level = descent.level
        self.changes.append(descent.change)
        return descent.change

    def state(self) -> LadderState:
        """Return all that `restore` needs."""
        return LadderState(level=self.level, changes=tuple(self.changes))

    def restore(self, state: LadderState) -> None:
        """Continue from a stored state."""
        self.level = state.level
        self.changes = list(state.changes)
