"""Showing that a long stage moves: how much of all is done, tokens a second, and the time left.

A thread tells it, because the start of an engine blocks the event loop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trustee.engine.protocol import EngineProgress
from trustee.events import Emit, Stage, StageMoved

TELL_SECONDS = 2.0
"""Time between two events of a stage."""
RATE_SECONDS = 60.0
"""Time over which tokens a second are counted; one step of a slow processor may take most of it."""
MIB = 1 << 20


class StageMeter:
    """Counts what a stage has done; `tell` makes an event of it."""

    def __init__(self, *, of: int, unit: str, engine: Callable[[], EngineProgress]) -> None:
        self._of = of
        self._unit = unit
        self._engine = engine
        self._done = 0
        self._before: int | None = None
        """What was done before the stage began, if it goes on with an earlier one."""
        self._started_at = time.monotonic()
        self._seen = deque([(self._started_at, engine())])

    def count(self, *_: object) -> None:
        """Add one; takes whatever a callback is given."""
        self.advance_to(self._done + 1)

    def advance_to(self, done: int) -> None:
        """Set how much is done."""
        self._before = done - 1 if self._before is None else self._before
        self._done = done

    def tell(self) -> StageMoved:
        """Return an event about now."""
        now, engine = time.monotonic(), self._engine()
        self._seen.append((now, engine))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        passed = max(1e-6, now - then)
        done, of, unit = self._done, self._of, self._unit
        if unit == "MiB":
            done, of = engine.loaded // MIB, engine.to_load // MIB
        return StageMoved(
            done=done,
            of=of,
            unit=unit,
            seconds=round(now - self._started_at, 1),
            sampled_per_s=round((engine.sampled - before.sampled) / passed, 1),
            read_per_s=round((engine.read - before.read) / passed, 1),
            left_s=self._left(done, of, seconds=now - self._started_at),
        )

    def _left(self, done: int, of: int, *, seconds: float) -> float | None:
        new = done - (self._before or 0)
        return round(seconds * (of - done) / new, 1) if new > 0 else None


@contextmanager
def metered(
    name: str, emit: Emit, *, of: int, unit: str, engine: Callable[[], EngineProgress]
) -> Iterator[StageMeter]:
    """Begin a stage, and tell again and again how far it is until the block ends.

    Args:
        name: the stage, as it is shown.
        emit: receives progress events, also from another thread.
        of: how much there is to do; for MiB the engine knows.
        unit: what is counted.
        engine: returns what the engine has done so far.
    """
    emit(Stage(name=name))
    meter, ended = StageMeter(of=of, unit=unit, engine=engine), threading.Event()

    def tell_again() -> None:
        while not ended.wait(TELL_SECONDS):
            emit(meter.tell())

    teller = threading.Thread(target=tell_again, name="stage meter", daemon=True)
    teller.start()
    try:
        yield meter
    finally:
        ended.set()
        teller.join()
