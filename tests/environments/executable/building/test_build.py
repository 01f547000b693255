"""A whole build with scripted answers: what is accepted, what is refused, and what stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import anyio
import msgspec
import pytest

from building_answers import (
    FAULTLESS,
    LANGUAGE,
    Script,
    decomposition,
    document,
    function,
    good_parts,
    make_simulator,
    parameter,
    part,
    prompt_of,
    script_builder,
)
from plain_sandbox import PlainSandbox
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.blueprint import Blueprint, GoldCall, Scenario
from trustee.environments.executable.blueprint_files import read_blueprints
from trustee.environments.executable.building.build import build
from trustee.environments.executable.building.candidate import BuildStage, Decomposition
from trustee.environments.executable.building.documents import Document
from trustee.environments.executable.building.report import (
    BuildReport,
    Passage,
    Rejection,
    report_text,
)
from trustee.environments.executable.building.workshop import BuildConfig
from trustee.errors import InputError, RunError
from trustee.events import CandidateBuilt, CandidateRejected, Emit, Event, Note
from trustee.runs.store import read_lines
from trustee.sandbox.calls import Sandbox, SandboxConfig
from trustee.sandbox.host import ProcessSandbox

pytestmark = pytest.mark.anyio
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
ONCE = BuildConfig(attempts=1, tries=1, distractors=(1, 1), parallel=2)


async def run_build(
    folder: Path,
    *,
    engine: ScriptedEngine | None = None,
    config: BuildConfig = ONCE,
    scenario: Scenario | None = "single_hop",
    count: int = 1,
    seed: int = 0,
    resume: bool = False,
    emit: Emit = lambda event: None,
    sandbox: Sandbox | None = None,
) -> BuildReport:
    """Build with scripted answers, in the plain sandbox unless another is given."""
    return await build(
        config,
        count=count,
        seed=seed,
        folder=folder,
        simulator=make_simulator(engine or script_builder()),
        sandbox=sandbox or PlainSandbox(),
        emit=emit,
        scenario=scenario,
        resume=resume,
    )


def load(folder: Path) -> dict[str, Blueprint]:
    """Read what was built, by id."""
    loaded = read_blueprints(folder / "blueprints")
    assert () == loaded.refused
    return {blueprint.id: blueprint for blueprint in loaded.blueprints}


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_good_answers_are_accepted(tmp_path: Path, scenario: Scenario) -> None:
    """Faultless answers give an environment of each scenario that can be loaded and played."""
    report = await run_build(tmp_path, scenario=scenario)
    assert (1, 1) == (report.accepted, report.candidates)
    blueprint = load(tmp_path)["builder-0-000000"]
    parts = good_parts(scenario, len(blueprint.gold))
    assert parts.question == blueprint.question
    assert parts.answer == blueprint.answer
    assert [p.answer for p in parts.parts] == [call.answer for call in blueprint.gold]
    unsolved = {call.name: (call.answer,) for call in blueprint.gold}
    assert unsolved == blueprint.unsolved
    assert {"list_things_0", *unsolved} == {tool.name for tool in blueprint.tools}
    assert {"list_things_0", *unsolved} == blueprint.sources.keys()


async def test_good_answers_run_in_the_real_sandbox(tmp_path: Path) -> None:
    """The real sandbox words errors so that wrong calls are found informative there too."""
    async with ProcessSandbox(SandboxConfig(isolation="none")) as sandbox:
        report = await run_build(tmp_path, scenario="parallel_multi_hop", sandbox=sandbox)
    assert (1, 1) == (report.accepted, report.candidates)


async def test_policy_sees_the_widened_tool(tmp_path: Path) -> None:
    """What stage 4 made is offered, and the gold call of before it still fits."""
    await run_build(tmp_path)
    blueprint = load(tmp_path)["builder-0-000000"]
    tool = next(tool for tool in blueprint.tools if tool.name == "find_height")
    assert ["subject", "language"] == list(tool.parameters["properties"])
    gold = GoldCall(name="find_height", arguments={"subject": "Ostwacht"}, answer="214 m")
    assert (gold,) == blueprint.gold


async def test_merged_tool_owes_two_answers(tmp_path: Path) -> None:
    """A tool that serves two parts is offered once, and owes both answers."""
    two = Decomposition(
        question="How high are the towers Ostwacht and Luginsland?",
        parts=(
            part("How high is the tower Ostwacht?", "214 m"),
            part("How high is the tower Luginsland?", "87 m"),
        ),
    )

    def call(request: Request) -> dict[str, Any]:
        subject = "Ostwacht" if "Ostwacht?\nKnown" in request.prompt else "Luginsland"
        return {"arguments": {"subject": subject}}

    documents = iter(["find_first", "find_second"])
    engine = script_builder(
        decompose=lambda request: decomposition(two),
        document=lambda request: document(next(documents)),
        integrate=lambda request: {"merges": [{"serves": [1, 2], "tool": document("find_height")}]},
        call=call,
    )
    report = await run_build(tmp_path, engine=engine, scenario="parallel_single_hop")
    assert 1 == report.accepted
    blueprint = load(tmp_path)["builder-0-000000"]
    assert {"find_height": ("214 m", "87 m")} == blueprint.unsolved
    assert 2 == len(blueprint.tools)


def source(text: str) -> Script:
    """Answer every request for a function with one text."""
    return lambda request: {"source": text}


def height(body: str) -> Script:
    """Answer with a function of the tower's tool whose body is given."""
    return source(f"def find_height(subject, language='english'):\n{body}")


