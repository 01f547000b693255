"""Cards: what the table says, how one is chosen, and what the driver is believed about."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.planning import cards
from trustee.planning.cards import (
    CARDS,
    TYPICAL,
    FoundCard,
    Holder,
    choose_card,
    read_card,
    resize_card,
)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_figures_are_of_the_right_size(card: cards.Card) -> None:
    """No figure of the table lies outside what cards of these years can be."""
    assert 8 <= card.gib <= 80
    assert 250 <= card.bandwidth <= 3500
    assert 20 <= card.tflops <= 1000
    assert 100 <= card.watts <= 700
    assert card is choose_card(card.name)


def test_names_are_unique() -> None:
    """No card stands in the table twice."""
    assert len(CARDS) == len({card.name for card in CARDS})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("rtx-4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("3090", "RTX 3090"),
        ("4070 ti super", "RTX 4070 Ti Super"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("h100", "H100 80GB"),
        ("2080 Ti", "RTX 2080 Ti"),
        ("4060 Ti", "RTX 4060 Ti 16GB"),
    ],
)
def test_card_by_name(given: str, name: str) -> None:
    """The driver's names and the short ones of daily speech are understood."""
    assert name == choose_card(given).name


@pytest.mark.parametrize("given", ["RX 7900", "", "GTX 1080", "GT 710"])
def test_unknown_card_is_refused_with_the_known_ones(check_error: ErrorCheck, given: str) -> None:
    """The message lists what can be given instead."""
    with pytest.raises(InputError) as caught:
        choose_card(given)
    check_error(caught, repr(given), "--card", "--vram", *(card.name for card in CARDS))


def test_name_of_several_cards_is_refused(check_error: ErrorCheck) -> None:
    """A word that several cards have lists those alone."""
    with pytest.raises(InputError) as caught:
        choose_card("80gb")
    check_error(caught, "'80gb'", "A100 80GB, H100 80GB", "--card", "--vram")


@pytest.mark.parametrize("size", sorted(TYPICAL))
def test_card_by_size(size: int) -> None:
    """Each usual size stands for a card of that size."""
    card = choose_card(float(size))
    assert (TYPICAL[size], size) == (card.name, card.gib)


def test_size_between_two() -> None:
    """An unusual size is a smaller card's figures with that size."""
    card = choose_card(20.0)
    assert ("RTX 4060 Ti 16GB with 20 GiB", 20.0, 288) == (card.name, card.gib, card.bandwidth)


@pytest.mark.parametrize("size", [7.9, 0.0, -1.0, float("nan")])
def test_too_small_a_card_is_refused(size: float) -> None:
    """Below 8 GiB there is nothing to plan."""
    with pytest.raises(InputError, match="is too small; at least 8 GiB are needed"):
        choose_card(size)


def test_other_size_of_a_known_card() -> None:
    """A card keeps its speed where others hold a part of its memory."""
    card = choose_card("RTX 3090")
    assert card is resize_card(card, 24)
    assert ("RTX 3090 with 20 GiB", 20, 19.5, 71) == (
        (less := resize_card(card, 20)).name,
        less.gib,
        less.usable_gib,
        less.tflops,
    )


def test_only_the_oldest_generation_lacks_bf16() -> None:
    """A 2080 Ti cannot compute in bf16; every other card can."""
    assert ["RTX 2080 Ti"] == [card.name for card in CARDS if not card.has_bf16]


class Function:
    """A C function; ctypes sets its types."""

    argtypes: tuple[Any, ...] | None = None
    restype: Any = None

    def __init__(self, run: Any) -> None:
        self._run = run

    def __call__(self, *arguments: Any) -> int:
        assert self.argtypes is not None
        assert len(self.argtypes) == len(arguments)
        assert self.restype is ctypes.c_int
        code: int = self._run(*arguments)
        return code


class Library:
    """An NVML with two cards that fails where it is told to."""

    def __init__(self, *, failing: str = "", lacking: str = "", unknown: bool = False) -> None:
        self.closed = 0
        self._unknown = unknown
        parts = {
            "nvmlInit_v2": lambda: 0,
            "nvmlShutdown": self._close,
            "nvmlDeviceGetHandleByIndex_v2": self._handle,
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetName": lambda device, text, size: self._write(text, b"GeForce RTX 3090"),
            "nvmlSystemGetDriverVersion": lambda text, size: self._write(text, b"580.1"),
            "nvmlDeviceGetComputeRunningProcesses_v3": self._processes,
            "nvmlDeviceGetGraphicsRunningProcesses_v3": self._processes,
        }
        for name, run in parts.items():
            if name != lacking:
                setattr(self, name, Function((lambda *_: 15) if name == failing else run))

    def _close(self) -> int:
        self.closed += 1
        return 0

    def _handle(self, index: Any, device: Any) -> int:
        if index.value > 1:
            return 2
        device._obj.value = 4711
        return 0

    def _memory(self, device: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free = 24 << 30, 20 << 30
        return 0

    def _write(self, text: Any, value: bytes) -> int:
        text.value = value
        return 0

    def _processes(self, device: Any, count: Any, table: Any) -> int:
        assert count._obj.value == cards.MAX_HOLDERS
        count._obj.value = 1
        table[0].pid = 42
        table[0].used = cards.UNKNOWN_BYTES if self._unknown else 3 << 30
        return 0


FOUND = FoundCard(
    name="GeForce RTX 3090",
    total=24 << 30,
    free=20 << 30,
    driver="580.1",
    holders=(Holder(process=42, bytes=3 << 30),),
)


def use_library(monkeypatch: pytest.MonkeyPatch, library: Library) -> Library:
    """Let `read_card` find a library."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return library


def test_card_as_the_driver_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, memory, driver and who holds memory are read, and the library is closed."""
    library = use_library(monkeypatch, Library())
    assert FOUND == read_card(0)
    assert library.closed == 1


@pytest.mark.parametrize("index", [2, -1])
def test_no_such_card(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """A card that is not there is None, and the library is closed all the same."""
    library = use_library(monkeypatch, Library())
    assert read_card(index) is None
    assert library.closed == 1


@pytest.mark.parametrize(
    "failing", ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo"]
)
def test_driver_that_fails(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Without the memory's size there is no answer, and no exception."""
    use_library(monkeypatch, Library(failing=failing))
    assert read_card(0) is None


@pytest.mark.parametrize("kind", ["failing", "lacking"])
def test_driver_that_does_not_tell_who_holds_memory(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One list of processes is enough."""
    broken: dict[str, Any] = {kind: "nvmlDeviceGetComputeRunningProcesses_v3"}
    use_library(monkeypatch, Library(**broken))
    assert FOUND == read_card(0)


def test_unknown_use_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver may not tell what a process uses, it counts as 0."""
    use_library(monkeypatch, Library(unknown=True))
    found = read_card(0)
    assert found is not None
    assert (Holder(process=42, bytes=0),) == found.holders


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the driver's library has no card."""

    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert read_card(0) is None


def test_too_large_a_card_is_refused() -> None:
    """A size that no card has is a mistake of units."""
    with pytest.raises(InputError, match="there is no GPU with inf GiB"):
        choose_card(float("inf"))
