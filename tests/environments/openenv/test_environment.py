"""Episodes on OpenEnv servers: tasks by split, rewards, blame, and sessions that are closed."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import TaskGroup

from golden_errors import ErrorCheck
from mcp_stage import call as call
from mcp_stage import calling, contents
from scripts import TURN, cast, make_player, make_simulator, write_calls
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.openenv.environment import OpenEnv
from trustee.environments.openenv.observations import show_answer, show_observation
from trustee.environments.protocol import Services
from trustee.errors import InputError, ServerError
from trustee.types import Message, Role, Stop, Task, ToolCall, Trajectory

SERVER = Path(__file__).parents[2] / "raw_openenv_server.py"

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the raw server for all tests that leave it alive."""
    with served() as address:
        yield address


@pytest.fixture
def mortal_url() -> Iterator[str]:
    """Serve the raw server for a test that ends it."""
    with served() as address:
        yield address


@contextmanager
def served() -> Iterator[str]:
    """Serve the raw server; its socket listens before it starts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(listening.fileno())],
            pass_fds=[listening.fileno()],
        )
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
async def tasks() -> AsyncIterator[TaskGroup]:
    """Open the tasks of a job."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


class Stage:
    """A world, and what its episodes are played with."""

    def __init__(self, world: OpenEnv, tasks: TaskGroup, policy: Any) -> None:
        self.world = world
        self.tasks = tasks
        self.engine = ScriptedEngine(cast(policy))

    def serve(self, rng: random.Random) -> Services:
        """Give services of a job."""
        simulator = make_simulator(self.engine)
        return Services(simulator=simulator, rng=rng, background=self.tasks)

    async def write(self, count: int = 1, *, held_out: bool = False) -> list[Task]:
        """Write the first tasks."""
        source = self.world.source(seed=0, held_out=held_out)
        written = []
        for _ in range(count):
            spec = source.draw()
            assert spec is not None
            written.append(await source.write(spec, self.serve(random.Random(0))))
        return written

    async def play(self, task: Task) -> Trajectory:
        """Play an episode."""
        player = make_player(self.world.environment, self.engine, serve=self.serve)
        return await player.play(task, trajectory_id="0/0", adapter=None, seed=0)


async def open_sessions(url: str) -> int:
    """Ask the server how many sessions are open."""
    async with httpx2.AsyncClient(timeout=30) as client:
        return int((await client.get(f"{url}/open_sessions")).json()["now"])


async def settled(url: str) -> int:
    """Wait until the server has seen that the sessions are closed; say how many are left."""
    for _ in range(400):
        if not await open_sessions(url):
            break
        await anyio.sleep(0.05)
    return await open_sessions(url)


def guess_it(request: Request) -> str:
    """Guess wrongly, then rightly."""
    turns = TURN.findall(request.prompt)
    number = int(next(text for role, text in turns if role == "user").split()[-1])
    wrong = sum(role == "assistant" for role, _ in turns) == 0
    return write_calls([call("guess", number=number + wrong)])


async def test_an_episode_ends_and_pays_as_the_server_says(url: str, tasks: TaskGroup) -> None:
    """Steps' rewards add up, `done` ends the episode, and both sessions are closed."""
    stage = Stage(OpenEnv(url=url, prompts="tiny", solved=0.5), tasks, guess_it)
    (task,) = await stage.write()
    assert {"split", "index"} == task.hidden["reset"].keys()
    played = await stage.play(task)
    assert (None, Stop.DONE) == (played.failure, played.stop)
    assert ["wrong", "right"] == contents(played)
    assert (0.75, True) == (played.reward, played.success)
    assert await settled(url) == 0


async def test_the_last_reward_may_be_what_pays(url: str, tasks: TaskGroup) -> None:
    """An environment that scores its state pays with its last step."""
    stage = Stage(OpenEnv(url=url, prompts="tiny", pays="last"), tasks, guess_it)
    (task,) = await stage.write()
    played = await stage.play(task)
    assert (1.0, True) == (played.reward, played.success)


async def test_training_and_evaluation_have_splits_of_their_own(url: str, tasks: TaskGroup) -> None:
    """Each task of a split is dealt once an epoch, and no task is on both sides."""
    stage = Stage(OpenEnv(url=url, prompts="tiny"), tasks, guess_it)
    train = [task.hidden["reset"] for task in await stage.write(21)]
    held_out = [task.hidden["reset"] for task in await stage.write(10, held_out=True)]
    assert {reset["split"] for reset in train} == {"train"}
    assert sorted(reset["index"] for reset in train[:20]) == list(range(20))
    assert {"test"} == {reset["split"] for reset in held_out}
    assert sorted(reset["index"] for reset in held_out) == list(range(10))