CHAIN_OF_TWO = decomposition(good_parts("multi_hop", 2))
TOLD = Decomposition(question="Is Ostwacht 214 m high?", parts=good_parts("single_hop", 1).parts)
CHECKED = (
    "    if not isinstance(subject, str):\n"
    "        return {'error': 'subject must be a text'}\n"
    "    if subject != 'Ostwacht':\n"
    "        return {'error': 'nothing is called so'}\n"
)
BAD: list[tuple[str, str, Scenario, dict[str, Script]]] = [
    ("decomposition", "unreadable", "single_hop", {"decompose": lambda r: {"question": 7}}),
    (
        "decomposition",
        "shape",
        "parallel_single_hop",
        {"decompose": lambda r: CHAIN_OF_TWO},
    ),
    (
        "decomposition",
        "count",
        "single_hop",
        {"decompose": lambda r: CHAIN_OF_TWO},
    ),
    (
        "decomposition",
        "leak",
        "single_hop",
        {"decompose": lambda r: decomposition(TOLD)},
    ),
    ("documents", "name", "single_hop", {"document": lambda r: document("Find height")}),
    ("documents", "leak", "single_hop", {"document": lambda r: document("get_214_m")}),
    (
        "integration",
        "merge",
        "multi_hop",
        {"integrate": lambda r: {"merges": [{"serves": [1, 7], "tool": document("do_all")}]}},
    ),
    ("integration", "name", "multi_hop", {"document": lambda r: document("find_fact")}),
    ("calls", "arguments", "single_hop", {"call": lambda r: {"arguments": {}}}),
    (
        "calls",
        "origin",
        "single_hop",
        {"call": lambda r: {"arguments": {"subject": "Luginsland"}}},
    ),
    ("scaling", "not_scaled", "single_hop", {"scale": lambda r: document("find_height")}),
    ("scaling", "not_compatible", "single_hop", {"scale": lambda r: document("find_hights")}),
    (
        "scaling",
        "not_compatible",
        "single_hop",
        {"scale": lambda r: document("find_height", parameter("year", required=True))},
    ),
    ("scaling", "count", "single_hop", {"extend": lambda r: {"tools": []}}),
    (
        "scaling",
        "leak",
        "single_hop",
        {"extend": lambda r: {"tools": [document("list_things", parameter("m", default="214 m"))]}},
    ),
    ("deployment", "syntax", "single_hop", {"deploy": source("def find_height(:")}),
    ("deployment", "not_one_function", "single_hop", {"deploy": source("import re")}),
    ("deployment", "signature", "single_hop", {"deploy": source("def find_height(x): return 1")}),
    ("deployment", "import", "single_hop", {"deploy": height("    import os\n")}),
    ("deployment", "forbidden", "single_hop", {"deploy": height("    return eval(subject)\n")}),
    ("deployment", "no_gold", "single_hop", {"deploy": height(f"{CHECKED}    return '12 m'\n")}),
    (
        "deployment",
        "no_error",
        "single_hop",
        {"deploy": height("    return '214 m' if subject == 'Ostwacht' else 'none'\n")},
    ),
    (
        "deployment",
        "uninformative",
        "single_hop",
        {
            "deploy": height(
                "    if subject != 'Ostwacht':\n        return {'error': 'bad'}\n"
                "    return '214 m'\n"
            )
        },
    ),
    (
        "deployment",
        "gold_in_error",
        "single_hop",
        {"deploy": height("    return '214 m'\n")},
    ),
    (
        "deployment",
        "insensitive",
        "single_hop",
        {
            "deploy": height(
                "    if not isinstance(subject, str):\n"
                "        return {'error': 'subject must be a text'}\n"
                "    return '214 m'\n"
            )
        },
    ),
    (
        "verification",
        "not_deterministic",
        "single_hop",
        {
            "deploy": height(
                f"{CHECKED}    import statistics\n"
                "    return '214 m, ' + str(statistics.random.random())\n"
            ),
            "extend": lambda r: {"tools": [document("list_things")]},
        },
    ),
]


