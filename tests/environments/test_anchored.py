"""The world with an anchor: its rhythm, what the judge's opinion is worth, what stays hidden."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_sandbox import PlainSandbox
from scripts import Policy, cast, make_player, make_simulator, perfect, role_of, write_calls
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.anchored import (
    HARD,
    SOFT,
    Anchored,
    AnchoredSource,
    as_simulated,
    unwrap,
    wrap,
)
from trustee.environments.executable.environment import Executable
from trustee.environments.protocol import DrawnState, Services, TaskSpec, read_state
from trustee.environments.simulated.curriculum import Curriculum
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.types import ExpectedCall, Group, Message, Outcome, Stop, Task, Trajectory

pytestmark = pytest.mark.anyio

KEYS = Path(__file__).parents[1] / "data" / "ftrl" / "keys.jsonl"
WORLD = Anchored(
    hard=Executable(path=str(KEYS), reserve_one_in=4, prompts="tiny"),
    soft=Simulated(prompts="tiny", tools="micro", curriculum=Curriculum(start=60, tools=(1, 4))),
    share=0.5,
)


def find_key(request: Request) -> str:
    """Find the key's place, read its label and say it."""
    if label := re.search(r'"label": "?(\w+)', request.prompt):
        return f"It says {label[1]}."
    if place := re.search(r'"place": "(box \w+)"', request.prompt):
        return write_calls([{"name": "read_label", "arguments": {"place": place[1]}}])
    return write_calls([{"name": "find_thing", "arguments": {"thing": "blue key"}}])


def both(request: Request) -> str:
    """Solve the tasks of either world."""
    return (find_key if "blue key" in request.prompt else perfect)(request)


def judge_all(verdict: str) -> Policy:
    """Play both worlds, with a judge of one answer."""

    def script(request: Request) -> str:
        if role_of(request) != "judge":
            return cast(both)(request)
        return verdict

    return script


YES = json.dumps({"evidence": "so it is", "fulfilled": True})
NO = json.dumps({"evidence": "no", "fulfilled": False})


class Stage:
    """A source of the world, its engine, and what is needed to play."""

    def __init__(self, script: Policy, *, world: Anchored = WORLD) -> None:
        self.world = world
        self.source = world.source(seed=5)
        self.engine = ScriptedEngine(script)
        self.sandbox = PlainSandbox()

    def serve(self, rng: random.Random) -> Services:
        """Give services with this randomness."""
        simulator = make_simulator(self.engine, tries=2)
        return Services(simulator=simulator, rng=rng, sandbox=self.sandbox)

    async def write(self, world: str) -> Task:
        """Write the next task of one of the worlds."""
        while True:
            spec = self.source.draw()
            assert spec is not None
            if spec.data["world"] == world:
                return await self.source.write(spec, self.serve(random.Random(spec.seed)))

    async def play(self, task: Task) -> Trajectory:
        """Play one episode."""
        player = make_player(self.world.environment, self.engine, serve=self.serve)
        return await player.play(task, trajectory_id="0/0", adapter=None, seed=1)

    def asked(self, role: str) -> int:
        """Count the requests of a role."""
        return sum(role_of(request) == role for request in self.engine.requests)


class Counted:
    """A source that deals out numbers and remembers what it was shown."""

    def __init__(self) -> None:
        self.drawn = 0
        self.seen: list[Sequence[Group]] = []

    def draw(self) -> TaskSpec | None:
        self.drawn += 1
        return TaskSpec(id=f"{self.drawn}", seed=self.drawn, difficulty=1, data={"own": self.drawn})

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        return make_task(spec.id, spec.data)

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        self.seen.append(groups)
        return {}

    def state(self) -> DrawnState:
        return DrawnState(drawn=self.drawn)

    def restore(self, stored: msgspec.Raw) -> None:
        self.drawn = read_state(stored, DrawnState).drawn


def make_task(name: str, hidden: dict[str, Any]) -> Task:
    """Make a task of which only the hidden part matters."""
    return Task(id=name, messages=(), tools=(), difficulty=1, hidden=hidden)


def make_source(
    share: float = 0.5, *, window: int = 256
) -> tuple[AnchoredSource, Counted, Counted]:
    """Make a source over two that count."""
    config = msgspec.structs.replace(WORLD, share=share, window=window)
    soft, hard = Counted(), Counted()
    return AnchoredSource(config, soft=soft, hard=hard), soft, hard


@given(share=st.floats(0.001, 0.999), count=st.integers(1, 400))
@settings(max_examples=60)
def test_draws_are_the_share_at_every_moment(share: float, count: int) -> None:
    """After any number of draws the anchor has had its share of them, rounded down."""
    source, soft, hard = make_source(share)
    worlds = [spec.data["world"] for spec in (source.draw() for _ in range(count)) if spec]
    assert int(count * share) == worlds.count(HARD) == hard.drawn
    assert count - int(count * share) == soft.drawn


