"""Which versions of the policy are live, and how many episodes still use each.

An episode leases the version that is current when it begins and keeps it until its end. A version
that is no longer current is retired when its last lease ends. Publishing waits while all of the
engine's slots are taken, so there are never more live versions than slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from trustee.engine.protocol import Engine
from trustee.types import Adapter


class Versions:
    """The live versions of one engine. Version 0 is the base and takes no slot."""

    def __init__(self, engine: Engine, *, slots: int) -> None:
        self._engine = engine
        self._slots = slots
        self._alive: dict[int, Adapter] = {}
        self._leases: Counter[int] = Counter()
        self._freed = anyio.Condition()
        self.current: Adapter | None = None
        """The current adapter; None: the base."""

    @property
    def version(self) -> int:
        """The number of the current version."""
        return 0 if self.current is None else self.current.version

    @property
    def alive(self) -> tuple[int, ...]:
        """The versions that occupy a slot, oldest first."""
        return tuple(sorted(self._alive))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Adapter | None]:
        """Keep the current version live until the block ends; yield its adapter."""
        adapter = self.current
        if adapter is None:
            yield None
            return
        self._leases[adapter.version] += 1
        try:
            yield adapter
        finally:
            self._leases[adapter.version] -= 1
            with anyio.CancelScope(shield=True):
                await self._retire_idle()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until the engine has room for one more version; publish inside the block."""
        async with self._freed:
            while len(self._alive) >= self._slots and not await self._retire_one():
                await self._freed.wait()
        yield

    async def announce(self, adapter: Adapter) -> None:
        """Make a published version the current one."""
        self._alive[adapter.version] = adapter
        self.current = adapter
        await self._retire_idle()

    def _idle(self) -> list[Adapter]:
        return [
            adapter
            for version, adapter in self._alive.items()
            if adapter is not self.current and not self._leases[version]
        ]

    async def _retire_idle(self) -> None:
        async with self._freed:
            while await self._retire_one():
                pass
            self._freed.notify_all()

    async def _retire_one(self) -> bool:
        for adapter in self._idle():
            del self._alive[adapter.version]
            del self._leases[adapter.version]
            await self._engine.retire(adapter)
            return True
        return False
