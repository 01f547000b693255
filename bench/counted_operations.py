"""Counting what a pass computes: operations, which are launches on a card, and the bytes they move."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operations(TorchDispatchMode):
    """Counts the operations that read or write tensors; those that only look at memory do not.

    The bytes of an operation are those of the tensors that it is given and gives, each once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        # A view shares its storage with what it is a view of; an in-place result is given, too.
        known = {tensor.untyped_storage()._cdata for tensor in given}
        result = func(*args, **kwargs or {})
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        new = [one for one in made if one.untyped_storage()._cdata not in known]
        changes = func._schema.is_mutable
        if (new or changes) and not func.overloadpacket.__name__.startswith(("empty", "detach")):
            self.count += 1
            self.bytes += sum(tensor.nbytes for tensor in (*given, *new))
        return result
