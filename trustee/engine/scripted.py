"""An engine that answers from a script, for dry runs of an environment and tests of loops.

No torch, no model, no download. A script is a function from a request to the text to sample; ids
are bytes, special marks have their own ids, and every logprob is 0. `ScriptedLearner` stores what
it is given, so a whole training loop runs in milliseconds without learning anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.divergence import Divergence
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    MicroReport,
    MicroRequest,
    TrainerSpec,
)
from trustee.engine.protocol import EngineProgress, Hear, Piece, Sampling
from trustee.engine.script import Request, Script, find_script, improvise
from trustee.engine.timing import Observer
from trustee.engine.vllm import VllmConfig
from trustee.errors import ContextError, EngineError, RequestError
from trustee.rendering.call_parser import CallFormat
from trustee.rendering.chat_templates import PLAIN, ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.tools.values import render_json
from trustee.types import Adapter, Completion, Sample

MARKS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
FIRST_MARK = 256
STOP = FIRST_MARK + MARKS.index("<|im_end|>")
VOCABULARY = FIRST_MARK + len(MARKS)
MARK = re.compile("|".join(map(re.escape, MARKS)))


class ByteTokenizer:
    """One id per byte and one per special mark; ChatML with Hermes calls.

    With thinking on, prompts begin a thought, so that a script sees that it is to think.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._thinking = thinking

    def with_thinking(self, thinking: bool) -> ByteTokenizer:
        """Return the tokenizer with thinking on or off."""
        return ByteTokenizer(thinking=thinking)

    @property
    def marks(self) -> frozenset[str]:
        """Special marks with an id of their own."""
        return frozenset(MARKS)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the end of a turn."""
        return (STOP,)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        at = 0
        for mark in MARK.finditer(text):
            ids += text[at : mark.start()].encode()
            ids.append(FIRST_MARK + MARKS.index(mark.group()))
            at = mark.end()
        return ids + list(text[at:].encode())

    def normalise(self, text: str) -> str:
        """Return the text itself; bytes need no other spelling."""
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        parts: list[bytes] = [
            MARKS[i - FIRST_MARK].encode() if i >= FIRST_MARK else bytes([i]) for i in ids
        ]
        return b"".join(parts).decode(errors="replace")

    def apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
    ) -> str:
        """Return messages as ChatML text, with tools as JSON lines in front."""
        text = ""
        if tools:
            lines = "\n".join(map(render_json, tools))
            text += f"<|im_start|>tools\n{lines}<|im_end|>\n"
        for message in messages:
            calls = "".join(
                f"<tool_call>{render_json(call['function'])}</tool_call>"
                for call in message.get("tool_calls") or ()
            )
            said = f"{self._think(message)}{message['content']}{calls}"
            text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
        if not add_generation_prompt:
            return text
        return f"{text}<|im_start|>assistant\n{'<think>' if self._thinking else ''}"

    def _think(self, message: Mapping[str, Any]) -> str:
        """Return a thought between its marks; an empty one too where prompts begin thoughts."""
        thought = message.get("reasoning_content") or ""
        thinks = thought or (self._thinking and message["role"] == "assistant")
        return f"<think>{thought}</think>" if thinks else ""


def scripted_renderer(style: ChatStyle = PLAIN) -> Renderer:
    """Return the renderer that matches a scripted engine."""
    tokenizer = ByteTokenizer(thinking=style.thinking)
    return Renderer(tokenizer, call_format=CallFormat.HERMES, style=style)


class ScriptedEngine:
    """Samples what its script returns. A script may be a coroutine and sleep to be slow."""

    def __init__(self, script: Script, *, context: int = 8192) -> None:
        self._script = script
        self._context = context
        self._tokenizer = ByteTokenizer()
        self.running: set[str] = set()
        """Ids of requests in progress."""
        self.requests: list[Request] = []
        """All requests so far, in order."""
        self.moves = 0
        """Counts what the engine does; a slow script that moves increases it."""
        self.sampled: dict[str, int] = {}
        """Number of tokens that pending requests have got, where a script says so."""
        self.known: dict[int, Adapter] = {}
        """Published and not yet retired versions, by number."""

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in bytes and marks."""
        return self._context

    async def __aenter__(self) -> Self:
        """Start nothing."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop nothing."""

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        """Return the script's text as a completion; see `engine.HeardEngine.generate`."""
        if len(ids) + sampling.max_tokens > self._context:
            raise ContextError(
                f"{len(ids)} prompt tokens and {sampling.max_tokens} new ones exceed the context "
                f"of {self._context}"
            )
        if adapter is not None and adapter.version not in self.known:
            raise EngineError(f"{adapter.name} is not published")
        if beyond := [id for id in ids if not 0 <= id < VOCABULARY]:
            raise RequestError(f"token id {beyond[0]} is out of vocabulary")
        request = Request(
            prompt=self._tokenizer.decode(ids),
            adapter=adapter,
            sampling=sampling,
            request_id=request_id,
        )
        self.requests.append(request)
        self.running.add(request_id)
        try:
            said = self._script(request)
            text = said if isinstance(said, str) else await said
            await anyio.lowlevel.checkpoint()
            self.moves += 1
            sampled = (*self._tokenizer.encode(text), STOP)
            ends = [place for place, id in enumerate(sampled) if id in sampling.stop_ids]
            sampled = sampled[: ends[0] + 1] if ends else sampled
            kept = sampled[: sampling.max_tokens]
            if hear is not None:
                for id in kept:
                    hear(Piece(ids=(id,), logprobs=(0.0,)))
                    await anyio.lowlevel.checkpoint()
        finally:
            self.running.discard(request_id)
        return Completion(
            ids=kept,
            logprobs=(0.0,) * len(kept),
            stop="stop" if kept == sampled else "length",
            version=0 if adapter is None else adapter.version,
        )

    async def publish(self, adapter: Adapter) -> None:
        """Make a version available."""
        self.known[adapter.version] = adapter

    async def retire(self, adapter: Adapter) -> None:
        """Remove a version.

        Raises:
            EngineError: if it is not published.
        """
        if self.known.pop(adapter.version, None) is None:
            raise EngineError(f"{adapter.name} is not published")


