"""The checks of stages 2 to 4: documents, merges, wider tools, further tools."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from building_answers import LANGUAGE, document, parameter
from trustee.environments.executable.blueprint import GoldCall
from trustee.environments.executable.building.candidate import Flaw
from trustee.environments.executable.building.documents import (
    Document,
    Extension,
    Integration,
    JsonType,
    Parameter,
    arguments_grammar,
    check_document,
    check_extension,
    check_integration,
    check_scaling,
    integrate,
)
from trustee.tools.arguments import check_arguments

ANSWERS = ["214 m", "Tilda Maren"]
CALL = GoldCall(name="find_height", arguments={"subject": "Ostwacht"}, answer="214 m")


def make(name: str = "find_height", *more: dict[str, Any], **changed: Any) -> Document:
    """Make a document as the builder writes it."""
    return msgspec.convert(document(name, *more) | changed, Document)


def kind_of(flaw: Flaw | None) -> str:
    """Give the kind of a flaw, or nothing."""
    return "" if flaw is None else flaw.kind


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("", make()),
        ("", make("find_height", LANGUAGE)),
        ("", make("find_height", parameter("limit", types=["integer"], default=5))),
        ("name", make("height")),
        ("name", make("findHeight")),
        ("name", make("find_height_")),
        ("description", make(description="Height.")),
        ("parameter", make("find_height", parameter("subject"))),
        ("parameter", make("find_height", parameter("class"))),
        ("parameter", make("find_height", parameter("The Year"))),
        ("parameter", make(parameters=[parameter("subject")])),
        ("parameter", make("find_height", parameter("unit", options=["m"]))),
        ("parameter", make("find_height", parameter("unit", options=["m", "m"]))),
        ("parameter", make("find_height", parameter("n", types=["integer"], options=["1", "2"]))),
        ("parameter", make("find_height", parameter("n", types=["integer"], default="five"))),
        ("parameter", make("find_height", parameter("n", types=["integer"], default=True))),
        ("parameter", make("find_height", parameter("n", types=["string", "string"]))),
        ("parameter", make("find_height", LANGUAGE | {"default": "french"})),
        ("parameter", make("find_height", parameter("n", required=True, default="x"))),
        ("leak", make(description="Looks up heights such as 214 m.")),
        ("leak", make("find_tilda_maren")),
        ("leak", make("find_height", parameter("tilda_maren"))),
        ("leak", make("find_height", parameter("who", options=["Tilda Maren", "Otto"]))),
    ],
)
def test_documents(kind: str, written: Document) -> None:
    """Each fault of a document has its kind; a good one has none."""
    assert kind == kind_of(check_document(written, ANSWERS))


def test_tool_has_the_schema_of_its_document() -> None:
    """Types, options and defaults of a document become JSON Schema."""
    several = parameter("names", types=["string", "array"], description="")
    tool = make("find_height", LANGUAGE, several).tool
    assert {
        "type": "object",
        "properties": {
            "subject": {"type": "string", "description": "Name of a thing."},
            "language": {
                "type": "string",
                "enum": ["english", "german"],
                "default": "english",
                "description": "Name of a thing.",
            },
            "names": {"type": ["string", "array"], "items": {"type": "string"}},
        },
        "required": ["subject"],
    } == tool.parameters
    assert "read" == tool.effect


def test_signature_puts_required_parameters_first() -> None:
    """The first line of the function is valid Python whatever the order of parameters."""
    written = make(parameters=[LANGUAGE, parameter("subject", required=True)])
    assert "def find_height(subject, language='english'):" == written.signature


def merges(*served: tuple[int, ...]) -> Integration:
    """Merge parts into tools of new names."""
    return msgspec.convert(
        {
            "merges": [
                {"serves": parts, "tool": document(f"find_all_{number}")}
                for number, parts in enumerate(served)
            ]
        },
        Integration,
    )


THREE = [make("find_a"), make("find_b"), make("find_c")]


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        ("", ()),
        ("", ((1, 3),)),
        ("merge", ((1, 4),)),
        ("merge", ((0, 1),)),
        ("merge", ((2, 2),)),
        ("merge", ((1, 2), (2, 3))),
    ],
)
def test_merges(kind: str, served: tuple[tuple[int, ...], ...]) -> None:
    """A merge takes parts that are there, each once."""
    assert kind == kind_of(check_integration(merges(*served), THREE, ANSWERS))


def test_merged_names_are_new() -> None:
    """A merged tool may not be called like one that stays."""
    given_merges = msgspec.convert(
        {"merges": [{"serves": [1, 2], "tool": document("find_c")}]}, Integration
    )
    assert "name" == kind_of(check_integration(given_merges, THREE, ANSWERS))


@given(st.sets(st.integers(1, 3), min_size=2))
@settings(max_examples=20)
def test_integration_serves_every_part_once(served: set[int]) -> None:
    """However tools are merged, each part has exactly one, and there are no more than before."""
    left = integrate(merges(tuple(served)), THREE)
    assert [1, 2, 3] == sorted(number for _, parts in left for number in parts)
    assert 3 - len(served) + 1 == len(left)


KINDS: tuple[JsonType, ...] = ("string", "integer", "number", "boolean", "array")
WIDER = make("find_height", LANGUAGE)


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        ("", WIDER),
        ("", make(parameters=[parameter("subject", required=True, types=["string", "array"])])),
        ("", make(parameters=[parameter("subject"), parameter("unit", required=False)])),
        ("not_scaled", make()),
        ("not_compatible", make("find_size", LANGUAGE)),
        ("not_compatible", make(parameters=[parameter("thing", required=True)])),
        ("not_compatible", make("find_height", parameter("year", required=True))),
        (
            "not_compatible",
            make(parameters=[parameter("subject", required=True, types=["integer"]), LANGUAGE]),
        ),
        (
            "not_compatible",
            make(parameters=[parameter("subject", required=True, options=["a", "b"]), LANGUAGE]),
        ),
        ("leak", make("find_height", parameter("unit", default="214 m"))),
    ],
)
def test_scaling(kind: str, after: Document) -> None:
    """A wider tool keeps its name and takes every call that it took."""
    if kind == "" and not after.parameters[0].required:
        kind = "parameter"  # without any required parameter it is no document
    assert kind == kind_of(check_scaling(after, make(), calls=[CALL], answers=ANSWERS))


def test_options_may_only_grow() -> None:
    """An option that is gone breaks calls; one more does not."""
    fewer = LANGUAGE | {"options": ["english", "french"]}
    more = LANGUAGE | {"options": ["english", "german", "french"]}
    assert "not_compatible" == kind_of(
        check_scaling(make("find_height", fewer), WIDER, calls=[CALL], answers=ANSWERS)
    )
    assert "" == kind_of(
        check_scaling(make("find_height", more), WIDER, calls=[CALL], answers=ANSWERS)
    )


PARAMETERS = st.builds(
    Parameter,
    name=st.sampled_from(["subject", "unit", "year", "limit"]),
    types=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2).map(tuple),
    description=st.just("What it is."),
    required=st.booleans(),
    options=st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(tuple),
    default=st.one_of(st.none(), st.sampled_from(["a", 5, True, 1.5])),
)


@given(st.lists(PARAMETERS, min_size=1, max_size=4))
@settings(max_examples=200)
def test_accepted_scaling_takes_the_gold_call(parameters: list[Parameter]) -> None:
    """Whatever the builder wrote, a widened document that passes still fits the gold call."""
    after = Document(
        name="find_height", description="Looks one fact up.", parameters=tuple(parameters)
    )
    if check_scaling(after, make(), calls=[CALL], answers=ANSWERS) is None:
        assert check_arguments(after.tool, CALL.arguments) is None
        compile(f"{after.signature} pass", "signature", "exec")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("", ["list_a", "list_b"]),
        ("count", ["list_a"]),
        ("name", ["list_a", "list_a"]),
        ("name", ["list_a", "find_b"]),
        ("leak", ["list_a", "list_tilda_maren"]),
    ],
)
def test_extension(kind: str, names: list[str]) -> None:
    """Further tools are as many as asked for, with names of their own and no answer in them."""
    further = Extension(tools=tuple(make(name) for name in names))
    assert kind == kind_of(check_extension(further, THREE, count=2, answers=ANSWERS))


def test_arguments_grammar_is_closed() -> None:
    """Under the grammar of a call only the tool's parameters can be written."""
    schema = msgspec.json.decode(arguments_grammar(WIDER.tool.parameters))
    inner = schema["properties"]["arguments"]
    assert inner["additionalProperties"] is False
    assert ["subject", "language"] == list(inner["properties"])
