"""Templates of families: how each writes turns and calls, and what the program makes of it.

Those of Granite 4 and SmolLM3 are written here, in the form of the published ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from qwen_tokenizer import FEW, read_template, write_model
from trustee.errors import InputError
from trustee.rendering.call_parser import CallFormat
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.types import Message, Tool, ToolCall

GRANITE_MARKS = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
MISTRAL_MARKS = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[ARGS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
GRANITE = """
{%- set told = messages[0].role == 'system' %}
{%- set first = messages[0].content if told else '' %}
{%- if tools %}
    {%- set ns = namespace(text='You have these tools:\n<tools>') %}
    {%- for tool in tools %}{% set ns.text = ns.text + '\n' + (tool | tojson) %}{% endfor %}
    {%- set first = (first + '\n\n' if first else '') + ns.text + '\n</tools>' %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + (first or 'You help.') + '<|end_of_text|>\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|start_of_role|>user<|end_of_role|>' + message.content + '<|end_of_text|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n' if message.content or not loop.first }}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|end_of_text|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|start_of_role|>user<|end_of_role|>' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|end_of_text|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{{- '<|start_of_role|>assistant<|end_of_role|>' if add_generation_prompt }}
"""
SMOLLM3 = """
{{- '<|im_start|>system\n## Metadata\n' + ('/think' if enable_thinking else '/no_think') }}
{%- if xml_tools %}{{ '\n### Tools\n' + (xml_tools | tojson) }}{% endif %}
{{- '<|im_end|>\n' }}
{%- for message in messages %}
    {%- if message.role in ('user', 'assistant') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\n' if add_generation_prompt }}
"""
"""It reads tools under a name of its own and leaves out what the assistant calls."""
TOOL = Tool(
    name="find",
    description="Finds “it”.",
    parameters={"type": "object", "properties": {"key": {"type": "string"}}},
)
CALLS = tuple(
    ToolCall(id=str(number), name="find", arguments={"key": key})
    for number, key in enumerate(("a", "</tool_call> [ARGS]{"))
)


def make_folder(place: Path, template: str, *, marks: tuple[str, ...] = (), stop: str = "") -> Path:
    """Write a tokenizer of published words with a family's marks and template."""
    folder = write_model(place / "model", template="qwen3", words=FEW)
    content = json.loads((folder / "tokenizer.json").read_text())
    last = content["added_tokens"][-1]
    if marks:
        for token in content["added_tokens"]:
            token["content"] = token["content"].replace("<|im_", "<|unused_")
    content["added_tokens"] += [
        {**last, "id": last["id"] + 1 + i, "content": mark, "special": True}
        for i, mark in enumerate(marks)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = template
    if stop:
        settings |= {"eos_token": stop, "bos_token": "<s>" if "<s>" in marks else None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def play(renderer: Renderer) -> None:
    """Check the self-test, two calls in one message, and turn by turn against the whole."""
    renderer.self_test()
    history = [Message(role="user", content="Where?")]
    ids = [*renderer.open(history, (TOOL,))]
    said = Message(role="assistant", content="I look.", calls=CALLS)
    results = tuple(Message(role="tool", content=f"r{c.id}", call_id=c.id) for c in CALLS)
    completion = renderer.complete(said)
    assert said == renderer.parse(completion, call_prefix="", tools=(TOOL,))
    ids += [*completion, *renderer.extend(completion, results, calls=CALLS)]
    history += [said, *results]
    assert renderer.decode(ids) == renderer.decode(renderer.open(history, (TOOL,)))


def test_granite_calls_as_hermes(tmp_path: Path) -> None:
    """Its marks are other, its calls are the same."""
    folder = make_folder(tmp_path, GRANITE, marks=GRANITE_MARKS, stop="<|end_of_text|>")
    renderer = Renderer.load(folder)
    assert CallFormat.HERMES == renderer.call_format
    assert "<|end_of_text|>" == renderer.end_of_turn
    play(renderer)


def test_ministral_gets_a_template_with_a_prompt(tmp_path: Path, check_error: ErrorCheck) -> None:
    """Its own has no generation prompt; ours for its marks is proposed, and works."""
    own = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST]' + m.content + '[/INST]' }}{% elif m.role == 'tool' %}"
        "{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}{% else %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' }}"
        "{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    folder = make_folder(tmp_path, own, marks=MISTRAL_MARKS, stop="</s>")
    with pytest.raises(InputError) as caught:
        Renderer.load(folder).self_test()
    check_error(caught, 'set model.template = "mistral3"', "no generation prompt")
    from trustee.rendering.chat_templates import read_template as packaged

    renderer = Renderer.load(folder, ChatStyle(template=packaged("mistral3")))
    assert CallFormat.MISTRAL == renderer.call_format
    assert "</s>" == renderer.end_of_turn
    play(renderer)
    prompt = renderer.decode(renderer.open((Message(role="user", content="Where?"),), (TOOL,)))
    assert prompt.startswith("<s>[AVAILABLE_TOOLS][{")
    assert prompt.endswith("[/AVAILABLE_TOOLS][INST]Where?[/INST]")


def test_smollm3_needs_a_template_with_tools(tmp_path: Path, check_error: ErrorCheck) -> None:
    """Its own leaves calls out, which is said with the template that fits."""
    folder = make_folder(tmp_path, SMOLLM3)
    with pytest.raises(InputError) as caught:
        Renderer.load(folder)
    check_error(caught, 'set model.template = "chatml"', "no tools")


def test_a_model_that_always_thinks(tmp_path: Path) -> None:
    """Qwen3-4B-Thinking-2507 is Qwen3 with a prompt that begins a thought, whatever is asked."""
    whole = read_template("qwen3")
    before, found, _ = whole.rpartition("{%- if add_generation_prompt %}")
    assert found
    end = "{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
    renderer = Renderer.load(make_folder(tmp_path, f"{before}{found}{end}"))
    assert renderer.opens_thought
    assert CallFormat.HERMES == renderer.call_format
    ids = renderer.complete(Message(role="assistant", content="There."))
    assert renderer.parse(ids, call_prefix="").content == "There."
