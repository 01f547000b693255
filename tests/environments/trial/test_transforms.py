"""Disguises of tools: what the policy sees, what arrives beneath, and that tasks stay solvable."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustee.environments.micro.tasks import draw_goal
from trustee.environments.micro.world import TOOLS, MicroWorld
from trustee.environments.trial.transforms import Transform
from trustee.environments.trial.transforms.documents import (
    Describe,
    Recode,
    Undocument,
    draw_codes,
)
from trustee.environments.trial.transforms.drawing import draw_chain
from trustee.environments.trial.transforms.names import Opaque, Permute, is_reserved_name
from trustee.environments.trial.transforms.perturbation import (
    Perturbation,
    Recoding,
    ToolAlias,
    prove_solvable,
    show_answer,
    shown_tools,
    to_real_call,
    to_shown_call,
)
from trustee.environments.trial.transforms.supply import (
    BROKEN_ANSWERS,
    SUFFIXES,
    Break,
    Lookalikes,
    Way,
)
from trustee.types import ExpectedCall, Tool, ToolCall

HOME = tuple(tool for tool in TOOLS if tool.category == "home")
PAINT = Tool(
    name="paint",
    description="Paint a wall with paint. It dries within the hour.",
    parameters={
        "type": "object",
        "properties": {
            "wall": {"type": "string", "description": "Which wall."},
            "color": {"type": "string", "enum": ["red", "blue"], "description": "Of the paint."},
            "coats": {"type": "integer", "minimum": 1, "maximum": 4},
        },
        "required": ["wall", "color"],
    },
)
WALL = ExpectedCall(name="paint", arguments={"wall": "north", "color": "blue", "coats": 2})
ALL: tuple[Transform, ...] = (
    Break(),
    Lookalikes(count=2),
    Recode(),
    Describe(how="wrong"),
    Undocument(share=0.5),
    Permute(),
    Opaque(parameters=True),
)


def draw(
    transform: Transform,
    tools: Sequence[Tool],
    reference: Sequence[ExpectedCall] = (),
    *,
    seed: int = 0,
    held_out: bool = False,
) -> Perturbation:
    """Draw one perturbation."""
    drawn = transform.draw(tools, random.Random(seed), reference=reference, held_out=held_out)
    assert drawn is not None
    return drawn


def call(name: str, **arguments: Any) -> ToolCall:
    """Make a call."""
    return ToolCall(id="c", name=name, arguments=arguments)


def test_face_maps_names_and_values_of_a_call() -> None:
    """Shown names and values become those beneath, the rest passes."""
    perturbation = Perturbation(
        kind="test",
        tools=(),
        aliases={
            "f": ToolAlias(
                inner="paint",
                parameters={"p": "wall", "q": "color"},
                values={
                    "color": Recoding(codes={"BLU": "blue", "RED": "red"}),
                    "coats": Recoding(factor=10),
                },
            )
        },
    )
    shown = call("f", p="north", q="BLU", coats=20)
    assert ToolCall(id="c", name="paint", arguments=WALL.arguments) == perturbation.to_real(shown)
    assert ExpectedCall(name="f", arguments=shown.arguments) == perturbation.to_shown(WALL)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"q": "blue"}, 'f: "q" must be one of "BLU", "RED", got "blue".'),
        ({"q": ["BLU"]}, 'f: "q" must be one of "BLU", "RED", got ["BLU"].'),
        ({"coats": 25}, 'f: "coats" must be a multiple of 10, got 25.'),
        ({"color": "BLU"}, 'f does not take "color".'),
    ],
)
def test_value_that_no_shown_one_is_gets_a_readable_error(
    arguments: dict[str, Any], expected: str
) -> None:
    """The error names the shown parameter, what is allowed and what was given."""
    perturbation = Perturbation(
        kind="test",
        tools=(),
        aliases={
            "f": ToolAlias(
                inner="paint",
                parameters={"q": "color"},
                values={
                    "color": Recoding(codes={"BLU": "blue", "RED": "red"}),
                    "coats": Recoding(factor=10),
                },
            )
        },
    )
    answer = perturbation.to_real(call("f", **arguments))
    assert isinstance(answer, str)
    assert {"error": expected} == json.loads(answer)


@pytest.mark.parametrize(
    ("beneath", "expected"),
    [
        (
            '{"error": "paint needs \\"wall\\", got \\"color\\"."}',
            '{"error": "f needs \\"p\\", got \\"color\\"."}',
        ),
        (
            '{"error": "repaint the wall with paint"}',
            '{"error": "repaint the wall with f"}',
        ),
        (
            '{"paint": "wall", "note": "paint \'wall\'"}',
            '{"paint": "wall", "note": "paint \'wall\'"}',
        ),
        ("paint() missing 1 argument: 'wall'", "f() missing 1 argument: 'p'"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_errors_speak_of_shown_names_and_results_stay(beneath: str, expected: str) -> None:
    """A tool's own result is never touched; an error names what the policy knows."""
    perturbation = Perturbation(
        kind="test",
        tools=(),
        aliases={"f": ToolAlias(inner="paint", parameters={"p": "wall"})},
    )
    assert expected == perturbation.show("f", beneath)


