"""`trustee serve`: a run's model for other programs, by the engine that trained it."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio
import uvicorn

from trustee.config import Config
from trustee.endpoint.application import Endpoint, make_application
from trustee.endpoint.catalogue import NEWEST, Catalogue
from trustee.endpoint.guard import EndpointLimits, Turnstile
from trustee.endpoint.listening import Server, bind, is_private, names_of, show_address
from trustee.engine.clock import EngineClock
from trustee.engine.watchdog import Watchdog
from trustee.errors import EngineDied, InputError
from trustee.events import Emit, Note, Stage
from trustee.jobs.assemble import name_served, open_watched, prepare_model, restart_once
from trustee.rendering.renderer import Renderer
from trustee.runs.adapters import CONFIG, WEIGHTS, find_adapter
from trustee.types import Record

PORT = 8000
"""Port that is tried first."""
GRACE_SECONDS = 5.0
"""Time that requests in progress get at the end."""


class Serving(Record, frozen=True):
    """What is served, to whom, and where."""

    run: Path | None = None
    """Run folder whose adapters are offered; none: the base alone."""
    adapters: tuple[Path, ...] = ()
    """Further adapters: PEFT or run folders."""
    host: str = "127.0.0.1"
    port: int | None = None
    """None is the first free one from `PORT` on."""
    limits: EndpointLimits = EndpointLimits()


async def serve(
    config: Config, serving: Serving, *, key: str, folder: Path, emit: Emit
) -> NoReturn:
    """Serve until the task is cancelled.

    Args:
        config: the base, the engine and the template.
        serving: what is offered, and where.
        key: what requests must bear; empty for nothing.
        folder: where stack dumps are written if something hangs.
        emit: receives progress events.

    Raises:
        InputError: if the model, an adapter or the address cannot be used.
        EngineDied: if the engine died a second time.
    """
    if not key and not is_private(serving.host):
        raise InputError(
            f"--host {serving.host} can be reached from other machines, and there is no key; set "
            "TRUSTEE_SERVE_KEY to a secret that requests must bear, or leave out --host"
        )
    model, renderer = prepare_model(config)
    named = name_adapters(serving)
    check = partial(config.engine.check_adapter, model=model, rank=config.learn.rank)
    for path in (*named.values(), *list(find_own(serving.run).values())[-1:]):
        check(path)
    base = name_served(config, model)
    with bind(serving.host, serving.port, first=PORT) as listening:

        async def answer() -> NoReturn:
            clock = EngineClock()
            with tempfile.TemporaryDirectory(prefix="trustee-serve-") as versions:
                async with open_watched(config, model, folder, clock=clock, emit=emit) as engine:
                    catalogue = Catalogue(
                        engine,
                        base=base,
                        find=lambda: {**named, **find_own(serving.run)},
                        check=check,
                        slots=config.engine.versions,
                        folder=Path(versions),
                    )
                    tell_names(catalogue, show_address(listening, serving.host), emit=emit)
                    await listen(catalogue, engine, renderer, listening, serving=serving, key=key)

        await restart_once(answer, emit=emit)
    raise AssertionError("serving ends only by an error or by being cancelled")


def name_adapters(serving: Serving) -> dict[str, Path]:
    """Return the further adapters by the names of their folders.

    Raises:
        InputError: if two have the same name.
    """
    named: dict[str, Path] = {}
    for given in serving.adapters:
        found = find_adapter(given)
        if found.name in (*named, NEWEST) or found.name in find_own(serving.run):
            raise InputError(
                f"--adapter {given}: another model is called {found.name} already; rename one"
            )
        named[found.name] = found
    return named


def find_own(run: Path | None) -> dict[str, Path]:
    """Return the adapters that a run has now, oldest first."""
    if run is None:
        return {}
    return {
        folder.name: folder
        for folder in sorted((run / "adapters").glob("policy-*"))
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
    }


def tell_names(catalogue: Catalogue, address: str, *, emit: Emit) -> None:
    """Say where which models are."""
    names = [f"{name} (= {same})" if same else name for name, same in catalogue.names().items()]
    emit(Note(text=f"models: {', '.join(names)}"))
    emit(Stage(name=f"serving {address}/v1; Ctrl-C ends it"))


async def listen(
    catalogue: Catalogue,
    engine: Watchdog,
    renderer: Renderer,
    listening: socket.socket,
    *,
    serving: Serving,
    key: str,
) -> NoReturn:
    """Answer requests until the task is cancelled or the engine has died.

    Requests in progress get a moment at the end; what is not done then is told that it was ended.

    Raises:
        EngineDied: if the engine has died.
    """
    turnstile = Turnstile(serving.limits)
    endpoint = Endpoint(
        engine=engine,
        renderer=renderer,
        catalogue=catalogue,
        turnstile=turnstile,
        started=int(time.time()),
    )
    deaths: list[EngineDied] = []
    died = anyio.Event()

    def note_death(error: EngineDied) -> None:
        deaths.append(error)
        died.set()

    app = make_application(endpoint, hosts=names_of(serving.host), key=key, died=note_death)
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    async with anyio.create_task_group() as tasks:
        # The server closes the sockets that it is given, and this one is needed after a restart.
        tasks.start_soon(serve_shielded, server, [listening.dup()])
        try:
            await died.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await turnstile.close(grace=GRACE_SECONDS)
            server.should_exit = True
    raise deaths[0]


async def serve_shielded(server: Server, sockets: Sequence[socket.socket]) -> None:
    """Run a server until it is told to exit, also where its task is cancelled."""
    with anyio.CancelScope(shield=True):
        await server.serve(sockets=list(sockets))
