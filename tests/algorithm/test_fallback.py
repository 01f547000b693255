"""What happens when memory runs out: the same again with less, and nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from steps import CONFIG, TOP, make_group, take
from trustee.algorithm.config import ActivationCheckpointing
from trustee.algorithm.fallback import call_with_fallback, dry_run_largest
from trustee.algorithm.learner import FinishReport, FinishRequest, MicroReport, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.algorithm.memory_ladder import MemoryLadder, MemoryLevel
from trustee.algorithm.prefix_tree import grow_tree
from trustee.engine.scripted import ScriptedEngine, ScriptedLearner
from trustee.errors import OutOfMemory, RunError
from trustee.types import Adapter

pytestmark = pytest.mark.anyio


class Card(ScriptedLearner):
    """A learner on a card with room for so many ids, of which each mode needs its share."""

    SHARE: ClassVar[dict[str, int]] = {"off": 4, "recompute": 2, "offload": 1}

    def __init__(self, room: int, *, mode: ActivationCheckpointing = "off") -> None:
        super().__init__(ScriptedEngine(lambda request: ""))
        self._room = room
        self._mode: ActivationCheckpointing = mode
        self.gathered: list[str] = []

    async def accumulate(self, request: MicroRequest) -> MicroReport:
        area = len(grow_tree(request.samples).ids)
        if self.SHARE[self._mode] * area > self._room:
            self.gathered.clear()
            raise OutOfMemory(f"{area} ids do not fit")
        self.gathered += [sample.trajectory_id for sample in request.samples]
        return await super().accumulate(request)

    async def adjust(self, mode: ActivationCheckpointing) -> None:
        self._mode = mode
        await super().adjust(mode)


@pytest.mark.parametrize(
    ("room", "level", "kept"),
    [
        (
            1000,
            MemoryLevel(micro_tokens=40, activation_checkpointing="off", context=10, parallel=4),
            4,
        ),
        (
            80,
            MemoryLevel(micro_tokens=20, activation_checkpointing="off", context=10, parallel=4),
            4,
        ),
        (
            40,
            MemoryLevel(micro_tokens=10, activation_checkpointing="off", context=10, parallel=4),
            4,
        ),
        (
            20,
            MemoryLevel(
                micro_tokens=10, activation_checkpointing="recompute", context=10, parallel=4
            ),
            4,
        ),
        (
            10,
            MemoryLevel(
                micro_tokens=10, activation_checkpointing="offload", context=10, parallel=4
            ),
            4,
        ),
        (
            7,
            MemoryLevel(micro_tokens=5, activation_checkpointing="offload", context=7, parallel=4),
            2,
        ),
        (
            4,
            MemoryLevel(micro_tokens=5, activation_checkpointing="offload", context=3, parallel=4),
            0,
        ),
    ],
)
async def test_each_level_lets_the_step_end(
    tmp_path: Path, room: int, level: MemoryLevel, kept: int
) -> None:
    """A step that does not fit is begun anew with less, until it does; no sample counts twice."""
    groups = (make_group(0, 1, -1, turns=2), make_group(1, 1, -1, turns=1))
    ladder = MemoryLadder(
        MemoryLevel(micro_tokens=40, activation_checkpointing="off", context=10, parallel=4),
        shortest=2,
    )
    learner = Card(room)
    report = await take(tmp_path, learner, *groups, config=CONFIG, ladder=ladder)
    assert level == ladder.level
    assert (kept, 4 - kept, bool(kept)) == (report.samples, report.too_long, report.moved)
    names = ["0/0", "0/1", "1/0", "1/1"][4 - kept :]
    assert names == sorted(learner.gathered)
    assert (1 if kept else 0) == len(learner.finished)


async def test_a_step_that_never_fits_stops_with_the_figures(tmp_path: Path) -> None:
    """At the bottom of the ladder the run stops, and says what the allocator said."""
    ladder = MemoryLadder(TOP, shortest=10)
    with pytest.raises(RunError, match=r"5 ids do not fit; trustee plan says what fits") as caught:
        await take(tmp_path, Card(1), make_group(0, 1, -1), config=CONFIG, ladder=ladder)
    assert "offload layer inputs" in str(caught.value)
    assert "1 instead of 2 episodes at once" in str(caught.value)


async def test_probe_takes_the_worst_micro_batch_and_drops_it() -> None:
    """The probe fills the budget with the longest samples, moves nothing, and tells the length."""
    learner = Card(1000)
    ladder = MemoryLadder(
        MemoryLevel(micro_tokens=70, activation_checkpointing="off", context=30, parallel=4),
        shortest=2,
    )
    assert 30 == await dry_run_largest(learner, LossConfig(), ladder=ladder)
    (request,) = learner.requests
    assert [30, 30] == [len(sample.ids) for sample in request.samples]
    assert [29, 29] == [sum(sample.mask) for sample in request.samples]
    assert [False] == [finish.move for finish in learner.finished]


async def test_probe_goes_down_the_ladder() -> None:
    """A card that is too small is found out before the first step."""
    learner = Card(20)
    ladder = MemoryLadder(
        MemoryLevel(micro_tokens=70, activation_checkpointing="off", context=30, parallel=4),
        shortest=2,
    )
    assert 16 == await dry_run_largest(learner, LossConfig(), ladder=ladder)
    assert ["recompute", "offload"] == learner.modes
    assert (16, "offload") == (ladder.level.context, ladder.level.activation_checkpointing)


class Late(Card):
    """A card on which micro-batches fit, but so many other calls do not."""

    def __init__(self, failures: int) -> None:
        super().__init__(1000)
        self.failures = failures

    def fail(self) -> None:
        """Fail as long as it has to, and drop what was gathered."""
        if self.failures:
            self.failures -= 1
            self.gathered.clear()
            raise OutOfMemory("no room for what the optimiser copies")

    async def finish(self, request: FinishRequest) -> FinishReport:
        self.fail()
        return await super().finish(request)

    async def publish(self, adapter: Adapter) -> None:
        self.fail()
        await super().publish(adapter)

    async def load(self, folder: Path) -> None:
        self.fail()
        await super().load(folder)

    async def load_adapter(self, adapter: Adapter) -> None:
        self.fail()
        await super().load_adapter(adapter)


@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_a_step_whose_end_does_not_fit_is_begun_anew(tmp_path: Path, failures: int) -> None:
    """The gradients are lost, so they are gathered again; the adapter moves once."""
    learner, ladder = Late(failures), MemoryLadder(TOP, shortest=10)
    groups = (make_group(0, 1, -1), make_group(1, 1, -1))
    report = await take(tmp_path, learner, *groups, config=CONFIG, ladder=ladder)
    assert (True, 4, failures) == (report.moved, report.samples, len(ladder.changes))
    assert ["0/0", "0/1", "1/0", "1/1"] == sorted(learner.gathered)
    assert [True] == [request.move for request in learner.finished]


async def test_probe_tries_the_end_of_a_step_too() -> None:
    """What has no room for the end of a step goes down the ladder before the first one."""
    learner, ladder = Late(1), MemoryLadder(TOP, shortest=10)
    await dry_run_largest(learner, LossConfig(), ladder=ladder)
    assert (1, [False]) == (len(ladder.changes), [finish.move for finish in learner.finished])


@pytest.mark.parametrize("name", ["publish", "load", "load_adapter"])
async def test_any_other_call_is_made_again(tmp_path: Path, name: str) -> None:
    """It is made until it fits, each time one level down; at the bottom the run stops."""
    adapter = Adapter(version=3, path=tmp_path / "three")
    for failures, stops in ((1, False), (99, True)):
        learner, ladder = Late(failures), MemoryLadder(TOP, shortest=10)
        given = tmp_path if name == "load" else adapter

        async def call(learner: Late = learner, given: Path | Adapter = given) -> None:
            await getattr(learner, name)(given)

        if stops:
            with pytest.raises(RunError, match="no room for what the optimiser copies"):
                await call_with_fallback(call, learner, ladder=ladder)
            continue
        await call_with_fallback(call, learner, ladder=ladder)
        assert (0, 1) == (learner.failures, len(ladder.changes))
