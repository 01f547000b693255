"""Running the server of `trustee ui` until it is interrupted."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import uvicorn

from trustee.errors import InputError
from trustee.pages.server import make_app, names_of

PORT = 7860
"""Port that is tried first."""
PORTS = 20
"""Ports that are tried, unless one was asked for."""
GRACE_SECONDS = 1
"""Time that pages which follow a run get at the end."""


def bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens on an address, on the first free port unless one is given.

    Raises:
        InputError: if the address or the port cannot be had.
    """
    tried = range(PORT, PORT + PORTS) if port is None else (port,)
    why = ""
    for number in tried:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, number, type=socket.SOCK_STREAM
            )[0]
            found = socket.socket(family, kind, protocol)
        except OSError as error:
            raise InputError(
                f"--host {host}: {error.strerror}; give an address of this machine"
            ) from error
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except OSError as error:
            found.close()
            why = error.strerror or str(error)
            continue
        return found
    ports = (
        f"port {tried[0]}" if len(tried) == 1 else f"none of the ports {tried[0]} to {tried[-1]}"
    )
    raise InputError(f"{host}: {ports} can be had ({why}); name another with --port")


class Server(uvicorn.Server):
    """A server whose signals stay with the command line, and which ends without a word."""

    def __init__(self, config: uvicorn.Config, *, closing: anyio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what pages still follow, then all else; what is cut short is nobody's error."""
        self._closing.set()
        # A request that still reads when its time is up is cancelled, and uvicorn would show where.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        await super().shutdown(sockets)


async def serve(
    folders: Sequence[Path], *, host: str, port: int | None, told: Callable[[str], None]
) -> None:
    """Show the runs of some folders until the task is cancelled.

    Args:
        folders: folders of runs, or run folders.
        host: address or name to listen on.
        port: port; None is the first free one from `PORT` on.
        told: receives the page's address once it can be opened.

    Raises:
        InputError: if the address cannot be had.
    """
    listening = bind(host, port)
    closing = anyio.Event()
    config = uvicorn.Config(
        make_app(folders, hosts=names_of(host), closing=closing),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = Server(config, closing=closing)
    number = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    told(f"http://{shown}:{number}/")
    try:
        await server.serve(sockets=[listening])
    except anyio.get_cancelled_exc_class():
        server.should_exit = True
        with anyio.move_on_after(2 * GRACE_SECONDS, shield=True):
            await server.shutdown(sockets=[listening])
        raise
    finally:
        listening.close()
