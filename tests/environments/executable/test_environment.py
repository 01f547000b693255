"""The world of environments that run: what is called, what is kept apart, and what is paid."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from blueprints import make_blueprint, make_row
from plain_sandbox import PlainSandbox
from scripts import MALFORMED, Policy, make_player, make_simulator, write_calls
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.environments.executable.blueprint_files import write_blueprint
from trustee.environments.executable.environment import (
    Executable,
    ExecutableEnvironment,
)
from trustee.environments.executable.states import open_state, states_of
from trustee.environments.protocol import Services, store_state
from trustee.environments.splits import is_held_out
from trustee.errors import InputError
from trustee.rollout import Limits
from trustee.sandbox.calls import CallResult, NoSandbox, Sandbox, SandboxConfig
from trustee.sandbox.host import ProcessSandbox
from trustee.types import (
    BadCall,
    CalledTool,
    Group,
    Message,
    Outcome,
    SolveFacts,
    Stop,
    Task,
    ToolCall,
    Trajectory,
)

pytestmark = pytest.mark.anyio

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "data" / "ftrl" / "ftrl_reward.json").read_text()
)
COUNT = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write some environments."""
    for number in range(COUNT):
        write_blueprint(make_blueprint(number), tmp_path / "environments")
    return tmp_path / "environments"


class Stage:
    """A world of environments, a policy and a sandbox that counts."""

    def __init__(self, world: Executable, policy: Policy | None = None) -> None:
        self.world = world
        self.engine = ScriptedEngine(policy or solve)
        self.sandbox = PlainSandbox()
        self.simulator = make_simulator(self.engine)

    def services(self, rng: random.Random) -> Services:
        """Give what an episode may touch."""
        return Services(simulator=self.simulator, rng=rng, sandbox=self.sandbox)

    async def tasks(
        self, count: int, *, seed: int = 0, held_out: bool = False, skip: int = 0
    ) -> list[Task]:
        """Write tasks."""
        source = self.world.source(seed=seed, held_out=held_out)
        specs = [source.draw() for _ in range(skip + count)][skip:]
        services = self.services(random.Random(0))
        return [await source.write(spec, services) for spec in specs if spec is not None]

    async def task(self, **changes: Any) -> Task:
        """Write one task of an environment of its own, not of the world's files."""
        (task,) = await self.tasks(1)
        return msgspec.structs.replace(task, hidden={**task.hidden, **changes})

    async def play(
        self, task: Task, *, limits: Limits | None = None, sandbox: Sandbox | None = None
    ) -> Trajectory:
        """Play one episode."""
        player = make_player(
            self.world.environment,
            self.engine,
            serve=lambda rng: Services(
                simulator=self.simulator, rng=rng, sandbox=sandbox or self.sandbox
            ),
            limits=limits or Limits(turns=6, tokens=400, seconds=20),
        )
        return await player.play(task, trajectory_id="0/0", adapter=None, seed=0)

    async def enter(self, task: Task) -> ExecutableEnvironment:
        """Open an environment by hand."""
        environment = self.world.environment(task, self.services(random.Random(0)))
        await environment.open()
        return environment


def solve(request: Request) -> str:
    """Find the place, read its label, and say it."""
    said = request.prompt
    if label := re.search(r'"label": "?(\w+)', said):
        return f"It says {label[1]}."
    if place := re.search(r'"place": "(box \w+)"', said):
        return write_calls([{"name": "read_label", "arguments": {"place": place[1]}}])
    return write_calls([{"name": "find_thing", "arguments": {"thing": "blue key"}}])


def once(first: str, then: str = "no idea") -> Policy:
    """Say one thing first, and another for ever after."""
    return lambda request: first if request.request_id.endswith("/0") else then


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """Write a call."""
    return {"name": name, "arguments": arguments}


async def test_reference_solution_gets_one(folder: Path) -> None:
    """All sub-answers with no call too many and the right answer pay 1, in parts that say so."""
    stage = Stage(Executable(path=str(folder)))
    for task in await stage.tasks(5):
        played = await stage.play(task)
        assert (Stop.DONE, {"calls": 0.5, "answer": 0.5}) == (played.stop, played.rewards)
        assert 1.0 == played.reward
    assert 5 == len(stage.sandbox.lent) == stage.sandbox.returned


