"""Noticing the end of another process without polling."""

from __future__ import annotations

import os

import anyio


async def cancel_at_death(process: int, scope: anyio.CancelScope) -> None:
    """Cancel a scope when the process with this pid has ended; 0 means the pid is unknown."""
    if not process:
        return
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        scope.cancel()
        return
    try:
        await anyio.wait_readable(handle)
        scope.cancel()
    finally:
        os.close(handle)
