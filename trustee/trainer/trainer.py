"""The trainer: gradients, optimiser and checkpoints of the adapter over the engine's weights.

It runs inside the engine's process. Requests and answers are msgspec bytes or plain numbers;
tensors never leave the process. A step is one `accumulate` per micro-batch, then `finish`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import set_num_threads  # vLLM replaces torch's attribute by one that does nothing

from trustee.algorithm.batch import Batch, collate, share_out
from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.learner import (
    SMALLEST,
    FinishReport,
    FinishRequest,
    MicroReport,
    MicroRequest,
    TrainerSpec,
    add_reports,
)
from trustee.algorithm.loss import TokenLogprobs, policy_loss
from trustee.decoding import decode_json, read_file
from trustee.errors import RunError
from trustee.runs.adapters import BASE, TEMPLATE, WEIGHTS, BaseMark, fingerprint_base
from trustee.trainer.activation_checkpointing import set_checkpointing
from trustee.trainer.adapter_weights import describe_adapter, take_adapter, trained_tensors
from trustee.trainer.base_hash import hash_frozen
from trustee.trainer.counters import Counter, own_counters
from trustee.trainer.forward import find_divergences, find_logprobs
from trustee.trainer.memory import (
    Heap,
    bound_memory,
    cap_memory,
    count_used,
    measure_held,
    ran_out,
    release_memory,
)
from trustee.trainer.optimizer import (
    Tensors,
    count_scratch,
    create_states,
    flatten_state,
    make_optimizer,
    make_room,
    unflatten_state,
)
from trustee.trainer.quantised_cache import write_cache
from trustee.trainer.reference import keep_reference, swapped
from trustee.trainer.shared_model import restart_adapter
from trustee.trainer.shared_weights import (
    held_adapters,
    install_adapter,
    remove_adapter,
    tensors_of_base,
)
from trustee.trainer.streams import on_default_stream
from trustee.trainer.tiling import tile_mlp, tile_norms
from trustee.types import Sample

Gradients = tuple[torch.Tensor, ...]

CPU_BLOCK = 256
"""Measured with the built-in model: 128 to 512 are alike, one call a node costs a third more."""


class Trainer:
    """Trains an adapter over the engine's weights; the main process calls it by method names."""

    def __init__(
        self, spec: TrainerSpec, model: PeftModel, *, device: torch.device, worker: Any
    ) -> None:
        self.spec = spec
        self.model = model
        self.device = device
        self.mode: ActivationCheckpointing = spec.learn.activation_checkpointing
        self.block = CPU_BLOCK if device.type == "cpu" else 0
        """Ids of tree nodes that attend in one call; see `collate`."""
        self.dtype = model.get_input_embeddings().weight.dtype
        """Precision of the base's products, and of the engine's copy of an adapter."""
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(spec.learn, self.params)
        self.reference: Sequence[torch.Tensor] = ()
        """Weights of the reference policy, in the order of `params`; empty is the base."""
        self._worker = worker
        """vLLM's, which holds the engine's weights and adapters."""
        self._threads = spec.learn.threads or spec.cores
        # Always the same threads, because a new one's memory stays; each computes alone.
        self._pool = ThreadPoolExecutor(self._threads, initializer=set_num_threads, initargs=(1,))
        self._heap = Heap()
        self._base = ""
        """Fingerprint of the base, which is written next to each adapter."""

    def prepare(self) -> dict[str, Any]:
        """Set the model up as the spec says, and return figures about it."""
        learn, start = self.spec.learn, self.spec.start
        self._base = fingerprint_base(Path(self.spec.folder))
        self.adjust(learn.activation_checkpointing)
        tile_mlp(self.model, learn.mlp_tile)
        tile_norms(self.model, learn.mlp_tile)
        if start:
            self._take(start)
        if start and self.spec.reference:
            self.reference = keep_reference(self.params, self.dtype)
        self.warm()
        if self.device.type == "cuda":
            cap_memory(self.spec.memory_gib)
        return {
            "trainable": sum(p.numel() for p in self.params),
            "device": str(self.device),
            "process": os.getpid(),
        }

    def warm(self) -> None:
        """Take what stays before memory is capped: optimiser states, and libraries' workspaces."""
        self._create_states()
        self.gather(SMALLEST)
        self.optimizer.zero_grad(set_to_none=True)

    def _create_states(self) -> None:
        with on_default_stream(self.device):
            create_states(self.optimizer)

    def adjust(self, mode: ActivationCheckpointing) -> None:
        """Choose what is kept of a layer for the backward pass."""
        self.mode = mode
        set_checkpointing(self.model, mode=mode)

    def forward(self, batch: Batch) -> TokenLogprobs:
        """Return logprobs and entropies [N] of a batch's trained ids, in the order of the tree."""
        chunk = self.spec.learn.head_chunk
        return find_logprobs(self.model, batch, device=self.device, chunk=chunk)

    def answer(self, method: str, *args: Any) -> dict[str, Any]:
        """Call a method by its name and return its `value`, or where it does not fit, `memory`.

        What does not fit loses the gradients of its step, and may be asked again.
        """
        try:
            with bound_memory(self.device):
                return {"value": getattr(self, method)(*args)}
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            asked = str(error).partition("\n")[0][:500]
        # Outside the handler, whose traceback keeps the tensors of the failed pass alive.
        self.optimizer.zero_grad(set_to_none=True)
        return {"memory": msgspec.msgpack.encode(release_memory(asked, self.device))}

    def accumulate(self, request: bytes) -> bytes:
        """Add one micro-batch's gradients."""
        micro = msgspec.msgpack.decode(request, type=MicroRequest)
        report = self.gather(micro)
        own_counters().raise_to(Counter.PEAK, count_used(self.device))
        return msgspec.msgpack.encode(report)

    def gather(self, micro: MicroRequest) -> MicroReport:
        """Add one micro-batch's gradients, if wanted; give the sums and counts of its loss.

        On a CPU each thread takes a share of the samples, for threads that share one product wait
        for each other at its end, ten times as long where something else runs on the machine.
        """
        if not micro.learn:
            with torch.no_grad():
                return self._measure(micro, micro.samples)[0]
        shares = share_out(micro.samples, self.count_shares(micro))
        if len(shares) == 1:
            report, loss = self._measure(micro, shares[0])
            loss.backward()
            # So that what fails on a card fails here, and what is measured here is all of it.
            self._wait()
            return report

        def differentiate(samples: Sequence[Sample]) -> tuple[MicroReport, Gradients]:
            report, loss = self._measure(micro, samples)
            return report, torch.autograd.grad(loss, self.params)

        parts = list(self._pool.map(differentiate, shares))
        for _, gradients in parts:
            for parameter, gradient in zip(self.params, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return add_reports([report for report, _ in parts])

    def count_shares(self, micro: MicroRequest) -> int:
        """Say in how many shares a micro-batch may be differentiated at once."""
        # Checkpoints share a shelf, and the reference pass changes the adapter for all.
        alone = self.device.type != "cpu" or self.mode != "off" or micro.loss.kl_coef
        return 1 if alone else self._threads

    def _measure(
        self, micro: MicroRequest, samples: Sequence[Sample]
    ) -> tuple[MicroReport, torch.Tensor]:
        """Return the figures and the loss of samples of a micro-batch."""
        batch = collate(samples, block=self.block)
        reference_BL = None
        if micro.loss.kl_coef:
            with torch.no_grad(), self._refer():
                reference_BL = batch.spread(self.forward(batch).logprobs)
        tokens = self.forward(batch)
        sums = policy_loss(
            batch.spread(tokens.logprobs),
            batch.logprobs_BL.to(self.device),
            mask=batch.mask_BL.to(self.device),
            advantages=batch.advantages_B.to(self.device),
            config=micro.loss,
            normaliser=micro.normaliser,
            reference_logprobs=reference_BL,
        )
        report = MicroReport(
            loss=sums.loss.item(),
            tokens=sums.tokens,
            clipped=sums.clipped_low + sums.clipped_high + sums.clipped_dual,
            gap_abs_sum=sums.gap_abs_sum,
            gap_abs_max=sums.gap_abs_max,
            gap_kl_sum=sums.gap_kl_sum,
            kl_sum=sums.kl_sum,
            ratio_max=sums.ratio_max,
            entropy_sum=batch.spread(tokens.entropy).sum().item(),
        )
        return report, sums.loss

    def _refer(self) -> AbstractContextManager[None]:
        """Let the model speak as the reference policy."""
        if not self.reference:
            base: AbstractContextManager[None] = self.model.disable_adapter()
            return base
        return swapped(self.params, self.reference)

    def finish(self, request: bytes) -> bytes:
        """Move the adapter by the gathered gradients, unless they are not finite."""
        finish = msgspec.msgpack.decode(request, type=FinishRequest)
        for group in self.optimizer.param_groups:
            group["lr"] = finish.learning_rate
        norm = float(torch.nn.utils.clip_grad_norm_(self.params, finish.max_norm))
        moved = math.isfinite(norm) and finish.move
        if moved:
            self._move()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cpu":
            self._heap.trim()
        return msgspec.msgpack.encode(FinishReport(norm=norm, moved=moved))

    def _move(self) -> None:
        """Take the optimiser's step; the memory that it needs is asked for before.

        Raises:
            RunError: if memory ran out in it, when some weights have moved and others have not.
        """
        with on_default_stream(self.device):
            make_room(count_scratch(self.spec.learn, self.params), self.device)
        try:
            with on_default_stream(self.device):
                self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            raise RunError(
                f"memory ran out while weights were moved, so some have moved: {error}; the last "
                "checkpoint is whole"
            ) from error

    def _wait(self) -> None:
        """Wait for all streams of the card."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def publish(self, version: int, folder: str) -> list[int]:
        """Write the adapter as a PEFT folder and give it to the engine from memory.

        The folder is written first: it is where the engine looks should it ever evict the adapter.
        """
        tensors = self.tensors()
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise RunError(
                f"version {version} holds numbers that are not finite, the first in {broken[0]}"
            )
        self._write(folder, tensors)
        # A copy in any case: the engine multiplies B by the scale in place.
        rounded = {name: tensor.to(self.dtype, copy=True) for name, tensor in tensors.items()}
        if version in held_adapters(self._worker):
            # A publish that ran out of memory half-way, taken again.
            remove_adapter(self._worker, version)
        install_adapter(self._worker, version, rounded, describe_adapter(self.model))
        return held_adapters(self._worker)

    def tensors(self) -> Tensors:
        """Return the adapter in host memory, named as in a PEFT file."""
        return {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in trained_tensors(self.model).items()
        }

    def _write(self, folder: str, tensors: Tensors) -> None:
        """Write the adapter as PEFT, vLLM and others read it."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
        (path / BASE).write_bytes(msgspec.json.encode(BaseMark(fingerprint=self._base)))
        if self.spec.template:
            (path / TEMPLATE).write_text(self.spec.template, encoding="utf-8")
        config = self.model.peft_config["default"]
        config.inference_mode = True
        config.base_model_name_or_path = self.spec.base or self.spec.folder
        config.save_pretrained(folder)

    def cache_base(self, place: str, origin: str) -> str:
        """Write the quantised base for the next start; give what was in the way, or nothing."""
        return write_cache(Path(place), tensors_of_base(self._worker), origin=origin)

    def retire(self, version: int) -> bool:
        """Forget a version."""
        return remove_adapter(self._worker, version)

    def save(self, folder: str) -> None:
        """Write adapter, optimiser and generator states as safetensors."""
        path = Path(folder)
        self._write(str(path / "adapter"), self.tensors())
        tensors, numbers = flatten_state(self.optimizer.state_dict()["state"])
        tensors["rng"] = torch.get_rng_state()
        save_file(tensors, path / "optimizer.safetensors")
        (path / "optimizer.json").write_bytes(msgspec.json.encode(numbers))

    def load(self, folder: str) -> None:
        """Continue from what `save` wrote."""
        path = Path(folder)
        self._take(str(path / "adapter"))
        tensors = load_file(path / "optimizer.safetensors", device="cpu")
        torch.set_rng_state(tensors.pop("rng"))
        file = path / "optimizer.json"
        numbers = decode_json(read_file(file, error=ValueError), error=ValueError)
        whole = self.optimizer.state_dict()
        whole["state"] = unflatten_state(tensors, numbers)
        with on_default_stream(self.device):
            self.optimizer.load_state_dict(whole)
        self._create_states()

    def load_adapter(self, folder: str) -> None:
        """Take an adapter's weights and forget the optimiser's momentum: a roll-back.

        Without a folder the adapter starts anew, so that it changes nothing.
        """
        if folder:
            self._take(folder)
        else:
            restart_adapter(self.model, seed=self.spec.seed)
        # The former states go first: there may be no room for both.
        self.optimizer.state.clear()
        self.optimizer = make_optimizer(self.spec.learn, self.params)
        self._create_states()

    def _take(self, folder: str) -> None:
        """Take an adapter's weights."""
        take_adapter(self.model, Path(folder), seed=self.spec.seed)

    def logprobs(self, request: bytes, adapter: bool) -> list[float]:
        """Return the trainer's logprobs of a sample's sampled ids, with the adapter on or off."""
        batch = collate([msgspec.msgpack.decode(request, type=Sample)])
        with torch.no_grad():
            if adapter:
                return self.forward(batch).logprobs.tolist()
            with self.model.disable_adapter():
                return self.forward(batch).logprobs.tolist()

    def diverge(self, request: bytes) -> bytes:
        """Compare base and adapter at every sampled id of some samples."""
        samples = msgspec.msgpack.decode(request, type=tuple[Sample, ...])
        batch, chunk = collate(samples, block=self.block), self.spec.learn.head_chunk
        found = find_divergences(self.model, batch, device=self.device, chunk=chunk)
        return msgspec.msgpack.encode(found)

    def hash_base(self) -> str:
        """Hash the frozen weights."""
        return hash_frozen(self.model)

    def memory(self) -> dict[str, int]:
        """Return the bytes that torch holds on the card; zeros on a CPU."""
        return measure_held(self.device)