async def test_outcome_says_what_happened(folder: Path) -> None:
    """Counts, figures and each call with what it brought; readers are told the environment."""
    stage = Stage(Executable(path=str(folder)))
    (task,) = await stage.tasks(1)
    played = await stage.play(task)
    place, label = task.hidden["unsolved"]["find_thing"][0], task.hidden["answer"]
    assert played.outcome == Outcome(
        success=True,
        solve=SolveFacts(
            calls=2,
            solved=2,
            needed=2,
            precision=1.0,
            recall=1.0,
            f1=1.0,
            answered=True,
            called=(
                CalledTool(id="0/0/0/0", name="find_thing", ok=True, solved=place),
                CalledTool(id="0/0/1/0", name="read_label", ok=True, solved=label),
            ),
        ),
    )
    assert played.notes == {
        "blueprint": task.hidden["blueprint"],
        "scenario": "multi_hop",
        "failed_by": None,
        "reruns": 0,
    }


@pytest.mark.parametrize(
    ("policy", "reward", "calls", "solved"),
    [
        (once(""), -0.5, 0, 0),
        (once("400 or so"), 0.0, 0, 0),
        (once(MALFORMED), -0.3, 1, 0),
        (once(write_calls([call("find_thing", thing="blue key")])), 1 / 3, 1, 1),
        (once(write_calls([call("find_thing", thing="blue key")] * 3)), 0.2, 3, 1),
        (once(write_calls([call("find_thing", thing="moon")])), 0.0, 1, 0),
        (once(write_calls([call("find_thing")])), 0.0, 1, 0),
        (once(write_calls([call("nothing")])), 0.0, 1, 0),
    ],
)
async def test_rewards_of_lesser_episodes(
    folder: Path, policy: Policy, reward: float, calls: int, solved: int
) -> None:
    """Silence, guesses, unreadable and wasted calls pay less, and each call counts."""
    stage = Stage(Executable(path=str(folder)), policy)
    played = await stage.play((await stage.tasks(1))[0])
    assert reward == pytest.approx(played.reward, abs=1e-12)
    facts = played.outcome.solve
    assert facts is not None
    assert (calls, solved, False) == (facts.calls, facts.solved, played.success)
    assert "policy" == played.notes["failed_by"]
    assert 1 == stage.sandbox.returned


async def test_echo_and_error_bring_nothing_by_default(folder: Path) -> None:
    """A tool that repeats its argument and an error that names it pay in published mode only."""
    for published, expected in ((False, 0), (True, 2)):
        stage = Stage(Executable(path=str(folder), published=published))
        task = await stage.task(unsolved={"repeat": ["secret"], "find_thing": ["moonstone"]})
        environment = await stage.enter(task)
        message = Message(
            role="assistant",
            calls=(
                ToolCall(id="a", name="repeat", arguments={"text": "secret"}),
                ToolCall(id="b", name="find_thing", arguments={"thing": "moonstone"}),
            ),
        )
        await environment.reply(message)
        score = await environment.score((), Stop.TURNS)
        assert score.outcome.solve is not None
        assert expected == score.outcome.solve.solved
        await environment.aclose()


async def test_made_up_answers_are_run_again_by_default(folder: Path) -> None:
    """What a tool makes of the policy's own values pays in published mode only."""
    adds = {"find_thing": "def find_thing(thing):\n    return eval(thing)"}
    for published, expected, reruns in ((False, 0, 2), (True, 1, 0)):
        stage = Stage(Executable(path=str(folder), published=published))
        task = await stage.task(unsolved={"find_thing": ["1200"]}, sources=adds, gold=())
        environment = await stage.enter(task)
        call = ToolCall(id="a", name="find_thing", arguments={"thing": "700+500"})
        reply = await environment.reply(Message(role="assistant", calls=(call,)))
        assert "1200" == reply.messages[0].content
        score = await environment.score((), Stop.TURNS)
        assert score.outcome.solve is not None
        assert (expected, reruns) == (score.outcome.solve.solved, score.notes["reruns"])
        assert 1 + reruns == len(stage.sandbox.lent[-1].calls)
        await environment.aclose()


