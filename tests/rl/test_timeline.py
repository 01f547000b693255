"""Timelines: what is drawn, where, and what a kill leaves; and what the real engine measures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.algorithm.config import LearnConfig
from trustee.algorithm.learner import FinishRequest, MicroRequest, TrainerSpec
from trustee.algorithm.loss import LossConfig
from trustee.engine.model_files import TINY
from trustee.engine.protocol import Sampling
from trustee.engine.scripted import ScriptedEngine, ScriptedLearner
from trustee.engine.timing import RequestTiming
from trustee.engine.vllm import VllmConfig, VllmEngine
from trustee.environments.protocol import DrawnState, Services, TaskSpec, store_state
from trustee.errors import RunError
from trustee.events import EpisodeBegun, EpisodePlayed, Event, Note, Stage, StepTrained
from trustee.rl.timeline import (
    TRACKS,
    EventFile,
    TimedLearner,
    TimedSource,
    TimedStore,
    Timeline,
    take_lane,
)
from trustee.runs.store import read_lines
from trustee.types import Adapter, Group, Message, Role, Sample, Task

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read a file as the viewers do: the closing bracket may be missing."""
    text = path.read_text().rstrip()
    events: list[dict[str, Any]] = json.loads(text if text.endswith("]") else f"{text}]")
    return events


def boxes(path: Path) -> list[dict[str, Any]]:
    """Give the boxes of a file, with their tracks' names in place of numbers."""
    events = read_events(path)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    return [
        {"track": names[e["pid"]], **{k: e[k] for k in e if k not in ("ph", "pid")}}
        for e in events
        if e["ph"] == "X"
    ]


def make_timing(request_id: str = "judge-3", **changes: Any) -> RequestTiming:
    """Give a request of half a second, a quarter of a second after the timeline began."""
    facts: dict[str, Any] = {
        "version": 2,
        "prompt_tokens": 50,
        "cached_tokens": 32,
        "completion_tokens": 7,
        "arrived": 100.25,
        "queued": 100.3,
        "queue_s": 0.05,
        "prefill_s": 0.1,
        "decode_s": 0.2,
        "finished": 100.75,
    }
    return RequestTiming(request_id=request_id, **(facts | changes))


async def test_a_span_is_a_box_in_microseconds(tmp_path: Path) -> None:
    """A box holds name, facts, and its begin and length since the timeline began."""
    clock = Clock()
    async with Timeline(tmp_path / "t.json", clock=clock) as timeline:
        clock.now = 101.5
        with timeline.span("train", "micro", tokens=12):
            clock.now = 101.75
    assert [
        {
            "track": "train",
            "name": "micro",
            "tid": 0,
            "ts": 1_500_000,
            "dur": 250_000,
            "args": {"tokens": 12},
        }
    ] == boxes(tmp_path / "t.json")


async def test_a_span_that_fails_is_drawn(tmp_path: Path) -> None:
    """The error passes, the box stays."""
    clock = Clock()

    def fail(timeline: Timeline) -> None:
        with timeline.span("train", "finish"):
            clock.now = 101.0
            raise RunError("gone")

    async with Timeline(tmp_path / "t.json", clock=clock) as timeline:
        with pytest.raises(RunError, match="gone"):
            fail(timeline)
    assert [("finish", 1_000_000)] == [(b["name"], b["dur"]) for b in boxes(tmp_path / "t.json")]


