"""The five stages with a real model, each with its own prompt, answer type and check.

A stage only sees the results of the stages before it. The answers of the parts are only shown where
they are needed: for writing calls and for writing functions.
Source: FTRL, arXiv 2508.08791, section 3; its prompts are not public, these are our own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from trustee.environments.executable.blueprint import Blueprint, GoldCall, Scenario
from trustee.environments.executable.building.candidate import (
    BuildStage,
    Decomposition,
    Rejected,
    grammar_of,
)
from trustee.environments.executable.building.decomposition import (
    SHAPES,
    check_decomposition,
    draw_count,
)
from trustee.environments.executable.building.documents import (
    Document,
    Extension,
    Integration,
    arguments_grammar,
    check_document,
    check_extension,
    check_integration,
    check_names,
    check_scaling,
    integrate,
)
from trustee.environments.executable.building.gold import Arguments, check_call, check_calls
from trustee.environments.executable.building.lint import MODULES, check_source
from trustee.environments.executable.building.topics import ANGLES, TOPICS
from trustee.environments.executable.building.verification import verify_tool
from trustee.environments.executable.building.workshop import Workshop, side_by_side
from trustee.tools.values import render_json
from trustee.types import Record, Tool


class Function(Record, frozen=True):
    """The answer of the fifth stage."""

    source: Annotated[str, Meta(max_length=6000)]


class Served(Record, frozen=True):
    """A tool and the parts it serves."""

    document: Document
    parts: tuple[int, ...]
    """Numbers of the parts, counted from 1; empty for a tool that no part needs."""


async def construct(shop: Workshop, scenario: Scenario) -> tuple[Blueprint, Decomposition]:
    """Make a candidate in five stages; its id is set later.

    Raises:
        Rejected: if a stage returned nothing usable.
    """
    with shop.at(BuildStage.DECOMPOSITION):
        parts = await decompose(shop, scenario)
    shop.material["decomposition"] = parts
    with shop.at(BuildStage.DOCUMENTS):
        documents = await write_documents(shop, parts)
    with shop.at(BuildStage.INTEGRATION):
        served = await merge_tools(shop, parts, documents)
    shop.material["tools"] = [entry.document for entry in served]
    with shop.at(BuildStage.CALLS):
        gold = await write_calls(shop, parts, served)
    shop.material["gold"] = gold
    with shop.at(BuildStage.SCALING):
        served = await scale(shop, parts, served, gold)
    shop.material["tools"] = [entry.document for entry in served]
    with shop.at(BuildStage.DEPLOYMENT):
        sources = await deploy(shop, served, gold)
    order = shop.rng("order").sample(served, len(served))
    return assemble(
        parts,
        scenario=scenario,
        tools=[entry.document.tool for entry in order],
        sources=sources,
        gold=gold,
    ), parts


def assemble(
    parts: Decomposition,
    *,
    scenario: Scenario,
    tools: Sequence[Tool],
    sources: dict[str, str],
    gold: Sequence[GoldCall],
) -> Blueprint:
    """Assemble a blueprint; each tool has the answers of its calls as unsolved, in their order."""
    return Blueprint(
        id="candidate",
        question=parts.question,
        scenario=scenario,
        tools=tuple(tools),
        sources={tool.name: sources[tool.name] for tool in tools},
        unsolved={
            tool.name: tuple(call.answer for call in gold if call.name == tool.name)
            for tool in tools
            if any(call.name == tool.name for call in gold)
        },
        answer=parts.answer,
        gold=tuple(gold),
    )


async def decompose(shop: Workshop, scenario: Scenario) -> Decomposition:
    """Stage 1: invent a question and its parts."""
    rng = shop.rng("topic")
    count, shape = draw_count(scenario, rng), SHAPES[scenario]
    topic = f"{rng.choice(TOPICS)}. Ask for facts such as {rng.choice(ANGLES)}."
    shop.material["topic"] = topic
    prompt = shop.fill(
        "decompose",
        topic=topic,
        count=str(count),
        rule=shape.rule,
        asked=shape.asked,
    )
    return await shop.ask(
        prompt,
        answer=Decomposition,
        grammar=grammar_of(Decomposition),
        check=lambda given: check_decomposition(given, scenario=scenario, count=count),
        tag="decompose",
    )


def answers_of(parts: Decomposition) -> list[str]:
    """Return the answers of all parts."""
    return [part.answer for part in parts.parts]


async def write_documents(shop: Workshop, parts: Decomposition) -> list[Document]:
    """Stage 2: design one tool for each part."""

    async def write(number: int) -> Document:
        return await shop.ask(
            shop.fill("document", question=parts.parts[number - 1].question),
            answer=Document,
            grammar=grammar_of(Document),
            check=lambda given: check_document(given, answers_of(parts)),
            tag=f"document {number}",
        )

    numbers = range(1, len(parts.parts) + 1)
    return await side_by_side([partial(write, number) for number in numbers])


async def merge_tools(
    shop: Workshop, parts: Decomposition, documents: Sequence[Document]
) -> list[Served]:
    """Stage 3: merge tools that can be replaced by a single one."""
    given = Integration(merges=())
    if len(documents) > 1:
        lines = "\n".join(
            f"{number}. {part.question}\n   {document.text}"
            for number, (part, document) in enumerate(zip(parts.parts, documents, strict=True), 1)
        )
        given = await shop.ask(
            shop.fill("integrate", tools=lines),
            answer=Integration,
            grammar=grammar_of(Integration),
            check=lambda given: check_integration(given, documents, answers_of(parts)),
            tag="integrate",
        )
    served = [Served(document=d, parts=numbers) for d, numbers in integrate(given, documents)]
    shop.refuse(check_names([entry.document for entry in served]))
    return served


async def write_calls(
    shop: Workshop, parts: Decomposition, served: Sequence[Served]
) -> tuple[GoldCall, ...]:
    """Write the call that answers each part."""
    tools = {number: entry.document.tool for entry in served for number in entry.parts}

    async def write(number: int) -> GoldCall:
        tool = tools[number]
        given = await shop.ask(
            shop.fill(
                "call",
                tool=render_json(tool.schema["function"]),
                question=parts.ask(number),
                known=parts.known(number),
            ),
            answer=Arguments,
            grammar=arguments_grammar(tool.parameters),
            check=lambda given: check_call(given.arguments, tool, parts, number),
            tag=f"call {number}",
        )
        answer = parts.parts[number - 1].answer
        return GoldCall(name=tool.name, arguments=given.arguments, answer=answer)

    calls = tuple(await side_by_side([partial(write, number) for number in sorted(tools)]))
    shop.refuse(check_calls(calls))
    return calls


async def scale(
    shop: Workshop, parts: Decomposition, served: Sequence[Served], gold: Sequence[GoldCall]
) -> list[Served]:
    """Stage 4: widen each tool and add tools that no part needs."""
    answers = answers_of(parts)

    async def widen(entry: Served) -> list[Served]:
        before = entry.document
        calls = [call for call in gold if call.name == before.name]
        given = await shop.ask(
            shop.fill("scale", tool=before.text, calls=call_lines(calls)),
            answer=Document,
            grammar=grammar_of(Document),
            check=lambda given: check_scaling(given, before, calls=calls, answers=answers),
            tag=f"scale {before.name}",
        )
        return [Served(document=given, parts=entry.parts)]

    async def extend() -> list[Served]:
        count = shop.rng("distractors").randint(*shop.config.distractors)
        if not count:
            return []
        documents = [entry.document for entry in served]
        given = await shop.ask(
            shop.fill(
                "extend",
                count=str(count),
                tools="\n".join(document.text for document in documents),
                questions="\n".join(part.question for part in parts.parts),
            ),
            answer=Extension,
            grammar=grammar_of(Extension),
            check=lambda given: check_extension(given, documents, count=count, answers=answers),
            tag="extend",
        )
        return [Served(document=document, parts=()) for document in given.tools]

    widening: list[Callable[[], Awaitable[list[Served]]]] = [partial(widen, one) for one in served]
    found = await side_by_side([*widening, extend])
    return [entry for entries in found for entry in entries]


def call_lines(calls: Sequence[GoldCall]) -> str:
    """Return the arguments of calls, one call per line."""
    return "\n".join(render_json(call.arguments) for call in calls)


def case_lines(calls: Sequence[GoldCall]) -> str:
    """Return calls with what their results must contain, one call per line."""
    return "\n".join(
        f"{render_json(call.arguments)} -> the result must contain exactly: {call.answer}"
        for call in calls
    )


async def deploy(
    shop: Workshop, served: Sequence[Served], gold: Sequence[GoldCall]
) -> dict[str, str]:
    """Stage 5: write a function for each tool, repeatedly until its calls give their answers."""

    async def write(entry: Served) -> tuple[str, str]:
        document, tool = entry.document, entry.document.tool
        calls = [call for call in gold if call.name == tool.name]
        complaint, attempt = "", 0
        while True:
            given = await shop.ask(
                shop.fill(
                    "deploy",
                    **describe_candidate(document),
                    cases=case_lines(calls) or "no cases are given; invent a few entries",
                    complaint=complaint,
                ),
                answer=Function,
                grammar=grammar_of(Function),
                check=lambda given: check_source(given.source, tool),
                tag=f"deploy {tool.name} {attempt}",
            )
            flaw = await verify_tool(tool, given.source, calls, shop.sandbox)
            if flaw is None:
                return tool.name, given.source
            attempt += 1
            if attempt == shop.config.tries:
                raise Rejected(shop.stage, flaw)
            complaint = (
                f"Your last function was wrong: {flaw.text}. Write it again without this error."
            )

    return dict(await side_by_side([partial(write, entry) for entry in served]))


def describe_candidate(document: Document) -> dict[str, str]:
    """Return the values of the deploy prompt that describe a tool."""
    schema: dict[str, Any] = document.tool.schema["function"]
    return {
        "tool": render_json(schema),
        "signature": document.signature,
        "modules": ", ".join(sorted(MODULES)),
    }
