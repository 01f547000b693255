"""A scripted engine that keeps what it was asked and what it sampled."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from trustee.engine.protocol import Hear, Sampling
from trustee.engine.script import Script
from trustee.engine.scripted import ScriptedEngine
from trustee.types import Adapter, Completion


class RecordingEngine(ScriptedEngine):
    """Keeps prompts and completions; no two logprobs are alike."""

    def __init__(self, script: Script, *, context: int = 4096, version: int | None = None) -> None:
        super().__init__(script, context=context)
        self.heard: list[tuple[tuple[int, ...], Completion]] = []
        self._version = version
        """The version that all completions name; None is the script's own."""

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        adapter: Adapter | None,
        request_id: str,
        hear: Hear | None = None,
    ) -> Completion:
        """Sample, change the logprobs, and keep it."""
        said = await super().generate(
            ids, sampling, adapter=adapter, request_id=request_id, hear=hear
        )
        logprobs = tuple(-1 / (3 + len(self.heard) + n) for n in range(len(said.ids)))
        version = said.version if self._version is None else self._version
        said = replace(said, logprobs=logprobs, version=version)
        self.heard.append((tuple(ids), said))
        return said