@pytest.mark.parametrize(
    ("stage", "kind", "scenario", "scripts"), BAD, ids=[f"{s}-{k}" for s, k, _, _ in BAD]
)
async def test_bad_answers_are_refused_where_they_are_given(
    tmp_path: Path, stage: str, kind: str, scenario: Scenario, scripts: dict[str, Script]
) -> None:
    """Each fault ends the candidate at its stage, with its reason and what was made so far."""
    config = msgspec.structs.replace(ONCE, distractors=(0, 0))
    if "extend" in scripts:
        config = ONCE
    faultless = FAULTLESS["deploy"]
    deploy = scripts.get("deploy")
    if deploy is not None:
        kept = deploy
        scripts = scripts | {
            "deploy": lambda r: faultless(r) if "def list_things" in r.prompt else kept(r)
        }
    report = await run_build(
        tmp_path, engine=script_builder(**scripts), scenario=scenario, config=config
    )
    assert 0 == report.accepted
    assert {f"{stage}: {kind}": 1} == report.reasons
    (line,) = read_lines(tmp_path / "rejected.jsonl", Rejection)
    assert (stage, kind, 0, 0, scenario) == (
        line.stage,
        line.kind,
        line.place,
        line.attempt,
        line.scenario,
    )
    assert "topic" in line.material or "blueprint" in line.material
    assert not list((tmp_path / "blueprints").iterdir())


async def test_distractor_that_knows_the_answer_is_refused(tmp_path: Path) -> None:
    """A tool nobody needs must not bring what another tool owes."""
    faultless = FAULTLESS["deploy"]

    def deploy(request: Request) -> dict[str, Any]:
        if "def list_things_0" in request.prompt:
            return {"source": "def list_things_0(subject):\n    return {'found': '214 m'}\n"}
        return faultless(request)

    report = await run_build(tmp_path, engine=script_builder(deploy=deploy))
    assert {"verification: leak": 1} == report.reasons


async def test_result_that_tells_a_later_answer_is_refused(tmp_path: Path) -> None:
    """A chain whose first result holds the second answer is no chain."""
    faultless = FAULTLESS["deploy"]

    def deploy(request: Request) -> dict[str, Any]:
        if "def find_keeper" in request.prompt:
            told = {"Brennhof": "Tilda Maren with BK-2093"}
            return {"source": function("find_keeper", told)}
        return faultless(request)

    report = await run_build(tmp_path, engine=script_builder(deploy=deploy), scenario="multi_hop")
    assert {"verification: leak": 1} == report.reasons


async def test_function_is_asked_for_again_with_what_was_wrong(tmp_path: Path) -> None:
    """A function that fails its calls is mended, and the prompt says how it failed."""
    faultless = FAULTLESS["deploy"]
    asked: list[str] = []

    def deploy(request: Request) -> dict[str, Any]:
        if "def find_height" not in request.prompt:
            return faultless(request)
        asked.append(request.prompt)
        wrong = function("find_height", {"Ostwacht": "213 m"})
        return {"source": wrong} if len(asked) == 1 else faultless(request)

    config = msgspec.structs.replace(ONCE, tries=2)
    report = await run_build(tmp_path, engine=script_builder(deploy=deploy), config=config)
    assert (1, 2) == (report.accepted, len(asked))
    assert ["Your last function was wrong" in prompt for prompt in asked] == [False, True]
    assert "the result must contain '214 m'" in asked[1]


async def test_same_question_is_accepted_once(tmp_path: Path) -> None:
    """The second environment with the same question and tools is refused."""
    report = await run_build(tmp_path, count=2)
    assert (1, 2) == (report.accepted, report.candidates)
    assert {"verification: duplicate": 1} == report.reasons


async def test_places_take_scenarios_in_turn(tmp_path: Path) -> None:
    """Four places have four scenarios, whatever order they are finished in."""
    report = await run_build(tmp_path, scenario=None, count=4)
    assert dict.fromkeys(SCENARIOS, Passage(entered=1, passed=1)) == report.scenarios
    assert [f"builder-0-00000{n}" for n in range(4)] == sorted(load(tmp_path))


async def test_stage_has_a_deadline(tmp_path: Path) -> None:
    """An engine that does not answer costs a candidate its time and no more."""

    async def sleep(request: Request) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    config = msgspec.structs.replace(ONCE, seconds=0.01)
    report = await run_build(tmp_path, engine=ScriptedEngine(sleep, context=60000), config=config)
    assert {"decomposition: deadline": 1} == report.reasons