def test_opaque_names_are_new_and_shown_tools_are_sorted() -> None:
    """No old name is left in a tool's name, description or parameters."""
    perturbation = draw(Opaque(parameters=True), [PAINT, *HOME])
    text = msgspec.json.encode([tool.schema for tool in perturbation.tools]).decode()
    assert [] == [
        name for name in ("set_lamp", '"wall"', '"color"', '"name":"paint"') if name in text
    ]
    assert sorted(tool.name for tool in perturbation.tools) == [
        tool.name for tool in perturbation.tools
    ]
    assert len(HOME) + 1 == len({tool.name for tool in perturbation.tools})


@pytest.mark.parametrize("held_out", [False, True])
def test_opaque_names_of_evaluation_are_never_trained(held_out: bool) -> None:
    """The two sides draw from names that are told apart by the name alone."""
    perturbation = draw(Opaque(), HOME, held_out=held_out)
    assert {held_out} == {is_reserved_name(tool.name) for tool in perturbation.tools}


def test_permuted_tools_all_bear_another_name() -> None:
    """The names stay the same set, and no tool keeps its own."""
    perturbation = draw(Permute(), HOME)
    assert {tool.name for tool in HOME} == set(perturbation.aliases)
    assert [] == [name for name, alias in perturbation.aliases.items() if alias.inner == name]
    assert None is Permute().draw(HOME[:1], random.Random(0), reference=(), held_out=False)


@pytest.mark.parametrize(("how", "expected"), [("none", ""), ("short", "Paint a wall with")])
def test_descriptions_are_left_out_or_cut(how: Any, expected: str) -> None:
    """What is said of parameters goes too; a parameter called `description` stays."""
    schema = {"type": "object", "properties": {"description": {"type": "string"}}}
    note = Tool(name="note", description="Paint a wall with care.", parameters=schema)
    first, second = draw(Describe(how=how), [PAINT, note]).tools
    assert (expected, expected) == (first.description, second.description)
    assert {"type": "string"} == first.parameters["properties"]["wall"]
    assert schema == second.parameters


def test_wrong_descriptions_are_those_of_others() -> None:
    """Each description is still there, on another tool."""
    shown = draw(Describe(how="wrong"), HOME).tools
    assert [tool.name for tool in HOME] == [tool.name for tool in shown]
    assert sorted(t.description for t in HOME) == sorted(t.description for t in shown)
    assert [] == [
        a.name for a, b in zip(HOME, shown, strict=True) if a.description == b.description
    ]
    same = [msgspec.structs.replace(tool, description="x") for tool in HOME]
    assert None is Describe(how="wrong").draw(same, random.Random(0), reference=(), held_out=False)


def test_undocumented_parameter_is_missing_and_still_passes() -> None:
    """The shown schema has one required parameter less, and the call beneath has it."""
    perturbation = draw(Undocument(), [PAINT])
    (shown,) = perturbation.tools
    (hidden,) = {"wall", "color", "coats"} - set(shown.parameters["properties"])
    assert [name for name in ("wall", "color") if name != hidden] == shown.parameters["required"]
    assert None is prove_solvable([PAINT], [perturbation], [WALL])


