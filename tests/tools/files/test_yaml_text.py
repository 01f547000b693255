"""YAML is read as the JSON it stands for, and no text of it takes long or much."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tool_documents import left_out, refusal, write
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.files.yaml_text import decode_yaml, is_yaml


class Refused(Exception):
    """A text was refused."""


def decode(text: str, *, notices: Notices | None = None) -> Any:
    """Decode a text of one document."""
    (document,) = decode_yaml(text, notices=notices or Notices(), error=Refused)
    return document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
        ("yes", "yes"),
        ("off", "off"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("007", "007"),
        ("00.5", 0.5),
        ("0", 0),
        ("-12", -12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        ("True", True),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("! 5", "5"),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
        ("{a: [1, 'b']}", {"a": [1, "b"]}),
        ("[]", []),
    ],
)
def test_scalars_mean_what_json_means(text: str, value: Any) -> None:
    """Only null, true, false and numbers are more than text."""
    found = decode(f"k: {text}")["k"]
    assert (type(found), found) == (type(value), value)


def test_keys_are_text() -> None:
    """Keys stay as they are written, also those that look like a number or a flag."""
    text = "200: a\non: b\ntrue: c\n1.0: d\nnull: e\n'x': f\n? g\n: h\n"
    assert list(decode(text)) == ["200", "on", "true", "1.0", "null", "x", "g"]


def test_aliases_and_merges_repeat() -> None:
    """An alias stands for what it names, and a merge gives what is not there yet."""
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd:\n  <<: [{z: 4}, *a]\n"
    assert decode(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
        "d": {"z": 4, "x": 1, "y": 2},
    }


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)
)
TOWER = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "line 8: stands for more than 2,000,000 values or 100 levels"),
        (MERGE_BOMB, "stands for more than 2,000,000 values or 100 levels"),
        (TOWER, "stands for more than 2,000,000 values or 100 levels"),
        ("a: " + "[" * 5000, "is nested deeper than 100 levels"),
        ("a: &a [*a]", "line 1: the alias *a names nothing that ends before it"),
        ("a: *b", "line 1: the alias *b names nothing that ends before it"),
        ("? [a]\n: b", "line 1: a key must be a text"),
        ("? {a: b}\n: b", "line 1: a key must be a text"),
        ("a: &a [1]\n*a : 2", "line 2: a key must be a text"),
        ("a:\n  <<: 5", "<< must be followed by an object, or a list of objects"),
        ("a: b\n  c: d", "line 2: mapping values are not allowed in this context"),
        ("a: 'b", "found unexpected end of stream"),
        ("a: \x01", "control characters are not allowed"),
        ('a: "\\ud800"', "line 1: "),
        ("%YAML 3.0\n---\na: b", "found incompatible YAML document"),
    ],
)
def test_bad_texts_are_refused_soon(text: str, reason: str) -> None:
    """A text that is no YAML, or stands for too much, is refused by line and at once."""
    started = time.process_time()
    with pytest.raises(Refused) as caught:
        decode(text)
    assert reason in str(caught.value)
    assert time.process_time() - started < 3


def test_tags_and_repeated_keys_are_said() -> None:
    """A tag of an application is passed over, a key that is given twice too, with a notice."""
    notices = Notices()
    text = "a: !Ref b\nc: !obj {d: 1}\na: !!binary aGk=\n"
    assert decode(text, notices=notices) == {"a": "aGk=", "c": {"d": 1}}
    assert notices.lines() == [
        "tags that are not read, whose value is taken as it stands: line 1 !Ref; line 2 !obj;"
        " line 3 tag:yaml.org,2002:binary",
        'keys that are given twice, of which the last counts: line 3 "a"',
    ]


@settings(max_examples=200)
@given(st.text(alphabet="ab:-[]{},&*?|>!%'\"\n #<~0.\\", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text is a bug."""
    with suppress(Refused):
        decode_yaml(text, notices=Notices(), error=Refused)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openapi: 3.0.3\n", True),
        ("# a\n\n---\nswagger: '2.0'\n", True),
        ("swagger: '2.0'\ninfo: {}\npaths:\n", True),
        ("- name: f\n  parameters: {}\n", True),
        ('"openapi": 3.1.0\n', True),
        ("x: int = 3\ndef f(): ...\n", False),
        ('"""A module: of functions."""\n', False),
        ("import a\n", False),
        ("", False),
        ("# nothing\n", False),
    ],
)
def test_yaml_is_told_from_python(text: str, expected: bool) -> None:
    """What begins with a key or a dash is YAML, unless it is Python."""
    assert is_yaml(text) == expected


OPENAPI = """\
openapi: 3.0.3
info: {title: T, version: 2024-01-31}
paths:
  /pets/{id}:
    get:
      operationId: show
      parameters:
        - {name: id, in: path, required: true, schema: &id {type: integer}}
        - name: since
          in: query
          schema: {type: string, enum: [2024-01-01, on, 'no'], example: 2024-01-31}
        - {name: other, in: query, schema: *id}
      responses:
        200: {description: Yes.}
"""


def test_import_openapi_in_yaml(tmp_path: Path) -> None:
    """A document in YAML gives the tools it gives in JSON."""
    (tool,) = import_tools(write(tmp_path, OPENAPI, name="api.yaml"))
    assert tool.signature == "show(id, since?, other?)"
    assert tool.parameters["properties"] == {
        "id": {"type": "integer"},
        "since": {"type": "string", "enum": ["2024-01-01", "on", "no"]},
        "other": {"type": "integer"},
    }


def test_import_lists_of_tools_and_several_documents(tmp_path: Path) -> None:
    """Every document of a file is read; one that holds no tool is named."""
    text = f"---\n{OPENAPI}---\n- name: f\n- name: g\n---\n---\na: b\n"
    path = write(tmp_path, text, name="api.yaml")
    assert [tool.name for tool in import_tools(path)] == ["show", "f", "g"]
    (reason,) = left_out(path)
    assert reason.startswith(f"{path}: document 3: ")


def test_import_refuses_broken_yaml(tmp_path: Path) -> None:
    """A text that is broken is refused by line."""
    path = write(tmp_path, "openapi: 3.0.0\npaths:\n  /a: b: c\n", name="api.yaml")
    assert refusal(path) == (
        f"{path}: not YAML, line 3: mapping values are not allowed in this context;"
        " give a JSON, JSONL, YAML or Python file"
    )
