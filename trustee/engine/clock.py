"""Deadlines that are paused while the engine trains.

No request is answered during a training step, which may take minutes on one GPU, and an episode
that waits for it is not slow. So episode deadlines use a clock that stops during training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class EngineClock:
    """A pausable clock: it creates scopes with deadlines and postpones them while stopped."""

    def __init__(self) -> None:
        self._running: set[anyio.CancelScope] = set()
        self._held: dict[anyio.CancelScope, float] = {}
        """Seconds left of each scope, while the clock is stopped."""
        self._stops = 0

    @contextmanager
    def limit(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Cancel the block after `seconds` on this clock; then `cancelled_caught` is True."""
        with anyio.CancelScope() as scope:
            if self._stops:
                self._held[scope] = seconds
            else:
                scope.deadline = anyio.current_time() + seconds
            self._running.add(scope)
            try:
                yield scope
            finally:
                self._running.discard(scope)
                self._held.pop(scope, None)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock until the block ends; such blocks may overlap."""
        self._stops += 1
        if self._stops == 1:
            now = anyio.current_time()
            for scope in self._running:
                self._held[scope] = scope.deadline - now
                scope.deadline = math.inf
        try:
            yield
        finally:
            self._stops -= 1
            if not self._stops:
                now = anyio.current_time()
                for scope, left in self._held.items():
                    scope.deadline = now + left
                self._held.clear()
