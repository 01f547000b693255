"""Checkpointed layers: the same gradients in every mode, less kept, and no wreck after an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_layers import GradientCheckpointingLayer

from narrow_models import (
    EVERY_FAMILY,
    LAYERS,
    WIDTH,
    assert_same,
    forward,
    layers_of,
    make_ids,
    make_model,
    open_shelf,
    step,
    take_grads,
)
from trustee.errors import InputError
from trustee.trainer import activation_checkpointing
from trustee.trainer.activation_checkpointing import (
    PAGE,
    CheckpointingMode,
    Copies,
    set_checkpointing,
)


@contextmanager
def watch_inputs(model: Any) -> Iterator[list[Tensor]]:
    """Collect each layer's input by its storage, holding none."""
    seen: list[Any] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args: seen.append(
                (args[0].data_ptr(), StorageWeakRef(args[0].untyped_storage()))
            )
        )
        for layer in layers_of(model)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class LazyCopies(Copies):
    """Copies that happen only when they are waited for, as on a stream that is far behind."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.waiting: list[list[Any]] = []
        self.log: list[str] = []

    def begin(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Any:
        """Hold views by storage only, so that a tensor dropped too early is gone."""
        held = []
        for target, source in pairs:
            source_of, target_of = (StorageWeakRef(t.untyped_storage()) for t in (source, target))
            held.append((target.data_ptr(), source.data_ptr(), len(source), target_of, source_of))
        self.waiting.append(held)
        self.log.append("begin")
        return held

    def wait(self, event: Any) -> None:
        """Catch up to a copy, in the order in which all began."""
        self.log.append("wait")
        while any(event is held for held in self.waiting):
            for target, source, size, target_of, source_of in self.waiting.pop(0):
                assert not target_of.expired()
                assert not source_of.expired()
                _as_bytes(target, size).copy_(_as_bytes(source, size))


def _as_bytes(address: int, size: int) -> Tensor:
    import ctypes

    array = (ctypes.c_uint8 * size).from_address(address)
    return torch.frombuffer(array, dtype=torch.uint8)


@EVERY_FAMILY
@pytest.mark.parametrize("lengths", [(33,), (40, 17, 3)], ids=["one row", "padded rows"])
def test_modes_agree_bit_by_bit(family: str, lengths: tuple[int, ...]) -> None:
    """Loss and every LoRA gradient are those of the plain model; the base gets none."""
    model, ids = make_model(family), make_ids(*lengths)
    set_checkpointing(model, mode="off")
    plain = step(model, ids)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == plain[1].keys()
    assert all("lora_" in name and grad.abs().sum() > 0 for name, grad in plain[1].items())
    modes: tuple[CheckpointingMode, ...] = ("recompute", "offload", "off", "offload", "recompute")
    for mode in modes:
        set_checkpointing(model, mode=mode)
        assert_same(plain, step(model, ids))


def test_modes_agree_without_autocast() -> None:
    """The layer is run again under the autocast that held in the forward pass: here none."""
    model, ids = make_model(dtype=torch.float32), make_ids(20, 9)
    plain = step(model, ids, autocast=False)
    open_shelf(model)
    assert_same(plain, step(model, ids, autocast=False))
    loss = forward(model, ids, autocast=False)
    with torch.autocast("cpu", torch.bfloat16):
        layer_dtypes: list[torch.dtype] = []
        layers_of(model)[0].mlp.register_forward_hook(lambda *a: layer_dtypes.append(a[2].dtype))
        loss.backward()
    assert [torch.float32] == layer_dtypes


def test_a_backward_pass_inside_autocast_loses_no_gradient() -> None:
    """Weights cast without a graph are not met again where the layer is run with one."""
    model, ids = make_model(), make_ids(20, 9)
    plain = step(model, ids)[1]
    set_checkpointing(model, mode="recompute")
    # One region around both: its cache lives from the first run to the second.
    with torch.autocast("cpu", torch.bfloat16):
        forward(model, ids).backward()
    assert plain.keys() == take_grads(model).keys()


def test_no_cast_weight_outlives_its_use() -> None:
    """Within one autocast region the adapter's bf16 casts are gone after the forward pass."""
    model, ids = make_model(), make_ids(20, 9)
    set_checkpointing(model, mode="recompute")
    shapes = {p.shape for p in model.parameters() if p.requires_grad}
    casts: list[Any] = []

    class Watch(TorchDispatchMode):
        """Collects casts of the adapter's weights, holding none."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and out.shape in shapes:
                casts.append(StorageWeakRef(out.untyped_storage()))
            return out

    watch: Any = Watch
    with torch.autocast("cpu", torch.bfloat16), watch():
        loss = forward(model, ids)
        assert 14 * LAYERS == len(casts)
        assert all(cast.expired() for cast in casts)
    assert loss.requires_grad


def test_each_layer_keeps_its_input_alone() -> None:
    """Saved bytes: all activations, then one input a layer, then the last layer's input."""
    model, ids = make_model(), make_ids(40, 17, 3)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    input_bytes = ids.numel() * WIDTH * 2

    def saved_bytes(mode: CheckpointingMode) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        set_checkpointing(model, mode=mode)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model.base_model.model.model(input_ids=ids, use_cache=False)
        assert hidden.last_hidden_state.requires_grad
        return sum(sizes.values())

    off, recompute, offload = (saved_bytes(mode) for mode in ("off", "recompute", "offload"))
    assert (LAYERS - 1) * input_bytes == recompute - offload
    assert off - recompute > 10 * LAYERS * input_bytes


