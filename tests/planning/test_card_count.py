"""Counting the cards, and what is said where the wanted one is not there."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.planning import cards
from trustee.planning.cards import count_cards, require_card


@pytest.mark.parametrize(
    ("there", "index", "found"),
    [
        (0, 0, "no CUDA driver or no GPU was found"),
        (0, -1, "no CUDA driver or no GPU was found"),
        (1, 1, "the driver shows 1"),
        (2, -1, "the driver shows 2"),
    ],
)
def test_card_that_is_not_there(
    check_error: ErrorCheck, monkeypatch: pytest.MonkeyPatch, there: int, index: int, found: str
) -> None:
    """A card that is not there is refused with what there is and with what works here."""
    monkeypatch.setattr(cards, "count_cards", lambda: there)
    with pytest.raises(InputError) as caught:
        require_card(index)
    check_error(caught, f"CUDA device {index}", found, "configs/tiny.toml")


@pytest.mark.parametrize("index", [0, 1])
def test_card_that_is_there(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """Cards count from 0."""
    monkeypatch.setattr(cards, "count_cards", lambda: 2)
    require_card(index)


class Driver:
    """A CUDA driver that answers with fixed codes."""

    def __init__(self, *, start: int = 0, count: int = 0, cards: int = 2) -> None:
        self._start = start
        self._count = count
        self._cards = cards

    def cuInit(self, flags: int) -> int:
        """Start."""
        return self._start

    def cuDeviceGetCount(self, count: Any) -> int:
        """Write the count."""
        count._obj.value = self._cards
        return self._count


@pytest.mark.parametrize(
    ("driver", "there"),
    [
        (Driver(), 2),
        (Driver(cards=0), 0),
        (Driver(start=100), 0),
        (Driver(count=3), 0),
    ],
)
def test_count_of_cards(monkeypatch: pytest.MonkeyPatch, driver: Driver, there: int) -> None:
    """The driver's count holds, unless it cannot start or count."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert there == count_cards()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the driver's library has no card."""

    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert 0 == count_cards()
