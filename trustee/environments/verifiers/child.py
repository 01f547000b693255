"""The program that runs in the other interpreter: `verifiers`, and nothing of this package.

It reads lines of JSON and writes lines of JSON. `load` names the environment, `list` its tasks, and
`play` plays an episode. Meanwhile it asks for prompts in ids and for what the policy says: the
training client of `verifiers` finds both here, a renderer and the route `/inference/v1/generate` on
an address of this process alone, and neither knows a model. What a task prints goes to the error
stream. The end of the input ends the program.
"""

# mypy: ignore-errors
# ruff: noqa: D102
from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import sys
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from functools import partial

ASK_SECONDS = 3600.0
"""Longest wait for an answer; the program that asked ends an episode much earlier."""
LEAVE_SECONDS = 0.8
"""Time for episodes and servers to end at the end of the input."""
MOST_WORDS = 2000
"""Characters of an error that are told."""
NAME = "trustee_verifiers_child"
"""Name under which the renderer is found."""


class Lines:
    """The lines of both directions; answers come on the thread that reads."""

    def __init__(self) -> None:
        # Nothing else may write where the lines go.
        self._output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future] = {}

    def write(self, **line) -> None:
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock:
            self._output.write(data)
            self._output.flush()

    def ask(self, of: int, act: str, **data) -> Future:
        """Ask the other side; `of` is the episode for which it is asked."""
        number = next(self._numbers)
        future = self._waiting[number] = Future()
        self.write(of=of, say="ask", ask=number, act=act, data=data)
        return future

    def read(self, take) -> None:
        """Read lines to the end of the input."""
        for data in sys.stdin.buffer:
            line = json.loads(data)
            if "reply" in line:
                future = self._waiting.pop(line["reply"], None)
                if future is not None:
                    future.set_result(line.get("data"))
            else:
                take(line)


LINES = Lines()


def make_config_class():
    """Return the class of the renderer's settings, which names the episode."""
    from renderers.configs import BaseRendererConfig

    class AskedRendererConfig(BaseRendererConfig):
        name: str = "custom"
        episode: int = 0
        _internal_fields = frozenset({"episode"})

    return AskedRendererConfig


class AskedRenderer:
    """Renders by asking; the package loads it by its name."""

    config_class = None
    """Set once the package is imported."""
    is_prefix_stable = False
    supports_tools = True

    def __init__(self, tokenizer, config) -> None:
        self._of = config.episode

    def _ask(self, act, messages, **data):
        from renderers.base import RenderedTokens

        found = LINES.ask(self._of, act, messages=messages, **data).result(ASK_SECONDS)
        if found is None or "refused" in found:
            raise ValueError((found or {}).get("refused", "the episode is over"))
        if found.get("ids") is None:
            return None
        ids = found["ids"]
        return RenderedTokens(
            token_ids=ids,
            # Which message an id belongs to does not matter here: branches are told by ids.
            message_indices=[-1] * len(ids),
            message_roles=[message.get("role") or "" for message in messages],
            message_tool_names=[None] * len(messages),
        )

    def render(self, messages, *, tools=None, add_generation_prompt=False):
        if not add_generation_prompt:
            raise ValueError("only prompts are rendered")
        return self._ask("open", messages, tools=tools or [])

    def render_ids(self, messages, *, tools=None, add_generation_prompt=False):
        rendered = self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return rendered.token_ids

    def bridge_to_next_turn(
        self, previous_prompt_ids, previous_completion_ids, new_messages, *, tools=None
    ):
        return self._ask(
            "extend",
            new_messages,
            tools=tools or [],
            prompt=previous_prompt_ids,
            completion=previous_completion_ids,
        )

    def get_stop_token_ids(self):
        return []

    def parse_response(self, token_ids, *, tools=None, prompt_ids=None):
        from renderers.base import ParsedResponse, ParsedToolCall, ToolCallParseStatus

        message = EPISODES[self._of].said[tuple(token_ids)]
        calls = [
            ParsedToolCall(raw="", name=call["name"], arguments=call["arguments"], id=call["id"])
            if call["name"]
            else ParsedToolCall(raw="", status=ToolCallParseStatus.INVALID_JSON)
            for call in message["calls"]
        ]
        return ParsedResponse(
            content=message["content"],
            reasoning_content=message["thinking"] or None,
            tool_calls=calls,
        )


