"""The watchdog: records all pending calls to engine and learner, and ends what does not move.

It wraps the engine and the learner. If a request or call waits for an engine that stands still, the
error names it, and a file lists every pending call and every stack of both processes. However slow
it is, an engine that moves is left alone. A request that gets nothing while later ones are answered
fails its episode. The episodes' clock is paused during calls of the learner.
"""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import anyio
import structlog
from msgspec import Meta

from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.divergence import Divergence
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    Learner,
    MicroReport,
    MicroRequest,
)
from trustee.engine.clock import EngineClock
from trustee.engine.liveness import Liveness, Wait, Waiting
from trustee.engine.protocol import EngineProgress, Hear, Sampling, TrainingEngine
from trustee.errors import EngineDied, EngineError
from trustee.types import Adapter, Completion, Record, Sample

log = structlog.get_logger()


class WatchdogConfig(Record, frozen=True):
    """How long engine and learner may stand still; none of it limits how long they may work."""

    request_seconds: Annotated[float, Meta(gt=0)] = 240
    """Maximum time without any movement of the engine while a request waits for it."""
    call_seconds: Annotated[float, Meta(gt=0)] = 900
    """Maximum time without any movement in one call of the learner, such as the gradients of one
    micro-batch."""
    step_seconds: Annotated[float, Meta(gt=0)] = 7200
    """Maximum time without any movement of engine or learner in a training step."""
    loop_seconds: Annotated[float, Meta(gt=0)] = 60
    """Maximum time for which the event loop may be blocked before all stacks are written."""


