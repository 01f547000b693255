"""Graphics cards: what the known ones can do, and what the one in this machine says of itself.

The one idea: a plan needs four figures of a card, its memory, bandwidth, bf16 speed and power. They
stand in one table; the driver is asked only for what a table cannot know. Figures are those of the
makers' data sheets: bf16 speed is dense, with fp32 sums, and memory is in GiB as the driver counts.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any

from trustee.errors import InputError
from trustee.types import Record

DRIVER_GIB = 0.5
"""Of a card's memory, what the driver and a desktop keep for themselves."""
OLDEST = (8, 0)
"""First generation that computes in bf16."""

MAX_HOLDERS = 64


class Card(Record, frozen=True):
    """A kind of card."""

    name: str
    gib: float
    bandwidth: float
    """GB of memory read in a second."""
    tflops: float
    """Dense bf16 with fp32 sums; fp16 where there is no bf16."""
    watts: float
    """Board power."""
    generation: tuple[int, int]
    """Compute capability."""

    @property
    def usable_gib(self) -> float:
        """What a run can have of the memory."""
        return max(0.0, self.gib - DRIVER_GIB)

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16."""
        return self.generation >= OLDEST


def _card(
    name: str, gib: float, bandwidth: float, tflops: float, watts: float, generation: str
) -> Card:
    major, minor = map(int, generation.split("."))
    return Card(
        name=name,
        gib=gib,
        bandwidth=bandwidth,
        tflops=tflops,
        watts=watts,
        generation=(major, minor),
    )


CARDS = (
    _card("RTX 2080 Ti", 11, 616, 54, 250, "7.5"),
    _card("RTX 3060 12GB", 12, 360, 25, 170, "8.6"),
    _card("RTX 3080 10GB", 10, 760, 60, 320, "8.6"),
    _card("RTX 3090", 24, 936, 71, 350, "8.6"),
    _card("RTX 3090 Ti", 24, 1008, 80, 450, "8.6"),
    _card("RTX 4060 8GB", 8, 272, 30, 115, "8.9"),
    _card("RTX 4060 Ti 16GB", 16, 288, 44, 165, "8.9"),
    _card("RTX 4070 Ti Super", 16, 672, 88, 285, "8.9"),
    _card("RTX 4080", 16, 717, 97, 320, "8.9"),
    _card("RTX 4090", 24, 1008, 165, 450, "8.9"),
    _card("RTX 5080", 16, 960, 113, 360, "12.0"),
    _card("RTX 5090", 32, 1792, 210, 575, "12.0"),
    _card("A100 80GB", 80, 2039, 312, 400, "8.0"),
    _card("H100 80GB", 80, 3350, 989, 700, "9.0"),
)
"""Smallest step in price first within a generation."""

TYPICAL = {
    8: "RTX 4060 8GB",
    10: "RTX 3080 10GB",
    11: "RTX 2080 Ti",
    12: "RTX 3060 12GB",
    16: "RTX 4060 Ti 16GB",
    24: "RTX 3090",
    32: "RTX 5090",
    80: "A100 80GB",
}
"""The card that a size of memory stands for: the slower one where there are several."""


LARGEST_GIB = 1024
"""GiB above which a size must be a mistake, such as bytes."""


def choose_card(wanted: str | float) -> Card:
    """Find a card by name, or make one of a size in GiB like the nearest smaller known one.

    Raises:
        InputError: naming the known cards, or the smallest size that is of use.
    """
    if isinstance(wanted, str):
        return _find_named(wanted)
    if not wanted >= min(TYPICAL):
        raise InputError(
            f"a card of {wanted:g} GiB is too small; at least {min(TYPICAL)} are needed (--vram)"
        )
    if wanted > LARGEST_GIB:
        raise InputError(
            f"there is no card of {wanted:g} GiB; --vram takes GiB, at most {LARGEST_GIB}"
        )
    like = _find_named(TYPICAL[max(size for size in TYPICAL if size <= wanted)])
    if like.gib == wanted:
        return like
    return _resized(like, wanted)


def resize_card(card: Card, gib: float) -> Card:
    """Give a card another size of memory: a part of it that others leave free, or a variant."""
    return card if card.gib == gib else _resized(card, gib)


def _resized(card: Card, gib: float) -> Card:
    return Card(
        name=f"{card.name} with {gib:g} GiB",
        gib=gib,
        bandwidth=card.bandwidth,
        tflops=card.tflops,
        watts=card.watts,
        generation=card.generation,
    )


def _find_named(name: str) -> Card:
    words = _words(name)
    exact = [card for card in CARDS if _words(card.name) == words]
    near = [card for card in CARDS if _words(card.name) <= words | {"rtx"}]
    partial = [card for card in CARDS if words and words <= _words(card.name)]
    # Of the names within the given one the longest says most: a 3090 Ti is no 3090.
    found = exact or sorted(near, key=lambda card: -len(_words(card.name)))[:1] or partial
    if len(found) != 1:
        listed = ", ".join(card.name for card in found or CARDS)
        what = "stands for several cards" if found else "is no known card"
        raise InputError(
            f"{name!r} {what}; give one of: {listed}, or the size alone (--card, --vram)"
        )
    return found[0]


def _words(name: str) -> frozenset[str]:
    plain = name.lower().replace("-", " ").replace("_", " ").replace(" gb", "gb")
    for mark in ("nvidia", "geforce", "pcie", "sxm4", "sxm5", "hbm3", "hbm2e"):
        plain = plain.replace(mark, " ")
    return frozenset(plain.split())


class Holder(Record, frozen=True):
    """Another process that holds memory on a card."""

    process: int
    bytes: int
    """0 where the driver does not say."""


class FoundCard(Record, frozen=True):
    """What the driver says of a card."""

    name: str
    total: int
    """Bytes, as are the others."""
    free: int
    driver: str
    holders: tuple[Holder, ...]


class _Memory(ctypes.Structure):
    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", c_uint),
        ("used", c_ulonglong),
        ("gpu_instance", c_uint),
        ("compute_instance", c_uint),
    ]


UNKNOWN_BYTES = (1 << 64) - 1
"""What NVML gives where it may not tell how much a process uses."""


def read_card(index: int) -> FoundCard | None:
    """Ask the driver for a card; None where there is no driver or no such card."""
    try:
        library: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    call = _caller(library)
    if not call("nvmlInit_v2", ()):
        return None
    try:
        return _describe(call, index)
    finally:
        call("nvmlShutdown", ())


NvmlCall = Callable[..., bool]


def _caller(library: Any) -> NvmlCall:
    """Give a way to call NVML by name and argument types that says whether it worked."""

    def call(name: str, types: tuple[Any, ...], *arguments: Any) -> bool:
        function = getattr(library, name, None)
        if function is None:
            return False
        function.argtypes = types
        function.restype = c_int
        return int(function(*arguments)) == 0

    return call


def _describe(call: NvmlCall, index: int) -> FoundCard | None:
    device = c_void_p()
    if index < 0 or not call(
        "nvmlDeviceGetHandleByIndex_v2",
        (c_uint, POINTER(c_void_p)),
        c_uint(index),
        ctypes.byref(device),
    ):
        return None
    memory = _Memory()
    if not call(
        "nvmlDeviceGetMemoryInfo",
        (c_void_p, POINTER(_Memory)),
        device,
        ctypes.byref(memory),
    ):
        return None
    name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(80)
    call("nvmlDeviceGetName", (c_void_p, c_char_p, c_uint), device, name, c_uint(96))
    call("nvmlSystemGetDriverVersion", (c_char_p, c_uint), driver, c_uint(80))
    return FoundCard(
        name=name.value.decode(errors="replace"),
        total=memory.total,
        free=memory.free,
        driver=driver.value.decode(errors="replace"),
        holders=_list_holders(call, device),
    )


def _list_holders(call: NvmlCall, device: Any) -> tuple[Holder, ...]:
    found: list[Holder] = []
    for name in (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ):
        count, table = c_uint(MAX_HOLDERS), (_Process * MAX_HOLDERS)()
        types = (c_void_p, POINTER(c_uint), POINTER(_Process))
        if call(name, types, device, ctypes.byref(count), table):
            found += [
                Holder(process=row.pid, bytes=0 if row.used == UNKNOWN_BYTES else row.used)
                for row in table[: count.value]
            ]
    return tuple({holder.process: holder for holder in found}.values())


def pick_card(name: str | None, *, vram_gib: float | None) -> tuple[Card, tuple[str, ...]]:
    """Give the card that is meant, by name, by size or as found here, and notes about it.

    Raises:
        InputError: if it is not known, or nothing is given and no card is found.
    """
    if name is not None:
        known = choose_card(name)
        return (known if vram_gib is None else resize_card(known, vram_gib)), ()
    if vram_gib is not None:
        return choose_card(vram_gib), ()
    found = read_card(0)
    if found is None:
        raise InputError(
            "no card was found in this machine; say for which to plan: --card 'RTX 3090' or "
            "--vram 24, in GiB"
        )
    total = found.total / (1 << 30)
    held = sum(holder.bytes for holder in found.holders) / (1 << 30)
    try:
        known = choose_card(found.name)
    except InputError:
        known = choose_card(total)
    notes = [f"found {found.name}, {total:.2f} GiB, driver {found.driver}"]
    if held:
        others = ", ".join(str(holder.process) for holder in found.holders)
        notes.append(f"{held:.2f} GiB are held by other processes ({others})")
    return resize_card(known, round(total - held, 2)), tuple(notes)


def use_card(index: int) -> None:
    """Show the engine one card only."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = str(index)


def count_cards() -> int:
    """Count the CUDA devices that the driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def require_card(index: int) -> None:
    """Refuse a card that is not there.

    Raises:
        InputError: naming the command that works here.
    """
    cards = count_cards()
    if not 0 <= index < cards:
        found = f"the driver shows {cards}" if cards else "no CUDA driver or no card was found"
        raise InputError(
            f"there is no CUDA device {index}: {found}; this works here: "
            "trustee run --config configs/tiny.toml"
        )
