"""Writing a task in steps: what code chooses, completes and refuses."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import make_simulator
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.simulated.curriculum import Ambiguity, Aspects
from trustee.environments.simulated.tool_sets import find_tools
from trustee.environments.simulated.writing import (
    BLANK,
    DraftedCall,
    DraftedTask,
    QueryPlan,
    check_draft,
    check_query,
    complete_wish,
    draft_schema,
    narrow_tools,
    plan_query,
    query_prompt,
    write_in_steps,
)
from trustee.errors import SimulatorError
from trustee.types import ExpectedCall, Tool

TABLE = Tool(
    name="book_table",
    description="Book a table at a restaurant",
    parameters={
        "type": "object",
        "properties": {
            "restaurant": {"type": "string"},
            "date": {"type": "string", "format": "date"},
            "party_size": {"type": "integer"},
            "seating": {"enum": ["inside", "terrace"]},
            "quiet": {"type": "boolean"},
            "note": {"type": "string"},
        },
        "required": ["restaurant", "date", "party_size"],
    },
)
WEATHER = Tool(
    name="get_weather",
    description="Get the weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    effect="read",
)
FLY = DraftedCall(name="fly", arguments={}, wish="fly")
BOOKING: dict[str, Any] = {"restaurant": "Osteria Lume", "date": "2027-05-14", "party_size": 4}


def aspects(*, calls: int = 1, turns: int = 1, ambiguity: Ambiguity = "clear") -> Aspects:
    """Give aspects of which the writer sees some."""
    return Aspects(
        tools=2,
        calls=calls,
        turns=turns,
        guidance="plain",
        persona="beginner",
        ambiguity=ambiguity,
        strictness=1,
    )


def drafted(*calls: DraftedCall) -> DraftedTask:
    """Draft a task."""
    return DraftedTask(persona="Ada likes to eat out.", calls=calls)


def book(*, wish: str = "book a table", **more: Any) -> DraftedCall:
    """Draft a booking."""
    return DraftedCall(name="book_table", arguments=BOOKING | more, wish=wish)


def test_optional_arguments_are_chosen_by_code() -> None:
    """What is kept is required, so a writer neither forgets it nor adds a default."""
    kept = [narrow_tools([TABLE], random.Random(seed))[0].parameters for seed in range(200)]
    for parameters in kept:
        assert list(parameters["properties"]) == parameters["required"]
        assert {"restaurant", "date", "party_size"} <= set(parameters["required"])
    extra = sum(len(parameters["required"]) - 3 for parameters in kept)
    assert 100 < extra < 200, "a quarter of three optional arguments each"


def test_a_tool_without_required_arguments_keeps_one() -> None:
    """A call without any argument would be the same task each time."""
    tool = msgspec.structs.replace(TABLE, parameters={**TABLE.parameters, "required": []})
    for seed in range(50):
        assert narrow_tools([tool], random.Random(seed))[0].parameters["required"]


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (drafted(book()), None),
        (drafted(book(), book()), "2 expected calls where 1 were asked for"),
        (drafted(FLY), "expected call of fly, which is not offered"),
        (drafted(book(party_size="four")), "expected call of book_table: "),
        (drafted(book(note="")), "expected call of book_table: an argument is empty"),
        (drafted(book(wish=" ")), "expected call of book_table: the wish is empty"),
    ],
)
def test_a_draft_is_checked(draft: DraftedTask, reason: str | None) -> None:
    """Values may be missing from the intent; calls must be right."""
    given = check_draft(draft, [TABLE], aspects())
    assert given is None if reason is None else (given or "").startswith(reason)


def test_equal_calls_are_refused() -> None:
    """Two expected calls must differ."""
    assert "the same call is expected twice" == check_draft(
        drafted(book(), book()), [TABLE], aspects(calls=2)
    )


@pytest.mark.parametrize(
    ("call", "wish"),
    [
        (
            book(
                wish="You want to book a table at Osteria Lume on 14 May 2027.",
                seating="terrace",
                quiet=True,
            ),
            "book a table at Osteria Lume on 14 May 2027 "
            "(party size 4, seating terrace, quiet true)",
        ),
        (
            book(wish="to get a table for four at Osteria Lume on 2027-05-14"),
            "get a table for four at Osteria Lume on 2027-05-14",
        ),
    ],
    ids=["completed", "complete"],
)
def test_a_wish_says_every_value_of_its_call(call: DraftedCall, wish: str) -> None:
    """Of text, numbers, an enum and booleans; and nothing twice."""
    assert wish == complete_wish(call)


@pytest.mark.parametrize(("ambiguity", "said"), [("clear", 3), ("somewhat", 2), ("highly", 1)])
def test_the_ambiguity_says_how_many_values_the_query_has(ambiguity: Ambiguity, said: int) -> None:
    """All, all but one, or a third of those of the first call."""
    plan = plan_query(drafted(book()), [TABLE], aspects(ambiguity=ambiguity), random.Random(0))
    assert said == len(plan.said)
    assert {"Osteria Lume", "2027-05-14", "4"} == {*plan.said, *plan.hidden}


def test_hidden_values_are_not_shown() -> None:
    """In no form in which the intent may say them."""
    draft = drafted(book(wish="get a table for 4 at osteria lume on May 14, 2027"))
    plan = QueryPlan(said=("4",), hidden=("Osteria Lume", "2027-05-14"))
    prompt = query_prompt("simulated", draft, aspects(), plan=plan, told=1)
    asked = prompt[prompt.rindex("The user:") :]
    assert f"You want to get a table for 4 at {BLANK} on {BLANK}." in asked
    assert "Values to say: 4" in asked
    assert not re.search("lume|may 14", asked, re.IGNORECASE)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("A table for four at Osteria Lume, please.", None),
        ("A table, please.", "the query leaves out ['Osteria Lume']"),
        (
            "Osteria Lume on 14 May 2027?",
            "the query says ['2027-05-14'], which it should leave out",
        ),
        ("Osteria Lume on ___?", "the query has a blank in it"),
        ("Please book_table at Osteria Lume", "the query names the tools ['book_table']"),
        ("  ", "the query must not be empty"),
    ],
)
def test_a_query_is_checked(query: str, reason: str | None) -> None:
    """It says what it is to say and nothing of what it is to leave out."""
    plan = QueryPlan(said=("Osteria Lume",), hidden=("2027-05-14",))
    assert reason == check_query(query, [TABLE, WEATHER], plan)


@given(st.integers(0, 10**6), st.sampled_from(("clear", "somewhat", "highly")))
def test_plans_divide_the_values(seed: int, ambiguity: Ambiguity) -> None:
    """No value is both said and hidden, and none is lost."""
    rng = random.Random(seed)
    plan = plan_query(
        drafted(book(note="by the window")), [TABLE], aspects(ambiguity=ambiguity), rng
    )
    assert not set(plan.said) & set(plan.hidden)
    assert 4 == len(plan.said) + len(plan.hidden)


def test_every_packaged_tool_can_be_drafted() -> None:
    """The grammar of each of them is JSON, with all kept arguments required."""
    for tool in find_tools("").tools:
        narrowed = narrow_tools([tool], random.Random(tool.name))
        schema = json.loads(draft_schema(narrowed, aspects()))
        call = schema["properties"]["calls"]["items"]
        assert tool.name == call["properties"]["name"]["const"]


@pytest.mark.anyio
async def test_a_task_is_written_in_two_steps() -> None:
    """Calls and intent come first; a query that is refused is asked for again, alone."""
    queries = iter(["Book something.", "A table for 4 at Osteria Lume on 2027-05-14, please."])

    def write(request: Request) -> str:
        if "query" in json.loads(request.sampling.schema or "")["properties"]:
            return json.dumps({"query": next(queries)})
        return msgspec.json.encode(drafted(book())).decode()

    engine = ScriptedEngine(write)
    task = await write_in_steps(
        make_simulator(engine), [TABLE], aspects(), prompt_set="simulated", seed=3
    )
    assert (ExpectedCall(name="book_table", arguments=BOOKING),) == task.expected_calls
    assert "A table for 4 at Osteria Lume on 2027-05-14, please." == task.query
    wish = "book a table (restaurant Osteria Lume, date 2027-05-14, party size 4)"
    assert ((wish,), 1, f"You want to {wish}.") == (task.wishes, task.told, task.intent)
    assert 3 == len(engine.requests)


@pytest.mark.anyio
async def test_a_writer_that_never_gives_a_query_fails() -> None:
    """As any other role; but where nothing is to be left out, code says the wish."""
    engine = ScriptedEngine(
        lambda request: msgspec.json.encode(
            {"query": ""} if "query" in (request.sampling.schema or "") else drafted(book())
        ).decode()
    )
    simulator = make_simulator(engine)
    hidden = aspects(ambiguity="highly")
    with pytest.raises(SimulatorError, match="the query must not be empty"):
        await write_in_steps(simulator, [TABLE], hidden, prompt_set="simulated", seed=3)
    task = await write_in_steps(simulator, [TABLE], aspects(), prompt_set="simulated", seed=3)
    assert f"I would like to {task.wishes[0]}." == task.query