async def test_tracks_are_named_and_ordered(tmp_path: Path) -> None:
    """Every track is there from the beginning, in the order of `TRACKS`; others come after."""
    async with Timeline(tmp_path / "t.json", clock=Clock()) as timeline:
        with timeline.span("mine", "box"):
            pass
    events = read_events(tmp_path / "t.json")
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    names = {order[e["pid"]]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert [*TRACKS, "mine"] == [names[number] for number in sorted(names)]


@pytest.mark.parametrize(
    ("request_id", "role"),
    [
        ("writer-1", Role.WRITER),
        ("user-12", Role.USER),
        ("tool-3", Role.TOOL),
        ("judge-4", Role.JUDGE),
        ("17/3/0", Role.POLICY),
        ("before/17/0", Role.POLICY),
        ("engine-1", Role.POLICY),
    ],
)
def test_role_of_a_request(request_id: str, role: Role) -> None:
    """The request's id says who speaks."""
    assert role == make_timing(request_id).role


def test_hand_over_is_what_is_not_inside_the_engine() -> None:
    """Half a second, of which 0.35 s in the engine; never less than nothing."""
    assert 0.15 == pytest.approx(make_timing().hand_over_s)
    assert 0.0 == make_timing(decode_s=9.0).hand_over_s


async def test_a_request_holds_its_parts(tmp_path: Path) -> None:
    """Queue, prefill and decode lie on the request's lane, one after the other."""
    async with Timeline(tmp_path / "t.json", clock=Clock()) as timeline:
        timeline.request(make_timing())
    found = boxes(tmp_path / "t.json")
    assert [("engine: judge", 0)] * 4 == [(box["track"], box["tid"]) for box in found]
    assert [
        ("judge-3", 250_000, 500_000),
        ("queue", 300_000, 50_000),
        ("prefill", 350_000, 100_000),
        ("decode", 450_000, 200_000),
    ] == [(box["name"], box["ts"], box["dur"]) for box in found]
    assert {
        "version": 2,
        "prompt_tokens": 50,
        "cached_tokens": 32,
        "completion_tokens": 7,
        "preemptions": 0,
    } == found[0]["args"]


@given(
    queued=st.floats(0, 200),
    parts=st.tuples(*[st.floats(-1, 200)] * 3),
    finished=st.floats(100.25, 150),
)
def test_parts_never_leave_their_request(
    queued: float, parts: tuple[float, float, float], finished: float
) -> None:
    """Whatever the engine's clock says, the parts lie inside the box and do not overlap."""
    timeline = Timeline(Path("unused"), clock=Clock())
    drawn: list[tuple[str, float, float, dict[str, Any]]] = []
    timeline._draw = lambda track, boxes: drawn.extend(boxes)  # type: ignore[method-assign]
    queue_s, prefill_s, decode_s = parts
    timeline.request(
        make_timing(
            queued=queued,
            queue_s=queue_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            finished=finished,
        )
    )
    (_, first, last, _), *inner = drawn
    assert all(
        first <= started_at <= last and first <= ended <= last for _, started_at, ended, _ in inner
    )
    assert [ended for _, _, ended, _ in inner[:-1]] == [
        started_at for _, started_at, _, _ in inner[1:]
    ]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=60))
def test_boxes_on_one_lane_never_overlap(spans: list[tuple[int, int]]) -> None:
    """Boxes come in the order of their ends, as they do in a run; each finds a free lane."""
    lanes: list[float] = []
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for started_at, ended in sorted(((a, a + n) for a, n in spans), key=lambda span: span[1]):
        taken[take_lane(lanes, started_at=started_at, ended=ended)].append((started_at, ended))
    for own in taken.values():
        assert all(before[1] <= after[0] for before, after in pairwise(own))
    assert [own[-1][1] for _, own in sorted(taken.items())] == lanes


def test_the_lane_left_last_is_taken() -> None:
    """Lanes that end early stay free for boxes that began early, so there are few lanes."""
    lanes = [1.0, 3.0, 9.0]
    assert 1 == take_lane(lanes, started_at=4.0, ended=10.0)
    assert 0 == take_lane(lanes, started_at=2.0, ended=11.0)
    assert 3 == take_lane(lanes, started_at=2.0, ended=12.0)
    assert [11.0, 10.0, 9.0, 12.0] == lanes


async def test_an_open_file_is_readable(tmp_path: Path) -> None:
    """Events are on disk a second later although nothing was closed."""
    clock = Clock()
    async with Timeline(tmp_path / "t.json", clock=clock) as timeline:
        clock.now = 100.5
        timeline.draw("train", "held", started_at=100.0, ended=100.5)
        assert [] == boxes(tmp_path / "t.json")
        clock.now = 101.0
        timeline.draw("train", "writes both", started_at=100.5, ended=101.0)
        assert ["held", "writes both"] == [box["name"] for box in boxes(tmp_path / "t.json")]
        assert not (tmp_path / "t.json").read_text().rstrip().endswith("]")
    assert (tmp_path / "t.json").read_text().endswith("\n]\n")


