"""The scripted engine keeps the contract of all engines, and its learner lets a loop run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_contract import CONTRACT, Subject
from trustee.algorithm.learner import FinishRequest, MicroRequest
from trustee.algorithm.loss import LossConfig
from trustee.engine.script import Request
from trustee.engine.scripted import (
    MARKS,
    STOP,
    ByteTokenizer,
    ScriptedEngine,
    ScriptedLearner,
    scripted_renderer,
)
from trustee.errors import EngineError
from trustee.types import Adapter

pytestmark = pytest.mark.anyio


async def speak(request: Request) -> str:
    """Answer at once where asked for little, and slowly where asked for much."""
    version = request.adapter.version if request.adapter else 0
    if request.prompt != "long":
        return f"version {version}"
    await anyio.sleep(request.sampling.max_tokens / 1000)
    return f"{version} tells a long story" * 20


def make_subject() -> Subject:
    """Put a scripted engine under the contract."""
    engine = ScriptedEngine(speak, context=256)

    async def publish(version: int) -> Adapter:
        adapter = Adapter(version=version, path=Path(f"policy-{version}"))
        await engine.publish(adapter)
        return adapter

    return Subject(
        engine=engine,
        encode=lambda text: tuple(ByteTokenizer().encode(text)),
        stop_ids=(STOP,),
        publish=publish,
        running=lambda: len(engine.running),
        short="short",
        long="long",
    )


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_scripted_engine_keeps_the_contract(
    check: Callable[[Subject], Awaitable[None]],
) -> None:
    """Every check that real engines pass, the scripted one passes."""
    await check(make_subject())


async def test_script_is_asked_what_the_engine_was_asked() -> None:
    """A script sees prompt, adapter, sampling and request id, and the engine keeps them all."""
    subject = make_subject()
    assert isinstance(subject.engine, ScriptedEngine)
    await CONTRACT[0](subject)
    assert ["long"] * 3 == [request.prompt for request in subject.engine.requests]
    assert [1, 4, 200] == [r.sampling.max_tokens for r in subject.engine.requests]


async def test_retiring_twice_is_an_error() -> None:
    """A version can be forgotten once."""
    subject = make_subject()
    adapter = await subject.publish(1)
    await subject.engine.retire(adapter)
    with pytest.raises(EngineError, match="policy-000001 is not published"):
        await subject.engine.retire(adapter)


@given(st.text())
def test_tokenizer_round_trip(text: str) -> None:
    """Any text comes back from its ids, marks among it or not."""
    tokenizer = ByteTokenizer()
    assert text == tokenizer.decode(tokenizer.encode(text))


@given(st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=5))))
def test_tokenizer_gives_each_mark_one_id(parts: list[str]) -> None:
    """A mark is one id wherever it stands; everything else is bytes."""
    text = "".join(parts)
    ids = ByteTokenizer().encode(text)
    assert sum(text.count(mark) for mark in MARKS) == sum(i >= 256 for i in ids)
    assert text == ByteTokenizer().decode(ids)


def test_renderer_passes_its_self_test() -> None:
    """The scripted model can be trained token by token, like a real one."""
    scripted_renderer().self_test()


async def test_learner_keeps_what_it_is_given(tmp_path: Path) -> None:
    """Micro-batches and ends of steps are kept, and a version is published with a folder."""
    engine = ScriptedEngine(speak)
    learner = ScriptedLearner(engine)
    micro = MicroRequest(samples=(), loss=LossConfig(), normaliser=1.0)
    end = FinishRequest(learning_rate=1e-3, max_norm=1.0, move=False)
    adapter = Adapter(version=1, path=tmp_path / "adapters" / "policy-000001")
    assert learner.report == await learner.accumulate(micro)
    assert not (await learner.finish(end)).moved
    await learner.publish(adapter)
    await learner.save(tmp_path)
    await learner.load_adapter(adapter)
    assert ([micro], [end], [adapter]) == (learner.requests, learner.finished, learner.loaded)
    assert ({1: adapter}, True) == (engine.known, adapter.path.is_dir())
    assert 1 == json.loads((tmp_path / "steps.json").read_text())


def test_scripted_engine_needs_no_torch() -> None:
    """Whoever tests an environment needs neither torch nor vLLM nor transformers."""
    code = (
        "import sys, trustee.engine.scripted, trustee.environments;"
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == ran.stdout
