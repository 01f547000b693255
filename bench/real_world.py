"""Environments with executable tools, questions and demonstrations, all written by code.

The things and tools are those of the micro-world; the questions are plain English, so a published
model can read them. Environments for evaluation offer a pair of tools that training never offers
together, and their questions are not asked in training. What a tool returns is drawn anew for each
environment, so nothing can be known without a call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec

from trustee.environments.executable.blueprint import Blueprint, GoldCall, Scenario
from trustee.environments.executable.building.documents import Document
from trustee.environments.executable.building.micro import (
    Read,
    chain_reads,
    divide,
    draw_candidate,
    extend,
    hide_places,
    offer,
    write_sources,
)
from trustee.environments.executable.building.templates import describe_thing, draw_answers
from trustee.environments.micro.tasks import draw_goal
from trustee.environments.micro.world import THINGS
from trustee.environments.prompts import fill_prompt
from trustee.runs.files import write_lines
from trustee.sft.demonstrations import Demonstration
from trustee.tools.values import render_json
from trustee.types import Message, ToolCall

SCENARIOS: tuple[Scenario, ...] = ("single_hop", "parallel_single_hop")
TRAIN, HELD_OUT, DEMONSTRATIONS = "train.jsonl", "held-out.jsonl", "demonstrations.jsonl"
DISTRACTORS = 1
"""Tools of an environment that the question does not need, besides those that it offers anyway."""


def name_place(read: Read) -> str:
    """Return a place as a question names it, such as `room attic`."""
    return f"{THINGS[read.thing].place} {read.place}"


def word_question(reads: Sequence[Read]) -> str:
    """Return the question for some reads; places that a result tells are left out."""
    if any(read.told_by for read in reads):
        first, *others = reads
        text = f"Look up the {first.thing} of {name_place(first)}."
        for before, read in zip(reads, others, strict=False):
            thing = THINGS[read.thing]
            text += f" It names the {thing.place} of a {thing.name}: look up that {thing.name}."
            assert before.thing != read.thing, "a chain reads different things"
        return f"{text} Report all values."
    parts = [
        f"the {THINGS[read.thing].kind} of the {read.thing} of {name_place(read)}" for read in reads
    ]
    return f"What is {', and what is '.join(parts)}?"


def draw_reads(scenario: Scenario, rng: random.Random, *, reserved: bool) -> Blueprint | None:
    """Draw an environment of a scenario; None if its things cannot form one."""
    spec = draw_candidate(
        scenario,
        rng,
        distractors=DISTRACTORS,
        reserved="always" if reserved else "never",
    )
    tools = [spec.offered[i % len(spec.offered)] for i in range(min(spec.aspects.calls, 2))]
    goals = [draw_goal(rng, tool) for tool in tools]
    reads = chain_reads(goals, scenario)
    if reads is None or len({(read.thing, read.place) for read in reads}) < len(reads):
        return None
    said = " ".join(read.place for read in reads if not read.told_by)
    reads = hide_places(reads, said, rng)
    answers = draw_answers([THINGS[read.thing].kind for read in reads], rng)
    question = word_question(reads)
    parts = [part.answer for part in divide(reads, answers, question).parts]
    finds = {read.told_by: THINGS[read.thing] for read in reads if read.told_by}
    named = [
        describe_thing(THINGS[read.thing], finds=finds.get(number))
        for number, read in enumerate(reads, 1)
    ]
    documents: dict[str, Document] = {document.name: document for document in named}
    documents |= extend(spec, documents, rng)
    gold = tuple(
        GoldCall(
            name=document.name, arguments={THINGS[read.thing].place: read.place}, answer=answer
        )
        for document, read, answer in zip(named, reads, parts, strict=True)
    )
    names = rng.sample(sorted(documents), len(documents))
    return Blueprint(
        id="drawn",
        question=question,
        scenario=scenario,
        tools=tuple(offer(documents[name]) for name in names),
        sources=write_sources(reads, documents, answers, rng),
        unsolved={
            document.name: tuple(call.answer for call in gold if call.name == document.name)
            for document in named
        },
        answer=", ".join(map(str, answers)),
        gold=gold,
    )


def draw_blueprints(
    seed: int, *, reserved: bool, without: Collection[str] = ()
) -> Iterator[Blueprint]:
    """Yield environments of all scenarios in turn, but for some questions.

    A question may come again with other tools beside it, and always with other values.
    """
    rng = random.Random(f"{seed} real {reserved}")
    for number, scenario in enumerate(cycle(SCENARIOS), 1):
        drawn = None
        while drawn is None or drawn.question in without:
            drawn = draw_reads(scenario, rng, reserved=reserved)
        name = f"{'held-out' if reserved else 'train'}-{number:05d}"
        yield msgspec.structs.replace(drawn, id=name)


def run_gold(blueprint: Blueprint, call: GoldCall) -> str:
    """Return the text of a gold call's result; the code is this module's own."""
    namespace: dict[str, Callable[..., Any]] = {}
    exec(blueprint.sources[call.name], namespace)
    return render_json(namespace[call.name](**call.arguments))


def word_answer(blueprint: Blueprint) -> str:
    """Return a demonstration's final answer, which says each value that was asked for."""
    values = blueprint.answer.split(", ")
    kinds = [THINGS[call.name.split("_", 1)[1]] for call in blueprint.gold]
    said = [
        f"the {thing.kind} of the {thing.name} is {value}"
        for thing, value in zip(kinds, values, strict=True)
    ]
    text = " and ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def demonstrate(blueprint: Blueprint, *, prompts: str) -> Demonstration:
    """Return the gold calls of an environment as a conversation."""
    messages = [
        Message(role="system", content=fill_prompt(prompts, "agent_ftrl")),
        Message(role="user", content=blueprint.question),
    ]
    chained = blueprint.scenario == "multi_hop"
    rounds = [[call] for call in blueprint.gold] if chained else [list(blueprint.gold)]
    number = 0
    for calls in rounds:
        ids = [f"call-{number + place}" for place in range(len(calls))]
        number += len(calls)
        made = tuple(
            ToolCall(id=name, name=call.name, arguments=call.arguments)
            for name, call in zip(ids, calls, strict=True)
        )
        messages.append(Message(role="assistant", calls=made))
        messages += [
            Message(role="tool", content=run_gold(blueprint, call), call_id=name)
            for name, call in zip(ids, calls, strict=True)
        ]
    messages.append(Message(role="assistant", content=word_answer(blueprint)))
    return Demonstration(task_id=blueprint.id, tools=blueprint.tools, messages=tuple(messages))


def write_world(
    folder: Path, *, seed: int, train: int, held_out: int, demonstrations: int, prompts: str
) -> None:
    """Write environments for training and for evaluation, and demonstrations of other ones."""
    kept = list(islice(draw_blueprints(seed, reserved=True), held_out))
    asked = {blueprint.question for blueprint in kept}
    source = draw_blueprints(seed, reserved=False, without=asked)
    drawn = list(islice(source, train + demonstrations))
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / HELD_OUT, kept)
    write_lines(folder / TRAIN, drawn[:train])
    write_lines(
        folder / DEMONSTRATIONS, [demonstrate(one, prompts=prompts) for one in drawn[train:]]
    )