def test_no_offloaded_input_stays_on_the_device() -> None:
    """After the forward pass only the last layer's input is alive; recompute holds all of them."""
    model, ids = make_model(), make_ids(24, 24)
    modes: tuple[CheckpointingMode, ...] = ("recompute", "offload")
    for mode in modes:
        set_checkpointing(model, mode=mode)
        with watch_inputs(model) as seen:
            loss = forward(model, ids)
        alive = [not storage.expired() for _, storage in seen]
        assert [mode == "recompute"] * (LAYERS - 1) + [True] == alive
        loss.backward()
        del loss
        assert [False] * LAYERS == [not storage.expired() for _, storage in seen]


def test_no_grad_copies_nothing() -> None:
    """A forward pass without gradients takes no page and gives the same values."""
    model, ids = make_model(), make_ids(24, 24)
    plain = forward(model, ids).detach()
    shelf = open_shelf(model)
    with torch.no_grad():
        assert torch.equal(plain, forward(model, ids))
        with model.disable_adapter():
            assert not torch.equal(plain, forward(model, ids))
    assert 0 == shelf.pages
    with model.disable_adapter():
        assert not forward(model, ids).requires_grad
    assert 0 == shelf.pages


def test_pages_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pages as the largest batch needs serve every step; all are free after each."""
    monkeypatch.setattr(activation_checkpointing, "PAGE", 1000)
    model = make_model()
    shelf = open_shelf(model)
    sizes = [(30, 30), (5,), (60,), (40, 11), (61,)]
    counts = []
    for lengths in sizes:
        step(model, make_ids(*lengths))
        assert shelf.pages == len(shelf.free)
        counts.append(shelf.pages)
    needs = [(LAYERS - 1) * -(-max(s) * len(s) * WIDTH * 2 // 1000) for s in sizes]
    assert [max(needs[: i + 1]) for i in range(len(sizes))] == counts


def test_pages_smaller_than_an_input_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input cut into many pages, the last one not full, comes back whole."""
    model, ids = make_model(), make_ids(40, 17, 3)
    plain = step(model, ids)
    monkeypatch.setattr(activation_checkpointing, "PAGE", 998)
    open_shelf(model)
    assert_same(plain, step(model, ids))


