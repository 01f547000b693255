"""Environments of the micro-world: every scenario, by a faultless writer, tried in a sandbox."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from building_answers import make_simulator
from plain_sandbox import PlainSandbox
from scripts import write_task
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.blueprint import Blueprint, Scenario
from trustee.environments.executable.blueprint_files import read_blueprints
from trustee.environments.executable.building.build import build
from trustee.environments.executable.building.folder import identity
from trustee.environments.executable.building.micro import (
    Read,
    chain_reads,
    draw_candidate,
    hide_places,
    leave_out,
    match_query,
)
from trustee.environments.executable.building.probes import ProbeCall
from trustee.environments.executable.building.report import BuildReport, Passage
from trustee.environments.executable.building.verification import run_probes
from trustee.environments.executable.building.workshop import BuildConfig
from trustee.environments.executable.matching import tells
from trustee.environments.micro.tasks import RESERVED_ONE_IN
from trustee.environments.micro.world import PLACES, THINGS, TOOLS, VALUES, Goal, fact
from trustee.environments.splits import is_reserved
from trustee.sandbox.calls import Sandbox, SandboxConfig
from trustee.sandbox.host import ProcessSandbox

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
TINY = BuildConfig(prompts="tiny", distractors=(1, 2), parallel=4)
KNOWN = {
    *THINGS,
    *VALUES,
    *(place for places in PLACES.values() for place in places),
    *("please", "read", "the", "of", "in", "and", "hi", ",", "can", "you", "?"),
}
"""Words of the micro-world's queries."""


async def run_build(
    folder: Path,
    *,
    count: int,
    config: BuildConfig = TINY,
    scenario: Scenario | None = None,
    writer: Callable[[Request], str] = write_task,
    sandbox: Sandbox | None = None,
) -> tuple[BuildReport, list[Blueprint]]:
    """Build with a scripted writer and read what was built."""
    report = await build(
        config,
        count=count,
        seed=5,
        folder=folder,
        simulator=make_simulator(ScriptedEngine(writer), tries=2),
        sandbox=sandbox or PlainSandbox(),
        emit=lambda event: None,
        scenario=scenario,
    )
    if not report.accepted:
        return report, []
    loaded = read_blueprints(folder / "blueprints")
    assert () == loaded.refused
    return report, list(loaded.blueprints)


async def play_gold(blueprint: Blueprint) -> list[dict[str, Any]]:
    """Make the gold calls and give their results."""
    probes = [
        ProbeCall(kind="gold", name=call.name, arguments=call.arguments) for call in blueprint.gold
    ]
    outcomes = await run_probes(probes, blueprint.sources, PlainSandbox(), seed=1)
    return [json.loads(outcome.text) for outcome in outcomes]


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenario_can_be_built_and_played(tmp_path: Path, scenario: Scenario) -> None:
    """A faultless writer's candidates are all accepted, and a policy of the world can play them."""
    report, built = await run_build(tmp_path, count=6, scenario=scenario)
    assert {scenario: Passage(entered=6, passed=6)} == report.scenarios
    for blueprint in built:
        assert set(blueprint.question.split()) <= KNOWN
        said, reported = blueprint.question.split(), []
        for call, result in zip(blueprint.gold, await play_gold(blueprint), strict=True):
            thing = THINGS[call.name.removeprefix("read_")]
            (place,) = call.arguments.values()
            assert place in said
            said += [str(value) for value in result.values()]
            reported.append(fact(thing.name, place, result[thing.kind]))
        assert tells("ok , " + " ; ".join(reported), blueprint.answer)


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", ["multi_hop", "parallel_multi_hop"])
async def test_question_leaves_out_what_a_result_tells(tmp_path: Path, scenario: Scenario) -> None:
    """In a chain some argument stands in an earlier result and nowhere before."""
    _, built = await run_build(tmp_path, count=4, scenario=scenario)
    for blueprint in built:
        words = blueprint.question.split()
        places = [place for call in blueprint.gold for place in call.arguments.values()]
        hidden = [place for place in places if place not in words]
        assert hidden
        earlier = " / ".join(call.answer for call in blueprint.gold[:-1])
        assert all(tells(earlier, place) for place in hidden)


