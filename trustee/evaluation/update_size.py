"""How large an adapter's update is in each matrix of the base, and its parts.

The update of a matrix W is s · B · A. Its Frobenius norm needs no product of that size:
‖BA‖² = tr(BᵀB · AAᵀ), two matrices of rank by rank. W itself is read one tensor at a time.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from trustee.errors import InputError
from trustee.runs.adapters import HALVES, PREFIX, WEIGHTS, AdapterFile, read_base
from trustee.types import Record

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
GROUPS = {"attention": ATTENTION, "mlp": MLP}
LAYER = re.compile(r"\blayers\.(\d+)\.")
PART = re.compile(r"(?:(?P<group>attention|mlp)(?::|$))?(?:(?P<first>\d+)(?:-(?P<last>\d+))?)?")


class MatrixUpdate(Record, frozen=True):
    """The update of one matrix."""

    layer: int
    module: str
    """Such as `up_proj`."""
    update: float
    """Frobenius norm of s · B · A."""
    base: float
    """Frobenius norm of W."""


class Part(Record, frozen=True):
    """Some of the matrices: a group of modules, layers from first to last, or both."""

    name: str
    modules: tuple[str, ...] = (*ATTENTION, *MLP)
    first: int = 0
    last: int | None = None
    """Last layer that belongs to it; None: up to the top."""

    def holds(self, layer: int, module: str) -> bool:
        """Whether a matrix belongs to it."""
        return (
            module in self.modules
            and self.first <= layer
            and (self.last is None or layer <= self.last)
        )


def parse_part(text: str, *, layers: int) -> Part:
    """Read the name of a part: `mlp`, `attention`, `0-9`, `7` or `mlp:0-9`.

    Raises:
        InputError: if it is not one of these, or names layers that the model does not have.
    """
    found = PART.fullmatch(text)
    if not text or not found:
        raise InputError(
            f"--keep {text!r} is not a part of a model; give mlp, attention, layers such as 0-9, "
            "or both, such as mlp:0-9"
        )
    group, first, last = found["group"], found["first"], found["last"]
    modules = GROUPS[group] if group else (*ATTENTION, *MLP)
    if first is None:
        if text.endswith(":"):
            raise InputError(f"--keep {text!r} names no layers; give them, such as {text}0-9")
        return Part(name=text, modules=modules)
    low, high = int(first), int(last or first)
    if not low <= high < layers:
        raise InputError(
            f"--keep {text!r} needs layers from low to high, and the model has 0 to {layers - 1}"
        )
    return Part(name=text, modules=modules, first=low, last=high)


def usual_parts(layers: int) -> tuple[str, ...]:
    """Return the parts that are tried if none is named: by module, by third, and both at once."""
    third = max(1, layers // 3)
    cuts = sorted({0, third, max(third, layers - third), layers})
    thirds = [str(low) if low == high - 1 else f"{low}-{high - 1}" for low, high in pairwise(cuts)]
    return ("mlp", "attention", *thirds, f"mlp:{thirds[0]}")


def layer_of(name: str) -> int:
    """Return the layer that a tensor belongs to.

    Raises:
        InputError: if its name has no layer.
    """
    found = LAYER.search(name)
    if not found:
        raise InputError(f"the adapter trains {name}, which is in no layer")
    return int(found[1])


def measure_update(
    base: Path, adapter: AdapterFile, *, done: Callable[[], None] = lambda: None
) -> tuple[MatrixUpdate, ...]:
    """Return the update of every matrix that an adapter trains, from the lowest layer up.

    Args:
        base: folder of the base model.
        adapter: an adapter that fits it.
        done: is called after each matrix.

    Raises:
        InputError: if the base lacks a matrix that the adapter trains.
    """
    import torch
    from safetensors import safe_open

    left = {name.removesuffix(HALVES[0]) for name in adapter.shapes if name.endswith(HALVES[0])}
    found = []
    with ExitStack() as stack, torch.no_grad():
        halves: Any = stack.enter_context(safe_open(adapter.folder / WEIGHTS, framework="pt"))
        files: dict[Path, Any] = {}
        for path, name, _ in read_base(base):
            matrix = PREFIX + name.removesuffix(".weight")
            if matrix not in left or not name.endswith(".weight"):
                continue
            left.remove(matrix)
            if path not in files:
                files[path] = stack.enter_context(safe_open(path, framework="pt"))
            a_RI, b_OR = (halves.get_tensor(matrix + half).double() for half in HALVES)
            square = ((b_OR.T @ b_OR) * (a_RI @ a_RI.T)).sum().clamp(min=0)
            weight = files[path].get_tensor(name)
            found.append(
                MatrixUpdate(
                    layer=layer_of(name),
                    module=matrix.rpartition(".")[2],
                    update=adapter.scale * math.sqrt(square.item()),
                    base=torch.linalg.vector_norm(weight, dtype=torch.float32).item(),
                )
            )
            done()
    if left:
        raise InputError(
            f"{base} has no {min(left).removeprefix(PREFIX)}, which {adapter.folder} trains"
        )
    order = (*ATTENTION, *MLP)
    return tuple(sorted(found, key=lambda one: (one.layer, order.index(one.module))))


def relative(updates: Sequence[MatrixUpdate]) -> float:
    """Return the norm of an update against that of the weights, over some matrices together."""
    base = math.fsum(one.base**2 for one in updates)
    return math.sqrt(math.fsum(one.update**2 for one in updates) / base) if base else 0.0


def share_of_update(updates: Sequence[MatrixUpdate], part: Part) -> tuple[float, float]:
    """Return the shares of a part in the squared update, and in the squared weights.

    Where the first is larger, the part was changed more than its size would suggest.
    """
    own = [one for one in updates if part.holds(one.layer, one.module)]

    def share(square: Callable[[MatrixUpdate], float]) -> float:
        whole = math.fsum(map(square, updates))
        return math.fsum(map(square, own)) / whole if whole else 0.0

    return share(lambda one: one.update**2), share(lambda one: one.base**2)


def write_part(adapter: AdapterFile, part: Part, folder: Path) -> None:
    """Write an adapter of which only a part is left: the others' B is zero.

    Raises:
        OSError: if the folder cannot be written.
    """
    from safetensors.torch import load_file, save_file

    from trustee.runs.adapters import BASE, CONFIG, TEMPLATE

    folder.mkdir(parents=True)
    tensors = load_file(adapter.folder / WEIGHTS)
    for name, tensor in tensors.items():
        matrix = name.removesuffix(HALVES[1])
        if matrix != name and not part.holds(layer_of(name), matrix.rpartition(".")[2]):
            tensor.zero_()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    for name in (CONFIG, BASE, TEMPLATE):
        if (adapter.folder / name).is_file():
            shutil.copyfile(adapter.folder / name, folder / name)