def test_recoded_values_are_in_the_schema_and_bounds_move() -> None:
    """Codes are listed; a number's bounds are in its new unit; the description would betray it."""
    perturbation = draw(Recode(), [PAINT])
    (shown,) = perturbation.tools
    factor = perturbation.aliases["paint"].values["coats"].factor
    assert {
        "wall": {"type": "string", "description": "Which wall."},
        "color": {"type": "string", "enum": ["RED", "BLU"]},
        "coats": {"type": "integer", "minimum": factor, "maximum": 4 * factor},
    } == shown.parameters["properties"]
    assert None is Recode(units=False).draw(HOME, random.Random(0), reference=(), held_out=False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["eco", "fast"], {"ECO", "FAS"}),
        (["north", "nordic"], {"c1", "c2"}),
        (["!", "?"], {"c1", "c2"}),
        (["A", "B"], {"c1", "c2"}),
        ([1, 2, 3], {"c1", "c2", "c3"}),
    ],
)
def test_codes_differ_from_their_values(values: list[Any], expected: set[str]) -> None:
    """Codes are short forms where those are unique and new, else numbers."""
    codes = draw_codes(values, random.Random(0))
    assert expected == set(codes)
    assert values == sorted(codes.values(), key=values.index)


def test_broken_tool_has_a_twin_that_works() -> None:
    """Of two tools that look alike one is dead, and seeds decide which."""
    reference = [ExpectedCall(name="read_lamp", arguments={"room": "hall"})]
    dead = set()
    for seed in range(8):
        perturbation = draw(Break(how="empty"), HOME, reference, seed=seed)
        first, twin = (n for n, alias in perturbation.aliases.items() if alias.inner == "read_lamp")
        assert ("read_lamp", True) == (first, twin.removeprefix("read_lamp_") in SUFFIXES)
        (name,) = (n for n in (first, twin) if perturbation.aliases[n].answer)
        assert "{}" == perturbation.to_real(call(name, room="hall"))
        dead.add(name == first)
        assert None is prove_solvable(HOME, [perturbation], reference)
    assert {True, False} == dead


def test_lookalikes_are_named_on() -> None:
    """Further twins get further words, then numbers, and exactly one of all works."""
    reference = [ExpectedCall(name="read_lamp", arguments={"room": "hall"})]
    chain, refused = draw_chain(
        (Break(), Lookalikes(count=7)), HOME, reference, seed=1, held_out=False
    )
    names = [t.name for t in shown_tools(HOME, chain) if t.name.startswith("read_lamp")]
    words = {f"read_lamp_{word}" for word in (*SUFFIXES, "2", "3")}
    assert (9, {"read_lamp"} | words) == (len(names), set(names))
    arrived = [to_real_call(chain, call(name, room="hall")) for name in names]
    assert 1 == sum(isinstance(beneath, ToolCall) for beneath in arrived)
    assert () == refused


def test_unsolvable_transform_is_refused_with_its_reason() -> None:
    """Breaking the only tool for a task is left out of the chain and told; the others stay."""
    reference = [ExpectedCall(name="read_lamp", arguments={"room": "hall"})]
    chain, refused = draw_chain(
        (Opaque(), Break(alternative=False)), HOME, reference, seed=1, held_out=False
    )
    assert ["opaque"] == [perturbation.kind for perturbation in chain]
    (name,) = (n for n, alias in chain[0].aliases.items() if alias.inner == "read_lamp")
    assert ("break: no working tool is left for read_lamp",) == refused
    assert ExpectedCall(name=name, arguments={"room": "hall"}) == to_shown_call(chain, reference[0])


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        ({}, "no working tool is left for paint"),
        (
            {"paint": ToolAlias(inner="paint", values={"wall": Recoding(codes={"A": "south"})})},
            'paint is answered by a perturbation: {"error": "paint: \\"wall\\" must be one of '
            '\\"A\\", got \\"north\\"."}',
        ),
        (
            {"paint": ToolAlias(inner="paint", parameters={"wall": "color"})},
            'paint arrives as paint with {"color": "blue", "coats": 2}',
        ),
    ],
)
def test_proof_names_what_is_wrong(aliases: dict[str, ToolAlias], expected: str) -> None:
    """A reference call that does not arrive as it is, is a reason against a perturbation."""
    perturbation = Perturbation(kind="test", tools=(PAINT,), aliases=aliases)
    assert expected == prove_solvable([PAINT], [perturbation], [WALL])