def test_rhythm_of_a_quarter() -> None:
    """Every fourth draft is the anchor's, and each world numbers its own."""
    source, _, _ = make_source(0.25)
    specs = [source.draw() for _ in range(8)]
    assert [
        "soft-1",
        "soft-2",
        "soft-3",
        "hard-1",
        "soft-4",
        "soft-5",
        "soft-6",
        "hard-2",
    ] == [spec.id for spec in specs if spec is not None]


names = st.text(min_size=1, max_size=8)
values = st.recursive(
    st.integers() | st.text(max_size=8), lambda inner: st.dictionaries(names, inner), max_leaves=5
)


@given(hidden=st.dictionaries(names, values), world=st.sampled_from([SOFT, HARD]))
@settings(max_examples=40)
def test_unwrapping_gives_the_task_as_it_was(hidden: dict[str, Any], world: str) -> None:
    """Whatever a world hides comes back untouched, also where it has the wrapper's own keys."""
    task = make_task("t", hidden)
    wrapped = wrap(task, world)
    assert {"world": world, "hidden": hidden} == wrapped.hidden
    assert task == unwrap(wrapped)


async def test_each_world_writes_its_own_specs() -> None:
    """A source meets the draft that it has drawn, and the task keeps the id that both share."""
    source, _, _ = make_source(0.5)
    stage = Stage(cast(both))
    specs = [source.draw() for _ in range(2)]
    tasks = [await source.write(d, stage.serve(random.Random(0))) for d in specs if d]
    assert [
        make_task("soft-1", {"world": SOFT, "hidden": {"own": 1}}),
        make_task("hard-1", {"world": HARD, "hidden": {"own": 1}}),
    ] == tasks


def anchored_group(*pairs: tuple[float | None, float], world: str = HARD) -> Group:
    """Make a group of episodes with a verdict, or none, and a reward."""
    return Group(
        id=0,
        version=0,
        task=wrap(make_task("t", {"own": 1}), world),
        trajectories=tuple(
            Trajectory(
                id=f"0/{index}",
                task_id="t",
                turns=(),
                stop=Stop.DONE,
                rewards={"f1": proved},
                outcome=Outcome(judged=judged),
            )
            for index, (judged, proved) in enumerate(pairs)
        ),
    )


def test_each_world_learns_from_its_own_groups() -> None:
    """A source sees its tasks as it wrote them, and none of the other's or of nobody's."""
    source, soft, hard = make_source()
    own = [anchored_group((None, 1.0), world=world) for world in (SOFT, HARD)]
    unwritten = Group(id=2, version=0, task=None, trajectories=())
    source.observe([*own, unwritten])
    bare = make_task("t", {"own": 1})
    assert [[[bare]], [[bare]]] == [
        [[group.task for group in groups] for groups in counted.seen] for counted in (soft, hard)
    ]


def test_correlation_by_hand() -> None:
    """Verdicts -1, -1, 1, 1 with rewards 0, 0.5, 0.5, 1: 1 / (2 * sqrt(0.5)) = 0.7071."""
    source, _, _ = make_source()
    figures = source.observe([anchored_group((-1, 0), (-1, 0.5), (1, 0.5), (1, 1))])
    assert {"anchor_episodes": 4, "anchor_correlation": pytest.approx(0.5**0.5)} == figures


def test_correlation_is_of_the_last_episodes() -> None:
    """What has left the window counts no more; verdicts that miss never count."""
    source, _, _ = make_source(window=3)
    figures = source.observe([anchored_group((1, 0), (-1, 1))])
    assert {"anchor_episodes": 2, "anchor_correlation": pytest.approx(-1.0)} == figures
    figures = source.observe([anchored_group((None, 0.7), (1, 1), (-1, 0), (1, 1))])
    assert {"anchor_episodes": 3, "anchor_correlation": pytest.approx(1.0)} == figures


def test_simulated_episodes_are_not_compared() -> None:
    """The judge pays there, so it follows itself."""
    source, _, _ = make_source()
    assert {"anchor_episodes": 0} == source.observe([anchored_group((1, 1), (-1, 0), world=SOFT)])


@pytest.mark.parametrize("pairs", [[], [(1, 1)], [(1, 0), (1, 1)], [(1, 1), (-1, 1)]], ids=str)
def test_no_correlation_without_differences(pairs: list[tuple[float, float]]) -> None:
    """Where one side never varies there is nothing to correlate."""
    source, _, _ = make_source()
    assert {"anchor_episodes": len(pairs)} == source.observe([anchored_group(*pairs)])


