"""llama.cpp as an engine: ids in, ids out, so that held-out tasks can be played through a file.

The file is loaded in a process of its own, which says its address through a pipe and ends when its
input is closed. Answers are whatever the file says; there is one model in it, so the roles of a
simulated world cannot be played.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from trustee.decoding import decode_json
from trustee.engine.protocol import Sampling
from trustee.errors import ContextError, EngineDied, InputError, RunError
from trustee.types import Adapter, Completion

if TYPE_CHECKING:
    from httpx2 import AsyncClient

START_SECONDS = 900.0
"""Longest time that loading a file may take."""
ANSWER_SECONDS = 1800.0
"""Longest time of one answer."""
POLICY = Adapter(version=1, path=Path())
"""How the model of the file is named in episodes."""


class LlamaEngine:
    """The model of one GGUF file."""

    def __init__(self, client: AsyncClient, *, context: int, stop_ids: Sequence[int]) -> None:
        self._client = client
        self._context = context
        self._stop_ids = tuple(stop_ids)

    @property
    def context(self) -> int:
        """Maximum length of prompt plus completion, in tokens."""
        return self._context

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        """Complete `ids`; logprobs are not asked for and are all 0.

        Raises:
            ContextError: if prompt and `max_tokens` do not fit `context`.
            InputError: if a role of the simulator is asked for, which is not in the file.
            EngineDied: if llama.cpp does not answer.
        """
        from httpx2 import HTTPError

        if adapter is None:
            raise InputError(
                "a file holds the policy alone, and the held-out tasks of this run need its base "
                "for the roles around it; play them with trustee eval, and leave out --play"
            )
        if len(ids) + sampling.max_tokens > self._context:
            raise ContextError(
                f"{len(ids)} prompt tokens and {sampling.max_tokens} new ones exceed the context "
                f"of {self._context}"
            )
        asked = {
            "prompt": list(ids),
            "n_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed or 0,
            "cache_prompt": True,
            "return_tokens": True,
        }
        try:
            reply = await self._client.post("/completion", json=asked)
            reply.raise_for_status()
        except HTTPError as error:
            raise EngineDied(f"llama.cpp did not answer request {request_id}: {error}") from error
        answer: dict[str, Any] = decode_json(reply.content, dict[str, Any], error=RunError)
        said = tuple(int(id) for id in answer["tokens"])
        stopped = answer["stop_type"] == "eos"
        if stopped and not (said and said[-1] in self._stop_ids):
            # The mark that ended the answer is not among its tokens.
            said = (*said, self._stop_ids[0])
        return Completion(
            ids=said,
            logprobs=(0.0,) * len(said),
            stop="stop" if stopped else "length",
            version=adapter.version,
        )

    async def publish(self, adapter: Adapter) -> None:
        """Do nothing: the file holds one model."""

    async def retire(self, adapter: Adapter) -> None:
        """Do nothing: the file holds one model."""


@asynccontextmanager
async def open_llama(
    file: Path, *, context: int, stop_ids: Sequence[int]
) -> AsyncIterator[LlamaEngine]:
    """Load a GGUF file and yield its engine.

    Raises:
        RunError: if llama.cpp cannot load it in time.
    """
    from httpx2 import AsyncClient

    reading, writing = os.pipe()
    command = [sys.executable, "-m", __name__, str(file), str(context), str(writing)]
    nowhere = subprocess.DEVNULL
    async with await anyio.open_process(
        command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, pass_fds=[writing]
    ) as child:
        os.close(writing)
        try:
            address = ""
            with anyio.move_on_after(START_SECONDS):
                address = await anyio.to_thread.run_sync(_read_all, reading, abandon_on_cancel=True)
            if not address:
                raise RunError(
                    f"llama.cpp did not load {file} within {START_SECONDS:.0f} s, or ended"
                )
            async with AsyncClient(base_url=address, timeout=ANSWER_SECONDS) as client:
                yield LlamaEngine(client, context=context, stop_ids=stop_ids)
        finally:
            child.kill()


def _read_all(handle: int) -> str:
    """Return what a pipe says until its other end is closed."""
    with os.fdopen(handle, "rb") as pipe:
        return pipe.read().decode()


def serve(file: str, context: int, pipe: int) -> None:
    """Load a file, say the address of its server, and serve until the input is closed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = context
    params.n_parallel = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    os.write(pipe, server.listening_address.encode())
    os.close(pipe)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
