"""The ladder: what to give up, in which order, when a training step does not fit into memory.

Smaller micro-batches cost nothing but speed, so they go first; then layer inputs move to host
memory; then new episodes get shorter, and samples that are longer already are left out; then fewer
episodes run at once. A run never climbs back by itself: what did not fit once would not fit again.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from trustee.algorithm.learner import Checkpointing
from trustee.errors import OutOfMemory, RunError
from trustee.types import Record

SHORTER = 0.75
"""What one rung leaves of the context."""


class Rung(Record, frozen=True):
    """What a run allows itself."""

    micro_tokens: Annotated[int, Meta(ge=1)]
    """Padded ids of one forward pass."""
    checkpointing: Checkpointing
    context: Annotated[int, Meta(ge=1)]
    """Longest episode, and longest sample that is trained on."""
    parallel: Annotated[int, Meta(ge=1)]
    """Episodes at once."""


class Descent(NamedTuple):
    """One rung down, and what it changed."""

    rung: Rung
    change: str


def descend(rung: Rung, *, longest: int, shortest: int) -> Descent | None:
    """Take one rung down; None at the bottom.

    Args:
        rung: where the run stands.
        longest: ids of the longest sample that did not fit.
        shortest: context below which episodes make no sense.
    """
    if rung.micro_tokens > longest:
        half = max(longest, rung.micro_tokens // 2)
        return Descent(
            msgspec.structs.replace(rung, micro_tokens=half),
            f"micro-batches of {half} instead of {rung.micro_tokens} ids (learn.micro_tokens)",
        )
    if rung.checkpointing != "offload":
        mode: Checkpointing = "recompute" if rung.checkpointing == "off" else "offload"
        return Descent(
            msgspec.structs.replace(rung, checkpointing=mode),
            f"{mode} layer inputs (learn.checkpointing)",
        )
    if rung.context > shortest:
        context = max(shortest, int(min(rung.context, longest) * SHORTER))
        return Descent(
            msgspec.structs.replace(rung, context=context),
            f"episodes of at most {context} instead of {rung.context} ids (engine.context)",
        )
    if rung.parallel > 1:
        parallel = rung.parallel // 2
        return Descent(
            msgspec.structs.replace(rung, parallel=parallel),
            f"{parallel} instead of {rung.parallel} episodes at once (rollout.parallel)",
        )
    return None


class Ladder:
    """Where a run stands on the ladder."""

    def __init__(self, top: Rung, *, shortest: int) -> None:
        self.rung = top
        self._shortest = min(shortest, top.context)
        self.changes: list[str] = []
        """What was given up, in order."""

    def descend(self, error: OutOfMemory, *, longest: int) -> str:
        """Give something up; say what.

        Raises:
            RunError: at the bottom, with the exact figures.
        """
        descent = descend(self.rung, longest=longest, shortest=self._shortest)
        if descent is None:
            given_up = "; ".join(self.changes) or "nothing could be"
            raise RunError(
                f"a training step does not fit into memory, whatever is given up ({given_up}): "
                f"{error}; trustee plan says what fits"
            ) from error
        self.rung = descent.rung
        self.changes.append(descent.change)
        return descent.change

    def state(self) -> dict[str, Any]:
        """Give all that `restore` needs."""
        return {"rung": msgspec.to_builtins(self.rung), "changes": list(self.changes)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a stored state."""
        self.rung = msgspec.convert(state["rung"], Rung)
        self.changes = list(state["changes"])
