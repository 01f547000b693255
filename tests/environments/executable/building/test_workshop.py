"""What making a candidate may use: jobs side by side, reasons that are kept, clocks that stop."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import anyio
import pytest

from building_answers import make_simulator
from plain_sandbox import PlainSandbox
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.building.candidate import BuildStage, Flaw, Rejected
from trustee.environments.executable.building.workshop import BuildConfig, Workshop, side_by_side
from trustee.types import Record

pytestmark = pytest.mark.anyio


class Number(Record, frozen=True):
    """An answer."""

    value: int


def make_shop(
    script: Callable[[Request], str], *, key: str = "k", seconds: float = 60.0, tries: int = 3
) -> Workshop:
    """Make a workshop over a script."""
    simulator = make_simulator(ScriptedEngine(script), tries=tries)
    config = BuildConfig(seconds=seconds)
    return Workshop(config, key=key, simulator=simulator, sandbox=PlainSandbox())


async def ask(shop: Workshop, tag: str = "t") -> Number:
    """Ask for a number above five."""

    def check(given: Number) -> Flaw | None:
        return None if given.value > 5 else Flaw(kind="small", text=f"{given.value} is too small")

    return await shop.ask("?", answer=Number, grammar="{}", check=check, tag=tag)


async def test_ask_repeats_until_an_answer_passes() -> None:
    """Refused answers are asked for again."""
    values = iter((1, 2, 7))
    shop = make_shop(lambda request: json.dumps({"value": next(values)}))
    assert Number(value=7) == await ask(shop)


async def test_last_flaw_is_the_reason() -> None:
    """When no try passes, the candidate ends with what the check said, at its stage."""
    values = iter((1, 2, 3))
    shop = make_shop(lambda request: json.dumps({"value": next(values)}))
    with shop.at(BuildStage.CALLS), pytest.raises(Rejected) as caught:
        await ask(shop)
    assert BuildStage.CALLS == caught.value.stage
    assert Flaw(kind="small", text="3 is too small") == caught.value.flaw


async def test_answer_of_another_type_is_unreadable() -> None:
    """An answer that is no JSON of its type has a reason of its own."""
    shop = make_shop(lambda request: "seven")
    with pytest.raises(Rejected) as caught:
        await ask(shop)
    assert "unreadable" == caught.value.flaw.kind


async def test_seeds_depend_on_key_and_purpose() -> None:
    """Equal keys and tags give equal seeds; another of either gives another seed."""
    seeds: list[int | None] = []

    def script(request: Request) -> str:
        seeds.append(request.sampling.seed)
        return '{"value": 9}'

    for key, tag in (("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")):
        await ask(make_shop(script, key=key), tag)
    assert (seeds[0], 3) == (seeds[1], len(set(seeds)))


async def test_stage_that_takes_too_long_ends_the_candidate() -> None:
    """A stage has its own deadline, and its time is counted also when it failed."""
    shop = make_shop(lambda request: "", seconds=0.01)
    with pytest.raises(Rejected) as caught, shop.at(BuildStage.SCALING):
        await anyio.sleep_forever()
    assert (BuildStage.SCALING, "deadline") == (caught.value.stage, caught.value.flaw.kind)
    assert shop.seconds[BuildStage.SCALING] > 0


async def test_jobs_give_results_in_order() -> None:
    """Results stand in the order of the jobs, whichever was first."""
    order: list[int] = []

    def job(number: int, wait: anyio.Event, done: anyio.Event) -> Callable[[], Awaitable[int]]:
        async def do() -> int:
            await wait.wait()
            order.append(number)
            done.set()
            return number

        return do

    first, second, last = anyio.Event(), anyio.Event(), anyio.Event()
    first.set()
    results = await side_by_side([job(0, second, last), job(1, first, second)])
    assert ([0, 1], [1, 0]) == (results, order)


async def test_one_refusal_ends_all_jobs() -> None:
    """The first refusal is raised by itself, and nobody waits for the others."""

    async def refuse() -> int:
        raise Rejected(BuildStage.DOCUMENTS, Flaw(kind="x", text="no"))

    async def wait() -> int:
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(5), pytest.raises(Rejected):
        await side_by_side([wait, refuse, wait])
