"""Noticing that another process has ended, without asking again and again."""

from __future__ import annotations

import os

import anyio


async def cancel_at_death(process: int, scope: anyio.CancelScope) -> None:
    """Cancel a scope when a process has ended; 0 is none that is known."""
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
