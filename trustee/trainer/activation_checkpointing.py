"""Gradient checkpointing of decoder layers, with an option to keep their inputs in host memory.

A layer is one node of the autograd graph. Its forward pass builds no graph and keeps only the
layer's input; its backward pass runs the layer again and takes the gradients of the input and of
the layer's trainable parameters from that small graph. All of these are inputs of the node, so
`torch.autograd.grad` works as well as `backward`, and no layer below needs a gradient.

With `offload`, inputs wait on a `Shelf`: pinned pages, written and read on a separate CUDA stream.
One rule keeps this correct: a GPU tensor that a copy touches is held until the compute stream has
been told to wait for that copy. So the allocator never reuses its memory too early, and, unlike
with `Tensor.record_stream`, the memory is available to the next kernel however far ahead the host
runs.

Layers with dropout are refused, because running one again would draw a different mask.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import structlog
import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from trustee.errors import InputError

log = structlog.get_logger()

CheckpointingMode = Literal["off", "recompute", "offload"]
"""`off` keeps everything that each layer's backward pass needs; `recompute` keeps each layer's
input on the GPU; `offload` keeps it in host memory, except the last layer's, which is needed
first."""

PAGE = 4 << 20
"""Bytes of a page. Pages of one size serve inputs of every length; pinning a whole input could
take twice its size, because torch rounds pinned memory up to a power of two."""

_AGAIN: ContextVar[bool] = ContextVar("again", default=False)


def set_checkpointing(model: torch.nn.Module, *, mode: CheckpointingMode) -> Shelf | None:
    """Choose what each decoder layer of a model keeps between its forward and backward pass.

    May be called any number of times, between steps. Takes effect only in training mode.

    Returns:
        The shelf that holds layer inputs; None unless `mode` is `offload`.

    Raises:
        InputError: if the model has no decoder layers.
    """
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise InputError(
            f"activation checkpointing needs transformers decoder layers, "
            f"{type(model).__name__} has none; "
            "give a dense Qwen2.5, Qwen3 or Llama model (model.path)"
        )
    assert mode == "off" or not any(map(_drops, model.modules())), (
        "dropout would draw differently when a layer is run again"
    )
    shelf = Shelf(next(layers[0].parameters()).device) if mode == "offload" else None
    for index, layer in enumerate(layers):
        held = getattr(layer, "_gradient_checkpointing_func", None)
        if isinstance(held, _Checkpoint) and held.shelf is not None:
            held.shelf.settle()
        layer.gradient_checkpointing = mode != "off"
        layer._gradient_checkpointing_func = _Checkpoint(
            layer=layer, shelf=shelf, first=index == 0, last=index == len(layers) - 1
        )
    return shelf


def runs_again() -> bool:
    """Return whether a layer is being recomputed for its graph, so that its output is not used."""
    return _AGAIN.get()


def same_autocast(device_type: str) -> Callable[[], torch.autocast]:
    """Return a factory of autocast regions with the settings that are active now.

    The weight cache is off: a layer casts each weight once per run, and a cache would hold the
    casts of all layers until the whole region ends.
    """
    return partial(
        torch.autocast,
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )


def trainable(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters of a module that require a gradient."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Copies:
    """Copies between GPU and host memory on a stream of their own; synchronous on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def make_page(self) -> Tensor:
        """Allocate a page of host memory, pinned if possible; otherwise it is slower."""
        if self.pinned:
            try:
                return torch.empty(PAGE, dtype=torch.uint8, device="cpu", pin_memory=True)
            except RuntimeError as error:
                # WSL and containers often limit pinned memory.
                self.pinned = False
                log.warning(
                    "pages_not_pinned",
                    why=str(error).partition("\n")[0],
                    fix="trustee plan names settings without offload",
                )
        return torch.empty(PAGE, dtype=torch.uint8, device="cpu")

    def begin(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> torch.cuda.Event | None:
        """Start copying each pair's second tensor into its first, after all work queued so far.

        Returns:
            The event to pass to `wait`; None on a CPU, where the copies are done.
        """
        if self._stream is None:
            for target, source in pairs:
                target.copy_(source)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
        event: torch.cuda.Event = self._stream.record_event()
        return event

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Make the compute stream wait for a copy; the host does not wait."""
        if self._stream is not None and event is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(event)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Parked:
    """One layer's input in host memory; its pages become free when it is garbage-collected."""

    pages: Sequence[Tensor]
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    below: Parked | None
    """The input of the layer below in the same pass, which the backward pass needs next."""
    arriving: Tensor | None = None
    """The GPU tensor that it is being copied to; None before the copy back has begun."""


@dataclass(slots=True, eq=False)
class _Flight:
    tensor: Tensor
    copied: torch.cuda.Event | None


class Shelf:
    """Layer inputs in host memory, in pages that all layers and steps reuse."""

    def __init__(self, device: torch.device) -> None:
        self.copies = Copies(device)
        self.pages = 0
        """Number of pages allocated so far."""
        self.free: list[Tensor] = []
        self._flights: list[_Flight] = []
        self._top: weakref.ref[Parked] | None = None

    def open_pass(self) -> None:
        """Start a new forward pass, whose first input has no input below it."""
        self._top = None

    def park(self, hidden: Tensor) -> Parked:
        """Start copying a layer's input to host memory."""
        self.settle()
        source = hidden.detach().contiguous()
        pieces = _bytes_of(source).split(PAGE)
        pages = self._take(len(pieces))
        parked = Parked(pages, hidden.shape, hidden.dtype, hidden.device, below=self.top)
        # Tied to the object's lifetime and not to the backward pass, so that a pass that fails
        # returns its pages too.
        weakref.finalize(parked, self.free.extend, pages).atexit = False
        copied = self.copies.begin(
            (page[: len(p)], p) for page, p in zip(pages, pieces, strict=True)
        )
        self._flights.append(_Flight(source, copied))
        self._top = weakref.ref(parked)
        return parked

    def fetch(self, parked: Parked) -> Tensor:
        """Return an input on its original device."""
        self.send_back(parked)
        self.settle()
        tensor, parked.arriving = parked.arriving, None
        assert tensor is not None, "just sent back"
        return tensor

    def send_back(self, parked: Parked | None) -> None:
        """Start copying an input back before it is needed, unless that has already begun."""
        if parked is None or parked.arriving is not None:
            return
        tensor = torch.empty(parked.shape, dtype=parked.dtype, device=parked.device)
        pieces = _bytes_of(tensor).split(PAGE)
        copied = self.copies.begin(
            (piece, page[: len(piece)]) for page, piece in zip(parked.pages, pieces, strict=True)
        )
        self._flights.append(_Flight(tensor, copied))
        parked.arriving = tensor

    def settle(self) -> None:
        """Make the compute stream wait for every copy in flight, then release their tensors."""
        while self._flights:
            self.copies.wait(self._flights[0].copied)
            del self._flights[0]

    @property
    def top(self) -> Parked | None:
        """The input that this pass parked last; None if there is none or it was released."""
        return None if self._top is None else self._top()

    def _take(self, count: int) -> list[Tensor]:
        while len(self.free) < count:
            self.free.append(self.copies.make_page())
            self.pages += 1
        return [self.free.pop() for _ in range(count)]


@dataclass(slots=True, frozen=True, kw_only=True)
class _Checkpoint:
    """What transformers calls instead of the layer; makes the layer one node of the graph."""

    layer: torch.nn.Module = field(repr=False)
    shelf: Shelf | None
    first: bool
    last: bool

    def __call__(self, run: partial[Any], hidden: Tensor) -> Any:
        params = trainable(self.layer)
        if not torch.is_grad_enabled() or not (params or hidden.requires_grad):
            return run(hidden)
        assert not any(map(_takes_gradient, run.keywords.values())), (
            "only the hidden states may need a gradient; that of another argument would be lost"
        )
        if self.first and self.shelf is not None:
            self.shelf.open_pass()
        return _Layer.apply(self, run, hidden, *params)


class _Layer(torch.autograd.Function):
    """A decoder layer that is recomputed in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, checkpoint: _Checkpoint, run: partial[Any], hidden: Tensor, *params: Tensor
    ) -> Any:
        """Run the layer without a graph, and save or park its input."""
        shelf = checkpoint.shelf
        ctx.set_materialize_grads(False)
        ctx.run, ctx.shelf = run, shelf
        ctx.autocast = same_autocast(hidden.device.type)
        ctx.parked, ctx.below = None, None
        if shelf is None:
            ctx.save_for_backward(hidden, *params)
        elif checkpoint.last:
            shelf.settle()
            ctx.below = shelf.top
            ctx.save_for_backward(hidden, *params)
        else:
            ctx.parked = shelf.park(hidden)
            ctx.below = ctx.parked.below
            ctx.save_for_backward(None, *params)
        with ctx.autocast():
            return run(hidden)

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Run the layer again with a graph and return its gradients."""
        kept, *params = ctx.saved_tensors
        if ctx.shelf is not None:
            kept = ctx.shelf.fetch(ctx.parked) if kept is None else kept
            # Fetch the next layer's input while this layer computes.
            ctx.shelf.send_back(ctx.below)
        hidden = kept.detach().requires_grad_(ctx.needs_input_grad[2])
        with torch.enable_grad(), ctx.autocast(), _again():
            given = ctx.run(hidden)
        outputs = given if isinstance(given, tuple) else (given,)
        wanted = [
            (output, grad)
            for output, grad in zip(outputs, output_grads, strict=True)
            if grad is not None and output.requires_grad
        ]
        inputs = [hidden, *params] if hidden.requires_grad else params
        if not wanted or not inputs:
            return (None,) * (3 + len(params))
        del given, outputs
        grads = torch.autograd.grad(
            [output for output, _ in wanted],
            inputs,
            [grad for _, grad in wanted],
            allow_unused=True,
        )
        return (None, None, *(() if hidden.requires_grad else (None,)), *grads)


@contextmanager
def _again() -> Iterator[None]:
    token = _AGAIN.set(True)
    try:
        yield
    finally:
        _AGAIN.reset(token)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def _takes_gradient(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_takes_gradient, value))
    return isinstance(value, Tensor) and value.requires_grad


def _drops(module: torch.nn.Module) -> bool:
    rate = module.p if isinstance(module, torch.nn.Dropout) else None
    return bool(rate or getattr(module, "attention_dropout", 0.0))
