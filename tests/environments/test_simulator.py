"""Asking a role: tries are counted and bounded, blamed and seeded; the grammar goes along."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio.lowlevel
import pytest

from golden_errors import ErrorCheck
from qwen_tokenizer import FEW, write_model
from trustee.engine.protocol import Sampling
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine, scripted_renderer
from trustee.environments.engine_simulator import EngineSimulator
from trustee.environments.simulator import Asked, RoleSampling, Simulator
from trustee.errors import EngineError, SimulatorError
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.types import Adapter, Completion, Message, Record, Role

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
    simulator = EngineSimulator(
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
    simulator = EngineSimulator(
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


PUBLISHED = RoleSampling(
    temperature=0.6, max_tokens=60, thinking=True, top_p=0.95, top_k=20, penalty=0.1, tries=2
)
"""A voice with all its settings, short enough for a test."""


def think(
    *texts: str, voice: RoleSampling = PUBLISHED, tries: int = 3
) -> tuple[ScriptedEngine, Simulator, list[Asked]]:
    """Make a simulator whose judge thinks, and whose engine says these texts in turn."""
    said, heard = iter(texts), list[Asked]()
    engine = ScriptedEngine(lambda request: next(said))
    simulator = EngineSimulator(
        engine,
        scripted_renderer(),
        sampling_by_role={
            Role.JUDGE: voice,
            Role.USER: RoleSampling(temperature=0.3, max_tokens=60),
        },
        tries=tries,
        observer=heard.append,
    )
    return engine, simulator, heard


async def test_grammar_applies_behind_the_thought() -> None:
    """The thought is free and stops at its end; the answer continues it, under the grammar."""
    engine, simulator, heard = think('{"n": 9}? no.</think>', '{"n": 3}')
    assert Answer(n=3) == await ask(simulator)
    thinking, answering = (request.sampling for request in engine.requests)
    assert (None, 60, SCHEMA, 60 - 14) == (
        thinking.schema,
        thinking.max_tokens,
        answering.schema,
        answering.max_tokens,
    )
    assert (1, ()) == (len(thinking.stop_ids), answering.stop_ids)
    first, second = (request.prompt for request in engine.requests)
    assert first.endswith("assistant\n<think>")
    assert f'{first}{{"n": 9}}? no.</think>' == second
    assert ({"judge": 1}, {}, {"judge": 14 + 9}) == (
        simulator.asked,
        simulator.rejected,
        simulator.tokens,
    )
    (asked,) = heard
    assert ('{"n": 9}? no.', '{"n": 3}', 23) == (asked.thought, asked.answer, asked.written)


async def test_whole_voice_reaches_the_engine() -> None:
    """Every request of a role, its thought's too, is sampled as the role's settings say."""
    engine, simulator, _ = think("a</think>", "{", "b</think>", '{"n": 1}')
    await ask(simulator)
    assert [(0.6, 0.95, 20, 0.1)] * 4 == [
        (s.temperature, s.top_p, s.top_k, s.penalty)
        for s in (request.sampling for request in engine.requests)
    ]
    assert [5, 5, 6, 6] == [request.sampling.seed for request in engine.requests]


@pytest.mark.parametrize(
    ("thought", "why"),
    [
        ("x" * 99, "its thought did not end within 60 tokens"),
        ("x" * 59 + "</think>", "its thought did not end within 60 tokens"),
        ('{"n": 3}', "it ended its turn within its thought"),
    ],
)
async def test_thought_without_an_end_is_a_failed_try(thought: str, why: str) -> None:
    """No answer is looked for in it: the role is asked again, and the try is counted."""
    engine, simulator, heard = think(thought, "well</think>", '{"n": 4}')
    assert Answer(n=4) == await ask(simulator)
    assert 3 == len(engine.requests)
    assert ({"judge": 2}, {"judge": 1}, {"judge unfinished": 1}) == (
        simulator.asked,
        simulator.rejected,
        simulator.refusals,
    )
    assert [why, None] == [asked.refusal for asked in heard]


async def test_tries_of_a_role_are_its_own(check_error: ErrorCheck) -> None:
    """A role with a number of tries has those; the others have the common number."""
    _, simulator, _ = think(*["x" * 60] * 2, *["{"] * 3)
    with pytest.raises(SimulatorError) as caught:
        await ask(simulator)
    check_error(caught, "judge gave no usable answer in 2 tries", "did not end within 60 tokens")
    with pytest.raises(SimulatorError, match="user gave no usable answer in 3 tries"):
        await ask(simulator, role=Role.USER)
    assert {"judge unfinished": 2, "user unreadable": 3} == simulator.refusals
    assert {"judge": 2, "user": 3} == simulator.rejected


async def test_refusals_are_told_apart() -> None:
    """What cannot be read and what is refused by its check are counted apart."""
    _, simulator = make("{", '{"n": -1}', '{"n": 4}', tries=4)
    await ask(simulator, check=lambda a: "negative" if a.n < 0 else None)
    assert {"judge unreadable": 1, "judge refused": 1} == simulator.refusals


async def test_prompts_are_counted_once_an_answer() -> None:
    """Tokens in are those of the prompt, once for each try, whether the role thinks or not."""
    _, simulator, _ = think("a</think>", '{"n": 1}', '{"n": 1}')
    await ask(simulator, prompt="how")
    await ask(simulator, role=Role.USER, prompt="how")
    prompt = len(scripted_renderer().open((Message(role="user", content="how"),), ()))
    assert {"judge": prompt + 1, "user": prompt} == simulator.read


class QwenEngine:
    """Says texts in the ids of a real tokenizer, and stops where it is told to."""

    context = 4096

    def __init__(self, renderer: Renderer, *texts: str) -> None:
        self._renderer = renderer
        self._said = iter(texts)
        self.asked: list[tuple[str, Sampling]] = []

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, adapter: Adapter | None, request_id: str
    ) -> Completion:
        await anyio.lowlevel.checkpoint()
        self.asked.append((self._renderer.decode(ids), sampling))
        sampled = self._renderer._tokenizer.encode(next(self._said))
        ends = {*self._renderer.stop_ids, *sampling.stop_ids}
        at = next((at for at, id in enumerate(sampled) if id in ends), len(sampled) - 1)
        return Completion(
            ids=tuple(sampled[: at + 1]), logprobs=(0.0,) * (at + 1), stop="stop", version=0
        )


@pytest.mark.parametrize("policy_thinks", [False, True])
async def test_roles_think_in_the_marks_of_a_real_template(
    tmp_path: Path, policy_thinks: bool
) -> None:
    """On Qwen3's template each role thinks or not by its own setting, whatever the policy does."""
    renderer = Renderer.load(
        write_model(tmp_path / "model", template="qwen3", words=FEW),
        ChatStyle(thinking=policy_thinks, cuts_thoughts=True),
    )
    engine = QwenEngine(
        renderer, "Three.\n</think>\n\nno", '{"n": 3}<|im_end|>', '{"n": 5}<|im_end|>'
    )
    simulator = EngineSimulator(
        engine,  # type: ignore[arg-type]  # only what a request needs
        renderer,
        sampling_by_role={
            Role.JUDGE: PUBLISHED,
            Role.USER: RoleSampling(temperature=0.0, max_tokens=60),
        },
        tries=1,
    )
    assert Answer(n=3) == await ask(simulator)
    assert Answer(n=5) == await ask(simulator, role=Role.USER)
    (thinking, _), (answering, _), (silent, _) = engine.asked
    begin = "<|im_start|>user\nhow many?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert begin == thinking
    assert f"{begin}Three.\n</think>\n\n" == answering
    assert f"{begin}\n</think>\n\n" == silent
