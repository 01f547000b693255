"""`trustee serve`: what it offers, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest

from command_line import refuse
from golden_errors import ErrorCheck
from real_engine import TOOL, Bench, engine_config, trainer_spec
from scripted_program import play_with, small_config
from trustee.config import read_config
from trustee.endpoint.application import Endpoint, make_application
from trustee.endpoint.catalogue import Catalogue
from trustee.endpoint.guard import KEY, EndpointLimits, Turnstile
from trustee.endpoint.listening import LOOPBACK
from trustee.engine.vllm import VllmEngine
from trustee.errors import EngineDied, InputError
from trustee.events import Event, Note, Stage
from trustee.jobs.run_metadata import describe_run
from trustee.jobs.serve import Serving, name_adapters, serve

ROOT = Path(__file__).parents[2]
DEADLINE = 60


def write_adapter(folder: Path) -> Path:
    """Write the files of an adapter that the scripted engine takes."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").touch()
    return folder


def address_in(told: list[Event]) -> str:
    """Return the address that was told."""
    return next(
        match[0]
        for event in told
        if isinstance(event, Stage) and (match := re.search(r"http://[^/]+", event.name))
    )


async def ask_while_served(
    monkeypatch: pytest.MonkeyPatch, serving: Serving, path: str, body: Any, folder: Path
) -> tuple[list[Event], httpx2.Response]:
    """Serve with a scripted engine, ask once, and interrupt."""
    play_with(monkeypatch, lambda request: "said")
    told: list[Event] = []
    ready = anyio.Event()

    def emit(event: Event) -> None:
        told.append(event)
        if isinstance(event, Stage) and event.name.startswith("serving"):
            ready.set()

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await serve(small_config(), serving, key="", folder=folder, emit=emit)

            tasks.start_soon(run)
            await ready.wait()
            async with httpx2.AsyncClient(timeout=DEADLINE) as client:
                answer = await client.request(
                    "POST" if body is not None else "GET", f"{address_in(told)}{path}", json=body
                )
            tasks.cancel_scope.cancel()
    return told, answer


