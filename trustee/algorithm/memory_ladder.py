"""The ladder: what to give up, in which order, when a training step does not fit into memory.

Smaller micro-batches cost nothing but speed, so they go first; then layer inputs move to host
memory; then new episodes get shorter, and samples that are longer already are left out; then fewer
episodes run at once. A run never climbs back by itself: what did not fit once would not fit again.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from trustee.algorithm.config import ActivationCheckpointing
from trustee.errors import OutOfMemory, RunError
from trustee.types import Record

SHORTER = 0.75
"""What one level leaves of the context."""


class MemoryLevel(Record, frozen=True):
    """What a run allows itself."""

    micro_tokens: Annotated[int, Meta(ge=1)]
    """Ids of one forward pass, a common prefix counted once."""
    activation_checkpointing: ActivationCheckpointing
    context: Annotated[int, Meta(ge=1)]
    """Longest episode, and longest sample that is trained on."""
    parallel: Annotated[int, Meta(ge=1)]
    """Episodes at once."""


class LadderState(Record, frozen=True):
    """What a checkpoint keeps of a ladder."""

    level: MemoryLevel
    changes: tuple[str, ...]
    """What was given up, in order."""


class Descent(NamedTuple):
    """One level down, and what it changed."""

    level: MemoryLevel
    change: str


def descend(level: MemoryLevel, *, longest: int, shortest: int) -> Descent | None:
    """Take one level down; None at the bottom.

    Args:
        level: where the run stands.
        longest: ids of the longest sample that did not fit.
        shortest: context below which episodes make no sense.
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
    """Where a run stands on the ladder."""

    def __init__(self, top: MemoryLevel, *, shortest: int) -> None:
        self.level = top
        self._shortest = min(shortest, top.context)
        self.changes: list[str] = []
        """What was given up, in order."""

    def descend(self, error: OutOfMemory, *, longest: int) -> str:
        """Give something up; say what.

        Raises:
            RunError: at the bottom, with the exact figures.
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