class Watchdog:
    """Wraps engine and learner; what hangs is ended while `guard` is open."""

    def __init__(
        self,
        engine: TrainingEngine,
        learner: Learner,
        *,
        config: WatchdogConfig,
        clock: EngineClock,
        folder: Path,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._learner = learner
        self._config = config
        self._clock = clock
        self._folder = folder
        self._interrupt = interrupt
        """Makes the engine's process write its stacks as well."""
        self._liveness = Liveness(
            engine, limits=(config.request_seconds, config.call_seconds, config.step_seconds)
        )

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in tokens."""
        return self._engine.context

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        """Complete `ids`, however long it takes.

        Raises:
            EngineError: if this request gets nothing while later ones are answered.
            EngineDied: if the engine stands still.
        """
        seconds, what = self._config.request_seconds, f"request {request_id}"
        with self._liveness.waiting(
            what,
            Waiting.REQUEST,
            seconds=seconds,
            request_id=request_id,
            priority=sampling.priority,
        ) as wait:
            return await self._engine.generate(
                ids, sampling, adapter=adapter, request_id=request_id, hear=hear
            )
        assert wait.hangs, "a block that does not return was cancelled"
        limit = f"{seconds:g} s (watchdog.request_seconds)"
        if wait.passed_over > wait.still:
            raise EngineError(f"{what} got no token in {limit}, while later ones were answered")
        text = f"{what} waits for an engine that did not move in {limit}"
        raise EngineDied(f"{text}; {self._dump(text, wait)}")

    def progress(self) -> EngineProgress:
        """Return what the engine has done so far."""
        return self._engine.progress()

    def count_sampled(self, request_id: str) -> int:
        """Return how many tokens a pending request has got so far."""
        return self._engine.count_sampled(request_id)

    def dump_stacks(self) -> None:
        """Make every other process of the engine write its stacks."""
        self._engine.dump_stacks()

    async def publish(self, adapter: Adapter) -> None:
        """Publish a version to the engine."""
        with self._call(f"publish {adapter.name}"):
            await self._learner.publish(adapter)

    async def retire(self, adapter: Adapter) -> None:
        """Unload a version from the engine."""
        with self._call(f"retire {adapter.name}"):
            await self._engine.retire(adapter)

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Add one micro-batch's gradients."""
        longest = max(len(sample.ids) for sample in request.samples)
        with self._call(f"accumulate {len(request.samples)} samples of up to {longest} ids"):
            return await self._learner.accumulate(request)

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Apply the accumulated gradients to the adapter."""
        with self._call("finish"):
            return await self._learner.finish(request)

    async def save(self, folder: Path) -> None:
        """Save the learner's state for `load`."""
        with self._call(f"save {folder.name}"):
            await self._learner.save(folder)

    async def load(self, folder: Path) -> None:
        """Restore the learner's state from what `save` wrote."""
        with self._call(f"load {folder.name}"):
            await self._learner.load(folder)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load the weights of an earlier version into the learner."""
        with self._call(f"adopt {adapter.name}"):
            await self._learner.load_adapter(adapter)

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Set the trainer's activation checkpointing mode."""
        with self._call(f"adjust {mode}"):
            await self._learner.adjust(mode)

    async def trainer_logprobs(self, sample: Sample, *, adapter: bool) -> list[float]:
        """Return the trainer's logprobs of a sample's sampled ids."""
        with self._call(f"logprobs of {len(sample.ids)} ids"):
            return await self._engine.trainer_logprobs(sample, adapter=adapter)

    async def diverge(self, samples: Sequence[Sample]) -> tuple[Divergence, ...]:
        """Compare base and adapter at every sampled id of some samples."""
        with self._call(f"divergence of {len(samples)} samples"):
            return await self._engine.diverge(samples)

    async def memory(self) -> dict[str, int]:
        """Return the bytes of GPU memory that are held."""
        with self._call("memory"):
            return await self._engine.memory()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """End a training step in which nothing moves."""
        with self._bounded(f"step {number}", Waiting.STEP, self._config.step_seconds):
            yield

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        with (
            self._clock.stopped(),
            self._bounded(f"learn: {what}", Waiting.CALL, self._config.call_seconds),
        ):
            yield

    @contextmanager
    def _bounded(self, what: str, kind: Waiting, seconds: float) -> Iterator[None]:
        with self._liveness.waiting(what, kind, seconds=seconds) as wait:
            yield
        if wait.hangs:
            key = "step_seconds" if kind is Waiting.STEP else "call_seconds"
            text = f"{what} did not move in {seconds:g} s (watchdog.{key})"
            raise EngineDied(f"{text}; {self._dump(text, wait)}")

    def _dump(self, why: str, hanging: Wait) -> str:
        """Write the pending calls and all stacks to a file; return a note of where they are."""
        path, waits = self._folder / "stacks.txt", [hanging, *self._liveness.waits]
        self._interrupt()
        with path.open("a", encoding="utf-8") as file:
            write_waits(file, why, waits)
            write_stacks(file)
        log.error("watchdog", why=why, waits=len(waits), stacks=str(path))
        return f"the stacks are in {path}, those of the engine's process in engine.log"

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Look after engine, learner and the event loop until the block ends."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._liveness.watch)
                tasks.start_soon(self._guard_loop)
                yield
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # An error of the block stays what it was.
            if len(group.exceptions) != 1:
                raise
            (error,) = group.exceptions
            raise error from error.__cause__

    async def _guard_loop(self) -> None:
        """Write all stacks to a file when the event loop is blocked for too long; never returns."""
        seconds, path = self._config.loop_seconds, self._folder / "stacks.txt"
        with path.open("a", encoding="utf-8") as file:
            try:
                while True:
                    # Each call postpones the dump, so it happens only if this loop is blocked.
                    faulthandler.dump_traceback_later(seconds, file=file)
                    await anyio.sleep(seconds / 2)
            finally:
                faulthandler.cancel_dump_traceback_later()
                if not path.stat().st_size:
                    path.unlink()


def write_waits(file: TextIO, why: str, waits: Sequence[Wait]) -> None:
    """Write the pending calls, longest wait first."""
    now = time.monotonic()
    file.write(f"{why}\n\nwaiting:\n")
    for wait in sorted(waits, key=lambda wait: wait.began):
        file.write(f"{now - wait.began:10.1f} s  {wait.what}\n")


def write_stacks(file: TextIO) -> None:
    """Write where every task waits, down to the innermost await, and every thread's stack."""
    file.write("\ntasks:\n")
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        file.write(f"{task.get_name()}\n")
        for name, path, line in awaits_of(task.get_coro()):
            file.write(f"  {path}:{line} {name}\n")
    file.write("\nthreads:\n")
    file.flush()
    faulthandler.dump_traceback(file=file, all_threads=True)
    file.write("\n")


def awaits_of(waiting: Any) -> Iterator[tuple[str, str, int]]:
    """Yield (name, file, line) of a coroutine and of each one it awaits, outermost first."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield waiting.__qualname__, frame.f_code.co_filename, frame.f_lineno
        inner = getattr(waiting, "cr_await", None)
        waiting = inner if inner is not None else getattr(waiting, "gi_yieldfrom", None)