@pytest.mark.anyio
async def test_tools_are_those_of_the_world(tmp_path: Path) -> None:
    """Names, places and required parameters are as in the micro-world; some have one more."""
    _, built = await run_build(tmp_path, count=16)
    known = {tool.name: tool for tool in TOOLS}
    widened = 0
    for blueprint in built:
        assert {known[tool.name].category for tool in blueprint.tools} == {
            blueprint.tools[0].category
        }
        for tool in blueprint.tools:
            world = known[tool.name]
            assert (world.effect, world.parameters["required"]) == (
                tool.effect,
                tool.parameters["required"],
            )
            own = tool.parameters["properties"]
            assert world.parameters["properties"].items() <= own.items()
            widened += len(own) > len(world.parameters["properties"])
    assert widened > 0
    assert any(tool.effect == "write" for blueprint in built for tool in blueprint.tools)


@pytest.mark.anyio
async def test_builds_are_equal_and_their_environments_differ(tmp_path: Path) -> None:
    """Equal seeds build equal environments; no two of a build are the same."""
    _, first = await run_build(tmp_path / "first", count=24)
    _, second = await run_build(tmp_path / "second", count=24)
    assert first == second
    assert 24 == len({identity(blueprint) for blueprint in first})


@pytest.mark.anyio
@pytest.mark.parametrize(("reserved", "held_out"), [("never", False), ("always", True)])
async def test_reserved_pairs_are_kept_apart(tmp_path: Path, reserved: str, held_out: bool) -> None:
    """Environments to train on offer no reserved pair, those held out always do."""
    config = msgspec.convert(msgspec.to_builtins(TINY) | {"reserved": reserved}, BuildConfig)
    _, built = await run_build(tmp_path, count=8, config=config)
    assert [held_out] * 8 == [is_reserved(b.tools, one_in=RESERVED_ONE_IN) for b in built]
    assert [held_out] * 8 == [b.provenance["reserved"] for b in built]


def change(**changed: Any) -> Callable[[Request], str]:
    """Let the writer change parts of its answer."""
    return lambda request: json.dumps(json.loads(write_task(request)) | changed)


def repeat_thing(request: Request) -> str:
    """Read one thing in all places."""
    written = json.loads(write_task(request))
    calls = written["expected_calls"]
    name = calls[0]["name"]
    thing = THINGS[name.removeprefix("read_")]
    places = PLACES[thing.place][: len(calls)]
    intent = " ; ".join(f"read {thing.name} {place}" for place in places)
    return json.dumps(
        {
            "persona": "expert",
            "intent": intent,
            "expected_calls": [{"name": name, "arguments": {thing.place: p}} for p in places],
            "query": intent.replace(" ;", " and"),
        }
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "writer"),
    [
        ("wording", change(query="read the lamp in hall , read the fan in attic , please")),
        ("task", change(query="")),
        ("task", change(intent="read nothing")),
        ("task", change(expected_calls=[])),
        ("same_thing", repeat_thing),
        ("unreadable", lambda request: "no"),
    ],
)
async def test_writer_that_fails_is_refused(
    tmp_path: Path, kind: str, writer: Callable[[Request], str]
) -> None:
    """What the writer gets wrong ends the candidate at the first stage."""
    config = msgspec.structs.replace(TINY, attempts=2)
    if kind == "wording":
        writer = keep_values(writer)
    report, _ = await run_build(
        tmp_path, count=1, config=config, scenario="multi_hop", writer=writer
    )
    assert {f"decomposition: {kind}": 2} == report.reasons


def keep_values(writer: Callable[[Request], str]) -> Callable[[Request], str]:
    """Let a changed query still say every value, so that only its wording is wrong."""

    def write(request: Request) -> str:
        written = json.loads(writer(request))
        values = [p for call in written["expected_calls"] for p in call["arguments"].values()]
        return json.dumps(written | {"query": f"tell me {' , '.join(values)}"})

    return write