def test_source_is_restored_to_the_byte() -> None:
    """Both sources, the rhythm and the window go on as if nothing had been."""
    source = WORLD.source(seed=3)
    for _ in range(5):
        source.draw()
    source.observe([anchored_group((-1.0, 0.0), (1.0, 0.5))])
    stored = msgspec.json.encode(source.state())
    other = WORLD.source(seed=3)
    other.restore(msgspec.Raw(stored))
    assert stored == msgspec.json.encode(other.state())
    assert [source.draw() for _ in range(6)] == [other.draw() for _ in range(6)]
    more = [anchored_group((1, 1))]
    assert source.observe(more) == other.observe(more)


@pytest.mark.parametrize(("verdict", "judged"), [(YES, 1.0), (NO, -1.0)])
async def test_opinion_is_noted_and_pays_nothing(verdict: str, judged: float) -> None:
    """An anchor's episode is paid by proof whatever the judge says of it."""
    stage = Stage(judge_all(verdict))
    played = await stage.play(await stage.write(HARD))
    assert (1.0, judged, True, None) == (
        played.reward,
        played.outcome.judged,
        played.success,
        played.failure,
    )
    assert 1 == stage.asked("judge")
    assert {"soft": 0, "hard": 1} == {
        "soft": stage.asked("user") + stage.asked("tool"),
        "hard": stage.sandbox.returned,
    }


async def test_judge_without_a_verdict_spoils_nothing() -> None:
    """The proof holds without an opinion; why there is none is noted."""
    stage = Stage(judge_all("?"))
    played = await stage.play(await stage.write(HARD))
    assert (1.0, None, None) == (played.reward, played.failure, played.outcome.judged)
    assert played.notes["unjudged"].startswith("judge gave no usable answer in 2 tries; ")
    assert {"anchor_episodes": 0} == {
        name: figure
        for name, figure in stage.source.observe(
            [Group(id=0, version=0, task=await stage.write(HARD), trajectories=(played,))]
        ).items()
        if name.startswith("anchor")
    }


async def test_simulated_tasks_are_played_as_ever() -> None:
    """The judge pays in the simulated part, and no worker is lent."""
    stage = Stage(cast(both))
    played = await stage.play(await stage.write(SOFT))
    assert (1.0, {"verdict": 1.0}, None) == (
        played.reward,
        played.rewards,
        played.outcome.judged,
    )
    assert [] == stage.sandbox.lent


async def test_policy_is_not_told_what_the_user_wants() -> None:
    """Of a simulated task's hidden part not even a key is in what the policy sees."""
    stage = Stage(cast(both))
    task = await stage.write(SOFT)
    await stage.play(task)
    prompts = [r.prompt for r in stage.engine.requests if role_of(r) == "policy"]
    keys = {"intent", "persona", "expected_calls", "expected_names", "criteria", "limits"}
    keys |= {"wishes", "told"}
    assert keys == set(task.hidden["hidden"])
    secrets = ("intent", "persona", "expected_calls", "criteria", "wishes", '"world"')
    assert (True, []) == (
        len(prompts) > 0,
        [secret for secret in secrets if any(secret in prompt for prompt in prompts)],
    )


@pytest.mark.parametrize(("gold", "asked"), [(True, 1), (False, 2)])
async def test_nobody_is_told_what_pays(gold: bool, asked: int) -> None:
    """Of an anchor's task neither policy nor judge sees sources, sub-answers or the answer.

    Where the calls that solve it are known, code sees that none was made and asks no judge.
    """
    stage = Stage(lambda request: NO if role_of(request) == "judge" else "ok")
    task = await stage.write(HARD)
    hidden = task.hidden["hidden"] | ({} if gold else {"gold": []})
    task = msgspec.structs.replace(task, hidden=task.hidden | {"hidden": hidden})
    played = await stage.play(task)
    prompts = [request.prompt for request in stage.engine.requests]
    unsolved = [answer for answers in hidden["unsolved"].values() for answer in answers]
    secrets = (*hidden["sources"].values(), *unsolved, hidden["answer"], "unsolved", '"world"')
    assert (asked, 0.0, 3, []) == (
        len(prompts),
        played.reward,
        len(unsolved) + 1,
        [secret for secret in secrets if any(secret in prompt for prompt in prompts)],
    )


async def test_judge_is_told_what_the_user_asked() -> None:
    """A task that begins inside an episode ends with a tool's answer, which is nobody's intent."""
    stage = Stage(cast(both))
    task = unwrap(await stage.write(HARD))
    begun = (
        *task.messages,
        Message(role="assistant"),
        Message(role="tool", content="box aa", call_id="c"),
    )
    for messages in (task.messages, begun):
        told = as_simulated(msgspec.structs.replace(task, messages=messages))
        assert HiddenSimulated(
            intent=task.messages[-1].content,
            persona="expert",
            expected_calls=tuple(
                ExpectedCall(name=call["name"], arguments=call["arguments"])
                for call in task.hidden["gold"]
            ),
            criteria=(Criterion.FULFILLED,),
        ) == msgspec.convert(told.hidden, HiddenSimulated)
