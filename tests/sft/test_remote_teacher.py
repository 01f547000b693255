"""A teacher behind a real HTTP server: what it is asked, what comes of what it says."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dice import LOOK, Dice
from scripts import ASKED_ROOM, make_player
from trustee.engine.scripted import ScriptedEngine, scripted_renderer
from trustee.environments.engine_simulator import EngineSimulator
from trustee.environments.hints import Hints
from trustee.environments.protocol import Services
from trustee.rollout import Limits
from trustee.sft.collect import demonstrate
from trustee.sft.endpoint import KEY, Endpoint
from trustee.sft.remote_teacher import EndpointPlayer
from trustee.sft.samples import render_demonstration
from trustee.types import Task, Trajectory

pytestmark = pytest.mark.anyio
HINTS = Hints(lines=("solution: look twice",), secrets=())
Said = tuple[int, dict[str, str], Any]
"""Status, headers and body of an answer."""


class Server:
    """What was asked of an endpoint, and by whom."""

    def __init__(self, answer: Callable[[dict[str, Any]], Said]) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.url = ""


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Said]) -> Iterator[Server]:
    """Serve answers on a port of this machine."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.paths.append(self.path)
            status, headers, said = answer(body)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *details: Any) -> None:
            """Be silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def choice(message: dict[str, Any], reason: str = "stop") -> Said:
    """Give a chat completion."""
    return 200, {}, {"choices": [{"message": message, "finish_reason": reason}]}


def reporter(body: dict[str, Any]) -> Said:
    """Look at all dice at once and report them."""
    results = [json.loads(m["content"]) for m in body["messages"] if m["role"] == "tool"]
    (asked,) = (m["content"] for m in body["messages"] if m["role"] == "user")
    rooms = ASKED_ROOM.findall(asked)
    if not results:
        calls = [call("read_lamp", room=room) for room in rooms]
        return choice({"content": "let me look", "tool_calls": calls})
    pairs = zip(rooms, results, strict=True)
    report = " ; ".join(f"lamp {room} level {result['level']}" for room, result in pairs)
    return choice({"content": f" {report} "})


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Make a call in OpenAI's form."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": "x", "type": "function", "function": function}


async def play(url: str, *, seconds: float = 5.0, tokens: int = 400) -> tuple[Task, Trajectory]:
    """Have an endpoint play a game of dice."""
    world = Dice()
    source = world.source(seed=2)
    spec = source.draw()
    assert spec is not None
    simulator = EngineSimulator(
        ScriptedEngine(lambda request: ""), scripted_renderer(), sampling_by_role={}, tries=1
    )
    services = Services(simulator=simulator, rng=random.Random(0))
    task = await source.write(spec, services)
    async with Endpoint(url, model="big", parallel=2, seconds=seconds, pause=0.001) as endpoint:
        player = EndpointPlayer(
            endpoint, scripted_renderer(), HINTS, prompt_set="simulated", context=4096
        )
        episodes = make_player(
            world.environment,
            player.engine,
            serve=lambda rng: services,
            renderer=player.renderer,
            limits=Limits(tokens=tokens),
            temperature=0.5,
        )
        played = await episodes.play(task, trajectory_id="0/0", adapter=None, seed=0)
    return task, player.keep(played)


async def test_endpoint_plays_an_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked in OpenAI's form with the hints; what is kept is the policy's own form."""
    monkeypatch.setenv(KEY, "secret-key")
    with serve(reporter) as server:
        task, trajectory = await play(server.url)
    assert (None, {"dice": 1.0}) == (trajectory.failure, trajectory.rewards)
    assert (["/v1/chat/completions"] * 2, ["Bearer secret-key"] * 2) == (server.paths, server.keys)
    first, second = server.asked
    assert ("big", 0.5, [LOOK.schema]) == (
        first["model"],
        first["temperature"],
        first["tools"],
    )
    assert ["system", "user"] == [message["role"] for message in first["messages"]]
    assert "solution: look twice" in first["messages"][0]["content"]
    said = second["messages"][2]
    assert ("let me look", ["call00000", "call00001"]) == (
        said["content"],
        [one["id"] for one in said["tool_calls"]],
    )
    assert [one["id"] for one in said["tool_calls"]] == [
        message["tool_call_id"] for message in second["messages"][3:]
    ]
    room = next(iter(task.hidden))
    assert f'{{"room": "{room}"}}' == said["tool_calls"][0]["function"]["arguments"]
    rendered = render_demonstration(demonstrate(task, trajectory), scripted_renderer())
    ids = [id for turn in trajectory.turns for id in (*turn.rendered_ids, *turn.completion.ids)]
    assert list(rendered.ids) == ids
    assert "solution" not in scripted_renderer().decode(ids)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ((401, {}, b"bad key secret-key"), "refused: 401 Unauthorized: bad key ..."),
        ((500, {}, b"x" * 900), "refused: 500 Internal Server Error: " + "x" * 300),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "refused: 302 Found"),
        ((200, {}, b"hello"), "is not a chat completion"),
        ((200, {}, {"choices": []}), "is not a chat completion"),
        (choice({"content": "so"}, "length"), "was cut off by its limit of tokens"),
        (
            choice({"tool_calls": [{"function": {"name": "look", "arguments": "[1]"}}]}),
            "the arguments of look are not a JSON object: '[1]'",
        ),
        (
            choice({"content": "<tool_call>{}</tool_call>"}),
            "0/0/0: the policy's format cannot hold what was said",
        ),
        (choice({"content": "y" * 500}), "0/0/0: 501 ids are more than the 400 of rollout"),
    ],
)
async def test_answers_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, said: Said, message: str
) -> None:
    """They spoil the episode with a readable reason, and the key is in none."""
    monkeypatch.setenv(KEY, "secret-key")
    with serve(lambda body: said) as server:
        _, trajectory = await play(server.url)
    assert trajectory.failure is not None
    assert message in trajectory.failure.message
    assert "secret-key" not in trajectory.failure.message