@pytest.mark.anyio
async def test_run_is_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Base, the newest adapter and each adapter are told and answer; half-written ones are not."""
    for name in ("policy-000001", "policy-000002"):
        write_adapter(tmp_path / "run" / "adapters" / name)
    (tmp_path / "run" / "adapters" / "policy-000003").mkdir()
    serving = Serving(run=tmp_path / "run", port=0)
    body = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}
    told, answer = await ask_while_served(
        monkeypatch, serving, "/v1/chat/completions", body, tmp_path
    )
    names = "base, policy (= policy-000002), policy-000001, policy-000002"
    assert Note(text=f"models: {names}") in told
    assert ("policy-000002", "said") == (
        answer.json()["model"],
        answer.json()["choices"][0]["message"]["content"],
    )


@pytest.mark.anyio
async def test_open_address_needs_a_key(check_error: ErrorCheck, tmp_path: Path) -> None:
    """Whoever can reach the address would have the model otherwise."""
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(InputError) as caught:
            await serve(
                small_config(), Serving(host=host), key="", folder=tmp_path, emit=lambda event: None
            )
        check_error(caught, host, KEY)


def test_adapters_of_one_name(check_error: ErrorCheck, tmp_path: Path) -> None:
    """Two models cannot have the same name."""
    one, two = (write_adapter(tmp_path / place / "good") for place in ("a", "b"))
    assert {"good": one} == name_adapters(Serving(adapters=(one,)))
    with pytest.raises(InputError) as caught:
        name_adapters(Serving(adapters=(one, two)))
    check_error(caught, two, "good")


def test_what_serve_refuses(
    check_error: ErrorCheck, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Neither a folder that is none, nor limits that let nothing through."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_bytes(msgspec.json.encode(describe_run(read_config(TINY_CONFIG))))
    for arguments, named in (
        (["serve", "nowhere"], "nowhere"),
        (["serve", "tiny", "--requests", "0"], "--requests"),
        (["serve", run, "--config", TINY_CONFIG], "--config"),
    ):
        check_error(refuse(capfd, *arguments), named)


TINY_CONFIG = ROOT / "configs" / "tiny.toml"


@contextmanager
def serve_for_real(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the program as a user does, until its address is told; kill it if it outlives a test."""
    command = [sys.executable, "-m", "trustee", "serve", "tiny", "--port", "0", "--json", *more]
    process = subprocess.Popen(
        [*command, "--out", str(folder / "logs")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"serving (http://[^/]+)", line):
                yield process, match[1]
                break
        else:
            pytest.fail(process.communicate()[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_program_ends_cleanly_with_an_open_stream(tmp_path: Path) -> None:
    """SIGTERM ends it within the grace and without a traceback; the stream is told."""
    with serve_for_real(tmp_path) as (process, address):
        body = {
            "messages": [{"role": "user", "content": "please set the lamp in hall to level 7"}],
            "stream": True,
            "temperature": 2.0,
            "logit_bias": {},
            "max_tokens": 600,
        }
        lines: list[str] = []
        begun = threading.Event()

        def listen() -> None:
            with (
                httpx2.Client(timeout=DEADLINE) as client,
                client.stream("POST", f"{address}/v1/chat/completions", json=body) as answer,
            ):
                begun.set()
                lines.extend(answer.iter_lines())

        thread = threading.Thread(target=listen)
        thread.start()
        assert begun.wait(DEADLINE)
        since = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=DEADLINE)
        thread.join(DEADLINE)
    assert (0, "") == (process.returncode, error)
    assert time.monotonic() - since < 30
    assert "data: [DONE]" in lines
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.log*"))
    assert "Traceback" not in logs


@pytest.fixture(scope="module")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for the real engine."""
    return tmp_path_factory.mktemp("served")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_real_engine_says_what_it_says_alone(bench_folder: Path) -> None:
    """Ids and logprobs of the token route are the engine's own; chat is its text; calls are valid.

    One test, because starting the engine takes longer than all that is asked of it.
    """
    async with VllmEngine(engine_config("fp32"), trainer_spec()) as engine:
        bench = Bench(engine, bench_folder)
        await bench.train(2, rate=3e-3)
        trained = bench.adapter(1)
        await engine.publish(trained)
        await engine.retire(trained)
        catalogue = Catalogue(
            engine,
            base="tiny",
            find=lambda: {"mine": trained.path},
            check=lambda path: None,
            slots=2,
            folder=bench_folder / "versions",
        )
        endpoint = Endpoint(
            engine=engine,
            renderer=bench.renderer,
            catalogue=catalogue,
            turnstile=Turnstile(EndpointLimits()),
            started=0,
        )
        deaths: list[EngineDied] = []
        app = make_application(endpoint, hosts=LOOPBACK, key="", died=deaths.append)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=DEADLINE
        ) as client:
            for name, version in (("tiny", None), ("mine", 1)):
                for temperature in (0.0, 1.0):
                    body = {
                        "model": name,
                        "token_ids": list(bench.prompt),
                        "sampling_params": {
                            "max_tokens": 24,
                            "temperature": temperature,
                            "seed": 5,
                            "logprobs": 1,
                        },
                    }
                    (choice,) = (await client.post("/inference/v1/generate", json=body)).json()[
                        "choices"
                    ]
                    content = choice["logprobs"]["content"]
                    own = await bench.sample(version, temperature=temperature, tokens=24, seed=5)
                    assert list(own.ids) == choice["token_ids"]
                    assert list(own.logprobs) == [entry["logprob"] for entry in content]
            question = {
                "model": "mine",
                "messages": [
                    {"role": "system", "content": "be helpful ."},
                    {"role": "user", "content": "please set the lamp in hall to level 7"},
                ],
                "tools": [TOOL.schema],
                "temperature": 0,
                "max_tokens": 96,
            }
            said = (await client.post("/v1/chat/completions", json=question)).json()
            own = await bench.sample(1, tokens=96)
            message = bench.renderer.parse(own.ids, call_prefix="", tools=[TOOL])
            written = said["choices"][0]["message"].get("tool_calls") or []
            assert len(message.calls) == len(written)
            assert len(own.ids) == said["usage"]["completion_tokens"]
            hot = {**question, "temperature": 1.5, "tool_choice": "required"}
            for seed in range(4):
                answer = (
                    await client.post("/v1/chat/completions", json={**hot, "seed": seed})
                ).json()
                (call,) = answer["choices"][0]["message"]["tool_calls"]
                assert "set_lamp" == call["function"]["name"]
                assert {"room", "level"} <= set(decode(call["function"]["arguments"]))
            outside = {"token_ids": [10**6], "model": "tiny"}
            refused = await client.post("/inference/v1/generate", json=outside)
            assert 400 == refused.status_code
            refused = await client.post(
                "/v1/chat/completions",
                json={
                    "messages": question["messages"],
                    "model": "tiny",
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"schema": {"type": "string", "pattern": "(?<=a)b"}},
                    },
                },
            )
            assert 400 == refused.status_code
        assert [] == deaths


def decode(text: str) -> dict[str, Any]:
    """Return the arguments of a call."""
    found: dict[str, Any] = json.loads(text)
    return found
