"""A timeline of a run for chrome://tracing and Perfetto, in the Chrome trace format.

It shows where time is spent; metrics are in `metrics.jsonl` and `timing.jsonl`. A box is written
when it has ended, onto a lane of its track that has been free since the box began. So only the last
end of each lane is kept in memory, and a kill loses the open boxes and at most one buffered second.

Moments are seconds of `time.monotonic`. Linux counts them from boot in every process, so the
moments of vLLM's child process need no conversion. Parts of a run are wrapped, not changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import msgspec

from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.learner import (
    FinishReport,
    FinishRequest,
    Learner,
    MicroReport,
    MicroRequest,
)
from trustee.engine.timing import SPEAKERS, RequestTiming
from trustee.environments.protocol import Services, TaskSource, TaskSpec
from trustee.errors import RunError
from trustee.events import Emit, EpisodeBegun, EpisodePlayed, Event, Stage, StepTrained
from trustee.runs.store import Store
from trustee.types import Adapter, Group, Record, Task

Box = tuple[str, float, float, dict[str, Any]]
"""Name, begin and end in seconds, and facts."""

TRACKS = (
    *("feed", "write", "groups", "episodes", "record", "learn", "train"),
    *(f"engine: {role}" for role in SPEAKERS),
)
"""Tracks in the order in which a viewer shows them."""

COUNTS = ("version", "prompt_tokens", "cached_tokens", "completion_tokens", "preemptions")
"""Facts that a request's box shows in addition to its times."""

BUFFER_BYTES = 1 << 16
BUFFER_SECONDS = 1.0
"""Maximum seconds between two writes, and so the most that a kill loses of ended boxes."""


class EventFile:
    """A JSON array, possibly without its closing bracket, written in batches of whole events."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._lines: list[bytes] = []
        self._size = 0
        self._flushed = clock()
        self._mark = b"[\n"
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise self._failure(error) from error

    def append(self, event: dict[str, Any]) -> None:
        """Add an event.

        Raises:
            RunError: if the file cannot be written.
        """
        line = self._mark + msgspec.json.encode(event)
        self._mark = b",\n"
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER_BYTES or self._clock() - self._flushed >= BUFFER_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered events; after a failed write, which raises, later ones are dropped."""
        data = b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        self._flushed = self._clock()
        try:
            while data and not self._file.closed:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._file.close()
            raise self._failure(error) from error

    def close(self) -> None:
        """Write the buffered events and close the array."""
        self._lines.append(b"\n]\n")
        self.flush()
        self._file.close()

    def _failure(self, error: OSError) -> RunError:
        return RunError(
            f"cannot write {self._path}: {error.strerror}; free the disk or run without a timeline"
        )


