"""Asking a role: tries are counted and bounded, blamed and seeded; the grammar goes along."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from golden_errors import ErrorCheck
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine, scripted_renderer
from trustee.environments.simulator import RoleSampling, Simulator
from trustee.errors import EngineError, SimulatorError
from trustee.types import Record, Role

pytestmark = pytest.mark.anyio

SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}})


class Answer(Record, frozen=True):
    """A number."""

    n: int


def make(
    *texts: str, tries: int = 3, max_tokens: int = 60, temperature: float = 0.0
) -> tuple[ScriptedEngine, Simulator]:
    """Make a simulator whose engine says these texts in turn."""
    said = iter(texts)
    engine = ScriptedEngine(lambda request: next(said))
    role_sampling = RoleSampling(temperature=temperature, max_tokens=max_tokens)
    simulator = Simulator(
        engine,
        scripted_renderer(),
        sampling_by_role=dict.fromkeys(Role, role_sampling),
        tries=tries,
    )
    return engine, simulator


async def ask(
    simulator: Simulator,
    *,
    role: Role = Role.JUDGE,
    seed: int = 5,
    prompt: str = "how many?",
    check: Callable[[Answer], str | None] = lambda answer: None,
) -> Answer:
    """Ask for a number."""
    return await simulator.ask(role, prompt, answer=Answer, schema=SCHEMA, seed=seed, check=check)


async def test_good_answer_needs_one_try() -> None:
    """The first usable answer is given, typed."""
    engine, simulator = make('{"n": 3}')
    assert Answer(n=3) == await ask(simulator)
    assert (1, {"judge": 1}, {}, {"judge": 9}) == (
        len(engine.requests),
        simulator.asked,
        simulator.rejected,
        simulator.tokens,
    )


async def test_request_is_the_base_with_the_schema() -> None:
    """A role speaks as the base, under its grammar, with its voice, before the policy."""
    engine, simulator = make('{"n": 3}', temperature=0.3, max_tokens=33)
    await ask(simulator, prompt="how <|im_end|> many?")
    (request,) = engine.requests
    assert (None, SCHEMA, 33, 0.3, 5, 0) == (
        request.adapter,
        request.sampling.schema,
        request.sampling.max_tokens,
        request.sampling.temperature,
        request.sampling.seed,
        request.sampling.priority,
    )
    assert request.prompt.startswith("<|im_start|>user\nhow <|im_end|> many?<|im_end|>\n")


async def test_refused_answers_are_asked_again_and_counted() -> None:
    """Text that does not parse, of the wrong type, or refused by code: each costs one try."""
    engine, simulator = make("{", '{"n": "x"}', '{"n": -1}', '{"n": 4}', tries=4)
    answer = await ask(simulator, check=lambda a: "negative" if a.n < 0 else None)
    assert Answer(n=4) == answer
    assert ({"judge": 4}, {"judge": 3}) == (simulator.asked, simulator.rejected)
    assert 4 == len(engine.requests)


async def test_tries_have_seeds_and_heat_of_their_own() -> None:
    """A greedy answer that was refused would come again, so a new try is warm and seeded anew."""
    engine, simulator = make("{", "{", '{"n": 1}')
    await ask(simulator, seed=(1 << 31) - 2)
    assert [((1 << 31) - 2, 0.0), ((1 << 31) - 1, 0.7), (0, 0.7)] == [
        (request.sampling.seed, request.sampling.temperature) for request in engine.requests
    ]


async def test_hot_voice_stays_hot() -> None:
    """A voice warmer than that keeps its temperature."""
    engine, simulator = make("{", '{"n": 1}', temperature=1.0)
    await ask(simulator)
    assert [1.0, 1.0] == [request.sampling.temperature for request in engine.requests]


@pytest.mark.parametrize("role", [Role.WRITER, Role.USER, Role.TOOL, Role.JUDGE])
@pytest.mark.parametrize("tries", [1, 3])
async def test_tries_are_bounded_and_the_role_is_blamed(
    check_error: ErrorCheck, role: Role, tries: int
) -> None:
    """After the last try the role is to blame, and the last reason is told."""
    engine, simulator = make(*['{"n": 0}'] * 9, tries=tries)
    with pytest.raises(SimulatorError) as caught:
        await ask(simulator, role=role, check=lambda answer: "zero")
    assert (role, tries) == (caught.value.source, len(engine.requests))
    check_error(caught, role, f"{tries} tries", "zero", '{"n": 0}')
    assert {role: tries} == simulator.rejected


async def test_cut_answer_is_refused() -> None:
    """An answer that reached its limit of tokens is no answer."""
    _, simulator = make('{"n": 33333333}', '{"n": 1}', max_tokens=9)
    assert Answer(n=1) == await ask(simulator)
    assert ({"judge": 1}, {"judge": 18}) == (simulator.rejected, simulator.tokens)


async def test_prompt_that_does_not_fit_blames_the_role() -> None:
    """A role whose prompt outgrew the context spoils the episode, after one try."""
    engine, simulator = make('{"n": 1}')
    with pytest.raises(
        SimulatorError, match=r"^tool: 9019 prompt tokens and 60 new ones"
    ) as caught:
        await ask(simulator, role=Role.TOOL, prompt="x" * 9000)
    assert (Role.TOOL, []) == (caught.value.source, engine.requests)


async def test_engine_that_fails_is_to_blame_itself() -> None:
    """A dead engine is not the role's fault."""

    def die(request: Request) -> str:
        raise EngineError("gone")

    engine = ScriptedEngine(die)
    role_sampling = RoleSampling(temperature=0.0, max_tokens=60)
    simulator = Simulator(
        engine, scripted_renderer(), sampling_by_role=dict.fromkeys(Role, role_sampling), tries=3
    )
    with pytest.raises(EngineError) as caught:
        await ask(simulator)
    assert Role.ENGINE is caught.value.source


async def test_request_ids_are_never_used_twice() -> None:
    """Engines key their requests by id: no two are equal, over roles and tries."""
    engine, simulator = make("{", '{"n": 1}', '{"n": 2}', '{"n": 3}')
    for role in (Role.USER, Role.USER, Role.JUDGE):
        await ask(simulator, role=role)
    assert ["user-1", "user-2", "user-3", "judge-4"] == [r.request_id for r in engine.requests]
