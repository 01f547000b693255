"""The trainer without an engine: gradients are the same however a micro-batch is shared out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import Qwen3Config, Qwen3ForCausalLM

from trustee.algorithm.batch import Batch
from trustee.algorithm.config import ActivationCheckpointing, LearnConfig
from trustee.algorithm.learner import (
    FinishRequest,
    MemoryReport,
    MicroReport,
    MicroRequest,
    TrainerSpec,
    add_reports,
)
from trustee.algorithm.loss import LossConfig, TokenLogprobs
from trustee.engine.remote_trainer import read_answer
from trustee.errors import OutOfMemory, RunError
from trustee.trainer import host_memory
from trustee.trainer.optimizer import create_states
from trustee.trainer.reference import keep_reference
from trustee.trainer.shared_model import lora_config
from trustee.trainer.trainer import Trainer
from trustee.trainer.tree_attention import register_tree_attention
from trustee.types import Sample


def make_trainer(*, threads: int, mode: ActivationCheckpointing = "off") -> Trainer:
    """Make a trainer over a small random model, always the same."""
    torch.manual_seed(3)
    shape = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        attn_implementation=register_tree_attention(),
    )
    model = get_peft_model(Qwen3ForCausalLM(shape).to(torch.bfloat16), lora_config(8))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter.data, dtype=torch.float32) * 0.1
    trainer = Trainer(
        TrainerSpec(folder="", learn=LearnConfig(optimizer="adamw", head_chunk=7), cores=threads),
        model.train(),
        device=torch.device("cpu"),
        worker=None,
    )
    trainer.block = 0
    trainer.adjust(mode)
    return trainer


def test_each_thread_of_a_step_computes_alone() -> None:
    """Threads that share samples do not share products as well; the engine's thread still may."""
    before = torch.get_num_threads()
    trainer = make_trainer(threads=2)
    assert trainer._pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before


def test_template_lies_beside_the_adapter(tmp_path: Path) -> None:
    """Whoever serves the adapter finds the template that it was trained with, if it has one."""
    trainer = make_trainer(threads=1)
    trainer._write(str(tmp_path / "own"), trainer.tensors())
    assert not (tmp_path / "own" / "chat_template.jinja").exists()
    trainer.spec = msgspec.structs.replace(trainer.spec, template="{{ 'é' }}\r\n")
    trainer._write(str(tmp_path / "given"), trainer.tensors())
    assert "{{ 'é' }}\r\n".encode() == (tmp_path / "given" / "chat_template.jinja").read_bytes()


def make_micro(*, kl_coef: float = 0.0, **changes: Any) -> MicroRequest:
    """Make a micro-batch of samples of several lengths."""
    rng = random.Random(5)
    samples = []
    for number, length in enumerate((30, 21, 21, 12, 9, 4)):
        samples.append(
            Sample(
                ids=tuple(rng.randrange(97) for _ in range(length)),
                mask=(False, False, *(True,) * (length - 2)),
                logprobs=(0.0, 0.0, *(-4.0 - rng.random() for _ in range(length - 2))),
                advantage=rng.choice((-1.0, 1.0)),
                version=1,
                trajectory_id=str(number),
            )
        )
    request = MicroRequest(
        samples=tuple(samples), loss=LossConfig(kl_coef=kl_coef), normaliser=85.0
    )
    return msgspec.structs.replace(request, **changes)


def gradients(trainer: Trainer) -> list[torch.Tensor]:
    """Give what was gathered."""
    return [parameter.grad for parameter in trainer.params]


