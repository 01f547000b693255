"""A sandbox that holds nothing back: tools run in the test's own process, for tests alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from trustee.sandbox.calls import CallResult


class PlainWorker:
    """Tools that were compiled for one episode."""

    def __init__(self, sources: Mapping[str, str], *, published: bool) -> None:
        self._sources = sources
        self._published = published
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallResult:
        self.calls.append((name, dict(arguments)))
        seen: dict[str, Any] = {}
        tool = seen if not self._published else {}
        try:
            exec(self._sources[name], seen, tool)
            value = tool[name](**arguments)
        except Exception as error:  # noqa: BLE001  # whatever a tool raises is its answer
            why = f"{type(error).__name__}: {error}"
            return CallResult(text=f"an error occurred when calling {name}: {why}", ok=False)
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        return CallResult(text=str(text), ok=True)


class PlainSandbox:
    """Counts what is lent and given back."""

    def __init__(self) -> None:
        self.lent: list[PlainWorker] = []
        self.returned = 0

    @asynccontextmanager
    async def open(
        self, sources: Mapping[str, str], *, seed: int, published: bool = False
    ) -> AsyncIterator[PlainWorker]:
        worker = PlainWorker(sources, published=published)
        self.lent.append(worker)
        try:
            yield worker
        finally:
            self.returned += 1
