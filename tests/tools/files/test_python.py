"""The functions of a Python module become tools without being executed, or are refused by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tool_documents import refusal, write
from trustee.tools.files import import_tools
from trustee.types import Tool

MODULE = '''
"""Tools of a shop."""
from __future__ import annotations

import datetime
import enum
import typing as t
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NewType, NotRequired, Optional, TypedDict

import a_package_that_does_not_exist

raise SystemExit("the module was executed")

Ids = list[int]
Depth: t.TypeAlias = "Tree | None"
UserId = NewType("UserId", str)


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 1


@dataclass
class Line:
    product: str
    quantity: int = 1
    kind: ClassVar[str] = "line"
    tags: list[str] = field(default_factory=list)


class Gift(Line):
    message: Annotated[str, "Printed on the card."]


class Filter(TypedDict, total=False):
    color: t.Required[Color]
    price: float


class Tree(TypedDict):
    left: NotRequired[Depth]
    label: str


def search_products(
    query: str,
    limit: int = 10,
    *,
    price: float | None = None,
    in_stock: "bool" = True,
) -> list[dict]:
    """Find products.

    They are sorted by price,
    cheapest first.

    Args:
        query: Words to find,
            on several lines.
        limit (int, optional): Most products: at least one.

        unknown: Not a parameter.

    Returns:
        query: not a description.
    """
    open("executed", "w").write("x")


async def order(
    lines: list[Line],
    /,
    gift: Optional[Gift] = None,
    mode: Literal["fast", "cheap"] = "cheap",
    level: Level = Level.LOW,
    *,
    due: datetime.date,
    **options: str,
):
    """
    Args:
        lines: What is ordered.
    """


@undefined_decorator(1 / 0)
def all_kinds(
    any_: Any,
    nothing: None,
    ids: Ids,
    pair: tuple[int, str],
    many: tuple[int, ...],
    bare_tuple: tuple,
    unique: set[str],
    bare: list,
    mapping: dict[str, list[int]],
    bare_mapping: t.Dict,
    union: int | str | None,
    union_two: t.Union[int, list[str]],
    optional_list: Optional[list[int]],
    optional_literal: Literal["a", "b"] | None,
    mixed: Literal[1, "a", None],
    level: Level,
    filter: Filter,
    tree: Tree,
    user: UserId,
    at: datetime.datetime,
    hour: datetime.time,
    everything: int | Any,
    field: Annotated[int, Field(ge=1, lt=-N, le=9, description="A number.")],
    length: Annotated[list[str], t.Annotated, Meta(min_length=1, max_length=3)],
    needed: int = Field(..., gt=-2),
    given: str = Field("x", min_length=1, pattern="^x"),
    made: list[int] = Field(default_factory=list),
    computed: int = 6 * 7,
    literal: tuple[int, int] = (1, 2),
    uncodable: set[int] = {1},
): ...


def no_arguments():
    pass


def _private(anything): ...


class Shop:
    def method(self, x): ...
'''


def string(**rest: Any) -> dict[str, Any]:
    """Write the schema of a string."""
    return {"type": "string", **rest}


LINE = {
    "product": string(),
    "quantity": {"type": "integer", "default": 1},
    "tags": {"type": "array", "items": {"type": "string"}},
}


def test_import_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints, defaults and docstrings become schemas, and nothing in the module is executed."""
    monkeypatch.chdir(tmp_path)
    search, order, _, empty = import_tools(write(tmp_path, MODULE, name="shop.py"))
    assert search == Tool(
        name="search_products",
        description="Find products.",
        parameters={
            "type": "object",
            "properties": {
                "query": string(description="Words to find, on several lines."),
                "limit": {
                    "type": "integer",
                    "default": 10,
                    "description": "Most products: at least one.",
                },
                "price": {"type": ["number", "null"], "default": None},
                "in_stock": {"type": "boolean", "default": True},
            },
            "required": ["query"],
        },
        effect="read",
    )
    assert order == Tool(
        name="order",
        description="",
        parameters={
            "type": "object",
            "properties": {
                "lines": {
                    "type": "array",
                    "items": {"type": "object", "properties": LINE, "required": ["product"]},
                    "description": "What is ordered.",
                },
                "gift": {
                    "type": ["object", "null"],
                    "properties": {**LINE, "message": string(description="Printed on the card.")},
                    "required": ["product", "message"],
                    "default": None,
                },
                "mode": string(enum=["fast", "cheap"], default="cheap"),
                "level": {"type": "integer", "enum": [-1, 1]},
                "due": string(format="date"),
            },
            "required": ["lines", "due"],
            "additionalProperties": {"type": "string"},
        },
        effect="write",
    )
    assert empty == Tool(
        name="no_arguments",
        description="",
        parameters={"type": "object", "properties": {}, "required": []},
    )
    assert [path.name for path in tmp_path.iterdir()] == ["shop.py"]


