"""llama.cpp as an engine, on a server that only looks like it, and on the built-in model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from golden_errors import ErrorCheck
from trustee.engine.model_files import TINY
from trustee.engine.protocol import Sampling
from trustee.errors import ContextError, EngineDied, InputError, RunError
from trustee.export.answers import answer_greedily, load_model
from trustee.export.gguf_file import write_gguf
from trustee.export.llama_child import has_llama
from trustee.export.llama_engine import POLICY, LlamaEngine, open_llama
from trustee.export.speech import read_speech
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.rendering.tokenizer import FolderTokenizer
from trustee.types import Message

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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not (has_llama() and find_spec("gguf")), reason="no gguf or xllamacpp")
async def test_a_file_says_what_transformers_says(tmp_path: Path) -> None:
    """On the built-in model: the greedy answer is the same, with the mark that ends it."""
    style = ChatStyle()
    tokenizer = FolderTokenizer(TINY, style)
    speech = read_speech(tokenizer, style, turn_end="<|im_end|>")
    write_gguf(TINY, None, tmp_path / "m.gguf", speech=speech, quant="f32", name="base")
    prompt = Renderer.load(TINY).open(
        (Message(role="user", content="please set the lamp in hall to level 7"),), ()
    )
    (expected,) = answer_greedily(load_model(TINY), [prompt], stop_ids=speech.stop_ids)
    async with open_llama(tmp_path / "m.gguf", context=256, stop_ids=speech.stop_ids) as engine:
        said = [
            await engine.generate(
                prompt,
                Sampling(max_tokens=most, temperature=0.0),
                adapter=POLICY,
                request_id="a",
            )
            for most in (3, len(expected.ids))
        ]
    assert [expected.ids[:3], expected.ids] == [one.ids for one in said]
    assert "length" == said[0].stop
    ended = expected.ids[-1] in speech.stop_ids
    assert ("stop" if ended else "length") == said[1].stop


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.skipif(not has_llama(), reason="no xllamacpp")
async def test_a_file_that_is_none(tmp_path: Path) -> None:
    """llama.cpp ends on it, which is told."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(RunError, match=r"did not load .*m\.gguf"):
        async with open_llama(tmp_path / "m.gguf", context=256, stop_ids=[1]):
            pass