async def test_no_key_and_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key none is sent; without a server the reason is told."""
    monkeypatch.delenv(KEY, raising=False)
    with serve(reporter) as server:
        await play(server.url)
    assert {None} == set(server.keys)
    _, trajectory = await play(server.url)
    assert trajectory.failure is not None
    assert "All connection attempts failed" in trajectory.failure.message


STRICT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def strict(body: dict[str, Any]) -> Said:
    """Refuse what the strictest servers refuse, once in a while for no reason, else report."""
    if "max_tokens" in body:
        return 400, {}, {"error": {"message": "use 'max_completion_tokens' instead"}}
    if "temperature" in body:
        return 400, {}, {"error": {"message": "'temperature' does not support 0.5"}}
    ids = [call["id"] for said in body["messages"] for call in said.get("tool_calls", ())]
    if not all(STRICT_ID.fullmatch(id) for id in ids):
        return 422, {}, {"error": f"ids {ids}"}
    return reporter(body)


async def test_a_strict_server_is_understood() -> None:
    """Ids, the limit's name and a fixed temperature are as it wants them; it is asked anew once."""
    with serve(strict) as server:
        _, trajectory = await play(server.url)
    assert (None, {"dice": 1.0}) == (trajectory.failure, trajectory.rewards)
    assert 4 == len(server.asked)


async def test_a_busy_server_is_asked_again() -> None:
    """Each answer is refused once, each time in another way."""
    said = {429: {"Retry-After": "0"}, 503: {}}
    codes = iter(said.items())

    def busy(body: dict[str, Any]) -> Said:
        code, headers = next(codes, (200, {}))
        return reporter(body) if code == 200 else (code, headers, {"error": "slow down"})

    with serve(busy) as server:
        _, trajectory = await play(server.url)
    assert (None, {"dice": 1.0}) == (trajectory.failure, trajectory.rewards)
    assert 4 == len(server.asked)