class Died(RunError):
    """Stands for an engine that died, or a kill."""


def names_with_place(request: Request) -> dict[str, Any]:
    """Give each seed a tower of its own."""
    number = request.sampling.seed
    return decomposition(
        Decomposition(
            question=f"How high is the tower T{number}?",
            parts=(part(f"How high is the tower T{number}?", "214 m"),),
        )
    )


def call_by_question(request: Request) -> dict[str, Any]:
    """Call with the tower of the question."""
    name = request.prompt.partition("is the tower ")[2].partition("?")[0]
    return {"arguments": {"subject": name}}


async def test_killed_build_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """A build that died twice and was continued has the files of one that ran through."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def scripts(limit: int) -> ScriptedEngine:
        asked = iter(range(limit))

        def guard(request: Request) -> str:
            if next(asked, None) is None:
                raise Died("killed")
            made = FAULTLESS | {"decompose": names_with_place, "call": call_by_question}
            if request.sampling.seed is not None and request.sampling.seed % 3 == 0:
                made = made | {"document": lambda r: document("Nothing")}
            return json.dumps(made[prompt_of(request)](request))

        return ScriptedEngine(guard, context=60000)

    config = msgspec.structs.replace(ONCE, attempts=9)
    full = await run_build(whole, engine=scripts(10**6), config=config, count=6)
    for limit in (11, 17):
        with pytest.raises(ExceptionGroup):
            await run_build(
                broken, engine=scripts(limit), config=config, count=6, resume=broken.exists()
            )
    again = await run_build(broken, engine=scripts(10**6), config=config, count=6, resume=True)
    assert 6 == len(load(whole))
    assert load(whole) == load(broken)
    assert 0 < len(full.reasons)
    assert (full.stages, full.reasons) == (again.stages, again.reasons)
    lines = [read_lines(path / "rejected.jsonl") for path in (whole, broken)]
    first, second = (
        sorted(found, key=lambda line: (line["place"], line["attempt"])) for found in lines
    )
    assert first == second


async def test_build_goes_on_to_more(tmp_path: Path) -> None:
    """A finished build can be continued to a larger count; what was there stays."""
    engine = script_builder(decompose=names_with_place, call=call_by_question)
    await run_build(tmp_path, engine=engine, count=2)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "blueprints").iterdir()}
    report = await run_build(tmp_path, engine=engine, count=3, resume=True)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "blueprints").iterdir()}
    assert 3 == report.accepted
    assert before == {name: after[name] for name in before}


async def test_folder_of_another_build_is_refused(tmp_path: Path) -> None:
    """Without --resume nothing is overwritten, and with it seed and config must be the same."""
    await run_build(tmp_path)
    with pytest.raises(InputError, match="already contains a build; give --resume"):
        await run_build(tmp_path)
    with pytest.raises(InputError, match="was built with other settings: seed was 0, now 1"):
        await run_build(tmp_path, seed=1, resume=True)


async def test_events_count_up(tmp_path: Path) -> None:
    """Each candidate is told with its outcome and how far the build is."""
    events: list[Event] = []
    await run_build(tmp_path, count=2, emit=events.append)
    told = [
        (type(event), event.accepted, event.candidates)
        for event in events
        if isinstance(event, CandidateBuilt | CandidateRejected)
    ]
    assert [(CandidateBuilt, 1, 1), (CandidateRejected, 1, 2)] == told
    assert Note(text="place 1 stays empty (build.attempts)") == events[-1]


async def test_report_is_written_and_readable(tmp_path: Path) -> None:
    """The report on disk is the one that is returned, and its text names stages and reasons."""
    report = await run_build(tmp_path, count=2)
    assert report == msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=BuildReport)
    assert list(BuildStage) == list(report.stages)
    assert Passage(entered=2, passed=1) == report.stages[BuildStage.VERIFICATION]
    text = report_text(report)
    assert text.startswith("1 of 2 environments from 2 candidates, 2.0 tools each\n")
    assert "      1  verification: duplicate" in text


def test_distractors_must_be_bounds() -> None:
    """Bounds the wrong way round are refused by name."""
    with pytest.raises(InputError, match=r"build\.distractors"):
        BuildConfig(distractors=(3, 1))


def test_answers_are_the_documents_of_the_package() -> None:
    """What the script writes is what the builder's grammar allows."""
    made = msgspec.convert(document("find_height", LANGUAGE), Document)
    assert "def find_height(subject, language='english'):" == made.signature
