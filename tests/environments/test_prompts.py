"""Prompt files: slots, one pass, hashes, and one filled example of each.

`TRUSTEE_GOLDEN=1` rewrites the examples in `tests/data/golden/prompts`; review the difference.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripts import make_simulator
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.prompts import SLOT, fill_prompt, hash_prompts, read_prompt
from trustee.environments.protocol import Services
from trustee.environments.simulated.curriculum import Curriculum
from trustee.environments.simulated.evidence import collect_evidence
from trustee.environments.simulated.facts import Executed, fact_lines, gather_facts
from trustee.environments.simulated.judging import judging_prompt
from trustee.environments.simulated.published import Published
from trustee.environments.simulated.roles import (
    Criterion,
    judge_prompt,
    tool_prompt,
    transcript_lines,
    user_prompt,
    writer_prompt,
)
from trustee.environments.simulated.scene import HiddenSimulated, Scene
from trustee.environments.simulated.speaking import UserWishes, plan_turn
from trustee.environments.simulated.writing import (
    DraftedCall,
    DraftedTask,
    QueryPlan,
    draft_prompt,
    query_prompt,
)
from trustee.errors import PromptError
from trustee.tools.values import call_line
from trustee.types import Completion, ExpectedCall, Message, Task, Tool, ToolCall, Turn

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "prompts"
SETS = ("simulated", "tiny")
"""Sets that every world may name."""
GUIDANCE = ("agent_brief", "agent_detailed", "agent_generic", "agent_medium", "agent_plain")
NAMES = (
    *GUIDANCE,
    "agent_execution",
    "agent_ftrl",
    "agent_note",
    "agent_trial",
    "judge",
    "teacher",
    "tool",
    "user",
    "writer",
)
PUBLISHED = (*GUIDANCE, "judge", "tool", "user", "writer")
"""The files of the set that the simulated world alone may name."""
INTENT = "You want to move 49.90 euros from account AC-4471 to AC-9023, and the balance of AC-9023."
PERSONA = "Ines has just opened her first account."
BALANCE = Tool(
    name="get_balance",
    description="Get the balance of an account.",
    parameters={
        "type": "object",
        "properties": {"account": {"type": "string", "description": "Account to read."}},
        "required": ["account"],
    },
    effect="read",
)
TRANSFER = Tool(
    name="transfer_money",
    description="Move money between accounts.",
    parameters={
        "type": "object",
        "properties": {
            "source": {"type": "string"},
            "target": {"type": "string"},
            "amount": {"type": "number", "minimum": 0.01},
            "memo": {"type": "string"},
        },
        "required": ["source", "target", "amount"],
    },
    effect="write",
)
MOVED = ToolCall(
    id="c1",
    name="transfer_money",
    arguments={"source": "AC-4471", "target": "AC-9023", "amount": 49.9},
)
READ = ToolCall(id="c2", name="get_balance", arguments={"account": "AC-9023"})


def make_turn(message: Message, *replies: Message) -> Turn:
    """Make a turn without tokens."""
    completion = Completion(ids=(), logprobs=(), stop="stop", version=0)
    return Turn(rendered_ids=(), completion=completion, message=message, replies=replies)


OPENING = (
    Message(role="system", content="You are a helpful assistant."),
    Message(role="user", content="I'd like to move money into AC-9023."),
)
TURNS = (
    make_turn(
        Message(role="assistant", content="How much, and from where?"),
        Message(role="user", content="49.90 euros from AC-4471."),
    ),
    make_turn(
        Message(role="assistant", calls=(MOVED,)),
        Message(role="tool", content='{"status": "booked"}', call_id="c1"),
    ),
    make_turn(
        Message(role="assistant", content='Done.\nresult: {"balance": 359.9}'),
        Message(role="user", content="And the balance?"),
    ),
)


LEVEL = Curriculum(mapping="published", turns=(1, 3)).bound(50)
WISHES = ("move 49.90 euros from account AC-4471 to AC-9023", "know the balance of AC-9023")
DRAFT = DraftedTask(
    persona=PERSONA,
    calls=(DraftedCall(name=MOVED.name, arguments=MOVED.arguments, wish=WISHES[0]),),
)
WANTED = UserWishes(
    persona=PERSONA,
    intent=INTENT,
    wishes=WISHES,
    values=((("amount", "49.90"),), (("account", "AC-9023"),)),
)


async def fill_published(name: str) -> str:
    """Fill a prompt of the published set as its roles do, and read it from the request."""
    answers = {
        "writer": {"calls": [], "intent": INTENT, "persona": PERSONA, "query": "Hello"},
        "user": {"message": ""},
        "tool": {"result": ""},
        "judge": {"reward": 0, "reason": ""},
    }
    engine = ScriptedEngine(lambda request: json.dumps(answers[name]))
    simulator = make_simulator(engine)
    roles = Published("published", thoughts=True)
    if name == "writer":
        await roles.write(simulator, (BALANCE, TRANSFER), LEVEL, seed=0)
    else:
        hidden = HiddenSimulated(
            intent=INTENT,
            persona=PERSONA,
            expected_calls=(),
            expected_names=(TRANSFER.name, BALANCE.name),
            criteria=tuple(Criterion)[:2],
        )
        task = Task(
            id="task",
            messages=OPENING,
            tools=(BALANCE, TRANSFER),
            difficulty=40,
            hidden=msgspec.to_builtins(hidden),
        )
        scene = Scene(task, Services(simulator=simulator, rng=random.Random(0)))
        thought = msgspec.structs.replace(TURNS[0].message, thinking="The sum is missing.")
        turns = (msgspec.structs.replace(TURNS[0], message=thought), *TURNS[1:])
        for turn in turns:
            scene.messages += (turn.message, *turn.replies)
        if name == "judge":
            await roles.judge_alone(scene, turns)
        elif name == "user":
            del scene.messages[-1]
            await roles.answer_as_user(scene)
        else:
            await roles.answer_as_tool(scene, BALANCE, READ)
    prompt = engine.requests[0].prompt
    return prompt.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def fill_example(prompt_set: str, name: str) -> str:
    """Fill a prompt file with the example that all sets share."""
    seen = [(call_line(MOVED.name, MOVED.arguments), '{"status": "booked"}')]
    match name:
        case "writer" if prompt_set != "tiny":
            return draft_prompt(prompt_set, (BALANCE, TRANSFER), Curriculum().bound(40))
        case "query":
            return query_prompt(
                prompt_set,
                DRAFT,
                Curriculum().bound(40),
                plan=QueryPlan(said=("49.90",), hidden=("AC-4471",)),
                told=1,
            )
        case "writer":
            return writer_prompt(prompt_set, (BALANCE, TRANSFER), Curriculum().bound(40))
        case "user":
            messages = (*OPENING, *(m for turn in TURNS for m in (turn.message, *turn.replies)))
            if prompt_set != "tiny":
                turn = plan_turn(prompt_set, messages[:-1], WANTED, told=1)
                return "\n".join(f"[{m.role}]\n{m.content}" for m in turn.heard)
            return user_prompt(prompt_set, messages[:-1], intent=INTENT, persona=PERSONA)
        case "tool":
            return tool_prompt(
                prompt_set,
                BALANCE,
                READ.arguments,
                state={"accounts.AC-9023.balance": 359.9},
                seen=seen,
                intent=INTENT,
            )
        case "judge":
            expected = [
                ExpectedCall(name=call.name, arguments=call.arguments) for call in (MOVED, READ)
            ]
            executed = [Executed(call=MOVED, result='{"status": "booked"}', ok=True)]
            if prompt_set != "tiny":
                evidence = collect_evidence(
                    gather_facts(executed, expected, malformed=0),
                    executed,
                    opening=OPENING,
                    turns=TURNS,
                    intent=INTENT,
                    writes=frozenset({"transfer_money"}),
                )
                return judging_prompt(
                    prompt_set,
                    evidence,
                    opening=OPENING,
                    turns=TURNS,
                    intent=INTENT,
                    criteria=tuple(Criterion)[:3],
                )
            return judge_prompt(
                prompt_set,
                transcript_lines(OPENING, TURNS),
                intent=INTENT,
                persona=PERSONA,
                facts=fact_lines(gather_facts(executed, expected, malformed=0)),
                criteria=tuple(Criterion)[:3],
            )
        case "agent_trial" | "agent_execution":
            return fill_prompt(prompt_set, name, query=OPENING[-1].content, calls="8", turns="6")
        case "teacher":
            return fill_prompt(prompt_set, name, system=OPENING[0].content, hints=INTENT)
        case _:
            return fill_prompt(prompt_set, name)


EVERY_PROMPT = pytest.mark.parametrize(
    ("prompt_set", "name"),
    [(prompt_set, name) for prompt_set in SETS for name in NAMES] + [("simulated", "query")],
)


@pytest.mark.parametrize("prompt_set", SETS)
def test_sets_hold_the_same_files(prompt_set: str) -> None:
    """Every set has a prompt for every role and every guidance, and nothing else."""
    names = sorted(NAMES if prompt_set == "tiny" else [*NAMES, "query"])
    assert [f"{name}.md" for name in names] == list(hash_prompts(prompt_set))


def test_published_set_holds_the_files_of_one_world() -> None:
    """It has a prompt for every role and every guidance, and nothing else."""
    assert [f"{name}.md" for name in PUBLISHED] == list(hash_prompts("published"))


@EVERY_PROMPT
def test_filled_prompts_are_golden(prompt_set: str, name: str) -> None:
    """A filled example of each prompt file is the reviewed one."""
    compare_golden(prompt_set, name, filled=fill_example(prompt_set, name) + "\n")


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.anyio
async def test_published_prompts_are_golden(name: str) -> None:
    """The same of the published set: each role's inputs, in order, and nothing else."""
    spoken = name in ("writer", "user", "tool", "judge")
    filled = await fill_published(name) if spoken else fill_example("published", name)
    compare_golden("published", name, filled=filled + "\n")


