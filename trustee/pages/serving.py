"""Running the server of `trustee ui` until it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import uvicorn

from trustee.endpoint.listening import Server, bind, names_of, show_address
from trustee.pages.server import make_app

PORT = 7860
"""Port that is tried first."""
GRACE_SECONDS = 1
"""Time that pages which follow a run get at the end."""


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
    listening = bind(host, port, first=PORT)
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
    told(f"{show_address(listening, host)}/")
    try:
        await server.serve(sockets=[listening])
    except anyio.get_cancelled_exc_class():
        server.should_exit = True
        with anyio.move_on_after(2 * GRACE_SECONDS, shield=True):
            await server.shutdown(sockets=[listening])
        raise
    finally:
        listening.close()