@pytest.mark.anyio
async def test_environments_run_in_the_real_sandbox(tmp_path: Path) -> None:
    """What the plain sandbox of these tests accepts, the real one accepts too."""
    async with ProcessSandbox(SandboxConfig(isolation="none")) as sandbox:
        report, built = await run_build(tmp_path / "real", count=4, sandbox=sandbox)
    assert (4, 4) == (report.accepted, report.candidates)
    assert built == (await run_build(tmp_path / "plain", count=4))[1]


def goals(*things: str) -> list[Goal]:
    """Make reads of things of one place each."""
    return [
        Goal(thing=thing, place=place, value=None)
        for thing, place in zip(things, PLACES["room"], strict=False)
    ]


@pytest.mark.parametrize(
    ("told", "scenario", "things"),
    [
        ([0], "single_hop", ("lamp",)),
        ([0, 0], "parallel_single_hop", ("lamp", "lamp")),
        ([0, 1, 2], "multi_hop", ("lamp", "fan", "blind")),
        (None, "multi_hop", ("lamp", "fan", "lamp")),
        ([0, 0, 1], "parallel_multi_hop", ("lamp", "fan", "blind")),
        ([0, 0, 2], "parallel_multi_hop", ("lamp", "fan", "lamp")),
        ([0, 0, 1], "parallel_multi_hop", ("lamp", "fan", "fan")),
        (None, "parallel_multi_hop", ("lamp", "lamp", "fan")),
    ],
)
def test_place_is_told_by_one_result_alone(
    told: list[int] | None, scenario: Scenario, things: tuple[str, ...]
) -> None:
    """Only a thing that is read once tells a place, so the question stays clear."""
    reads = chain_reads(goals(*things), scenario)
    assert told == (None if reads is None else [read.told_by for read in reads])


@pytest.mark.parametrize(
    ("place", "query"),
    [
        ("attic", "read lamp hall and read fan attic"),
        ("study", "read lamp hall and read fan study"),
        (None, "read lamp attic and read fan study"),
        (None, "read lamp hall and read fan"),
        (None, "please read the lamp in hall and read the fan in attic"),
    ],
)
def test_query_may_name_any_place_that_is_told(place: str | None, query: str) -> None:
    """The place that a result tells is left out anyway; all else must be as the calls say."""
    asked = match_query(CHAIN, query, persona="expert")
    assert place == (None if asked is None else asked[1].place)


CHAIN = (
    Read(thing="lamp", place="hall", told_by=0),
    Read(thing="fan", place="attic", told_by=1),
)


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        ("read lamp hall and read fan", "read lamp hall and read fan attic"),
        (
            "hi , can you read the lamp in hall and read the fan ?",
            "hi , can you read the lamp in hall and read the fan in attic ?",
        ),
    ],
)
def test_told_places_are_left_out(expected: str, query: str) -> None:
    """Only the place that a result tells is taken out of the query."""
    assert expected == leave_out(query, CHAIN)


def test_hidden_places_are_not_said() -> None:
    """A place to be found is never one that the question names."""
    question = "read lamp hall and read fan"
    drawn = {hide_places(CHAIN, question, random.Random(n))[1].place for n in range(80)}
    assert {*PLACES["room"]} - {"hall"} == drawn


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_chains_offer_a_tool_for_each_read(scenario: Scenario) -> None:
    """The writer of a chain has as many tools as it must call; else one may serve several."""
    specs = [
        draw_candidate(scenario, random.Random(n), distractors=1, reserved="never")
        for n in range(60)
    ]
    fewer = {len(spec.offered) < spec.aspects.calls for spec in specs}
    assert ({False, True} if scenario == "parallel_single_hop" else {False}) == fewer


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(("distractors", "reserved"), [(6, "never"), (0, "always")])
def test_specs_is_found_where_the_wanted_number_of_tools_allows_none(
    scenario: Scenario, distractors: int, reserved: str
) -> None:
    """Where many tools would hold a reserved pair fewer are offered, and for a pair one more."""
    for n in range(20):
        spec = draw_candidate(
            scenario, random.Random(n), distractors=distractors, reserved=reserved
        )
        tools = [*spec.offered, *spec.further]
        assert (reserved == "always") == is_reserved(tools, one_in=RESERVED_ONE_IN)