def test_paragraphs_can_be_left_out() -> None:
    """A paragraph whose slot is not to be filled is not there; the others are."""
    values = dict.fromkeys(("request", "persona", "tools", "history", "latest"), "x")
    filled = fill_prompt("published", "user", without=("intent",), **values)
    assert "in the end" not in filled
    assert filled.count("\nx") == 5


def compare_golden(prompt_set: str, name: str, *, filled: str) -> None:
    """Compare a filled prompt with its golden file, or write that anew."""
    path = GOLDEN / prompt_set / f"{name}.txt"
    if os.environ.get("TRUSTEE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(filled, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == filled


@EVERY_PROMPT
def test_prompts_name_no_thinking(prompt_set: str, name: str) -> None:
    """Roles speak without a thinking mode, so no prompt asks for one."""
    assert not {"/think", "/no_think", "<think>"} & set(read_prompt(prompt_set, name).split())


@pytest.mark.parametrize("name", ["judge", "tool", "user", "writer"])
def test_slots_of_full_size_prompts_stand_once(name: str) -> None:
    """A slot that carries much text is filled once, so no prompt says a thing twice."""
    slots = SLOT.findall(read_prompt("simulated", name))
    assert len(set(slots)) == len(slots)


def test_fill_prompt_fills_in_one_pass() -> None:
    """A value that looks like a slot, or holds braces, stays as it is."""
    filled = fill_prompt(
        "tiny", "user", intent='{{persona}} {"a": {}}', persona="{{dialogue}}", dialogue="d"
    )
    assert 'user\nintent {{persona}} {"a": {}}\npersona {{dialogue}}\nd' == filled


def test_fill_prompt_leaves_out_what_the_wording_does_not_use() -> None:
    """A set may use fewer values than the code gives."""
    assert read_prompt("tiny", "agent_generic") == fill_prompt("tiny", "agent_generic", more="x")


def test_fill_prompt_refuses_missing_values(check_error: ErrorCheck) -> None:
    """A slot without a value names itself and its file."""
    with pytest.raises(PromptError) as caught:
        fill_prompt("tiny", "user", persona="p")
    check_error(caught, "tiny/user.md", "dialogue", "intent")


@pytest.mark.parametrize(("prompt_set", "name"), [("tiny", "pilot"), ("huge", "user")])
def test_read_prompt_refuses_unknown_files(
    check_error: ErrorCheck, prompt_set: str, name: str
) -> None:
    """An unknown set or role names what there is."""
    with pytest.raises(PromptError) as caught:
        read_prompt(prompt_set, name)
    check_error(caught, repr(name), repr(prompt_set), "builder", "simulated", "tiny")


def test_hash_prompts_covers_the_bytes() -> None:
    """The record of a run holds the sha256 of each file as it lies on disk."""
    data = (files("trustee") / "prompts" / "tiny" / "user.md").read_bytes()
    assert hashlib.sha256(data).hexdigest() == hash_prompts("tiny")["user.md"]
