"""The models that the endpoint offers by name, and which versions the engine holds for whom.

An engine has room for a few versions at once. A request leases the one that it names; an episode of
several requests, told by its session id, keeps what it began with until it has been silent for a
while. What nobody leases makes room for what is asked for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import anyio
import structlog

from trustee.endpoint.refusals import Refused
from trustee.types import Adapter

log = structlog.get_logger()

NEWEST = "policy"
"""Name of the newest adapter, whichever that is when an episode begins."""
SILENT_SECONDS = 900.0
"""Time after which an episode that asks for nothing has ended."""
MOST_SESSIONS = 4096
"""Number of episodes that are remembered."""


class Publisher(Protocol):
    """What makes the adapter of a folder a version that the engine can speak with."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Take the weights of a folder."""
        ...

    async def publish(self, adapter: Adapter) -> None:
        """Make them a version."""
        ...

    async def retire(self, adapter: Adapter) -> None:
        """Remove a version."""
        ...


class Lease(NamedTuple):
    """The model that answers a request."""

    name: str
    """Its own name: what `policy` stood for."""
    adapter: Adapter | None


@dataclass
class Held:
    """A version that the engine holds."""

    adapter: Adapter
    requests: int = 0
    used: float = 0.0


@dataclass
class Session:
    """An episode, and the model that it began with."""

    name: str
    used: float
    requests: int = 0


class Catalogue:
    """The base and the adapters of a folder, by name."""

    def __init__(
        self,
        engine: Publisher,
        *,
        base: str,
        find: Callable[[], Mapping[str, Path]],
        check: Callable[[Path], None],
        slots: int,
        folder: Path,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Offer models.

        Args:
            engine: holds and publishes versions.
            base: name of the model without an adapter.
            find: returns the adapters that there are now by name, the newest last.
            check: raises `InputError` for an adapter that does not fit the base.
            slots: versions that the engine has room for.
            folder: where published versions are written.
            now: a clock, in seconds.
        """
        self.base = base
        self._engine = engine
        self._find = find
        self._check = check
        self._slots = slots
        self._folder = folder
        self._now = now
        self._held: dict[str, Held] = {}
        self._sessions: dict[tuple[str, str], Session] = {}
        self._numbers = itertools.count(1)
        self._changed = anyio.Condition()
        """Held while a version is published or retired; told when a lease ends."""

    def names(self) -> dict[str, str | None]:
        """Return the names of all models, each with what it stands for or None."""
        found = self._find()
        newest = {NEWEST: list(found)[-1]} if found else {}
        return {self.base: None, **newest, **dict.fromkeys(found)}

    @asynccontextmanager
    async def lease(self, model: str | None, *, session: str = "") -> AsyncIterator[Lease]:
        """Keep a model ready until the block ends, and longer for an episode that goes on.

        Args:
            model: name of a model; None is the newest adapter, or the base where there is none.
            session: id of the episode; empty for a request by itself.

        Raises:
            Refused: if there is no such model.
        """
        self._forget_silent()
        key = (session, model or "")
        known = self._sessions.get(key) if session else None
        name = known.name if known else self._resolve(model)
        if session:
            known = self._sessions.setdefault(key, Session(name=name, used=self._now()))
            known.requests += 1
        held = None
        try:
            held = None if name == self.base else await self._hold(name)
            yield Lease(name=name, adapter=held.adapter if held else None)
        finally:
            if known:
                known.requests -= 1
                known.used = self._now()
            if held:
                held.requests -= 1
                held.used = self._now()
                with anyio.CancelScope(shield=True):
                    async with self._changed:
                        self._changed.notify_all()

    def _resolve(self, model: str | None) -> str:
        found = self._find()
        if model is None:
            return list(found)[-1] if found else self.base
        if model == NEWEST and found:
            return list(found)[-1]
        if model == self.base or model in found or model in self._held:
            return model
        names = ", ".join(self.names())
        raise Refused(404, f"the model {model!r} does not exist; there are: {names}", param="model")

    async def _hold(self, name: str) -> Held:
        """Return a version that the engine holds, publishing it where it does not."""
        async with self._changed:
            while name not in self._held:
                if len(self._held) < self._slots:
                    await self._publish(name)
                elif not await self._make_room():
                    if not any(held.requests for held in self._held.values()):
                        raise Refused(
                            503,
                            f"episodes that go on hold all {self._slots} versions that the engine "
                            "has room for (engine.versions); ask again later",
                        )
                    await self._changed.wait()
                    self._forget_silent()
            held = self._held[name]
            held.requests += 1
            return held

    async def _publish(self, name: str) -> None:
        source = self._find().get(name)
        if source is None:
            raise Refused(404, f"the model {name!r} is no longer there", param="model")
        self._check(source)
        number = next(self._numbers)
        adapter = Adapter(version=number, path=self._folder / f"policy-{number:06d}")
        # The engine is not left half-way by a client that hangs up.
        with anyio.CancelScope(shield=True):
            await self._engine.load_adapter(Adapter(version=number, path=source))
            await self._engine.publish(adapter)
        self._held[name] = Held(adapter=adapter, used=self._now())
        log.info("model_ready", model=name, version=number)

    async def _make_room(self) -> bool:
        """Retire the version that nobody has used for longest; return whether there was one."""
        kept = {session.name for session in self._sessions.values()}
        idle = [name for name, held in self._held.items() if not held.requests and name not in kept]
        if not idle:
            return False
        oldest = min(idle, key=lambda name: self._held[name].used)
        with anyio.CancelScope(shield=True):
            await self._engine.retire(self._held.pop(oldest).adapter)
        return True

    def _forget_silent(self) -> None:
        """Forget episodes that have ended, and the oldest of too many."""
        last = self._now() - SILENT_SECONDS
        idle = [key for key, session in self._sessions.items() if not session.requests]
        over = max(0, len(self._sessions) - MOST_SESSIONS)
        oldest = sorted(idle, key=lambda key: self._sessions[key].used)
        for number, key in enumerate(oldest):
            if number < over or self._sessions[key].used < last:
                del self._sessions[key]