class ScriptedLearner:
    """Stores the requests it is given and pretends to learn from them."""

    def __init__(self, engine: ScriptedEngine, *, seconds: float = 0.0) -> None:
        self._engine = engine
        self._seconds = seconds
        self.requests: list[MicroRequest] = []
        self.finished: list[FinishRequest] = []
        self.loaded: list[Adapter] = []
        self.modes: list[ActivationCheckpointing] = []
        self.report = MicroReport(tokens=1, ratio_max=1.0)
        """Report returned for each micro-batch."""

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Store a micro-batch."""
        await anyio.sleep(self._seconds)
        self.requests.append(request)
        return self.report

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Store the end of a step."""
        self.finished.append(request)
        return FinishReport(norm=1.0, moved=request.move)

    async def publish(self, adapter: Adapter) -> None:
        """Publish a version to the engine."""
        adapter.path.mkdir(parents=True, exist_ok=True)
        await self._engine.publish(adapter)

    async def save(self, folder: Path) -> None:
        """Write the number of steps to a file."""
        (folder / "steps.json").write_text(json.dumps(len(self.finished)))

    async def load(self, folder: Path) -> None:
        """Read nothing, because a script does not depend on what was learned."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Store the adapter that was rolled back to."""
        self.loaded.append(adapter)

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Store the mode."""
        self.modes.append(mode)


class ScriptedTrainer(ScriptedEngine):
    """A scripted engine that is its own learner, like the real one."""

    def __init__(self, script: Script, *, context: int = 8192) -> None:
        super().__init__(script, context=context)
        self.learner = ScriptedLearner(self)
        self.accumulate = self.learner.accumulate
        self.finish = self.learner.finish
        self.save = self.learner.save
        self.load = self.learner.load
        self.load_adapter = self.learner.load_adapter
        self.adjust = self.learner.adjust
        self.opened: list[TrainerSpec] = []
        """Trainer settings of each time that a config opened this engine."""

    async def publish(self, adapter: Adapter) -> None:
        """Make a version available as a PEFT folder without weights."""
        adapter.path.mkdir(parents=True, exist_ok=True)
        (adapter.path / "adapter_config.json").write_text("{}")
        (adapter.path / "adapter_model.safetensors").touch()
        await super().publish(adapter)

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        """Return zeros, as the engine does."""
        return [0.0] * sum(sample.mask)

    async def diverge(self, samples: Sequence[Sample]) -> tuple[Divergence, ...]:
        """Return zeros: a script has no distributions."""
        return tuple(
            Divergence(kl=zeros, base=zeros, policy=zeros)
            for zeros in ((0.0,) * sum(sample.mask) for sample in samples)
        )

    async def memory(self) -> dict[str, int]:
        """Return zeros: a script holds no GPU memory."""
        return {"allocated": 0, "peak": 0}

    def progress(self) -> EngineProgress:
        """Return the number of moves so far."""
        return EngineProgress(moves=self.moves)

    def count_sampled(self, request_id: str) -> int:
        """Return what the script says."""
        return self.sampled.get(request_id, 0)

    def dump_stacks(self) -> None:
        """Do nothing, because there is no other process."""


class ScriptedConfig(VllmConfig, frozen=True, tag="scripted", tag_field="kind"):
    """Settings of the scripted engine: those of the real one, mostly unused, and a script."""

    script: str = ""
    """`package.module:name` of a function from `Request` to text, or of a `ScriptedTrainer`; empty
    makes random calls that fit the tools' schemas."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is needed: never, for a script."""
        return False

    def explain_weights(self) -> str:
        """Return nothing, because a script has no weights."""
        return ""

    def load_renderer(self, path: str, style: ChatStyle) -> tuple[Path, Renderer]:
        """Return a folder that need not exist, and the renderer of bytes."""
        return Path(path), scripted_renderer(style)

    def check_adapter(self, adapter: Path, model: Path, *, rank: int) -> None:
        """Accept any adapter, because a script has no weights that it must fit."""

    def open(self, trainer: TrainerSpec, *, observer: Observer | None = None) -> ScriptedTrainer:
        """Return the engine that plays the script.

        Raises:
            InputError: if the script cannot be imported.
        """
        script = find_script(self.script) if self.script else improvise
        if not isinstance(script, ScriptedTrainer):
            script = ScriptedTrainer(script, context=self.context)
        script.opened.append(trainer)
        return script