def test_memory_is_bounded(tmp_path: Path) -> None:
    """However much is drawn in no time, no more is held than one buffer."""
    file = EventFile(tmp_path / "t.json", clock=Clock())
    for number in range(5000):
        file.append({"name": "x" * 100, "number": number})
        assert sum(map(len, file._lines)) < (1 << 16)
    file.close()
    assert list(range(5000)) == [event["number"] for event in read_events(tmp_path / "t.json")]


def test_a_kill_leaves_a_readable_file(tmp_path: Path) -> None:
    """A process that is killed without warning leaves whole events."""
    program = """
import anyio, sys, time
from pathlib import Path
from trustee.rl.timeline import Timeline

async def draw():
    async with Timeline(Path(sys.argv[1])) as timeline:
        print("drawing", flush=True)
        while True:
            with timeline.span("train", "micro", tokens=7):
                time.sleep(1e-5)

anyio.run(draw)
"""
    path = tmp_path / "t.json"
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert child.stdout is not None
        assert b"drawing\n" == child.stdout.readline()
        deadline = time.monotonic() + 60
        while path.stat().st_size < 200_000 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    found = boxes(path)
    assert len(found) > 1000
    assert {("train", "micro", 0)} == {(box["track"], box["name"], box["tid"]) for box in found}


async def test_a_full_disk_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    """The message names the file and the way out."""
    with pytest.raises(RunError, match=r"cannot write .*gone/t.json.*run without a timeline"):
        async with Timeline(tmp_path / "gone" / "t.json"):
            pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_ends_the_run_with_a_reason() -> None:
    """A write that fails says so once; what is drawn while the run ends is dropped."""
    file = EventFile(Path("/dev/full"), clock=Clock())
    file.append({"name": "held"})
    with pytest.raises(RunError, match="cannot write /dev/full: No space left on device"):
        file.flush()
    file.append({"name": "dropped"})
    file.close()


async def test_nothing_is_drawn_after_the_end(tmp_path: Path) -> None:
    """Who still draws when the file is closed is not disturbed."""
    timeline = Timeline(tmp_path / "t.json", clock=Clock())
    async with timeline:
        pass
    timeline.mark("late")
    timeline.request(make_timing())
    with timeline.span("train", "late"):
        pass
    assert [] == boxes(tmp_path / "t.json")