@pytest.mark.parametrize("threads", [2, 3, 6, 50])
def test_threads_gather_the_same_gradients(threads: int) -> None:
    """Two micro-batches on several threads add up to what one thread gathers."""
    alone, shared = make_trainer(threads=1), make_trainer(threads=threads)
    for _ in range(2):
        expected = alone.gather(make_micro())
        given = shared.gather(make_micro())
    assert (85, expected.tokens) == (given.tokens, 85)
    assert expected.loss == pytest.approx(given.loss, rel=2e-2, abs=1e-3)
    assert expected.gap_abs_sum == pytest.approx(given.gap_abs_sum, rel=1e-2)
    for left, right in zip(gradients(alone), gradients(shared), strict=True):
        assert left.abs().sum() > 0
        # bf16 products of other shapes round otherwise, by about one part in a hundred.
        assert (left - right).norm() < 0.03 * left.norm()


def test_warming_up_leaves_nothing_behind() -> None:
    """Kernels have run, both kinds of attention among them, and no gradient is left."""
    trainer, untouched = make_trainer(threads=1), make_trainer(threads=1)
    trainer.warm()
    assert [None] * len(trainer.params) == gradients(trainer)
    trainer.gather(make_micro())
    untouched.gather(make_micro())
    for left, right in zip(gradients(trainer), gradients(untouched), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried"),
        RuntimeError("CUDA error: out of memory\nfor so many bytes"),
        MemoryError(),
    ],
)
def test_a_pass_that_does_not_fit_is_reported(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """Whoever ran out, the step's gradients are dropped and the answer says what was asked."""
    trainer = make_trainer(threads=1)
    trainer.gather(make_micro())

    def fail(batch: Batch) -> TokenLogprobs:
        raise error

    monkeypatch.setattr(trainer, "forward", fail)
    answer = trainer.answer("accumulate", msgspec.msgpack.encode(make_micro()))
    assert read_memory(answer).asked == str(error).partition("\n")[0]
    assert [None] * len(trainer.params) == gradients(trainer)


def test_a_pass_that_the_host_has_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU torch is refused before the kernel kills the process, with the host's figures."""
    trainer = make_trainer(threads=1)
    monkeypatch.setattr(host_memory, "read_available", lambda: host_memory.RESERVE + (64 << 20))

    def allocate(batch: Batch) -> TokenLogprobs:
        raise AssertionError(f"a gibibyte was there: {torch.empty(1 << 30, dtype=torch.uint8)}")

    monkeypatch.setattr(trainer, "forward", allocate)
    report = read_memory(trainer.answer("accumulate", msgspec.msgpack.encode(make_micro())))
    assert "allocate memory" in report.asked
    assert 0 < report.allocated < report.total
    assert torch.empty(1 << 30, dtype=torch.uint8).numel(), "the bound ends with the call"


def read_memory(answer: dict[str, Any]) -> MemoryReport:
    """Give the report of a call that did not fit."""
    assert ["memory"] == list(answer)
    with pytest.raises(OutOfMemory, match="in tensors"):
        read_answer(answer)
    return msgspec.msgpack.decode(answer["memory"], type=MemoryReport)


END = msgspec.msgpack.encode(FinishRequest(learning_rate=0.1, max_norm=1.0))


def test_states_exist_before_the_first_step() -> None:
    """What is tried before the first step is tried beside the optimiser's states."""
    trainer = make_trainer(threads=1)
    trainer.warm()
    states = trainer.optimizer.state
    assert len(trainer.params) == len(states)
    assert all(states[p]["exp_avg"].shape == p.shape for p in trainer.params)


def test_a_step_without_room_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is asked for before any weight is touched, so the step can be taken again."""
    trainer, other = make_trainer(threads=1), make_trainer(threads=1)
    before = [p.detach().clone() for p in trainer.params]
    asked: list[int] = []

    def refuse(size: int, device: torch.device) -> None:
        asked.append(size)
        raise torch.OutOfMemoryError("tried to copy all states")

    with monkeypatch.context() as patch:
        patch.setattr("trustee.trainer.trainer.make_room", refuse)
        trainer.gather(make_micro())
        report = read_memory(trainer.answer("finish", END))
    assert ("tried to copy all states", [8 * sum(p.numel() for p in before)]) == (
        report.asked,
        asked,
    )
    assert all(map(torch.equal, before, trainer.params))
    assert [None] * len(trainer.params) == gradients(trainer)
    for one in (trainer, other):
        one.gather(make_micro())
        assert read_answer(one.answer("finish", END))
    assert all(map(torch.equal, trainer.params, other.params))


def test_a_step_that_fails_half_way_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some weights have moved: it must not be taken again, and the text says what is whole."""
    trainer = make_trainer(threads=1)
    trainer.gather(make_micro())

    def fail() -> None:
        raise torch.OutOfMemoryError("tried")

    monkeypatch.setattr(trainer.optimizer, "step", fail)
    with pytest.raises(RunError, match="some have moved: tried; the last checkpoint is whole"):
        trainer.answer("finish", END)


@pytest.mark.parametrize("method", ["load", "load_adapter"])
def test_loading_that_does_not_fit_can_be_done_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    """A state that was not taken whole is taken again from the same folder."""
    trainer = make_trainer(threads=1)
    for _ in range(2):
        trainer.gather(make_micro())
        trainer.finish(END)
    trainer.save(str(tmp_path))
    weights = [p.detach().clone() for p in trainer.params]
    fresh = make_trainer(threads=1)
    folder = str(tmp_path if method == "load" else tmp_path / "adapter")

    def refuse(optimizer: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("trustee.trainer.trainer.create_states", refuse)
        read_memory(fresh.answer(method, folder))
    assert read_answer(fresh.answer(method, folder)) is None
    assert all(map(torch.equal, weights, fresh.params))
    steps = {float(fresh.optimizer.state[p]["step"]) for p in fresh.params}
    assert {2.0 if method == "load" else 0.0} == steps


def test_a_publish_that_failed_half_way_is_done_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the engine already holds of the version is removed before it is given once more."""
    trainer, held = make_trainer(threads=1), [6]
    done: list[int] = []

    def install(worker: Any, version: int, *given: Any) -> None:
        assert version not in held
        held.append(version)
        if not done:
            done.append(version)
            raise torch.OutOfMemoryError("no slot")

    monkeypatch.setattr("trustee.trainer.trainer.install_adapter", install)
    monkeypatch.setattr("trustee.trainer.trainer.held_adapters", lambda worker: sorted(held))
    monkeypatch.setattr(
        "trustee.trainer.trainer.remove_adapter", lambda worker, version: held.remove(version)
    )
    assert "no slot" == read_memory(trainer.answer("publish", 7, str(tmp_path / "a"))).asked
    assert [6, 7] == read_answer(trainer.answer("publish", 7, str(tmp_path / "a")))


def test_the_optimiser_moves_on_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are made and moved while the default stream is the current one."""
    trainer, streams, seen = make_trainer(threads=1), ["own"], []

    @contextmanager
    def enter(device: torch.device) -> Iterator[None]:
        streams.append("default")
        yield
        streams.pop()

    monkeypatch.setattr("trustee.trainer.trainer.on_default_stream", enter)
    step = trainer.optimizer.step

    def watch_step() -> None:
        seen.append(streams[-1])
        step()

    def watch_states(optimizer: Any) -> None:
        seen.append(streams[-1])
        create_states(optimizer)

    monkeypatch.setattr(trainer.optimizer, "step", watch_step)
    monkeypatch.setattr("trustee.trainer.trainer.create_states", watch_states)
    trainer.warm()
    trainer.gather(make_micro())
    trainer.finish(END)
    assert (["default", "default"], ["own"]) == (seen, streams)


def test_a_bug_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error of torch's goes its way."""
    trainer = make_trainer(threads=1)

    def fail(batch: Batch) -> TokenLogprobs:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(trainer, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.accumulate(msgspec.msgpack.encode(make_micro()))


def test_an_adapter_is_named_as_peft_names_it() -> None:
    """What is published has PEFT's own names and values."""
    trainer = make_trainer(threads=1)
    given = trainer.tensors()
    expected = get_peft_model_state_dict(trainer.model)
    assert sorted(expected) == sorted(given)
    assert all(torch.equal(expected[name], given[name]) for name in expected)


def make_group(*, length: int = 16) -> tuple[Sample, ...]:
    """Make five samples with a prompt of so many ids in common, three with a first turn too."""
    rng = random.Random(9)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(97) for _ in range(count))

    prompt, turn = draw(length), draw(5)
    rows = [(*turn, *draw(3)), (*turn, *draw(8)), (*turn, *draw(2)), draw(6), draw(9)]
    return tuple(
        Sample(
            ids=prompt + row,
            mask=(*(False,) * length, *(True,) * len(row)),
            logprobs=(*(0.0,) * length, *(-4.0 - rng.random() for _ in row)),
            advantage=rng.choice((-1.0, 1.0)),
            version=1,
            trajectory_id=str(number),
        )
        for number, row in enumerate(rows)
    )


@pytest.mark.parametrize("mode", ["off", "recompute", "offload"])
@pytest.mark.parametrize("block", [0, 20, 1000])
def test_what_members_have_in_common_is_computed_once(
    block: int, mode: ActivationCheckpointing
) -> None:
    """A group gives the figures and gradients of its members one by one, from fewer ids."""
    alone, together = make_trainer(threads=1), make_trainer(threads=1, mode=mode)
    together.block = block
    group = make_group()
    seen: list[int] = []
    forward = together.forward

    def count(batch: Batch) -> TokenLogprobs:
        seen.append(len(batch.ids_T))
        given: TokenLogprobs = forward(batch)
        return given

    together.forward = count  # type: ignore[method-assign]
    apart = [alone.gather(make_micro(samples=(sample,))) for sample in group]
    report = together.gather(make_micro(samples=group))
    assert [16 + 5 + 3 + 8 + 2 + 6 + 9] == seen
    expected = add_reports(apart)
    assert (43, expected.tokens) == (report.tokens, 43)
    for name in ("loss", "gap_abs_sum", "gap_kl_sum", "entropy_sum"):
        assert getattr(expected, name) == pytest.approx(getattr(report, name), rel=1e-2, abs=1e-2)
    for left, right in zip(gradients(alone), gradients(together), strict=True):
        # What several members say of one key is added up in bf16.
        assert (left - right).norm() < 0.03 * left.norm()


@pytest.mark.parametrize(
    ("mode", "kl_coef", "shares"),
    [("off", 0.0, 4), ("off", 0.1, 1), ("recompute", 0.0, 1), ("offload", 0.0, 1)],
)
def test_what_must_stay_together_does(
    mode: ActivationCheckpointing, kl_coef: float, shares: int
) -> None:
    """Checkpoints and the reference pass have state for all: then one thread does it all."""
    trainer = make_trainer(threads=4, mode=mode)
    assert shares == trainer.count_shares(make_micro(kl_coef=kl_coef))


def logprobs_of(trainer: Trainer, sample: Sample) -> torch.Tensor:
    """Give what the trainer thinks of a sample's sampled ids, adapter on."""
    request = msgspec.msgpack.encode(sample)
    return torch.tensor(trainer.logprobs(request, True), dtype=torch.float64)


def shift(trainer: Trainer, by: float) -> None:
    """Move the adapter by hand."""
    for parameter in trainer.params:
        parameter.data = parameter.data + by


@pytest.mark.parametrize("kept", [False, True])
def test_divergence_is_from_the_reference(kept: bool) -> None:
    """The KL term is k3 between the trained policy and its start, or the base without one."""
    trainer = make_trainer(threads=1)
    if kept:
        trainer.reference = keep_reference(trainer.params, trainer.dtype)
    sample = make_micro().samples[0]
    start = logprobs_of(trainer, sample)
    bare = torch.tensor(
        trainer.logprobs(msgspec.msgpack.encode(sample), False), dtype=torch.float64
    )
    shift(trainer, 0.02)
    trained = logprobs_of(trainer, sample)
    difference = trained - (start if kept else bare)
    expected = float(((-difference).exp() + difference - 1).sum())
    report = trainer.gather(make_micro(kl_coef=0.1, samples=(sample,)))
    assert expected == pytest.approx(report.kl_sum, rel=1e-4)
    assert expected > 1e-3
    without = make_micro(samples=(sample,), learn=False)
    plain = trainer.gather(without)
    assert plain.loss + 0.1 * expected / 85 == pytest.approx(report.loss, rel=1e-4)


def test_divergence_from_the_start_is_nothing_at_the_start() -> None:
    """In bf16, as both are used, the adapter and the reference made of it say the same."""
    trainer = make_trainer(threads=1)
    trainer.reference = keep_reference(trainer.params, trainer.dtype)
    assert 0.0 == trainer.gather(make_micro(kl_coef=0.1)).kl_sum


def test_reference_leaves_the_adapter_alone() -> None:
    """After a step with a reference the parameters are the same tensors, with gradients."""
    trainer = make_trainer(threads=1)
    trainer.reference = keep_reference(trainer.params, trainer.dtype)
    kept = [tensor.clone() for tensor in trainer.reference]
    shift(trainer, 0.02)
    before = [parameter.data for parameter in trainer.params]
    for _ in range(2):
        trainer.gather(make_micro(kl_coef=0.1))
    assert [p.data_ptr() for p in trainer.params] == [p.data_ptr() for p in before]
    assert {torch.float32} == {p.grad.dtype for p in trainer.params}
    for expected, given in zip(kept, trainer.reference, strict=True):
        assert torch.equal(expected, given)


def test_measuring_gathers_nothing() -> None:
    """A request that is only to be measured has the figures of one that learns, no gradients."""
    trainer = make_trainer(threads=3)
    nll = LossConfig(kind="nll")
    report = trainer.gather(make_micro(loss=nll, learn=False))
    assert {None} == {parameter.grad for parameter in trainer.params}
    ones = [msgspec.structs.replace(s, advantage=1.0) for s in make_micro().samples]
    total = -sum(float(logprobs_of(trainer, sample).sum()) for sample in ones)
    signed = -sum(float(logprobs_of(trainer, s).sum()) * s.advantage for s in make_micro().samples)
    assert signed / 85 == pytest.approx(report.loss, rel=2e-2, abs=1e-2)
    learnt = make_micro(loss=nll, samples=tuple(ones), learn=False)
    assert total / 85 == pytest.approx(trainer.gather(learnt).loss, rel=1e-2)


@pytest.mark.parametrize("threads", [1, 3])
def test_sft_has_the_gradient_of_cross_entropy(threads: int) -> None:
    """The whole path gives what torch's cross entropy gives through the model."""
    trainer, other = make_trainer(threads=threads), make_trainer(threads=1)
    ones = tuple(msgspec.structs.replace(s, advantage=1.0) for s in make_micro().samples)
    trainer.gather(make_micro(loss=LossConfig(kind="nll"), samples=ones))
    for sample in ones:
        ids = torch.tensor([sample.ids])
        targets = torch.tensor([sample.ids[2:]])
        with torch.autocast("cpu", torch.bfloat16):
            logits = other.model(input_ids=ids).logits[:, 1:-1]
        loss = torch.nn.functional.cross_entropy(logits[0].float(), targets[0], reduction="sum")
        (loss / 85).backward()
    for left, right in zip(gradients(other), gradients(trainer), strict=True):
        assert left.abs().sum() > 0
        assert (left - right).norm() < 0.03 * left.norm()


def test_reports_add_up() -> None:
    """Sums add, maxima do not."""
    names = MicroReport.__struct_fields__
    one = MicroReport(**dict.fromkeys(names, 1))
    three = MicroReport(**dict.fromkeys(names, 3))
    whole = add_reports([one, three])
    assert {name: 3 if name.endswith("_max") else 4 for name in names} == {
        name: getattr(whole, name) for name in names
    }
