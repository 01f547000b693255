"""The form of a forced call: its opening as the template writes it, its schema as the tools do."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import pytest

from qwen_tokenizer import FEW, write_model
from trustee.decoding import decode_json
from trustee.endpoint.forced_call import find_opening, force_call, move_references, read_forced
from trustee.engine.grammar import json_grammar
from trustee.engine.model_files import TINY
from trustee.engine.scripted import scripted_renderer
from trustee.errors import RequestError
from trustee.rendering.chat_templates import ChatStyle, read_template
from trustee.rendering.renderer import Renderer
from trustee.types import Message, Tool, ToolCall

TREE = Tool(
    name="plant",
    description="",
    parameters={
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Tree"}},
        "required": ["tree"],
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Tree"}},
                "required": ["name"],
            }
        },
    },
)
BARE = Tool(name="stop", description="", parameters={})


@pytest.mark.parametrize(
    ("template", "opening", "key"),
    [
        ("qwen3", "<tool_call>\n", "arguments"),
        ("chatml", "<tool_call>\n", "arguments"),
        ("llama3", "", "parameters"),
        ("mistral", "[TOOL_CALLS] [", "arguments"),
        ("mistral3", "", "arguments"),
    ],
)
@pytest.mark.parametrize("thinking", [False, True])
def test_opening_is_the_templates(
    tmp_path_factory: pytest.TempPathFactory, template: str, opening: str, key: str, thinking: bool
) -> None:
    """What stands before a call's JSON, without a thought, is put behind the prompt."""
    vocabulary = {"llama3": "llama3_1", "qwen3": "qwen3"}.get(template, "qwen2_5")
    folder = write_model(
        tmp_path_factory.mktemp("models") / template, template=vocabulary, words=FEW
    )
    packaged = None if template == "qwen3" else read_template(template)
    renderer = Renderer.load(folder, ChatStyle(thinking=thinking, template=packaged))
    ids, found = find_opening(renderer)
    assert (opening, key) == (renderer.decode(ids), found)


def test_opening_of_the_built_in_model() -> None:
    """It writes nothing between the mark and the call."""
    renderer = Renderer.load(TINY)
    assert "<tool_call>" == renderer.decode(find_opening(renderer)[0])


def test_schema_allows_calls_of_the_tools_alone() -> None:
    """References of a tool lead to its own definitions, wherever its schema stands."""
    form = force_call(scripted_renderer(), [TREE, BARE])
    schema = decode_json(form.schema, error=ValueError)
    good: list[dict[str, Any]] = [
        {"name": "plant", "arguments": {"tree": {"name": "oak", "next": {"name": "ash"}}}},
        {"name": "stop", "arguments": {}},
    ]
    for call in good:
        jsonschema.validate(call, schema)
    bad: list[dict[str, Any]] = [
        {"name": "plant", "arguments": {"tree": {"next": {}}}},
        {"name": "fly", "arguments": {}},
        {"name": "stop", "arguments": []},
    ]
    for call in bad:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(call, schema)
    assert "root" in json_grammar(form.schema)
    assert "root" in json_grammar(force_call(scripted_renderer(), [TREE]).schema)


def test_references_move_with_their_schema() -> None:
    """Those to other documents stay, and so do properties that are called like one."""
    schema = {"properties": {"$ref": {"$ref": "#"}}, "x": [{"$ref": "other.json#/a"}]}
    assert {
        "properties": {"$ref": {"$ref": "#/$defs/t"}},
        "x": [{"$ref": "other.json#/a"}],
    } == move_references(schema, "#/$defs/t")


def test_schema_without_a_grammar_is_the_requests_fault() -> None:
    """The error says what cannot be said."""
    schema = msgspec.json.encode({"type": "string", "pattern": "(?<=a)b"}).decode()
    with pytest.raises(RequestError, match="Lookbehind"):
        json_grammar(schema)


def test_finished_and_cut_texts() -> None:
    """A whole call is a call; one that was cut off stays text."""
    form = force_call(scripted_renderer(), [BARE])
    whole = '{"name": "stop", "arguments": {"a": 1}}'
    call = ToolCall(id="c0", name="stop", arguments={"a": 1})
    assert Message(role="assistant", calls=(call,)) == read_forced(whole, form, call_prefix="c")
    for cut in (whole[:-1], "", "[]", '{"name": "stop"}', '{"name": 1, "arguments": {}}'):
        assert Message(role="assistant", content=cut) == read_forced(cut, form, call_prefix="c")
