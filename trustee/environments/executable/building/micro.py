"""Environments for the built-in model: it writes the question, code does the rest.

The writer only knows its micro-world, so it is asked as usual for things to read, and its query is
the question. Scenarios: one read; two or three reads; a chain, in which the query omits a place
that an earlier result contains; and a chain plus another read. The tools' results are drawn from a
seed, so no value can be known without a call.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import count, product

import msgspec

from trustee.environments.executable.blueprint import Blueprint, GoldCall, Scenario
from trustee.environments.executable.building.candidate import BuildStage, Decomposition, Flaw, Part
from trustee.environments.executable.building.decomposition import check_decomposition
from trustee.environments.executable.building.documents import (
    Document,
    check_document,
    check_names,
    check_scaling,
)
from trustee.environments.executable.building.gold import check_call, check_calls
from trustee.environments.executable.building.lint import check_source
from trustee.environments.executable.building.stages import assemble
from trustee.environments.executable.building.templates import (
    describe_thing,
    draw_answers,
    draw_extra,
    draw_rows,
    write_reader,
    write_writer,
)
from trustee.environments.executable.building.workshop import Workshop
from trustee.environments.micro.tasks import RESERVED_ONE_IN
from trustee.environments.micro.world import PLACES, THINGS, TOOLS, Goal, ask_for, fact, goal_of
from trustee.environments.simulated.curriculum import PERSONAS, Aspects, Persona
from trustee.environments.simulated.roles import (
    WrittenTask,
    check_task,
    writer_prompt,
    writer_schema,
)
from trustee.environments.splits import is_reserved
from trustee.types import Record, Role, Tool

CATEGORIES = sorted({thing.category for thing in THINGS.values()})
DISTRACTOR_DRAWS = 50
"""Attempts to draw tools and distractors before one distractor fewer is tried."""


class CandidateSpec(Record, frozen=True):
    """The tools and aspects from which a candidate is made."""

    aspects: Aspects
    offered: tuple[Tool, ...]
    """Reading tools that are offered to the writer."""
    further: tuple[Tool, ...]
    """Other tools of the same category, which the writer does not see."""


class Read(Record, frozen=True):
    """One thing to read."""

    thing: str
    place: str
    told_by: int
    """Number of the read whose result contains the place, from 1; 0 if the question has it."""


def draw_candidate(
    scenario: Scenario, rng: random.Random, *, distractors: int, reserved: str
) -> CandidateSpec:
    """Draw the tools and aspects of a candidate."""
    calls = {
        "single_hop": 1,
        "parallel_single_hop": rng.choice((2, 2, 3)),
        "multi_hop": rng.choice((2, 2, 3)),
        "parallel_multi_hop": 3,
    }[scenario]
    least = 1 if scenario.endswith("single_hop") else calls
    for attempt in count():
        # Many tools of one category almost always include a reserved pair, so offer fewer then.
        further_tools = max(distractors - attempt // DISTRACTOR_DRAWS, int(reserved == "always"))
        category = rng.choice(CATEGORIES)
        tools = [tool for tool in TOOLS if tool.category == category]
        reads = rng.sample([t for t in tools if t.effect == "read"], rng.randint(least, calls))
        others = [tool for tool in tools if tool not in reads]
        further = rng.sample(others, min(further_tools, len(others)))
        held_out = is_reserved([*reads, *further], one_in=RESERVED_ONE_IN)
        if reserved == "either" or held_out == (reserved == "always"):
            break
    aspects = Aspects(
        tools=len(reads),
        calls=calls,
        turns=1,
        guidance="generic",
        persona=rng.choice(PERSONAS),
        ambiguity="clear",
        strictness=1,
    )
    return CandidateSpec(aspects=aspects, offered=tuple(reads), further=tuple(further))


async def construct_micro(shop: Workshop, scenario: Scenario) -> tuple[Blueprint, Decomposition]:
    """Make a candidate of the micro-world; its id is set later.

    Raises:
        Rejected: if a stage returned nothing usable.
    """
    rng = shop.rng("micro")
    distractors = rng.randint(*shop.config.distractors)
    spec = draw_candidate(scenario, rng, distractors=distractors, reserved=shop.config.reserved)
    with shop.at(BuildStage.DECOMPOSITION):
        written, query = await ask_writer(shop, spec, scenario)
        question = leave_out(query, written)
        reads = hide_places(written, question, rng)
        answers = draw_answers([THINGS[read.thing].kind for read in reads], rng)
        parts = divide(reads, answers, question)
        shop.material["decomposition"] = parts
        shop.refuse(check_decomposition(parts, scenario=scenario))
    documents, gold = describe_reads(shop, reads, parts)
    with shop.at(BuildStage.SCALING):
        widened = widen(shop, documents, gold, parts, rng)
        further = extend(spec, widened, rng)
        shop.refuse(check_names([*widened.values(), *further.values()]))
    with shop.at(BuildStage.DEPLOYMENT):
        sources = write_sources(reads, widened | further, answers, rng)
        tools = {name: offer(document) for name, document in (widened | further).items()}
        for name, source in sources.items():
            shop.refuse(check_source(source, tools[name]))
    order = rng.sample(sorted(tools), len(tools))
    blueprint = assemble(
        parts,
        scenario=scenario,
        tools=[tools[name] for name in order],
        sources=sources,
        gold=gold,
    )
    return msgspec.structs.replace(blueprint, answer=word_answer(reads, answers)), parts


async def ask_writer(
    shop: Workshop, spec: CandidateSpec, scenario: Scenario
) -> tuple[tuple[Read, ...], str]:
    """Have the writer choose what to read and write the query; return the reads and the query."""
    persona = spec.aspects.persona

    def check(task: WrittenTask) -> Flaw | None:
        reason = check_task(task, spec.offered, spec.aspects)
        if reason is not None:
            return Flaw(kind="task", text=reason)
        goals = [goal_of(call) for call in task.expected_calls]
        if not all(map(is_known, goals)):
            return Flaw(kind="task", text="a place is not part of the micro-world")
        reads = chain_reads(goals, scenario)
        if reads is None:
            things = [goal.thing for goal in goals]
            return Flaw(
                kind="same_thing", text=f"{things} repeat a thing and cannot form a {scenario}"
            )
        if match_query(reads, task.query, persona=persona) is None:
            return Flaw(kind="wording", text=f"the query {task.query!r} does not ask for its calls")
        return None

    written = await shop.ask(
        writer_prompt(shop.config.prompts, spec.offered, spec.aspects),
        answer=WrittenTask,
        grammar=writer_schema(spec.offered, spec.aspects),
        check=check,
        role=Role.WRITER,
        tag="writer",
    )
    reads = chain_reads([goal_of(call) for call in written.expected_calls], scenario)
    asked = None if reads is None else match_query(reads, written.query, persona=persona)
    assert asked is not None, "an answer that passed its check has reads"
    return asked, written.query


def match_query(reads: Sequence[Read], query: str, *, persona: Persona) -> tuple[Read, ...] | None:
    """Return the reads that a query asks for; only places that a result contains may differ."""
    choices = [PLACES[THINGS[r.thing].place] if r.told_by else (r.place,) for r in reads]
    for places in product(*choices):
        goals = [
            Goal(thing=read.thing, place=place, value=None)
            for read, place in zip(reads, places, strict=True)
        ]
        if ask_for(goals, persona) == query:
            return tuple(
                Read(thing=read.thing, place=place, told_by=read.told_by)
                for read, place in zip(reads, places, strict=True)
            )
    return None


def is_known(goal: Goal) -> bool:
    """Return whether a goal's place exists for its thing."""
    return goal.place in PLACES[THINGS[goal.thing].place]


