"""The weights of a base with an adapter merged into them, one tensor at a time.

A layer's weight becomes W + (alpha / rank) · B · A, computed in fp32 and rounded once to
bf16. Never more than one tensor of the base is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trustee.errors import RunError
from trustee.runs.adapters import HALVES, PREFIX, WEIGHTS, AdapterFile, read_base

if TYPE_CHECKING:
    import torch

WEIGHT = ".weight"


class BaseTensor(NamedTuple):
    """A tensor of the base, which has not been read."""

    name: str
    shape: tuple[int, ...]


def list_tensors(base: Path) -> tuple[BaseTensor, ...]:
    """Return all tensors of a base, sorted by name."""
    return tuple(BaseTensor(name, stored.shape) for _, name, stored in read_base(base))


def merged_tensors(base: Path, adapter: AdapterFile | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and merged bf16 tensor, in the order of `list_tensors`.

    Args:
        base: folder of the base model.
        adapter: an adapter that `check_fit` accepts for it; None: the base alone.

    Raises:
        RunError: if a layer of the adapter was not found, or a merged number is not finite.
    """
    import torch
    from safetensors import safe_open

    names = adapter.shapes if adapter else ()
    left = {name.removesuffix(HALVES[0]) for name in names if name.endswith(HALVES[0])}
    with ExitStack() as stack:
        halves: Any = None
        if adapter:
            halves = stack.enter_context(safe_open(adapter.folder / WEIGHTS, framework="pt"))
        files: dict[Path, Any] = {}
        for path, name, _ in read_base(base):
            if path not in files:
                files[path] = stack.enter_context(safe_open(path, framework="pt"))
            weight: torch.Tensor = files[path].get_tensor(name)
            layer = PREFIX + name.removesuffix(WEIGHT)
            if adapter and layer in left and name.endswith(WEIGHT):
                left.remove(layer)
                a, b = (halves.get_tensor(layer + half).float() for half in HALVES)
                weight = weight.float() + adapter.scale * (b @ a)
            if not weight.isfinite().all():
                raise RunError(
                    f"the merged {name} holds numbers that are not finite; nothing was exported"
                )
            yield name, weight.to(torch.bfloat16)
    if left:
        raise RunError(
            f"{base} has no layer {min(left).removeprefix(PREFIX)}, which the adapter trains; "
            "nothing was exported"
        )
