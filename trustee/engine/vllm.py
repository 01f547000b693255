"""The real engine: vLLM's AsyncLLM in this process, with the trainer in its child process.

This is the only module of the main process that uses vLLM. AsyncLLM runs its EngineCore in a child
process, which alone holds the weights and, on a GPU, the only CUDA context; the trainer also runs
there and is called by name. Simulator and policy are the same engine, without and with an adapter.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import anyio
import msgspec
import structlog
from msgspec import Meta

from trustee.algorithm.learner import TrainerSpec
from trustee.engine.blocking_start import keep_imported, limit_start, run_blocking
from trustee.engine.grammar import json_grammar
from trustee.engine.model_config import check_context, check_embedding, read_model_config
from trustee.engine.model_files import CONFIG, TINY, count_weight_bytes, find_model
from trustee.engine.outputs import join_pieces, read_piece
from trustee.engine.process_exit import cancel_at_death
from trustee.engine.protocol import EngineProgress, Hear, Piece, Sampling, StartingEngine
from trustee.engine.remote_trainer import RemoteTrainer, read_answer
from trustee.engine.scratch import find_child, open_scratch, tie_children
from trustee.engine.timing import Observer, count_arrived, read_timing
from trustee.engine.vllm_env import choose_threads, set_variables
from trustee.engine.weights import WeightFormat, Weights, choose_format, explain_format
from trustee.errors import ContextError, EngineDied, EngineError, RequestError, RunError
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.first_try import load_tried
from trustee.rendering.renderer import Renderer
from trustee.runs.adapters import TARGETS, check_fit, read_adapter
from trustee.trainer.counters import Counters, create_counters
from trustee.types import Adapter, Completion, Record

if TYPE_CHECKING:
    from vllm import SamplingParams

    from trustee.trainer.quantised_cache import BaseCache

log = structlog.get_logger()

ENGINE_CLOSING_SECONDS = 5.0
QUANTISERS = {"nf4": "trustee_nf4", "int4": "trustee_int4"}  # names in vLLM, by format
EXTENSION = "trustee.trainer.extension.TrainerExtension"  # vLLM mixes it into its worker
START_SHARE = 0.3  # of GPU memory must be free; vLLM's 0.92 would refuse one with a display


class VllmConfig(Record, frozen=True, tag="vllm", tag_field="kind"):
    """Settings of the vLLM engine."""

    device: Literal["cpu", "cuda"] = "cuda"
    """Where model and trainer run."""
    weights: Weights = "auto"
    """Format of the base weights. nf4 and int4 quantise an ordinary bf16 checkpoint while loading;
    int4 is decoded by a faster kernel, which no card has shown here yet. auto is nf4 on a GPU; on a
    CPU it is bf16 if the processor has BF16 instructions, else fp32."""
    context: Annotated[int, Meta(ge=64)] = 16384
    """Maximum length of prompt plus completion, in tokens."""
    kv_bytes: Annotated[int, Meta(ge=1 << 20)] | Literal["auto"] = 9 << 30
    """Fixed size of the KV cache in bytes; Qwen3-8B needs 144 KiB per token. With auto `trustee
    run` takes what is free on the GPU and chooses the settings that fit; elsewhere it is 9 GiB."""
    max_sequences: Annotated[int, Meta(ge=1)] = 64
    """Maximum number of requests decoded at once."""
    batched_tokens: Annotated[int, Meta(ge=1)] = 2048
    """Maximum tokens of one engine step; bounds vLLM's own activation memory."""
    versions: int = 4
    """Maximum number of policy versions that are alive at once."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their KV cache."""
    eager: bool = False
    """Whether CUDA graphs are off."""
    threads: Annotated[int, Meta(ge=1)] | None = None
    """CPU threads of an engine step (CPU only); `none`: one per core, or one below 100 MB."""
    host_embedding: bool = False
    """Whether the embedding table lies in pinned host memory (GPU only): a tenth more KV cache."""
    memory_gib: Annotated[float, Meta(gt=0)] | None = None
    """GiB of GPU memory that may be used once start-up is done; none: no limit."""
    start_seconds: Annotated[float, Meta(gt=0)] = 3600
    """Maximum time for the engine's process to start, and then for the trainer to be built."""

    @property
    def weight_format(self) -> WeightFormat:
        """The format of the base weights on this machine."""
        return choose_format(self.weights, self.device)

    @property
    def cache_bytes(self) -> int:
        """Size of the KV cache; of auto, what it is where no card is asked."""
        return 9 << 30 if self.kv_bytes == "auto" else self.kv_bytes

    @property
    def slots(self) -> int:
        """Adapters that the engine has room for; one more on a CPU, see cpu_lora.py."""
        return self.versions + (self.device == "cpu")

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is needed."""
        return self.device == "cuda"

    def explain_weights(self) -> str:
        """Return a sentence on the format of the weights on this machine."""
        return explain_format(self.weights, self.device)

    def load_renderer(self, path: str, style: ChatStyle) -> tuple[Path, Renderer]:
        """Find the model and return its folder and its renderer.

        Raises:
            InputError: if there is no such model, or its template is not usable.
        """
        folder = find_model(path, weights=self.weight_format)
        check_embedding(folder, in_host=self.host_embedding, device=self.device)
        check_context(folder, context=self.context)
        return folder, load_tried(folder, style, trusted=folder == TINY)

    def check_adapter(self, adapter: Path, model: Path, *, rank: int) -> None:
        """Refuse an adapter whose training cannot be continued on a base.

        Raises:
            InputError: naming what the adapter has and what is expected.
        """
        check_fit(read_adapter(adapter), model, rank=rank)

    def open(self, trainer: TrainerSpec, *, observer: Observer | None = None) -> StartingEngine:
        """Return the engine, which starts when it is entered."""
        return VllmEngine(self, trainer, observer=observer)


class VllmEngine(RemoteTrainer):
    """Engine and learner that share one copy of the weights."""

    def __init__(
        self, config: VllmConfig, trainer: TrainerSpec, *, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._observer = observer
        """Called for every finished request; without one, vLLM records no times."""
        self._llm: Any = None
        self._sockets = ExitStack()
        """Removes vLLM's socket folder on exit, because vLLM does not."""
        self._process = 0  # id of the engine's process
        self._counters = Counters()  # what it has done, in a file that both map
        self._known: set[int] = set()
        """Published and not yet retired versions; requests for any other would end vLLM's core."""

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in tokens."""
        return self._config.context

    async def __aenter__(self) -> Self:
        """Start the child process, load the weights and build the trainer over them."""
        with ExitStack() as sockets, ExitStack() as undo:
            folder = sockets.enter_context(open_scratch())
            os.environ["VLLM_RPC_BASE_PATH"] = str(folder)
            self._counters = create_counters(folder)
            seconds = self._config.start_seconds
            cache = await run_blocking(lambda: self._start_child(folder), seconds=seconds)
            undo.callback(self._llm.shutdown, timeout=ENGINE_CLOSING_SECONDS)
            spec = msgspec.structs.replace(self._trainer, memory_gib=self._config.memory_gib)
            with limit_start(seconds):
                built = await self._send("build", "trustee_build", msgspec.msgpack.encode(spec))
            await cache.keep(self.call)
            undo.pop_all()
            self._sockets = sockets.pop_all()
        self._process = built["process"]
        log.info("engine_ready", **built)
        return self

    def _start_child(self, folder: Path) -> BaseCache:
        """Import vLLM and start the child, which blocks the event loop; return the cache."""
        config = self._config
        model = Path(self._trainer.folder)
        size = count_weight_bytes(model)
        threads = config.threads or choose_threads(size, cores=self._trainer.cores)
        limit, in_host = config.start_seconds, config.host_embedding
        set_variables(config.device, threads=threads, start_seconds=limit, host_embedding=in_host)
        with keep_imported():
            from vllm import SamplingParams
            from vllm.lora.request import LoRARequest
            from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
            from vllm.v1.engine.async_llm import AsyncLLM

            from trustee.trainer import register
            from trustee.trainer.quantised_cache import open_cache

            register()
        self._params, self._grammar = SamplingParams, StructuredOutputsParams
        self._final, self._delta = RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA
        self._request = LoRARequest
        cache = open_cache(model, weights=self._made_format(), device=config.device)
        try:
            with tie_children(folder):
                self._llm = AsyncLLM.from_engine_args(self._arguments(cache.engine_arguments))
            # Known before the first call, which would wait for ever if the child died in it.
            self._process = find_child(folder)
        except (RuntimeError, ValueError, OSError) as error:
            raise RunError(f"the engine did not start ({error}); see engine.log") from error
        return cache

    def _made_format(self) -> str:
        """Return the format that the weights are brought into, or nothing if they have it."""
        described = read_model_config(Path(self._trainer.folder) / CONFIG)
        return "" if described.get("quantization_config") else self._config.weight_format

    def _arguments(self, loading: dict[str, Any]) -> Any:
        """Return vLLM's engine arguments, including the loader of the weights."""
        from vllm.engine.arg_utils import AsyncEngineArgs

        config = self._config
        on_cpu = config.device == "cpu"
        return AsyncEngineArgs(
            model=self._trainer.folder,
            quantization=QUANTISERS.get(config.weight_format, "trustee_plain"),
            dtype="float32" if config.weight_format == "fp32" else "bfloat16",
            max_model_len=config.context,
            enable_lora=True,
            max_lora_rank=max(8, self._trainer.learn.rank),
            max_loras=config.slots,
            max_cpu_loras=config.slots,
            lora_target_modules=list(TARGETS),
            enforce_eager=on_cpu or config.eager,
            enable_flashinfer_autotune=False,  # tunes kernels that this engine does not use
            max_num_seqs=config.max_sequences,
            max_num_batched_tokens=max(
                config.batched_tokens, config.max_sequences, config.context if on_cpu else 0
            ),
            enable_prefix_caching=config.prefix_caching,
            # vLLM rewinds the seed of a half-read prompt, which CPU generators cannot do.
            enable_chunked_prefill=not on_cpu,
            kv_cache_memory_bytes=config.cache_bytes,
            gpu_memory_utilization=START_SHARE,
            block_size=32 if on_cpu else None,
            scheduling_policy="priority",
            seed=self._trainer.seed,
            structured_outputs_config={"backend": "xgrammar"},
            worker_extension_cls=EXTENSION,
            disable_log_stats=self._observer is None,
            trust_remote_code=False,
            skip_tokenizer_init=False,
            **loading,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child process."""
        self._llm.shutdown(timeout=ENGINE_CLOSING_SECONDS)
        # Collected now, because its finaliser fails noisily at interpreter exit.
        self._llm = None
        gc.collect()
        self._sockets.close()

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the trainer in the engine's process.

        Raises:
            EngineDied: if the engine has died.
            OutOfMemory: if there was not enough memory for it; it may be called again.
            RunError: if the method failed there.
        """
        return read_answer(await self._send(method, "trustee_call", method, *args))

    async def _send(self, what: str, name: str, *args: Any) -> Any:
        """Call a method of the worker; error messages name `what`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        answers: list[Any] = []
        death = failure = None
        # vLLM never answers a call to a process that has died.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_at_death, self._process, tasks.cancel_scope)
            try:
                answers = await self._llm.collective_rpc(name, args=args)
            except EngineDeadError as error:
                death = error
            except Exception as error:  # noqa: BLE001 - vLLM has no class for errors of its child
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise RunError(f"trainer.{what} failed in the engine's process: {failure}") from failure
        if not answers:
            raise EngineDied(f"the engine died during trainer.{what}; see engine.log") from death
        return answers[0]

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        """Complete `ids`; see `engine.HeardEngine.generate`."""
        from vllm.exceptions import VLLMClientError, VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        if len(ids) + sampling.max_tokens > self.context:
            raise ContextError(
                f"{len(ids)} prompt tokens and {sampling.max_tokens} new ones exceed the context "
                f"of {self.context} (engine.context)"
            )
        lora = None
        if adapter is not None:
            if adapter.version not in self._known:
                raise EngineError(f"{adapter.name} is not published")
            lora = self._request(adapter.name, adapter.version, str(adapter.path))
        final, arrived, pieces = None, time.monotonic(), list[Piece]()
        try:
            async for output in self._llm.generate(
                {"prompt_token_ids": list(ids)},
                self._params_of(sampling, self._final if hear is None else self._delta),
                request_id,
                lora_request=lora,
                priority=sampling.priority,
            ):
                pieces.append(read_piece(final := output))
                if hear is not None:
                    hear(pieces[-1])
        except EngineDeadError as error:
            raise EngineDied("the engine died; its last output is in engine.log") from error
        except (VLLMClientError, ValueError) as error:
            raise RequestError(f"request {request_id} failed: {error}") from error
        except VLLMError as error:
            raise EngineError(f"request {request_id} failed: {error}") from error
        assert final is not None, "a request that ends has an output"
        version = 0 if adapter is None else adapter.version
        completion = join_pieces(pieces, final, version=version, request_id=request_id)
        if self._observer is not None:
            self._observer(read_timing(final, completion, request_id=request_id, arrived=arrived))
        return completion

    def _params_of(self, sampling: Sampling, kind: Any) -> SamplingParams:
        """Return the sampling settings in the engine's words."""
        return self._params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            frequency_penalty=sampling.penalty,
            stop_token_ids=list(sampling.stop_ids),
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            output_kind=kind,
            detokenize=False,
            structured_outputs=(
                self._grammar(grammar=json_grammar(sampling.schema)) if sampling.schema else None
            ),
        )

    async def publish(self, adapter: Adapter) -> None:
        """Write the trained adapter and make it available under its new name."""
        held = await self.call("publish", adapter.version, str(adapter.path))
        self._known.add(adapter.version)
        log.info("published", adapter=adapter.name, held=held)

    async def retire(self, adapter: Adapter) -> None:
        """Remove a version that no request uses any more.

        Raises:
            EngineError: if it is not published.
        """
        if adapter.version not in self._known:
            raise EngineError(f"{adapter.name} is not published")
        self._known.remove(adapter.version)
        await self.call("retire", adapter.version)

    def progress(self) -> EngineProgress:
        """Return what the engine's process has counted."""
        return EngineProgress(*self._counters.read())

    def count_sampled(self, request_id: str) -> int:
        """Return the tokens that have arrived for a pending request."""
        return 0 if self._llm is None else count_arrived(self._llm.output_processor, request_id)

    def dump_stacks(self) -> None:
        """Make the engine's process write its stacks to its error stream."""
        if self._process:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGUSR1)

    async def reset_prefix_cache(self) -> None:
        """Discard all cached prefixes."""
        await self._llm.reset_prefix_cache()