class Episode:
    """What belongs to one episode while it is played."""

    def __init__(self) -> None:
        self.said: dict[tuple[int, ...], dict] = {}
        """Each completion as a message, which the other side has read."""


EPISODES: dict[int, Episode] = {}


class Door:
    """The route by which the training client asks; only who knows the key finds it."""

    def __init__(self) -> None:
        self._key = secrets.token_urlsafe(24)
        self._port = 0

    def address(self, episode: int) -> str:
        return f"http://127.0.0.1:{self._port}/{self._key}/{episode}/v1"

    async def open(self, stack: AsyncExitStack) -> None:
        from aiohttp import web

        app = web.Application(client_max_size=1 << 28)
        place = f"/{self._key}/{{episode}}"
        app.router.add_post(f"{place}/inference/v1/generate", self._generate)
        app.router.add_get(f"{place}/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = runner.addresses[0][1]

    async def _models(self, request):
        from aiohttp import web

        found = await asyncio.wrap_future(LINES.ask(int(request.match_info["episode"]), "limits"))
        return web.json_response(
            {"object": "list", "data": [{"id": "policy", "max_model_len": found["context"]}]}
        )

    async def _generate(self, request):
        from aiohttp import web

        body, of = await request.json(), int(request.match_info["episode"])
        found = await asyncio.wrap_future(
            LINES.ask(
                of,
                "speak",
                ids=body["token_ids"],
                speaker=request.headers.get("X-Session-ID", ""),
                most=body["sampling_params"].get("max_tokens"),
            )
        )
        if found is None or "refused" in found:
            # In the words that harnesses know: they end the run, and what was done is scored.
            why = (found or {}).get("refused", "the episode is over")
            error = {"message": f"maximum context length: {why}", "type": "invalid_request_error"}
            error |= {"code": "context_length_exceeded", "param": "token_ids"}
            return web.json_response({"error": error}, status=400)
        if of in EPISODES:
            EPISODES[of].said[tuple(found["ids"])] = found["message"]
        content = [
            {"token": f"token_id:{id}", "token_id": id, "logprob": logprob}
            for id, logprob in zip(found["ids"], found["logprobs"], strict=True)
        ]
        choice = {"index": 0, "token_ids": found["ids"], "finish_reason": found["stop"]}
        choice["logprobs"] = {"content": content}
        return web.json_response({"request_id": found["id"], "choices": [choice]})


class Program:
    """The environment, once it is loaded, and its episodes."""

    def __init__(self) -> None:
        self.door = Door()
        self.env = None
        self.stack = AsyncExitStack()

    async def load(self, of: int, settings: dict) -> dict:
        """Load an environment by its block of settings."""
        import renderers.base
        import verifiers
        import verifiers.v1 as vf
        from verifiers.v1.configs.agent import AgentConfig
        from verifiers.v1.utils.loaders import (
            default_harness_id,
            env_config_type,
            resolve_env_config,
        )

        # The pool loads a tokenizer for every renderer; this one needs none.
        renderers.base.load_tokenizer = lambda name: None
        sys.modules[NAME] = sys.modules["__main__"]
        AskedRenderer.config_class = make_config_class()
        taskset = settings.get("taskset", {}).get("id", "")
        kind = env_config_type(taskset, settings.get("id") or "")
        for name, field in kind.model_fields.items():
            if isinstance(field.default, AgentConfig):
                role = settings.setdefault(name, {})
                role.setdefault("runtime", {"type": "subprocess"})
                if name == "agent" and default_harness_id(taskset) == "bash":
                    role.setdefault("harness", {"id": "null"})
        self.env = vf.load_environment(resolve_env_config(settings))
        await self.door.open(self.stack)
        await self.stack.enter_async_context(self.env.serving())
        return {"version": verifiers.__version__}

    async def list(self, of: int, most: int) -> list[dict]:
        """Return the tasks, at most so many."""

        def read() -> list[dict]:
            return [
                {"key": task.key, "task": task.data.model_dump(mode="json", exclude_defaults=True)}
                for task in itertools.islice(self.env.taskset, most)
            ]

        return await asyncio.to_thread(read)

    async def play(self, of: int, task: dict, tokens: int) -> dict:
        """Play an episode and return what came of it."""
        import verifiers.v1 as vf
        from verifiers.v1.clients.train import ElasticRendererPool
        from verifiers.v1.configs.client import TrainClientConfig

        kind = type(self.env.taskset).task_type()
        data = kind.data_type().model_validate(task)
        renderer = {"name": "custom", "import_path": f"{NAME}:AskedRenderer", "episode": of}
        client = TrainClientConfig(
            base_url=self.door.address(of), renderer=renderer, renderer_model_name="policy"
        )
        sampling = vf.SamplingConfig(max_tokens=tokens)
        EPISODES[of] = Episode()
        try:
            (slot,) = self.env.slots(kind(data, self.env.config.taskset.task))
            context = vf.ModelContext(model="policy", client=client, sampling=sampling)
            episode = await self.env.run_slot(slot, context)
        finally:
            EPISODES.pop(of, None)
            with suppress(AttributeError):
                for key in [
                    k for k in ElasticRendererPool._renderers if f'"episode":{of}' in str(k)
                ]:
                    del ElasticRendererPool._renderers[key]
        return {
            "ok": episode.ok,
            "errors": [say_error(error) for error in episode.errors],
            "traces": [describe(trace) for trace in episode.traces],
        }


def describe(trace) -> dict:
    """Return what is needed of a trace: who, which reward, and its branches in ids."""
    from verifiers.v1.dialects.chat import message_to_wire

    place = {id(node): number for number, node in enumerate(trace.nodes)}
    last = trace.calls[-1].error if trace.calls else None
    return {
        "agent": trace.agent.name,
        "trainable": trace.agent.trainable,
        "ok": trace.ok,
        "rewards": {name: one.value for name, one in trace.rewards.items() if one is not None},
        "stop": trace.stop_condition or "",
        "truncated": trace.is_truncated,
        "overflown": last is not None and last.status_code == 400,
        "errors": [say_error(error) for error in trace.errors],
        "nodes": [
            {
                "ids": node.token_ids,
                "sampled": sum(node.mask),
                "suffix": all(node.mask[len(node.mask) - sum(node.mask) :]),
                "logprobs": node.logprobs or [],
                "message": message_to_wire(node.message),
            }
            for node in trace.nodes
        ],
        "branches": [
            [place[id(node)] for node in branch.nodes]
            for branch in trace.branches
            if branch.trainable
        ],
    }


def say_error(error) -> str:
    """Return an error in one line."""
    return f"{error.type}: {error.message}"[:MOST_WORDS]


async def main() -> None:
    """Answer lines until the input ends."""
    loop, program = asyncio.get_running_loop(), Program()
    running: dict[int, asyncio.Task] = {}
    ended = asyncio.Event()

    async def act(of: int, name: str, given: dict) -> None:
        try:
            answer = await getattr(program, name)(of, **given)
        except asyncio.CancelledError:
            LINES.write(of=of, say="error", data="it was cancelled")
        except Exception as error:  # noqa: BLE001  # whatever foreign code raises is told
            words = f"{type(error).__name__}: {error}"[:MOST_WORDS]
            LINES.write(of=of, say="error", data=words)
        else:
            LINES.write(of=of, say="answer", data=answer)
        finally:
            running.pop(of, None)

    def take(line: dict) -> None:
        of, name = line.pop("of"), line.pop("act")
        if name == "cancel":
            if of in running:
                running[of].cancel()
            return
        assert name in ("load", "list", "play"), name
        running[of] = loop.create_task(act(of, name, line))

    def listen() -> None:
        try:
            LINES.read(partial(loop.call_soon_threadsafe, take))
        finally:
            loop.call_soon_threadsafe(ended.set)
            # Whatever hangs ends with the program.
            timer = threading.Timer(4 * LEAVE_SECONDS, os._exit, (1,))
            timer.daemon = True
            timer.start()

    threading.Thread(target=listen, daemon=True).start()
    await ended.wait()
    left = list(running.values())
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LEAVE_SECONDS)
    with suppress(Exception):
        async with asyncio.timeout(LEAVE_SECONDS):
            await program.stack.aclose()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