def test_copies_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late copies happen, every tensor is alive until then and read only after."""
    model, ids = make_model(), make_ids(40, 17, 3)
    plain = step(model, ids)
    monkeypatch.setattr(activation_checkpointing, "PAGE", 998)
    shelf = open_shelf(model)
    copies = shelf.copies = LazyCopies()
    for _ in range(3):
        for page in shelf.free:
            page.fill_(255)
        assert_same(plain, step(model, ids))
    assert [] == copies.waiting


def test_the_next_input_comes_back_ahead() -> None:
    """In the backward pass each copy begins before the layer above is run again."""
    model, ids = make_model(), make_ids(12)
    shelf = open_shelf(model)
    copies = shelf.copies = LazyCopies()
    for index, layer in enumerate(layers_of(model)):
        layer.register_forward_pre_hook(lambda *_, at=index: copies.log.append(str(at)))
    loss = forward(model, ids)
    assert "begin 0 wait begin 1 wait begin 2 wait 3" == " ".join(copies.log)
    copies.log.clear()
    loss.backward()
    assert "begin 3 wait begin 2 wait begin 1 wait 0" == " ".join(copies.log)


@pytest.mark.parametrize("mode", ["recompute", "offload"])
@pytest.mark.parametrize("failing", range(2 * LAYERS))
def test_a_step_after_an_error_is_whole(mode: CheckpointingMode, failing: int) -> None:
    """Out of memory in any layer, forward or backward, costs neither pages nor later gradients."""
    model, ids = make_model(), make_ids(40, 17, 3)
    plain = step(model, ids)
    shelf = set_checkpointing(model, mode=mode)
    step(model, ids)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise torch.OutOfMemoryError("injected")

    hooks = [layer.mlp.register_forward_pre_hook(fail) for layer in layers_of(model)]
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        step(model, ids)
    for hook in hooks:
        hook.remove()
    take_grads(model)
    assert not torch.is_autocast_enabled("cpu")
    assert not activation_checkpointing.runs_again()
    assert_same(plain, step(model, ids))
    if shelf is not None:
        assert (LAYERS - 1, LAYERS - 1) == (shelf.pages, len(shelf.free))


def test_switching_after_an_error_lets_go_of_the_device() -> None:
    """The ladder's next level holds no input of the pass that failed."""
    model, ids = make_model(), make_ids(24, 24)
    copies = open_shelf(model).copies = LazyCopies()

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("injected")

    hook = layers_of(model)[2].mlp.register_forward_pre_hook(fail)
    with watch_inputs(model) as seen, pytest.raises(torch.OutOfMemoryError, match="injected"):
        forward(model, ids)
    hook.remove()
    assert (3, 1) == (len(seen), len(copies.waiting))
    set_checkpointing(model, mode="recompute")
    assert [] == copies.waiting
    assert [True] * 3 == [storage.expired() for _, storage in seen]


def test_two_passes_may_be_open_at_once() -> None:
    """Backward passes find their own inputs, in either order."""
    model, ids, others = make_model(), make_ids(40, 17, 3), make_ids(21)
    plain, other = step(model, ids), step(model, others)
    shelf = open_shelf(model)
    for first_back in (0, 1):
        losses = [forward(model, ids), forward(model, others)]
        for index in (first_back, 1 - first_back):
            losses[index].backward()
            assert_same((plain, other)[index], (losses[index].detach(), take_grads(model)))
        del losses
    assert 2 * (LAYERS - 1) == shelf.pages == len(shelf.free)


def test_a_kept_graph_serves_twice() -> None:
    """A second backward pass over the same graph adds the same gradients once more."""
    model, ids = make_model(), make_ids(21)
    plain = step(model, ids)[1]
    open_shelf(model)
    loss = forward(model, ids)
    loss.backward(retain_graph=True)
    loss.backward()
    assert [] == [
        name for name, grad in take_grads(model).items() if not grad.equal(2 * plain[name])
    ]


def test_gradients_can_be_asked_for_without_being_stored() -> None:
    """`torch.autograd.grad` gives them and touches no `.grad`: a failed micro-batch leaves none."""
    model, ids = make_model(), make_ids(21)
    plain = step(model, ids)[1]
    open_shelf(model)
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(forward(model, ids), list(params.values()))
    assert {} == take_grads(model)
    assert [] == [n for n, grad in zip(params, grads, strict=True) if not grad.equal(plain[n])]