async def test_policy_never_sees_what_pays(folder: Path) -> None:
    """Neither messages nor tools nor what enters the sandbox hold more than the tools' own code."""
    stage = Stage(Executable(path=str(folder)))
    for task in await stage.tasks(6):
        seen = msgspec.json.encode((task.messages, task.tools)).decode()
        unsolved = [answer for own in task.hidden["unsolved"].values() for answer in own]
        assert [] == [answer for answer in (*unsolved, task.hidden["answer"]) if answer in seen]


async def test_calls_are_answered_in_order_and_readably(folder: Path) -> None:
    """Good, unreadable, unknown and wrong calls of one message are each answered in their place."""
    stage = Stage(Executable(path=str(folder)))
    (task,) = await stage.tasks(1)
    environment = await stage.enter(task)
    reply = await environment.reply(
        Message(
            role="assistant",
            calls=(
                ToolCall(id="a", name="find_thing", arguments={"thing": "blue key"}),
                BadCall(id="b", text="{", reason="not JSON"),
                ToolCall(id="c", name="no_such_tool", arguments={}),
                ToolCall(id="d", name="find_thing", arguments={"thing": 3}),
                ToolCall(id="e", name="find_thing", arguments={"thing": "moon"}),
            ),
        )
    )
    assert ["a", "b", "c", "d", "e"] == [message.call_id for message in reply.messages]
    assert {"tool"} == {message.role for message in reply.messages}
    contents = [json.loads(message.content) for message in reply.messages]
    assert {"place": task.hidden["unsolved"]["find_thing"][0]} == contents[0]
    assert {"error": "not JSON"} == contents[1]
    assert "there is no tool 'no_such_tool'; the tools are ['find_thing'" in contents[2]["error"]
    assert 'find_thing: "thing" must be a string, got 3.' == contents[3]["error"]
    assert "there is: blue key" in contents[4]["error"]
    assert [("find_thing", {"thing": "blue key"}), ("find_thing", {"thing": "moon"})] == (
        stage.sandbox.lent[0].calls
    )
    await environment.aclose()


async def test_score_runs_nothing_again(folder: Path) -> None:
    """Scoring twice gives the same and calls no tool."""
    stage = Stage(Executable(path=str(folder)))
    (task,) = await stage.tasks(1)
    environment = await stage.enter(task)
    calls = (ToolCall(id="a", name="find_thing", arguments={"thing": "blue key"}),)
    await environment.reply(Message(role="assistant", calls=calls))
    first = await environment.score((), Stop.TURNS)
    assert first == await environment.score((), Stop.TURNS)
    assert {"calls": 1 / 3, "answer": 0.0} == first.rewards
    assert 1 == len(stage.sandbox.lent[0].calls)
    await environment.aclose()


async def test_worker_is_given_back_whatever_happens(folder: Path) -> None:
    """After a limit, and when nothing was ever opened."""
    stage = Stage(
        Executable(path=str(folder)), lambda request: write_calls([call("repeat", text="x")])
    )
    (task,) = await stage.tasks(1)
    played = await stage.play(task, limits=Limits(turns=2, tokens=400, seconds=20))
    assert played.outcome.solve is not None
    assert (Stop.TURNS, 2, 1) == (
        played.stop,
        played.outcome.solve.calls,
        stage.sandbox.returned,
    )
    await stage.world.environment(task, stage.services(random.Random(0))).aclose()


async def test_without_a_sandbox_nothing_runs(folder: Path) -> None:
    """Whoever gives no sandbox is told."""
    stage = Stage(Executable(path=str(folder)))
    (task,) = await stage.tasks(1)
    services = Services(simulator=stage.simulator, rng=random.Random(0))
    assert isinstance(services.sandbox, NoSandbox)
    with pytest.raises(InputError, match="need a sandbox"):
        await stage.world.environment(task, services).open()