class Timeline:
    """Writes boxes to a file while its `async with` block runs, from any thread.

    An earlier file is replaced.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._started_at = 0.0
        self._file: EventFile | None = None
        self._lock = Lock()
        self._tracks: dict[str, int] = {}
        self._lanes: dict[str, list[float]] = {}
        """End of each lane's last box, by track."""
        self._episodes: dict[int, dict[int, float]] = {}
        """Start of each running episode, by group and member."""
        self._groups: dict[int, float] = {}
        """Start of the first episode of each running group."""
        self._stepped = 0.0
        """End of the last part of a step."""

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            RunError: if the file cannot be written.
        """
        self._started_at = self._clock()
        self._file = EventFile(self._path, clock=self._clock)
        for track in TRACKS:
            self._open_track(self._file, track)
        self._file.flush()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; boxes that end later are not drawn."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.close()

    @contextmanager
    def span(self, track: str, name: str, **facts: Any) -> Iterator[None]:
        """Draw the `with` block as a box, even if it fails; facts are JSON values."""
        started_at = self._clock()
        try:
            yield
        finally:
            self.draw(track, name, started_at=started_at, ended=self._clock(), **facts)

    def draw(self, track: str, name: str, *, started_at: float, ended: float, **facts: Any) -> None:
        """Draw a box that has ended."""
        self._draw(track, [(name, started_at, ended, facts)])

    def mark(self, name: str) -> None:
        """Draw a line across all tracks at the current moment."""
        moment = self._micros(self._clock())
        event = {"ph": "i", "s": "g", "name": name, "pid": 0, "tid": 0, "ts": moment}
        with self._lock:
            if self._file is not None:
                self._file.append(event)

    def request(self, timing: RequestTiming) -> None:
        """Draw a request as a box that holds its queue, prefill and decode."""
        edges = [timing.queued]
        for seconds in (timing.queue_s, timing.prefill_s, timing.decode_s):
            edges.append(edges[-1] + seconds)
        # Parts must be inside their box, because viewers otherwise draw them next to it.
        edges = [min(max(edge, timing.arrived), timing.finished) for edge in edges]
        facts = {name: getattr(timing, name) for name in COUNTS}
        boxes: list[Box] = [(timing.request_id, timing.arrived, timing.finished, facts)]
        for name, (started_at, ended) in zip(
            ("queue", "prefill", "decode"), pairwise(edges), strict=True
        ):
            boxes.append((name, started_at, ended, {}))
        self._draw(f"engine: {timing.role}", boxes)

    def listen(self, emit: Emit) -> Emit:
        """Return an `Emit` that draws each progress event and passes it on to `emit`."""

        def draw_and_tell(event: Event) -> None:
            match event:
                case EpisodeBegun():
                    self._begin_episode(event)
                case EpisodePlayed():
                    self._end_episode(event)
                case StepTrained():
                    self._draw_step(event)
                case Stage():
                    self.mark(event.name)
            emit(event)

        return draw_and_tell

    def _begin_episode(self, event: EpisodeBegun) -> None:
        now = self._clock()
        self._episodes.setdefault(event.group, {})[event.member] = now
        self._groups.setdefault(event.group, now)

    def _end_episode(self, event: EpisodePlayed) -> None:
        now, group, member = self._clock(), event.group, event.member
        under_way = self._episodes.get(group, {})
        started_at = under_way.pop(member, now)
        facts = {
            "reward": event.reward,
            "turns": event.turns,
            "tokens": event.tokens,
            "failed": event.failed,
        }
        self.draw("episodes", f"{group}/{member}", started_at=started_at, ended=now, **facts)
        if not under_way:
            self._episodes.pop(group, None)
            self.draw(
                "groups", f"{group}", started_at=self._groups.pop(group, started_at), ended=now
            )

    def _draw_step(self, event: StepTrained) -> None:
        parts = {
            "waited": event.waited_s,
            "train": event.train_s,
            "publish": event.publish_s,
            "checkpoint": event.checkpoint_s,
        }
        ended, left = self._clock(), sum(parts.values())
        for name, seconds in parts.items():
            # Each part begins where the previous one ended, because the seconds are rounded.
            started_at = max(self._stepped, ended - left)
            left -= seconds
            self._stepped = max(started_at, ended - left)
            self.draw("learn", name, started_at=started_at, ended=self._stepped, step=event.step)

    def _draw(self, track: str, boxes: Sequence[Box]) -> None:
        """Draw boxes onto one lane; the first box contains the others."""
        with self._lock:
            if self._file is None:
                return
            number = self._open_track(self._file, track)
            lane = take_lane(
                self._lanes.setdefault(track, []), started_at=boxes[0][1], ended=boxes[0][2]
            )
            for name, started_at, ended, facts in boxes:
                start = self._micros(started_at)
                box = {
                    "ph": "X",
                    "name": name,
                    "pid": number,
                    "tid": lane,
                    "ts": start,
                    "dur": max(0, self._micros(ended) - start),
                }
                self._file.append(box | {"args": facts} if facts else box)

    def _open_track(self, file: EventFile, track: str) -> int:
        number = self._tracks.get(track)
        if number is None:
            number = self._tracks[track] = len(self._tracks) + 1
            for name, key, value in (
                ("process_name", "name", track),
                ("process_sort_index", "sort_index", number),
            ):
                file.append({"ph": "M", "name": name, "pid": number, "args": {key: value}})
        return number

    def _micros(self, moment: float) -> int:
        return round((moment - self._started_at) * 1e6)


def take_lane(lanes: list[float], *, started_at: float, ended: float) -> int:
    """Return the free lane that was used most recently, or a new one, and mark it as used.

    `lanes` holds the end of each lane's last box and is updated.
    """
    free = [lane for lane, end in enumerate(lanes) if end <= started_at]
    if not free:
        lanes.append(ended)
        return len(lanes) - 1
    lane = max(free, key=lanes.__getitem__)
    lanes[lane] = ended
    return lane


class TimedLearner:
    """A learner whose calls are drawn on the track `train`."""

    def __init__(self, learner: Learner, timeline: Timeline) -> None:
        self._learner = learner
        self._timeline = timeline

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        """Add one micro-batch's gradients."""
        tokens = sum(len(sample.ids) for sample in request.samples)
        with self._timeline.span("train", "micro", samples=len(request.samples), tokens=tokens):
            return await self._learner.accumulate(request)

    async def finish(self, request: FinishRequest) -> FinishReport:
        """Update the adapter."""
        with self._timeline.span("train", "finish"):
            return await self._learner.finish(request)

    async def publish(self, adapter: Adapter) -> None:
        """Publish a version."""
        with self._timeline.span("train", "publish", version=adapter.version):
            await self._learner.publish(adapter)

    async def save(self, folder: Path) -> None:
        """Write a checkpoint's tensors."""
        with self._timeline.span("train", "save"):
            await self._learner.save(folder)

    async def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        with self._timeline.span("train", "load"):
            await self._learner.load(folder)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load the weights of an earlier version."""
        with self._timeline.span("train", "load_adapter", version=adapter.version):
            await self._learner.load_adapter(adapter)

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        """Choose which activations of a layer are kept for the backward pass."""
        with self._timeline.span("train", "adjust", mode=mode):
            await self._learner.adjust(mode)


class TimedSource:
    """A source whose calls are drawn on the tracks `feed` and `write`."""

    def __init__(self, source: TaskSource, timeline: Timeline) -> None:
        self._source = source
        self._timeline = timeline

    def draw(self) -> TaskSpec | None:
        """Draw the next task spec."""
        with self._timeline.span("feed", "draw"):
            return self._source.draw()

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Write the task of a task spec."""
        with self._timeline.span("write", spec.id, difficulty=spec.difficulty):
            return await self._source.write(spec, services)

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Update the source from all groups of a step."""
        with self._timeline.span("feed", "observe"):
            return self._source.observe(groups)

    def state(self) -> Record:
        """Return the state that `restore` needs."""
        return self._source.state()

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        self._source.restore(stored)


class TimedStore(Store):
    """A store whose writes are drawn on the track `record`, named by file."""

    def __init__(self, folder: Path, timeline: Timeline) -> None:
        super().__init__(folder)
        self._timeline = timeline

    def append(self, name: str, lines: Sequence[Any]) -> None:
        """Append lines to a file and wait until they are on disk."""
        with self._timeline.span("record", name, lines=len(lines)):
            super().append(name, lines)