async def test_threads_may_draw_at_once(tmp_path: Path) -> None:
    """No event of one thread breaks that of another."""
    async with Timeline(tmp_path / "t.json") as timeline:

        def draw(number: int) -> None:
            for _ in range(300):
                with timeline.span("record", f"file-{number}"):
                    pass

        threads = [Thread(target=draw, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    names = [box["name"] for box in boxes(tmp_path / "t.json")]
    assert {f"file-{number}": 300 for number in range(4)} == {n: names.count(n) for n in set(names)}


def trained(**fields: Any) -> StepTrained:
    """Make the event of a step with some fields and plain others."""
    plain: dict[str, Any] = {
        "version": 1,
        "progress": 0.5,
        "reward": 0.0,
        "frac_reward_zero_std": 0.0,
        "clip_ratio": 0.0,
        "mismatch_abs": None,
        "lag_mean": 0.0,
        "lag_max": 0,
        "tokens": {},
    }
    return StepTrained(**plain | fields)


async def test_progress_is_drawn_and_passed_on(tmp_path: Path) -> None:
    """Episodes, groups, the parts of a step and stages; every event reaches the listener."""
    clock, heard = Clock(), list[Event]()
    ending: dict[str, Any] = {"reward": 1.0, "turns": 2, "tokens": 9, "failed": False}
    given: list[tuple[float, Event]] = [
        (100.0, Stage(name="training")),
        (101.0, EpisodeBegun(group=4, member=0)),
        (101.5, EpisodeBegun(group=4, member=1)),
        (103.0, EpisodePlayed(group=4, member=0, failed_by=None, **ending)),
        (104.0, EpisodePlayed(group=4, member=1, failed_by=None, **ending)),
        (
            110.0,
            trained(step=3, waited_s=2.0, train_s=1.5, publish_s=0.5, checkpoint_s=0.25),
        ),
        (110.0, Note(text="passes by")),
    ]
    async with Timeline(tmp_path / "t.json", clock=clock) as timeline:
        emit = timeline.listen(heard.append)
        for clock.now, event in given:
            emit(event)
    assert [event for _, event in given] == heard
    assert [
        ("episodes", "4/0", 1_000_000, 2_000_000, ending),
        ("episodes", "4/1", 1_500_000, 2_500_000, ending),
        ("groups", "4", 1_000_000, 3_000_000, None),
        ("learn", "waited", 5_750_000, 2_000_000, {"step": 3}),
        ("learn", "train", 7_750_000, 1_500_000, {"step": 3}),
        ("learn", "publish", 9_250_000, 500_000, {"step": 3}),
        ("learn", "checkpoint", 9_750_000, 250_000, {"step": 3}),
    ] == [
        (box["track"], box["name"], box["ts"], box["dur"], box.get("args"))
        for box in boxes(tmp_path / "t.json")
    ]
    marks = [event for event in read_events(tmp_path / "t.json") if event["ph"] == "i"]
    assert [("training", 0, "g")] == [(mark["name"], mark["ts"], mark["s"]) for mark in marks]


async def test_parts_of_steps_lie_on_one_lane(tmp_path: Path) -> None:
    """Rounded seconds that reach into the step before are cut off there."""
    clock = Clock()
    parts: dict[str, Any] = {"train_s": 0.5, "publish_s": 0.25, "checkpoint_s": 0.0}
    async with Timeline(tmp_path / "t.json", clock=clock) as timeline:
        emit = timeline.listen(lambda event: None)
        clock.now = 102.0
        emit(trained(step=1, waited_s=1.25, **parts))
        clock.now = 104.0
        emit(trained(step=2, waited_s=1.251, **parts))
    found = boxes(tmp_path / "t.json")
    assert {0} == {box["tid"] for box in found}
    assert [(0, 1_250_000), (2_000_000, 1_250_000)] == [
        (box["ts"], box["dur"]) for box in found if box["name"] == "waited"
    ]


async def test_a_timed_learner_learns_the_same(tmp_path: Path) -> None:
    """Every call arrives, its answer comes back, and its box says what it was."""
    engine = ScriptedEngine(lambda request: "")
    inner = ScriptedLearner(engine)
    sample = Sample(
        ids=(1, 2, 3),
        mask=(False, True, True),
        logprobs=(0.0, 0.0, 0.0),
        advantage=1.0,
        version=0,
        trajectory_id="0/0",
    )
    micro = MicroRequest(samples=(sample,), loss=LossConfig(), normaliser=1.0)
    adapter = Adapter(version=5, path=tmp_path / "adapter")
    async with Timeline(tmp_path / "t.json", clock=Clock()) as timeline:
        learner = TimedLearner(inner, timeline)
        assert inner.report == await learner.accumulate(micro)
        assert (await learner.finish(FinishRequest(learning_rate=1e-3, max_norm=1.0))).moved
        await learner.publish(adapter)
        await learner.save(tmp_path)
        await learner.load(tmp_path)
        await learner.load_adapter(adapter)
        await learner.adjust("offload")
    assert [micro] == inner.requests
    assert {5: adapter} == engine.known
    assert [adapter] == inner.loaded
    assert [
        ("micro", {"samples": 1, "tokens": 3}),
        ("finish", None),
        ("publish", {"version": 5}),
        ("save", None),
        ("load", None),
        ("load_adapter", {"version": 5}),
        ("adjust", {"mode": "offload"}),
    ] == [(box["name"], box.get("args")) for box in boxes(tmp_path / "t.json")]


class OneTask:
    """A source of one task that keeps what it is told."""

    def __init__(self) -> None:
        self.kept = msgspec.Raw(b"")
        self.seen: list[Group] = []

    def draw(self) -> TaskSpec | None:
        return TaskSpec(id="d1", seed=1, difficulty=30)

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        return Task(id=spec.id, messages=(Message(role="user"),), tools=(), difficulty=30)

    def observe(self, groups: Any) -> dict[str, float]:
        self.seen += groups
        return {"difficulty": 30.0}

    def state(self) -> DrawnState:
        return DrawnState(drawn=1)

    def restore(self, stored: msgspec.Raw) -> None:
        self.kept = stored


async def test_a_timed_source_gives_the_same_tasks(tmp_path: Path) -> None:
    """Every call arrives, and drawing, writing and steering have boxes."""
    inner = OneTask()
    group = Group(id=0, version=0, task=None, trajectories=())
    services: Any = None
    async with Timeline(tmp_path / "t.json", clock=Clock()) as timeline:
        source = TimedSource(inner, timeline)
        spec = source.draw()
        assert spec is not None
        assert "d1" == (await source.write(spec, services)).id
        assert {"difficulty": 30.0} == source.observe([group])
        assert DrawnState(drawn=1) == source.state()
        source.restore(store_state(DrawnState(drawn=2)))
    assert ([group], b'{"drawn":2}') == (inner.seen, bytes(inner.kept))
    assert [
        ("feed", "draw", None),
        ("write", "d1", {"difficulty": 30}),
        ("feed", "observe", None),
    ] == [(b["track"], b["name"], b.get("args")) for b in boxes(tmp_path / "t.json")]


async def test_a_timed_store_writes_the_same_lines(tmp_path: Path) -> None:
    """The lines are on disk and the box counts them."""
    async with (
        Timeline(tmp_path / "t.json", clock=Clock()) as timeline,
        TimedStore(tmp_path / "run", timeline) as store,
    ):
        store.append("metrics.jsonl", [{"step": 1}, {"step": 2}])
    assert [{"step": 1}, {"step": 2}] == read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [("record", "metrics.jsonl", {"lines": 2})] == [
        (b["track"], b["name"], b["args"]) for b in boxes(tmp_path / "t.json")
    ]


class Captured(Exception):
    """Stops an engine before it starts."""


@pytest.fixture
def asked_of_vllm(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep the arguments that an engine would start with, and start nothing."""
    from vllm.v1.engine.async_llm import AsyncLLM

    kept: list[Any] = []

    def keep(arguments: Any, **more: Any) -> None:
        kept.append(arguments)
        raise Captured

    monkeypatch.setattr(AsyncLLM, "from_engine_args", keep)
    for name in list(os.environ):
        monkeypatch.setenv(name, os.environ[name])
    return kept


def small_engine() -> tuple[VllmConfig, TrainerSpec]:
    """Give what the smallest real engine starts with."""
    config = VllmConfig(
        device="cpu", weights="bf16", context=256, kv_bytes=32 << 20, max_sequences=4, versions=2
    )
    learn = LearnConfig(rank=8, optimizer="adamw", activation_checkpointing="off", head_chunk=16)
    return config, TrainerSpec(folder=str(TINY), learn=learn)


@pytest.mark.slow
@pytest.mark.parametrize("observed", [False, True])
async def test_vllm_keeps_times_only_for_an_observer(
    asked_of_vllm: list[Any], observed: bool
) -> None:
    """Without an observer the engine measures nothing."""
    engine = VllmEngine(*small_engine(), observer=print if observed else None)
    with pytest.raises(Captured):
        await engine.__aenter__()
    assert [not observed] == [arguments.disable_log_stats for arguments in asked_of_vllm]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_real_engine_tells_its_observer() -> None:
    """Times of vLLM's child lie between asking and having, on one clock; counts are exact."""
    seen: list[RequestTiming] = []
    prompt = list(range(300, 364))
    before = time.monotonic()
    async with VllmEngine(*small_engine(), observer=seen.append) as engine:
        for number in range(2):
            completion = await engine.generate(
                prompt,
                Sampling(max_tokens=6, temperature=0.0),
                adapter=None,
                request_id=f"tool-{number}",
            )
            assert len(completion.ids) == seen[-1].completion_tokens
    assert ["tool-0", "tool-1"] == [timing.request_id for timing in seen]
    assert [(64, 0), (64, 0)] == [(timing.prompt_tokens, timing.version) for timing in seen]
    assert [0, 32] == [timing.cached_tokens for timing in seen]
    for timing in seen:
        parts = (timing.queue_s, timing.prefill_s, timing.decode_s)
        assert min(parts) >= 0
        assert before <= timing.arrived <= timing.queued
        assert timing.queued + sum(parts) <= timing.finished <= time.monotonic()
