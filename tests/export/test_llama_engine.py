"""llama.cpp as an engine, on a server that only looks like it, and on the built-in model."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from golden_errors import ErrorCheck
from trustee.engine.protocol import Sampling
from trustee.errors import ContextError, EngineDied, InputError
from trustee.export.llama_engine import POLICY, LlamaEngine

pytestmark = pytest.mark.anyio
STOP = 7


def engine_of(answer: dict[str, Any] | int, seen: list[dict[str, Any]]) -> LlamaEngine:
    """Give an engine whose server gives one answer, or a status."""

    def reply(request: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(request.content))
        if isinstance(answer, int):
            return httpx2.Response(answer)
        return httpx2.Response(200, json=answer)

    client = httpx2.AsyncClient(base_url="http://127.0.0.1", transport=httpx2.MockTransport(reply))
    return LlamaEngine(client, context=64, stop_ids=[STOP, 9])


@pytest.mark.parametrize(
    ("tokens", "stop_type", "said", "stop"),
    [
        ([1, 2], "eos", (1, 2, STOP), "stop"),
        ([1, 2, 9], "eos", (1, 2, 9), "stop"),
        ([], "eos", (STOP,), "stop"),
        ([1, 2, 3], "limit", (1, 2, 3), "length"),
    ],
)
async def test_answers_are_those_of_an_engine(
    tokens: list[int], stop_type: str, said: tuple[int, ...], stop: str
) -> None:
    """The mark that ended an answer is its last id, whether or not the server names it."""
    seen: list[dict[str, Any]] = []
    engine = engine_of({"tokens": tokens, "stop_type": stop_type}, seen)
    found = await engine.generate(
        (5, 6), Sampling(max_tokens=3, temperature=0.0), adapter=POLICY, request_id="a"
    )
    assert (said, stop, 1) == (found.ids, found.stop, found.version)
    assert len(found.ids) == len(found.logprobs)
    assert ([5, 6], 3, 0.0) == tuple(seen[0][k] for k in ("prompt", "n_predict", "temperature"))


async def test_what_it_cannot_answer(check_error: ErrorCheck) -> None:
    """Roles of a simulator, prompts that are too long, and a server that is gone."""
    seen: list[dict[str, Any]] = []
    engine = engine_of(500, seen)
    few = Sampling(max_tokens=3)
    with pytest.raises(InputError) as caught:
        await engine.generate((1,), few, adapter=None, request_id="a")
    check_error(caught, "--play", "trustee eval")
    with pytest.raises(ContextError):
        await engine.generate((1,) * 62, few, adapter=POLICY, request_id="a")
    assert [] == seen
    with pytest.raises(EngineDied, match="request b"):
        await engine.generate((1,), few, adapter=POLICY, request_id="b")
