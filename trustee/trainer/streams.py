"""Where kernels run that name no stream of their own.

bitsandbytes starts most kernels of its quantisation and its optimisers on the legacy default
stream, and a few small ones, such as a mean between two of them, on torch's current stream. If that
is another stream, as vLLM's is once anything has asked for it, the two do not wait for each other,
and scales or moments are read before they are written. On the default stream all is in one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_default_stream(device: torch.device) -> Iterator[None]:
    """Make the default stream torch's current one, and wait before and after; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.default_stream(device)):
        yield
    torch.cuda.synchronize(device)