async def test_breach_is_blamed_on_the_tool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that broke a limit is an answer, and the notes say whose fault it was."""
    stage = Stage(Executable(path=str(folder)))

    async def breach(self: object, name: str, arguments: object) -> CallResult:
        return CallResult(text=f"{name} took more than 5 s", ok=False, breach="time")

    monkeypatch.setattr("plain_sandbox.PlainWorker.call", breach)
    environment = await stage.enter((await stage.tasks(1))[0])
    reply = await environment.reply(
        Message(role="assistant", calls=(ToolCall(id="a", name="repeat", arguments={"text": "x"}),))
    )
    assert '{"error": "repeat took more than 5 s"}' == reply.messages[0].content
    score = await environment.score((), Stop.TURNS)
    assert score.outcome.solve is not None
    assert ("tool", "time") == (score.notes["failed_by"], score.outcome.solve.called[0].breach)
    await environment.aclose()


async def test_held_out_environments_are_none_of_training(folder: Path) -> None:
    """Two epochs of training and all held-out tasks share no environment; together they are all."""
    stage = Stage(Executable(path=str(folder), reserve_one_in=4))
    kept = await stage.tasks(COUNT, held_out=True)
    trained = await stage.tasks(2 * COUNT)
    names = [{task.hidden["blueprint"] for task in tasks} for tasks in (kept, trained)]
    assert set() == names[0] & names[1]
    assert {f"keys-{number}" for number in range(COUNT)} == names[0] | names[1]
    assert {name for name in names[0] | names[1] if is_held_out(name, one_in=4)} == names[0]
    assert len(names[0]) == len(kept), "each that is kept is drawn once"
    assert 2 * COUNT == len({task.id for task in trained})


async def test_epochs_are_shuffled_by_seed(folder: Path) -> None:
    """Each epoch deals out every environment once, in an order of its own and of the seed's."""
    stage = Stage(Executable(path=str(folder), reserve_one_in=4))
    size = len({task.hidden["blueprint"] for task in await stage.tasks(2 * COUNT)})

    async def epoch(number: int, seed: int) -> list[str]:
        tasks = await stage.tasks(size, seed=seed, skip=number * size)
        return [task.hidden["blueprint"] for task in tasks]

    first, second, other = await epoch(0, 1), await epoch(1, 1), await epoch(0, 2)
    assert sorted(first) == sorted(second) == sorted(other)
    assert 3 == len({tuple(first), tuple(second), tuple(other)})
    assert first == await epoch(0, 1)


async def test_tools_of_one_environment_keep_their_seed(folder: Path) -> None:
    """In every epoch a tool computes what it computed before; another run's seed changes it."""
    stage = Stage(Executable(path=str(folder), reserve_one_in=1000))
    tasks = await stage.tasks(2 * COUNT)
    seeds = {(task.hidden["blueprint"], task.hidden["seed"]) for task in tasks}
    assert COUNT == len(seeds)
    (other,) = await stage.tasks(1, seed=9)
    assert (other.hidden["blueprint"], other.hidden["seed"]) not in seeds


def test_source_continues_from_its_state(folder: Path) -> None:
    """A restored source draws what the first would have drawn, and its state is JSON."""
    source, other = (Executable(path=str(folder)).source(seed=3) for _ in range(2))
    for _ in range(COUNT + 3):
        source.draw()
    other.restore(store_state(source.state()))
    assert [source.draw() for _ in range(COUNT)] == [other.draw() for _ in range(COUNT)]


def test_half_that_is_missing_is_named(folder: Path) -> None:
    """A path without environments for one half says which, and what to change."""
    with pytest.raises(InputError, match="none of its 24 environments is kept for evaluation"):
        Executable(path=str(folder), reserve_one_in=100_003).source(seed=0, held_out=True)
    with pytest.raises(InputError, match=r"left for training with env\.reserve_one_in = 1"):
        Executable(path=str(folder), reserve_one_in=1).source(seed=0)


async def test_observe_gives_means(folder: Path) -> None:
    """The figures of a step are means over its valid episodes; without any there are none."""
    stage = Stage(Executable(path=str(folder)))
    source = stage.world.source(seed=0)
    (task,) = await stage.tasks(1)
    good = await stage.play(task)
    stage.engine = ScriptedEngine(once("I do not know"))
    idle = await stage.play(task)
    group = Group(id=0, version=0, task=task, trajectories=(good, idle))
    assert {"solve_precision": 1.0, "solve_recall": 0.5, "solve_f1": 0.5} == source.observe([group])
    assert {} == source.observe([])