async def test_one_split_is_divided(url: str, tasks: TaskGroup) -> None:
    """Where both sides read the same split, no task is on both."""
    world = OpenEnv(url=url, prompts="tiny", split="train", eval_split="train", reserve_one_in=3)
    stage = Stage(world, tasks, guess_it)
    train = {task.hidden["reset"]["index"] for task in await stage.write(20)}
    held_out = {task.hidden["reset"]["index"] for task in await stage.write(20, held_out=True)}
    assert train | held_out == set(range(20))
    assert not train & held_out


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ("hang", "no answer to step in 8 s"),
        ("die", "connection"),
        ("garble", "not an observation"),
        ("nan", "EXECUTION_ERROR"),
        ("fault", "timed out after 30 seconds"),
    ],
)
async def test_a_server_that_fails_is_to_blame(
    tool: str, named: str, request: pytest.FixtureRequest, tasks: TaskGroup
) -> None:
    """The episode failed by the world; what happened before is kept, and nothing is paid."""
    url = request.getfixturevalue("mortal_url" if tool == "die" else "url")
    world = OpenEnv(url=url, prompts="tiny", seconds=8 if tool == "hang" else 30)
    stage = Stage(world, tasks, calling(call("count"), call(tool)))
    (task,) = await stage.write()
    played = await stage.play(task)
    assert played.failure is not None
    assert (Role.WORLD, "ServerError") == (played.failure.source, played.failure.kind)
    assert named in played.failure.message
    assert ({}, 1) == (played.rewards, len(played.turns))
    if tool != "die":
        assert await settled(url) == 0


async def test_bad_calls_never_reach_the_server(url: str, tasks: TaskGroup) -> None:
    """Code answers them; an error that a tool answers with is an answer, too."""
    policy = calling(
        call("guess", number="x"), call("no_such"), call("refuse"), call("guess", number=1)
    )
    stage = Stage(OpenEnv(url=url, prompts="tiny"), tasks, policy)
    (task,) = await stage.write()
    played = await stage.play(task)
    assert played.failure is None
    wrong, unknown, refused, guessed = contents(played)
    assert "number" in json.loads(wrong)["error"]
    assert "no_such" in json.loads(unknown)["error"]
    assert json.loads(refused) == {"error": "not today"}
    assert guessed in ("wrong", "right")


async def test_a_full_server_says_what_to_do(url: str, tasks: TaskGroup) -> None:
    """More sessions than it takes are refused by name; the others go on."""
    stage = Stage(OpenEnv(url=url, prompts="tiny"), tasks, guess_it)
    (task,) = await stage.write()
    held = [stage.world.environment(task, stage.serve(random.Random(0))) for _ in range(4)]
    for environment in held:
        await environment.open()
    with pytest.raises(ServerError, match=r"4 at once.*rollout.parallel"):
        await stage.write()
    for environment in held:
        await environment.aclose()
    assert await settled(url) == 0
    assert (await stage.play(task)).failure is None


@pytest.mark.parametrize("waits", [0.0, 0.2])
async def test_a_cancelled_episode_leaves_no_session(
    waits: float, url: str, tasks: TaskGroup
) -> None:
    """Wherever it is broken off, the server frees its session."""
    stage = Stage(OpenEnv(url=url, prompts="tiny"), tasks, guess_it)
    (task,) = await stage.write()
    environment = stage.world.environment(task, stage.serve(random.Random(0)))
    with anyio.move_on_after(waits):
        await environment.open()
        hanging = ToolCall(id="c", name="hang", arguments={})
        await environment.reply(Message(role="assistant", calls=(hanging,)))
    await environment.aclose()
    assert await settled(url) == 0


def test_a_check_asks_the_server(url: str) -> None:
    """What is wrong with the settings is said before anything is loaded."""
    assert OpenEnv(url=url).check(seed=0) == ()
    (text,) = OpenEnv(url=url, split="test", eval_split="test").check(seed=0)
    assert "one of its 10 tasks in 5" in text
    with pytest.raises(InputError, match="no split 'dev'; its splits are: train, test"):
        OpenEnv(url=url, split="dev").check(seed=0)
    with pytest.raises(InputError, match="acts by calls"):
        OpenEnv(url=url, say="text").check(seed=0)


@pytest.mark.parametrize(
    ("address", "named"),
    [("127.0.0.1:8000", "http://"), ("http://127.0.0.1:1", "cannot be reached")],
)
def test_a_server_that_is_not_there(address: str, named: str, check_error: ErrorCheck) -> None:
    """The error has the address."""
    with pytest.raises(InputError) as caught:
        OpenEnv(url=address).check(seed=0)
    check_error(caught, named)


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ({"text": "hello", "metadata": {"secret": 1}, "reward": 1}, "hello"),
        ({"x": 1, "y": 0, "message": ""}, '{"x": 1, "y": 0}'),
        ({"metadata": {"a": 1}}, ""),
    ],
)
def test_observations_as_text(observation: dict[str, Any], text: str) -> None:
    """What is for programs is left out."""
    assert show_observation(observation) == text


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ({"tool_name": "t", "result": {"content": [{"text": "a"}, {"text": "b"}]}}, "a\nb"),
        ({"result": {"content": [{"text": "no"}], "is_error": True}}, '{"error": "no"}'),
        ({"result": {"a": 1}}, '{"a": 1}'),
        ({"result": 3}, "3"),
        ({"error": {"error_type": "invalid_args", "message": "no"}}, '{"error": "no"}'),
    ],
)
def test_answers_as_text(observation: dict[str, Any], text: str) -> None:
    """The forms in which servers give results."""
    assert show_answer(observation) == text
