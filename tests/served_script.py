"""The endpoint on a scripted engine, on a real socket, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import uvicorn

from trustee.endpoint.application import Endpoint, make_application
from trustee.endpoint.catalogue import Catalogue
from trustee.endpoint.guard import EndpointLimits, Turnstile
from trustee.endpoint.listening import LOOPBACK, Server, bind
from trustee.engine.script import Script
from trustee.engine.scripted import ScriptedTrainer, scripted_renderer
from trustee.errors import EngineDied
from trustee.rendering.chat_templates import PLAIN, ChatStyle
from trustee.types import Adapter

DEADLINE = 30


class LoadedTrainer(ScriptedTrainer):
    """A scripted engine that remembers which folder each version came from."""

    def __init__(self, script: Script, *, context: int = 8192) -> None:
        super().__init__(script, context=context)
        self.sources: dict[int, Path] = {}
        self.loaded_last = Path()
        self.load_adapter = self._load

    async def _load(self, adapter: Adapter) -> None:
        self.loaded_last = adapter.path

    async def publish(self, adapter: Adapter) -> None:
        self.sources[adapter.version] = self.loaded_last
        await super().publish(adapter)


@dataclass
class Served:
    """A served script: where it is, and what it was asked."""

    engine: LoadedTrainer
    turnstile: Turnstile
    catalogue: Catalogue
    address: str = ""
    deaths: list[EngineDied] = field(default_factory=list)
    run: Callable[..., Any] = lambda *given: None
    """Runs a coroutine function in the server's loop."""

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        """Send a JSON body."""
        return httpx2.post(
            f"{self.address}{path}",
            json=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            timeout=DEADLINE,
        )

    def chat(self, text: str, **more: Any) -> httpx2.Response:
        """Ask for a chat completion."""
        return self.post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **more}
        )


@contextmanager
def serve_script(
    script: Script,
    folder: Path,
    *,
    adapters: Callable[[], Mapping[str, Path]] = dict,
    limits: EndpointLimits | None = None,
    style: ChatStyle = PLAIN,
    key: str = "",
    slots: int = 2,
    context: int = 8192,
    now: Callable[[], float] | None = None,
) -> Iterator[Served]:
    """Serve a script until the block ends."""
    engine = LoadedTrainer(script, context=context)
    turnstile = Turnstile(limits or EndpointLimits())
    catalogue = Catalogue(
        engine,
        base="scripted",
        find=adapters,
        check=lambda path: None,
        slots=slots,
        folder=folder,
        **({} if now is None else {"now": now}),
    )
    served = Served(engine=engine, turnstile=turnstile, catalogue=catalogue)
    endpoint = Endpoint(
        engine=engine,
        renderer=scripted_renderer(style),
        catalogue=catalogue,
        turnstile=turnstile,
        started=0,
    )
    app = make_application(endpoint, hosts=LOOPBACK, key=key, died=served.deaths.append)
    listening = bind("127.0.0.1", 0, first=0)
    served.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = Server(
        uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    )
    ready = threading.Event()

    async def run() -> None:
        async with anyio.from_thread.BlockingPortal() as portal:
            served.run = portal.call
            ready.set()
            await server.serve(sockets=[listening])
            await portal.stop()

    thread = threading.Thread(target=lambda: anyio.run(run))
    thread.start()
    assert ready.wait(DEADLINE)
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive()