def published_file(tmp_path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write published rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


async def test_published_episode_has_the_published_prompt(tmp_path: Path) -> None:
    """No system prompt, the row's own wording, and calls with any arguments are run."""
    path = published_file(tmp_path, [make_row(make_blueprint())])
    stage = Stage(Executable(path=path, published=True, reserve_one_in=97))
    (task,) = await stage.tasks(1)
    question = make_blueprint().question
    assert (Message(role="user", content=f"Use tools.\nQuestion: {question}"),) == task.messages
    (default,) = await Stage(Executable(path=path, reserve_one_in=97)).tasks(1)
    assert ("system", question) == (default.messages[0].role, default.messages[1].content)
    environment = await stage.enter(task)
    calls = (ToolCall(id="a", name="read_label", arguments={"nonsense": 1}),)
    reply = await environment.reply(Message(role="assistant", calls=calls))
    assert "unexpected keyword argument 'nonsense'" in reply.messages[0].content
    await environment.aclose()


OBSERVED = [
    ToolCall(id="0", name="add", arguments={"a": 1, "b": 2}),
    ToolCall(id="1", name="boom", arguments={}),
    ToolCall(id="2", name="nope", arguments={}),
    ToolCall(id="3", name="add", arguments={"a": 1}),
    ToolCall(id="4", name="items", arguments={"n": 1}),
    ToolCall(id="5", name="modimp", arguments={"x": 9}),
    ToolCall(id="6", name="helper", arguments={"x": 4}),
]
"""What was called for the recorded observations."""


@pytest.mark.parametrize("locked", [False, True])
async def test_published_observations_are_ftrls(folder: Path, locked: bool) -> None:
    """Results and errors read as FTRL's own runner writes them, also out of the real sandbox."""
    stage = Stage(Executable(path=str(folder), published=True))
    task = await stage.task(sources=GOLDEN["codes"])
    if locked:
        async with ProcessSandbox(SandboxConfig()) as sandbox:
            services = stage.services(random.Random(0))
            services.sandbox = sandbox
            environment = stage.world.environment(task, services)
            await environment.open()
            await check_observations(environment)
    else:
        await check_observations(await stage.enter(task))


async def check_observations(environment: ExecutableEnvironment) -> None:
    """Make the recorded calls and hold their answers against the record."""
    reply = await environment.reply(Message(role="assistant", calls=tuple(OBSERVED)))
    assert [row["tool"] for row in GOLDEN["feedback"]] == [one.name for one in OBSERVED]
    assert [row["content"] for row in GOLDEN["feedback"]] == [m.content for m in reply.messages]
    await environment.aclose()


async def test_whole_episodes_in_the_real_sandbox(folder: Path) -> None:
    """Several at once share a worker, and are paid as in the plain one."""
    stage = Stage(Executable(path=str(folder)))
    tasks = await stage.tasks(3)
    async with ProcessSandbox(SandboxConfig(workers=2)) as sandbox:
        played: list[Trajectory] = []

        async def play(task: Task) -> None:
            played.append(await stage.play(task, sandbox=sandbox))

        async with anyio.create_task_group() as group:
            for task in (*tasks, *tasks):
                group.start_soon(play, task)
    assert [(None, 1.0)] * 6 == [(one.failure, one.reward) for one in played]


async def test_published_episode_ends_without_a_readable_call(folder: Path) -> None:
    """FTRL takes a message whose calls cannot be read for the last one; the default plays on."""
    for published, turns in ((True, 1), (False, 2)):
        stage = Stage(Executable(path=str(folder), published=published), once(MALFORMED))
        played = await stage.play((await stage.tasks(1))[0])
        assert (turns, -0.3) == (len(played.turns), played.reward)


async def collect(folder: Path, tmp_path: Path) -> tuple[str, dict[str, Blueprint]]:
    """Play every environment once and write the states."""
    stage = Stage(Executable(path=str(folder), reserve_one_in=100_003))
    blueprints = {f"keys-{number}": make_blueprint(number) for number in range(COUNT)}
    lines = []
    for task in await stage.tasks(COUNT):
        played = await stage.play(task)
        states = states_of(played, blueprints[task.hidden["blueprint"]])
        assert [0.0, 0.5, 1.0] == [state.solve_rate for state in states]
        lines += [msgspec.json.encode(state) for state in states]
    path = tmp_path / "states.jsonl"
    path.write_bytes(b"\n".join(lines))
    return str(path), blueprints


async def test_one_turn_from_each_state(folder: Path, tmp_path: Path) -> None:
    """A task is a state, ends after one message, and is paid by the formula of a turn."""
    states, blueprints = await collect(folder, tmp_path)
    world = Executable(path=str(folder), unit="turn", states=states, reserve_one_in=4)
    stage = Stage(world)
    trained = {name for name in blueprints if not is_held_out(name, one_in=4)}
    tasks = await stage.tasks(3 * len(trained))
    assert trained == {task.hidden["blueprint"] for task in tasks}
    for task in tasks:
        played = await stage.play(task)
        assert (Stop.DONE, {"turn": 1.0}) == (played.stop, played.rewards)
        assert 1 == len(played.turns)
        assert "system" == task.messages[0].role
    lengths = [len(task.messages) for task in tasks]
    assert [len(trained)] * 3 == [lengths.count(length) for length in (2, 4, 6)]


async def test_what_a_state_has_solved_is_not_paid_again(folder: Path, tmp_path: Path) -> None:
    """A call that brings what an earlier one brought pays nothing."""
    states, _ = await collect(folder, tmp_path)
    world = Executable(path=str(folder), unit="turn", states=states)
    again = write_calls([call("find_thing", thing="blue key")])
    stage = Stage(world, lambda request: again)
    for task in await stage.tasks(3 * COUNT):
        begins = len(task.messages) == 2
        assert {"turn": 1.0 if begins else 0.0} == (await stage.play(task)).rewards


async def test_held_out_tasks_are_whole_episodes(folder: Path, tmp_path: Path) -> None:
    """Whatever training learns from, evaluation plays from beginning to end."""
    states, _ = await collect(folder, tmp_path)
    stage = Stage(Executable(path=str(folder), unit="turn", states=states, reserve_one_in=4))
    tasks = await stage.tasks(COUNT, held_out=True)
    assert {2} == {len(task.messages) for task in tasks}
    assert {"calls": 0.5, "answer": 0.5} == (await stage.play(tasks[0])).rewards


async def test_published_rows_are_states_too(tmp_path: Path) -> None:
    """Without a file of states those of the path's own rows are taken."""
    begun = make_row(make_blueprint())
    later = make_row(make_blueprint(), unsolved_set='{"read_label": ["400"]}', solve_rate=0.5)
    later["messages"] = [*begun["messages"], {"role": "assistant", "content": "so"}]
    path = published_file(tmp_path, [begun, later])
    stage = Stage(Executable(path=path, published=True, unit="turn", reserve_one_in=97))
    tasks = await stage.tasks(2)
    assert [1, 2] == sorted(len(task.messages) for task in tasks)


async def test_turn_without_states_is_refused(folder: Path) -> None:
    """Environments alone give no turns to learn from."""
    with pytest.raises(InputError, match="write some with trustee collect"):
        Executable(path=str(folder), unit="turn").source(seed=0)


async def test_states_of_an_episode(folder: Path) -> None:
    """The beginning and each answered turn, with what is owed there; no system prompt."""
    stage = Stage(Executable(path=str(folder)))
    (task,) = await stage.tasks(1)
    blueprint = make_blueprint(int(task.hidden["blueprint"].removeprefix("keys-")))
    played = await stage.play(task)
    first, second, third = states_of(played, blueprint)
    assert open_state(blueprint) == first
    assert (blueprint.question, ("user",)) == (
        first.messages[0].content,
        tuple(m.role for m in first.messages),
    )
    assert {"find_thing": (), "read_label": blueprint.unsolved["read_label"]} == second.unsolved
    assert (
        TurnState(
            blueprint=blueprint.id,
            messages=(*second.messages, played.turns[1].message, *played.turns[1].replies),
            unsolved={"find_thing": (), "read_label": ()},
            solve_rate=1.0,
        )
        == third
    )
    idle = msgspec.structs.replace(played, turns=(), outcome=Outcome())
    assert (first,) == states_of(idle, blueprint)
