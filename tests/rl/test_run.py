"""What the actors of a run share: the groups that wait to be trained on, and what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustee.algorithm.memory_ladder import LadderState, MemoryLevel
from trustee.checks.adapter_effect import EffectState
from trustee.checks.alarms import AlarmsState
from trustee.environments.micro.environment import Microworld
from trustee.environments.protocol import DrawnState, store_state
from trustee.environments.simulated.environment import Simulated
from trustee.errors import InputError
from trustee.rl.run import GroupQueue, RunState
from trustee.runs.checkpoint import open_checkpoint, write_checkpoint
from trustee.types import Group


def group(number: int, *, version: int = 0) -> Group:
    """Make a group without a task."""
    return Group(id=number, version=version, task=None, trajectories=())


def test_groups_wait_in_the_order_in_which_they_came() -> None:
    """What was added and not removed is still there, whatever its number."""
    queue = GroupQueue([group(5)])
    for number in (3, 9, 1):
        queue.add(group(number))
    queue.remove(group(3))
    assert (3, [5, 9, 1]) == (len(queue), [one.id for one in queue])
    assert [5, 9, 1] == [one.id for one in GroupQueue(queue)]


def test_groups_of_later_versions_are_removed() -> None:
    """A restored run keeps what its version or an earlier one has played."""
    queue = GroupQueue([group(0, version=2), group(1, version=3), group(2, version=1)])
    queue.remove_newer(2)
    assert [0, 2] == [one.id for one in queue]


def test_group_is_removed_once() -> None:
    """Removing what does not wait is a bug."""
    queue = GroupQueue([group(0)])
    queue.remove(group(0))
    with pytest.raises(KeyError):
        queue.remove(group(0))


def state_at(step: int, source: msgspec.Raw) -> RunState:
    """Make the state of a run after a step."""
    level = MemoryLevel(micro_tokens=64, activation_checkpointing="off", context=512, parallel=4)
    return RunState(
        step=step,
        version=step,
        next_group=8 * step,
        source=source,
        watch=AlarmsState(clipped=1, unmixed=0, broken=0, smooth=0.5, best=(0.5, 2)),
        effect=EffectState(without=2),
        ladder=LadderState(level=level, changes=("less",)),
        policy_tokens=7,
    )


def test_state_is_read_as_it_was_written() -> None:
    """JSON keeps every part, the source's own too."""
    state = state_at(3, store_state(DrawnState(drawn=24)))
    text = msgspec.json.encode(state)
    assert state == msgspec.json.decode(text, type=RunState)
    assert {"drawn": 24} == msgspec.json.decode(text)["source"]


@pytest.mark.parametrize("part", ["watch", "effect", "ladder"])
@pytest.mark.parametrize("change", [{"unknown": 1}, None])
def test_part_with_other_fields_is_refused(part: str, change: dict[str, Any] | None) -> None:
    """A part that lacks a field, or has one that its owner does not know, is no state."""
    whole = msgspec.json.encode(state_at(3, store_state(DrawnState(drawn=24))))
    state = msgspec.json.decode(whole)
    state[part] = {} if change is None else state[part] | change
    text = msgspec.json.encode(state)
    with pytest.raises(msgspec.ValidationError, match=r"missing required|unknown field"):
        msgspec.json.decode(text, type=RunState)


@pytest.mark.anyio
async def test_state_of_another_world_is_passed_over(tmp_path: Path) -> None:
    """What the source refuses is not continued: the older checkpoint is, or the error says why."""

    async def save(folder: Path) -> None:
        (folder / "x.bin").write_bytes(b"x")

    theirs = Simulated(prompts="tiny", tools="micro").source(seed=0)
    mine = Microworld().source(seed=0)
    for _ in range(3):
        mine.draw()
    await write_checkpoint(tmp_path, state_at(2, store_state(theirs.state())), save=save, keep=5)
    source = Microworld().source(seed=0)
    with pytest.raises(InputError) as caught:
        open_checkpoint(tmp_path, RunState, accept=lambda state: source.restore(state.source))
    assert (
        "(step-000002/state.json: not a state that this world's tasks can continue from: Object "
        "contains unknown field `difficulty`)"
    ) in str(caught.value)
    await write_checkpoint(tmp_path, state_at(1, store_state(mine.state())), save=save, keep=5)
    _, state = open_checkpoint(
        tmp_path, RunState, accept=lambda state: source.restore(state.source)
    )
    assert (1, mine.draw()) == (state.step, source.draw())
