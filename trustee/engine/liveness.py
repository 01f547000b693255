"""Since when something has waited for the engine without any movement.

Slow is not dead: what counts is whether the engine's counters move, not how long an answer takes.
They are looked at a number of times within the shortest limit. A look that comes late, because the
event loop was blocked or the machine slept, counts as one that came in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic

import anyio

from trustee.engine.protocol import EngineProgress, TrainingEngine

LOOKS = 20
"""Looks within the shortest limit. What stands still is found one look early, so that a process
that stops right after a look is found within the limit too."""
STEPS_BEFORE_CALL = 2
"""Engine steps that may be under way when a call is made; the next one waits for the call."""


class Waiting(Enum):
    """What is waited for; each moves with other counters."""

    REQUEST = auto()
    CALL = auto()
    STEP = auto()


@dataclass(eq=False)
class Wait:
    """Something that waits for the engine."""

    what: str
    kind: Waiting
    seconds: float
    """Limit of the time without movement."""
    began: float
    scope: anyio.CancelScope
    steps: int
    """Engine steps that had ended when it began."""
    request_id: str = ""
    priority: int = 0
    mark: int = 0
    """Number of requests that had been sent when this one last got a token."""
    sampled: int = 0
    """Tokens that this request had at the last look."""
    still: float = 0.0
    """Seconds without movement of the engine."""
    passed_over: float = 0.0
    """Seconds without a token of its own after a later request was answered."""

    @property
    def hangs(self) -> bool:
        """Whether the block was ended because nothing moved."""
        return self.scope.cancelled_caught


class Liveness:
    """All waits for one engine, and the last that was seen of it."""

    def __init__(self, engine: TrainingEngine, *, limits: Sequence[float]) -> None:
        self._engine = engine
        self.look_every = min(limits) / LOOKS
        self.waits: list[Wait] = []
        self._sent = 0
        self._ended = 0
        """Answered requests and ended calls, which are movement too."""
        self._answered: dict[int, int] = {}
        """The latest request that was answered, by priority."""
        self._seen: tuple[EngineProgress, int] = (EngineProgress(), 0)
        self._looked_at = monotonic()

    async def watch(self) -> None:
        """Look again and again; never returns."""
        self._looked_at = monotonic()
        while True:
            await anyio.sleep(self.look_every)
            self.look(monotonic())

    @contextmanager
    def waiting(
        self, what: str, kind: Waiting, *, seconds: float, request_id: str = "", priority: int = 0
    ) -> Iterator[Wait]:
        """Watch a block and cancel it when nothing has moved for `seconds`; `hangs` tells it."""
        self._sent += kind is Waiting.REQUEST
        number = self._sent
        with anyio.CancelScope() as scope:
            wait = Wait(
                what,
                kind,
                seconds=seconds,
                began=monotonic(),
                scope=scope,
                steps=self._engine.progress().steps,
                request_id=request_id,
                priority=priority,
                mark=number,
            )
            self.waits.append(wait)
            try:
                yield wait
            finally:
                self.waits.remove(wait)
                self._ended += 1
            if kind is Waiting.REQUEST:
                self._answered[priority] = max(number, self._answered.get(priority, 0))

    def look(self, now: float) -> None:
        """Compare the counters with those of the last look; end what has waited for too long."""
        passed = min(now - self._looked_at, 2 * self.look_every)
        before, seen = self._seen, (self._engine.progress(), self._ended)
        self._seen, self._looked_at = seen, now
        in_call = any(wait.kind is Waiting.CALL for wait in self.waits)
        for wait in tuple(self.waits):
            share = min(passed, now - wait.began)
            if wait.kind is Waiting.CALL:
                moves = moves_in_call(before[0], seen[0], begun_at=wait.steps)
            else:
                # No request is answered while the trainer works.
                moves = seen != before or (in_call and wait.kind is Waiting.REQUEST)
            wait.still = 0.0 if moves else wait.still + share
            if wait.kind is Waiting.REQUEST and not in_call:
                self._compare_with_others(wait, share)
            if max(wait.still, wait.passed_over) >= wait.seconds - 2.5 * self.look_every:
                wait.scope.cancel()

    def _compare_with_others(self, wait: Wait, passed: float) -> None:
        """Add to the time in which the engine served others, but not a request sent before them."""
        latest = max((n for p, n in self._answered.items() if p >= wait.priority), default=0)
        if latest <= wait.mark:
            return
        sampled = self._engine.count_sampled(wait.request_id)
        if sampled == wait.sampled:
            wait.passed_over += passed
        else:
            wait.sampled, wait.mark, wait.passed_over = sampled, self._sent, 0.0


def moves_in_call(before: EngineProgress, now: EngineProgress, *, begun_at: int) -> bool:
    """Whether a call goes on: the trainer moves, or the engine does and has not come to it yet."""
    if now.trained != before.trained:
        return True
    return now != before and now.steps <= begun_at + STEPS_BEFORE_CALL
