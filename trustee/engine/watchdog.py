"""The watchdog: records all pending calls to engine and learner, and gives each a deadline.

It wraps the engine and the learner. If a request or call exceeds its deadline, the error names it,
and a file lists every pending call and every stack of both processes. A single request that is not
answered while others are fails its episode; if none is answered, the engine is considered dead. The
episodes' clock is paused during calls of the learner.
"""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import anyio
import structlog
from msgspec import Meta

from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    Learner,
    MicroReport,
    MicroRequest,
)
from trustee.engine.clock import EngineClock
from trustee.engine.protocol import Sampling, TrainingEngine
from trustee.errors import EngineDied, EngineError
from trustee.types import Adapter, Completion, Record, Sample

log = structlog.get_logger()


class WatchdogConfig(Record, frozen=True):
    """Deadlines of calls to engine and learner."""

    request_seconds: Annotated[float, Meta(gt=0)] = 240
    """Maximum time for the engine to answer a request, without training steps."""
    call_seconds: Annotated[float, Meta(gt=0)] = 900
    """Maximum time for one call of the learner, such as the gradients of one micro-batch."""
    step_seconds: Annotated[float, Meta(gt=0)] = 7200
    """Maximum time for a whole training step, including publishing."""
    loop_seconds: Annotated[float, Meta(gt=0)] = 60
    """Maximum time for which the event loop may be blocked before all stacks are written."""


class Watchdog:
    """Wraps engine and learner with deadlines."""

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
        self._waits: dict[str, float] = {}
        """Start time of each pending call, by description."""
        self._answered = 0

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in tokens."""
        return self._engine.context

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Complete `ids` within the deadline.

        Raises:
            EngineError: if this request is not answered in time while others are.
            EngineDied: if no request is answered in that time.
        """
        seconds, before = self._config.request_seconds, self._answered
        with self._waiting(f"request {request_id}"):
            with self._clock.limit(seconds) as deadline:
                completion = await self._engine.generate(
                    ids, sampling, adapter=adapter, request_id=request_id
                )
                self._answered += 1
                return completion
            assert deadline.cancelled_caught, "a block that does not return was cancelled"
            text = (
                f"request {request_id} was not answered in {seconds:g} s (watchdog.request_seconds)"
            )
            if self._answered > before:
                raise EngineError(f"{text}, while others were")
            raise EngineDied(f"{text}, and neither was any other; {self._dump(text)}")

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

    async def memory(self) -> dict[str, int]:
        """Return the bytes of GPU memory that are held."""
        with self._call("memory"):
            return await self._engine.memory()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Limit the time of a whole training step."""
        with self._bounded(f"step {number}", self._config.step_seconds, key="step_seconds"):
            yield

    @contextmanager
    def _call(self, what: str) -> Iterator[None]:
        with (
            self._clock.stopped(),
            self._bounded(f"learn: {what}", self._config.call_seconds, key="call_seconds"),
        ):
            yield

    @contextmanager
    def _bounded(self, what: str, seconds: float, *, key: str) -> Iterator[None]:
        with self._waiting(what):
            with anyio.move_on_after(seconds) as deadline:
                yield
            if deadline.cancelled_caught:
                text = f"{what} did not finish in {seconds:g} s (watchdog.{key})"
                raise EngineDied(f"{text}; {self._dump(text)}")

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        self._waits[what] = time.monotonic()
        try:
            yield
        finally:
            del self._waits[what]

    def _dump(self, why: str) -> str:
        """Write the pending calls and all stacks to a file; return a note of where they are."""
        path = self._folder / "stacks.txt"
        self._interrupt()
        with path.open("a", encoding="utf-8") as file:
            write_waits(file, why, self._waits)
            write_stacks(file)
        log.error("watchdog", why=why, waits=len(self._waits), stacks=str(path))
        return f"the stacks are in {path}, those of the engine's process in engine.log"

    async def guard_loop(self) -> None:
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


def write_waits(file: TextIO, why: str, waits: dict[str, float]) -> None:
    """Write the pending calls, longest wait first."""
    now = time.monotonic()
    file.write(f"{why}\n\nwaiting:\n")
    for what, since in sorted(waits.items(), key=lambda item: item[1]):
        file.write(f"{now - since:10.1f} s  {what}\n")


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
