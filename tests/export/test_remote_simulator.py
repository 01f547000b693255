"""The simulator behind an endpoint: what is asked there, and what becomes of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from served_script import Served, serve_script
from trustee.engine.script import Request
from trustee.environments.simulated.rules import Rules
from trustee.environments.simulator import WARM, RoleSampling
from trustee.errors import SimulatorError
from trustee.export.remote_simulator import SimulatedRules, open_simulator
from trustee.types import Message, Record, Role

RULES = Rules(
    prompts="tiny", verdict="facts", thoughts=False, withheld=(), calls_at_once=0, result_chars=0
)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"second": {"type": "string"}, "first": {"type": "string"}},
        "required": ["second", "first"],
        "additionalProperties": False,
    }
)


class Answer(Record, frozen=True):
    """An answer of two fields."""

    second: str
    first: str


def ask(
    script: Callable[[Request], str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    sampling: RoleSampling,
    check: Callable[[Answer], str | None] = lambda answer: None,
    key: str = "",
) -> tuple[Answer, Served]:
    """Ask a served script in the judge's role."""
    world = SimulatedRules(
        rules=RULES, roles={Role.JUDGE: sampling}, tries=2, base="scripted", turns=3
    )

    async def run() -> Answer:
        async with open_simulator(world) as simulator:
            return await simulator.ask(
                Role.JUDGE,
                [Message(role="system", content="Be fair."), Message(role="user", content="Well?")],
                answer=Answer,
                schema=SCHEMA,
                seed=7,
                check=check,
            )

    with serve_script(script, folder, key="secret") as served:
        monkeypatch.setenv("TRUSTEE_SIMULATOR_URL", f"{served.address}/v1")
        monkeypatch.setenv("TRUSTEE_SIMULATOR_KEY", key)
        monkeypatch.delenv("TRUSTEE_SIMULATOR_MODEL", raising=False)
        return anyio.run(run), served


def say(first: str) -> str:
    """Write an answer."""
    return json.dumps({"second": "2", "first": first})


def test_it_is_asked_as_the_engine_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt, schema and sampling arrive whole; a refused cold answer is asked for warmly."""
    sampling = RoleSampling(temperature=0.0, max_tokens=300, top_p=0.9, top_k=5, penalty=0.5)
    answer, served = ask(
        lambda request: say("no" if request.sampling.temperature == 0 else "yes"),
        tmp_path,
        monkeypatch,
        sampling=sampling,
        check=lambda answer: "not that" if answer.first == "no" else None,
        key="secret",
    )
    assert answer.first == "yes"
    cold, warm = served.engine.requests
    assert cold.adapter is None
    assert "system\nBe fair." in cold.prompt
    assert "user\nWell?" in cold.prompt
    # The grammar's order of fields is the order in which a model thinks.
    assert json.dumps(json.loads(cold.sampling.schema or "")) == SCHEMA
    for request, temperature, seed in ((cold, 0.0, 7), (warm, WARM, 8)):
        sent = request.sampling
        assert (sent.temperature, sent.seed, sent.max_tokens) == (temperature, seed, 300)
        assert (sent.top_p, sent.top_k, sent.penalty) == (0.9, 5, 0.5)


def test_an_answer_that_is_cut_off_is_a_failed_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last one the episode fails, by the role's fault."""
    sampling = RoleSampling(temperature=1.0, max_tokens=3)
    with pytest.raises(SimulatorError, match=r"judge gave no usable answer in 2 tries.*cut off"):
        ask(lambda request: say("yes"), tmp_path, monkeypatch, sampling=sampling, key="secret")


def test_a_wrong_key_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says who refused, and not what was sent."""
    sampling = RoleSampling(temperature=1.0, max_tokens=300)
    with pytest.raises(SimulatorError, match="refused") as caught:
        ask(lambda request: say("yes"), tmp_path, monkeypatch, sampling=sampling, key="wr0ng-k3y")
    assert "wr0ng-k3y" not in str(caught.value)