class Fork(GradientCheckpointingLayer):  # type: ignore[misc]
    """A layer with several outputs, one of them without a gradient, and a weight without use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
        self.spare = torch.nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor, *, shift: tuple[Tensor, float]) -> tuple[Tensor, None, Tensor]:
        """Give a product, nothing, and a sum that needs no gradient."""
        return (x * self.weight + shift[0]) * shift[1], None, x.detach().sum()


@pytest.mark.parametrize("mode", ["recompute", "offload"])
def test_tuples_and_keywords_pass(mode: CheckpointingMode) -> None:
    """Outputs come as the layer gives them, keywords reach both runs, unused weights get None."""
    forks: list[Any] = [Fork(), Fork()]
    set_checkpointing(torch.nn.ModuleList(forks).train(), mode=mode)
    x: Any = torch.tensor([5.0, 7.0], requires_grad=True)
    first, nothing, total = forks[0](x, shift=(torch.tensor(1.0), 10.0))
    second, _, _ = forks[1](first, shift=(torch.tensor(0.0), 1.0))
    assert (None, 12.0) == (nothing, total.item())
    (second.sum() + total).backward()
    assert [40.0, 90.0] == x.grad.tolist()
    assert [110.0, 220.0] == forks[1].weight.grad.tolist()
    assert [100.0, 210.0] == forks[0].weight.grad.tolist()
    assert forks[0].spare.grad is None


def test_a_keyword_that_takes_a_gradient_is_refused() -> None:
    """A gradient that the node cannot pass on is an error, not a zero."""
    stack = torch.nn.ModuleList([Fork()]).train()
    set_checkpointing(stack, mode="recompute")
    with pytest.raises(AssertionError, match="lost"):
        stack[0](torch.ones(2), shift=(torch.ones(1, requires_grad=True), 1.0))


def test_dropout_is_refused() -> None:
    """Running a layer again would draw again; without checkpointing it is nobody's business."""
    model = make_model()
    layers_of(model)[1].self_attn.attention_dropout = 0.1
    set_checkpointing(model, mode="off")
    with pytest.raises(AssertionError, match="dropout"):
        set_checkpointing(model, mode="recompute")
    stack = torch.nn.ModuleList([Fork(), torch.nn.Dropout(0.5)])
    with pytest.raises(AssertionError, match="dropout"):
        set_checkpointing(stack, mode="offload")


def test_a_model_without_layers_is_refused() -> None:
    """The message names what was given and what would do."""
    with pytest.raises(InputError, match=r"Linear has none; give a dense Qwen2\.5"):
        set_checkpointing(torch.nn.Linear(1, 1), mode="recompute")


def test_pages_that_cannot_be_pinned_are_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver pins no more, pages come all the same, and it is not asked again."""
    copies = Copies(torch.device("cpu"))
    copies.pinned = True
    asked: list[bool] = []
    stock = torch.empty

    def refuse(*shape: int, pin_memory: bool = False, **given: Any) -> torch.Tensor:
        asked.append(pin_memory)
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nand more")
        return stock(*shape, **given)

    monkeypatch.setattr(torch, "empty", refuse)
    pages = [copies.make_page() for _ in range(2)]
    assert [True, False, False] == asked
    assert [PAGE, PAGE] == [len(page) for page in pages]


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(512,), (512, 300)])
def test_modes_agree_on_a_card(lengths: tuple[int, ...]) -> None:
    """Copies on their own stream change no gradient, in many steps, and offload keeps least."""
    model, ids = make_model(device="cuda"), make_ids(*lengths, device="cuda")
    for _ in range(2):
        plain = step(model, ids)
    kept = {}
    modes: tuple[CheckpointingMode, ...] = ("off", "recompute", "offload")
    for mode in modes:
        shelf = set_checkpointing(model, mode=mode)
        for _ in range(20):
            loss, grads = step(model, ids)
            torch.testing.assert_close(loss, plain[0], rtol=1e-3, atol=1e-3)
            for name, grad in grads.items():
                torch.testing.assert_close(grad, plain[1][name], rtol=2e-2, atol=2e-3)
        before = torch.cuda.memory_allocated()
        loss = forward(model, ids)
        if shelf is not None:
            shelf.settle()
        kept[mode] = torch.cuda.memory_allocated() - before
        del loss
    input_bytes = ids.numel() * WIDTH * 2
    assert kept["recompute"] - kept["offload"] >= (LAYERS - 1) * input_bytes
    assert kept["off"] > kept["recompute"]
