"""GPUs: a table of the known ones, and what the driver reports about the one in this machine.

A plan needs four figures of a GPU: memory, bandwidth, bf16 speed and power. They are in one table,
taken from the vendors' data sheets: bf16 speed is dense with fp32 accumulation, and memory is in
GiB. The driver is asked only for what a table cannot know.
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
"""GiB of GPU memory that the driver and a desktop keep for themselves."""
OLDEST = (8, 0)
"""Lowest compute capability with bf16."""

MAX_HOLDERS = 64
"""Maximum number of processes of each kind that are listed for a GPU."""


class Card(Record, frozen=True):
    """A GPU model."""

    name: str
    gib: float
    """Memory in GiB."""
    bandwidth: float
    """Memory bandwidth in GB per second."""
    tflops: float
    """Dense bf16 speed with fp32 accumulation; fp16 if there is no bf16."""
    watts: float
    """Board power."""
    generation: tuple[int, int]
    """Compute capability."""

    @property
    def usable_gib(self) -> float:
        """Memory that a run can use, in GiB."""
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
"""By generation; within one, cheaper GPUs first."""

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
"""The GPU that a memory size stands for; the slower one if several have that size."""


LARGEST_GIB = 1024
"""GiB above which a size must be a mistake, such as a number of bytes."""


def choose_card(wanted: str | float) -> Card:
    """Return a GPU by name, or one of a size in GiB modelled on the next smaller known one.

    Raises:
        InputError: if the name is unknown or ambiguous, or the size is too small or too large.
    """
    if isinstance(wanted, str):
        return _find_named(wanted)
    if not wanted >= min(TYPICAL):
        raise InputError(
            f"a GPU with {wanted:g} GiB is too small; at least {min(TYPICAL)} GiB are needed "
            "(--vram)"
        )
    if wanted > LARGEST_GIB:
        raise InputError(
            f"there is no GPU with {wanted:g} GiB; --vram is in GiB, at most {LARGEST_GIB}"
        )
    like = _find_named(TYPICAL[max(size for size in TYPICAL if size <= wanted)])
    if like.gib == wanted:
        return like
    return _resized(like, wanted)


def resize_card(card: Card, gib: float) -> Card:
    """Return a GPU with another memory size: the part that is free, or a larger variant."""
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
    # Of several names contained in the given one the longest counts: a 3090 Ti is not a 3090.
    found = exact or sorted(near, key=lambda card: -len(_words(card.name)))[:1] or partial
    if len(found) != 1:
        listed = ", ".join(card.name for card in found or CARDS)
        what = "matches several GPUs" if found else "is not a known GPU"
        raise InputError(f"{name!r} {what}; give one of {listed} (--card), or only a size (--vram)")
    return found[0]


def _words(name: str) -> frozenset[str]:
    plain = name.lower().replace("-", " ").replace("_", " ").replace(" gb", "gb")
    for mark in ("nvidia", "geforce", "pcie", "sxm4", "sxm5", "hbm3", "hbm2e"):
        plain = plain.replace(mark, " ")
    return frozenset(plain.split())


class Holder(Record, frozen=True):
    """Another process that holds GPU memory."""

    process: int
    bytes: int
    """0 if the driver does not report it."""


class FoundCard(Record, frozen=True):
    """What the driver reports about a GPU."""

    name: str
    total: int
    """Bytes of memory."""
    free: int
    """Bytes of memory that no process holds."""
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
"""What NVML reports if it may not tell how much memory a process uses."""


def read_card(index: int) -> FoundCard | None:
    """Ask the driver about a GPU; None if there is no driver or no such GPU."""
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
    """Return a function that calls NVML by name and returns whether the call succeeded."""

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
    """Return the GPU to plan for (by name, by size or found here) and notes about it.

    Raises:
        InputError: if it is unknown, or nothing is given and no GPU is found.
    """
    if name is not None:
        known = choose_card(name)
        return (known if vram_gib is None else resize_card(known, vram_gib)), ()
    if vram_gib is not None:
        return choose_card(vram_gib), ()
    found = read_card(0)
    if found is None:
        raise InputError(
            "no GPU was found in this machine; name one to plan for with --card 'RTX 3090', or "
            "give its memory in GiB with --vram 24"
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
        notes.append(f"other processes hold {held:.2f} GiB ({others})")
    return resize_card(known, round(total - held, 2)), tuple(notes)


def use_card(index: int) -> None:
    """Make only one GPU visible to the engine."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = str(index)


def count_cards() -> int:
    """Return the number of CUDA devices that the driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def require_card(index: int) -> None:
    """Check that a GPU exists.

    Raises:
        InputError: if it does not; the text names a command that works without a GPU.
    """
    cards = count_cards()
    if not 0 <= index < cards:
        found = f"the driver shows {cards}" if cards else "no CUDA driver or no GPU was found"
        raise InputError(
            f"there is no CUDA device {index}: {found}; without a GPU, run "
            "trustee run --config configs/tiny.toml"
        )