def test_proof_refuses_two_tools_of_one_name_and_a_schema_that_says_no() -> None:
    """What the policy is shown must let the reference solution through."""
    plain = {"paint": ToolAlias(inner="paint")}
    twice = Perturbation(kind="test", tools=(PAINT, PAINT), aliases=plain)
    assert "two tools are shown under one name" == prove_solvable([PAINT], [twice], [WALL])
    schema = {"type": "object", "properties": {"wall": {"type": "integer"}}}
    other = msgspec.structs.replace(PAINT, parameters=schema)
    narrow = Perturbation(kind="test", tools=(other,), aliases=plain)
    assert (
        'the shown tool refuses the reference solution: paint: "wall" must be an integer, got '
        '"north".'
    ) == prove_solvable([PAINT], [narrow], [WALL])


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[Transform, ...], int]:
    """Give any transforms in any order, and a seed."""
    order = draw(st.permutations(ALL))
    return tuple(order[: draw(st.integers(0, len(ALL)))]), draw(st.integers(0, 1 << 20))


@settings(max_examples=60)
@given(chains())
def test_reference_solution_passes_any_chain_with_the_same_results(
    drawn: tuple[tuple[Transform, ...], int],
) -> None:
    """Replayed through perturbations, the solution's calls and results stay as they are."""
    transforms, seed = drawn
    rng = random.Random(seed)
    tools = tuple(rng.sample(HOME, 4))
    reference = [draw_goal(rng, tool).call for tool in rng.sample(tools, 2)]
    chain, refused = draw_chain(transforms, tools, reference, seed=seed, held_out=False)
    assert () == refused
    assert None is prove_solvable(tools, chain, reference)
    plain, perturbed = MicroWorld(seed=seed), MicroWorld(seed=seed)
    for wanted in reference:
        expected = json.dumps(plain.call(wanted.name, wanted.arguments)[0])
        shown_call = to_shown_call(chain, wanted)
        assert shown_call is not None
        shown = ToolCall(id="c", name=shown_call.name, arguments=shown_call.arguments)
        arrived = to_real_call(chain, shown)
        assert isinstance(arrived, ToolCall)
        result = json.dumps(perturbed.call(arrived.name, arrived.arguments)[0])
        assert expected == show_answer(chain, shown, result)
    assert plain.written == perturbed.written


@settings(max_examples=60)
@given(chains())
def test_errors_never_name_what_is_hidden(drawn: tuple[tuple[Transform, ...], int]) -> None:
    """An error from beneath, shown through a chain with opaque names, holds no true name."""
    transforms, seed = drawn
    tools = tuple(random.Random(seed).sample(HOME, 4))
    chain, _ = draw_chain((*transforms, Opaque()), tools, (), seed=seed, held_out=False)
    for tool in shown_tools(tools, chain):
        arrived = to_real_call(chain, call(tool.name))
        name = arrived.name if isinstance(arrived, ToolCall) else tool.name
        error = json.dumps({"error": f"{name} failed, as did {', '.join(t.name for t in tools)}"})
        if isinstance(arrived, ToolCall):
            shown = show_answer(chain, call(tool.name), error)
            assert [] == [inner.name for inner in tools if f"{inner.name} " in shown]
            assert tool.name in shown


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_equal_seeds_give_equal_perturbation(transform: Transform) -> None:
    """A perturbation is plain data that a seed decides about and that can be stored."""
    tools = [PAINT, *HOME[:3]]
    perturbations = [draw(transform, tools, [WALL], seed=seed) for seed in (0, 0, 1, 2, 3, 4)]
    assert perturbations[0] == perturbations[1]
    stored = json.loads(msgspec.json.encode(perturbations[0]))
    assert perturbations[0] == msgspec.convert(stored, Perturbation)
    if not isinstance(transform, Describe):
        assert len({msgspec.json.encode(d) for d in perturbations[2:]}) > 1


@pytest.mark.parametrize("how", sorted(BROKEN_ANSWERS))
def test_dead_answers_bring_nothing(how: Way) -> None:
    """Whatever a dead tool says, it is no result."""
    result = json.loads(BROKEN_ANSWERS[how])
    assert result.get("error") or all(value is None for value in result.values())