def chain_reads(goals: Sequence[Goal], scenario: Scenario) -> tuple[Read, ...] | None:
    """Choose which read's result contains which place; None if repeated things make it ambiguous.

    In a chain, each result contains the place of the next read. With another read, the place of the
    last one is in the result of the first thing that is read only once, so that it is in no other.
    """
    things = [goal.thing for goal in goals]
    told = [0] * len(goals)
    if scenario == "multi_hop":
        if len({*things}) < len(things):
            return None
        told = list(range(len(goals)))
    elif scenario == "parallel_multi_hop":
        once = [number for number, thing in enumerate(things[:-1], 1) if things.count(thing) == 1]
        if not once:
            return None
        told[-1] = once[0]
    return tuple(
        Read(thing=goal.thing, place=goal.place, told_by=by)
        for goal, by in zip(goals, told, strict=True)
    )


def hide_places(reads: Sequence[Read], question: str, rng: random.Random) -> tuple[Read, ...]:
    """Draw the places that results contain, each of which is not in the question."""
    said = {word for word in question.split() if any(word in group for group in PLACES.values())}
    hidden = []
    for read in reads:
        place = read.place
        if read.told_by:
            place = rng.choice([p for p in PLACES[THINGS[read.thing].place] if p not in said])
            said.add(place)
        hidden.append(Read(thing=read.thing, place=place, told_by=read.told_by))
    return tuple(hidden)


def leave_out(query: str, reads: Sequence[Read]) -> str:
    """Return a query without the places that a result contains."""
    pieces = query.split(" and ")
    for index, read in enumerate(reads):
        if read.told_by:
            for form in (f" in {read.place}", f" {read.place}"):
                pieces[index] = pieces[index].replace(form, "")
    return " and ".join(pieces)


