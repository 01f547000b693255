"""Scripts of the scripted engine: which are found, and what is improvised without one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.config import read_config
from trustee.engine.protocol import Sampling
from trustee.engine.script import Request, draw_value, find_script, improvise
from trustee.engine.scripted import scripted_renderer
from trustee.errors import InputError
from trustee.types import Message, Tool

KINDS = st.sampled_from(["string", "integer", "number", "boolean", "null"])
LEAVES = st.one_of(
    st.builds(lambda kind: {"type": kind}, KINDS),
    st.builds(lambda kinds: {"type": kinds}, st.lists(KINDS, min_size=1, max_size=3, unique=True)),
    st.builds(lambda words: {"enum": words}, st.lists(st.text(), min_size=1, unique=True)),
    st.builds(lambda word: {"const": word}, st.text()),
    st.builds(
        lambda least, more: {"type": "integer", "minimum": least, "maximum": least + more},
        st.integers(-5, 5),
        st.integers(0, 5),
    ),
)


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Put schemas into arrays, objects and alternatives."""
    return st.one_of(
        st.builds(
            lambda item, least: {"type": "array", "items": item, "minItems": least},
            inner,
            st.integers(0, 3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda fields, count: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields)[:count],
                "additionalProperties": False,
            },
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
            st.integers(0, 3),
        ),
    )


@given(schema=st.recursive(LEAVES, nest, max_leaves=6), seed=st.integers(0, 100))
def test_drawn_values_fit_their_schema(schema: dict[str, Any], seed: int) -> None:
    """An independent validator accepts every improvised value."""
    jsonschema.validate(draw_value(schema, random.Random(seed)), schema)


def ask(seed: int, *, schema: str | None = None) -> str:
    """Improvise an answer to an opening with one tool."""
    parameters = {
        "type": "object",
        "properties": {"die": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["die"],
    }
    tools = (Tool(name="look", description="look at a die", parameters=parameters),)
    renderer = scripted_renderer()
    ids = renderer.open((Message(role="user", content="hello"),), tools)
    sampling = Sampling(max_tokens=100, seed=seed, schema=schema)
    return improvise(
        Request(prompt=renderer.decode(ids), adapter=None, sampling=sampling, request_id="a")
    )


def test_policy_calls_and_ends() -> None:
    """The improvised policy makes valid calls, and sometimes says a word, as an end."""
    answers = [ask(seed) for seed in range(60)]
    calls = [
        a.removeprefix("<tool_call>").removesuffix("</tool_call>") for a in answers if "<" in a
    ]
    assert 20 < len(calls) < 60
    assert {"look"} == {json.loads(call)["name"] for call in calls}
    assert {1, 2, 3} == {json.loads(call)["arguments"]["die"] for call in calls}
    assert ask(5) == ask(5), "the same seed gives the same answer"


def test_roles_answer_their_schema() -> None:
    """A request with a schema gets JSON that fits it."""
    schema = '{"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]}'
    assert json.loads(ask(0, schema=schema))["done"] in {True, False}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("improvise", "give package.module:name"),
        (":improvise", "give package.module:name"),
        ("no_such_module:play", "No module named 'no_such_module'"),
        ("trustee.engine.script:nothing", "trustee.engine.script has no nothing"),
    ],
)
def test_script_that_is_not_there(name: str, why: str) -> None:
    """What cannot be imported is refused by name, with the reason."""
    with pytest.raises(InputError) as caught:
        find_script(name)
    assert f"engine.script {name!r}" in str(caught.value)
    assert why in str(caught.value)


def test_script_is_found() -> None:
    """A script is any function on the Python path."""
    assert improvise is find_script("trustee.engine.script:improvise")


def test_scripted_engine_is_light() -> None:
    """Neither torch nor vLLM is loaded for a config with a scripted engine."""
    code = (
        "import sys; from pathlib import Path; from trustee.config import read_config; "
        "from trustee.jobs.assemble import prepare_model; "
        "config = read_config(Path('configs/tiny.toml'), ['engine.kind=scripted']); "
        "prepare_model(config); print({'torch', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()\n" == done.stdout


def test_a_script_needs_no_card() -> None:
    """A config that names the scripted engine and nothing else runs on any machine."""
    config = read_config(Path("configs/tiny.toml"), ['engine={kind="scripted"}'])
    assert not config.engine.on_gpu