INTEGER = {"type": "integer"}
INTEGERS = {"type": "array", "items": INTEGER}
STRINGS = {"type": "array", "items": {"type": "string"}}
HINTED = {
    "any_": {},
    "nothing": {"type": "null"},
    "ids": INTEGERS,
    "pair": {
        "type": "array",
        "prefixItems": [INTEGER, {"type": "string"}],
        "minItems": 2,
        "maxItems": 2,
    },
    "many": INTEGERS,
    "bare_tuple": {"type": "array"},
    "unique": {**STRINGS, "uniqueItems": True},
    "bare": {"type": "array"},
    "mapping": {"type": "object", "additionalProperties": INTEGERS},
    "bare_mapping": {"type": "object"},
    "union": {"anyOf": [INTEGER, {"type": "string"}, {"type": "null"}]},
    "union_two": {"anyOf": [INTEGER, STRINGS]},
    "optional_list": {**INTEGERS, "type": ["array", "null"]},
    "optional_literal": {"type": ["string", "null"], "enum": ["a", "b", None]},
    "mixed": {"enum": [1, "a", None]},
    "level": {"type": "integer", "enum": [-1, 1]},
    "filter": {
        "type": "object",
        "properties": {"color": string(enum=["red", "blue"]), "price": {"type": "number"}},
        "required": ["color"],
    },
    "tree": {
        "type": "object",
        "properties": {"left": {}, "label": string()},
        "required": ["label"],
    },
    "user": string(),
    "at": string(format="date-time"),
    "hour": string(format="time"),
    "everything": {},
    "field": {"type": "integer", "minimum": 1, "maximum": 9, "description": "A number."},
    "length": {**STRINGS, "minItems": 1, "maxItems": 3},
    "needed": {"type": "integer", "exclusiveMinimum": -2},
    "given": string(minLength=1, pattern="^x", default="x"),
    "made": INTEGERS,
    "computed": INTEGER,
    "literal": {
        "type": "array",
        "prefixItems": [INTEGER, INTEGER],
        "minItems": 2,
        "maxItems": 2,
        "default": [1, 2],
    },
    "uncodable": {**INTEGERS, "uniqueItems": True},
}


def test_import_python_hints(tmp_path: Path) -> None:
    """Every kind of hint and default has its schema."""
    tool = import_tools(write(tmp_path, MODULE, name="shop.py"))[2]
    assert tool.parameters["properties"] == HINTED
    optional = {"given", "made", "computed", "literal", "uncodable"}
    assert tool.parameters["required"] == [
        name for name in tool.parameters["properties"] if name not in optional
    ]


HINTS = (
    "str, int, float, bool, None, Any, date, time, datetime, UUID, Path, Decimal, list, set,"
    " tuple, dict, Optional, Union, Literal, Annotated, and classes and aliases of the same module"
)
PYTHON_REFUSALS = [
    (
        "def f(:",
        "neither JSON, YAML nor Python, line 1: invalid syntax; give a JSON, JSONL, YAML or Python"
        " file",
    ),
    (
        "x = 1\0",
        "neither JSON, YAML nor Python, source code string cannot contain null bytes; give a JSON,"
        " JSONL, YAML or Python file",
    ),
    ("\n\ndef f(a): ...", f"line 3 f(a): has no type hint; use one of {HINTS}"),
    (
        "def f(a: ndarray): ...",
        f"line 1 f(a): the type hint ndarray is not supported; use one of {HINTS}",
    ),
    (
        "def f(a: list[np.array]): ...",
        f"line 1 f(a): the type hint np.array is not supported; use one of {HINTS}",
    ),
    (
        "def f(a: 'list['): ...",
        f"line 1 f(a): the type hint 'list[' is not supported; use one of {HINTS}",
    ),
    ("def f(a: 5): ...", f"line 1 f(a): the type hint 5 is not supported; use one of {HINTS}"),
    (
        "def f(a: Literal[x]): ...",
        f"line 1 f(a): the type hint Literal[x] is not supported; use one of {HINTS}",
    ),
    (
        "def f(a: Callable[[int], str]): ...",
        f"line 1 f(a): the type hint [int] is not supported; use one of {HINTS}",
    ),
    (
        'def f():\n    """Do.\n\n    Args:\n        a\n    """',
        "line 1 f: the docstring is not in Google style (Expected a colon in 'a'.);"
        " sections such as Args: consist of indented lines of name: description",
    ),
    ("def f(*names: str): ...", "line 1 f: *names cannot be passed by name; use a list parameter"),
    (
        "class E(Enum):\n    A = auto()\n\ndef f(a: E): ...",
        "line 4 f(a): the members of enum E must be strings or numbers",
    ),
    (
        "def _f(): ...",
        "no tools found; give OpenAI tools, an OpenAPI document with operations, or public"
        " Python functions",
    ),
]


@pytest.mark.parametrize(("text", "message"), PYTHON_REFUSALS)
def test_import_refuses_python(tmp_path: Path, text: str, message: str) -> None:
    """An unusable module names the line, function and parameter."""
    path = write(tmp_path, text, name="tools.py")
    assert refusal(path) == f"{path}: {message}"
