"""The world of dice, with so many tasks and no more."""

from __future__ import annotations

from dice import Dice, DiceSource
from trustee.environments import TaskSpec


class Finite(Dice, frozen=True):
    """Dice until a count of tasks is drawn."""

    specs: int = 0

    def source(self, *, seed: int, held_out: bool = False) -> DiceSource:
        """Make a source that runs dry."""
        return FiniteSource(self.specs, seed=seed, held_out=held_out)


class FiniteSource(DiceSource):
    """A source that runs dry."""

    def __init__(self, specs: int, *, seed: int, held_out: bool) -> None:
        super().__init__(2, seed=seed, held_out=held_out)
        self.specs = specs

    def make_spec(self, index: int) -> TaskSpec | None:
        """Return a task spec, until there are enough."""
        return super().make_spec(index) if index < self.specs else None