def divide(reads: Sequence[Read], answers: Sequence[int | str], question: str) -> Decomposition:
    """Return the parts; an answer is the value read plus, if any, the place of the next read."""
    next_place = {read.told_by: read.place for read in reads if read.told_by}
    parts = []
    for number, (read, value) in enumerate(zip(reads, answers, strict=True), 1):
        place = f"#{read.told_by}" if read.told_by else read.place
        answer = f"{value}, {next_place[number]}" if number in next_place else str(value)
        parts.append(
            Part(
                question=f"read {read.thing} {place}",
                answer=answer,
                needs=(read.told_by,) if read.told_by else (),
            )
        )
    return Decomposition(question=question, parts=tuple(parts))


def describe_reads(
    shop: Workshop, reads: Sequence[Read], parts: Decomposition
) -> tuple[dict[str, Document], tuple[GoldCall, ...]]:
    """Stages 2 and 3 by code: one document for all reads of a thing, and the calls."""
    answers = [part.answer for part in parts.parts]
    finds = {read.told_by: THINGS[read.thing] for read in reads if read.told_by}
    with shop.at(BuildStage.DOCUMENTS):
        named = [
            describe_thing(THINGS[read.thing], finds=finds.get(number))
            for number, read in enumerate(reads, 1)
        ]
        for document in named:
            shop.refuse(check_document(document, answers))
    with shop.at(BuildStage.INTEGRATION):
        documents = {document.name: document for document in named}
        shop.refuse(check_names(tuple(documents.values())))
    with shop.at(BuildStage.CALLS):
        gold = tuple(
            GoldCall(
                name=document.name,
                arguments={THINGS[read.thing].place: read.place},
                answer=answer,
            )
            for document, read, answer in zip(named, reads, answers, strict=True)
        )
        for number, call in enumerate(gold, 1):
            tool = documents[call.name].tool
            shop.refuse(check_call(call.arguments, tool, parts, number))
        shop.refuse(check_calls(gold))
    return documents, gold


def widen(
    shop: Workshop,
    documents: Mapping[str, Document],
    gold: Sequence[GoldCall],
    parts: Decomposition,
    rng: random.Random,
) -> dict[str, Document]:
    """Stage 4 by code: some tools get an optional parameter."""
    widened = {}
    for name, before in documents.items():
        extra = draw_extra(THINGS[name.split("_", 1)[1]], rng)
        widened[name] = before
        if extra is not None:
            after = msgspec.structs.replace(before, parameters=(*before.parameters, extra))
            calls = [call for call in gold if call.name == name]
            answers = [part.answer for part in parts.parts]
            shop.refuse(check_scaling(after, before, calls=calls, answers=answers))
            widened[name] = after
    return widened


def extend(
    spec: CandidateSpec, documents: Mapping[str, Document], rng: random.Random
) -> dict[str, Document]:
    """Return the tools that no part needs: those the writer did not use, and the further ones."""
    found = {}
    for tool in (*spec.offered, *spec.further):
        if tool.name not in documents:
            thing = THINGS[tool.name.split("_", 1)[1]]
            found[tool.name] = describe_thing(thing, writes=tool.effect == "write")
    return found


def write_sources(
    reads: Sequence[Read],
    documents: Mapping[str, Document],
    answers: Sequence[int | str],
    rng: random.Random,
) -> dict[str, str]:
    """Stage 5 by code: tables in which only the gold calls find their answers."""
    finds = {read.told_by: read for read in reads if read.told_by}
    sources = {}
    for name, document in documents.items():
        verb, thing_name = name.split("_", 1)
        thing = THINGS[thing_name]
        if verb == "set":
            sources[name] = write_writer(document, thing)
            continue
        gold: dict[str, dict[str, int | str]] = {}
        kind = ""
        for number, (read, value) in enumerate(zip(reads, answers, strict=True), 1):
            if read.thing == thing_name:
                gold[read.place] = {thing.kind: value}
                if number in finds:
                    kind = thing.place
                    gold[read.place][kind] = finds[number].place
        rows = draw_rows(thing, gold, answers, rng, finds=kind)
        sources[name] = write_reader(document, thing, rows, answers)
    return sources


def offer(document: Document) -> Tool:
    """Return the tool that the policy sees, with the micro-world's effect and category."""
    verb, thing = document.name.split("_", 1)
    return msgspec.structs.replace(
        document.tool,
        effect="write" if verb == "set" else "read",
        category=THINGS[thing].category,
    )


def word_answer(reads: Sequence[Read], answers: Sequence[int | str]) -> str:
    """Return the final answer: the facts of the reads that no other read needs."""
    used = {read.told_by for read in reads}
    return ", ".join(
        fact(read.thing, read.place, value)
        for number, (read, value) in enumerate(zip(reads, answers, strict=True), 1)
        if number not in used
    )
