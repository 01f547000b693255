"""Listening on an address of this machine, and the names under which a server may be asked."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import anyio
import uvicorn

from trustee.errors import InputError

PORTS = 20
"""Ports that are tried, unless one was asked for."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bind(host: str, port: int | None, *, first: int) -> socket.socket:
    """Return a socket that listens on an address.

    Args:
        host: address or name of this machine.
        port: port; None is the first free one.
        first: port that is tried first.

    Raises:
        InputError: if the address or the port cannot be had.
    """
    tried = range(first, first + PORTS) if port is None else (port,)
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


def show_address(listening: socket.socket, host: str) -> str:
    """Return the address of a server, with the host as it was given."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"


def names_of(host: str) -> tuple[str, ...]:
    """Return the names under which a server that listens on an address may be asked.

    None means any.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return LOOPBACK if host.lower() == "localhost" else (host, *LOOPBACK)
    if address.is_unspecified:
        return ()
    return LOOPBACK if address.is_loopback else (host, *LOOPBACK)


def is_private(host: str) -> bool:
    """Whether only this machine can reach a server that listens on an address."""
    return names_of(host) == LOOPBACK


def name_in(host: str) -> str:
    """Return the name in a Host header, without its port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower()


class Server(uvicorn.Server):
    """A server whose signals stay with the command line, and which ends without a word."""

    def __init__(self, config: uvicorn.Config, *, closing: anyio.Event | None = None) -> None:
        """Take a config, and what is set when the server begins to end."""
        super().__init__(config)
        self._closing = closing

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what follows until the server closes, then all else; it is nobody's error."""
        if self._closing is not None:
            self._closing.set()
        # A request that still reads when its time is up is cancelled, and uvicorn would show where.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        await super().shutdown(sockets)
