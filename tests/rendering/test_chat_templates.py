"""Templates that a config gives a model: the package's fit real tokenizers, files are bounded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from qwen_tokenizer import FEW, write_model
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.rendering import first_try
from trustee.rendering.call_parser import CallFormat
from trustee.rendering.chat_templates import (
    FOLDER,
    MOST_BYTES,
    TURN_ENDS,
    ChatStyle,
    ChatTemplate,
    read_template,
)
from trustee.rendering.first_try import load_tried
from trustee.rendering.renderer import Renderer
from trustee.types import Message, Tool, ToolCall

FORMATS = {
    "chatml": CallFormat.HERMES,
    "llama3": CallFormat.LLAMA3_JSON,
    "mistral3": CallFormat.MISTRAL,
    "mistral": CallFormat.MISTRAL,
}
VOCABULARY = {
    "chatml": "qwen2_5",
    "llama3": "llama3_1",
    "mistral3": "qwen2_5",
    "mistral": "qwen2_5",
}
"""A published model whose marks a template needs; Mistral's end of turn is any vocabulary's."""
WITHOUT_TOOLS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOL = Path(os.environ.get("TRUSTEE_TOOLLESS_MODEL", "/nonexistent"))
TOOL = Tool(
    name="find",
    description="Finds “it”.",
    parameters={"type": "object", "properties": {"key": {"type": "string"}}},
)
CALLS = tuple(
    ToolCall(id=str(number), name="find", arguments={"key": key, "n": [number, None, True]})
    for number, key in enumerate(('a "b"\n東京', "</tool_call> [TOOL_CALLS] ; {"))
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give model folders with real vocabularies, whose own templates know no tools."""
    place = tmp_path_factory.mktemp("vocabularies")
    made = {}
    for name in sorted(set(VOCABULARY.values())):
        made[name] = write_model(place / name, template=name, words=FEW)
        (made[name] / "chat_template.jinja").write_text(WITHOUT_TOOLS)
    return made


def load(folder: Path, name: str, *, thinking: bool = False) -> Renderer:
    """Load a folder with one of the package's templates."""
    return Renderer.load(folder, ChatStyle(thinking=thinking, template=read_template(name)))


def test_every_packaged_template_is_a_file() -> None:
    """The names that a config takes are those of the files."""
    assert sorted(TURN_ENDS) == sorted(path.stem for path in FOLDER.iterdir())
    assert sorted(TURN_ENDS) == sorted(FORMATS)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_packaged_templates_pass_the_self_test(
    folders: dict[str, Path], name: str, thinking: bool
) -> None:
    """On a real tokenizer, and the format of the calls is found."""
    renderer = load(folders[VOCABULARY[name]], name, thinking=thinking)
    renderer.self_test()
    assert FORMATS[name] == renderer.call_format


@pytest.mark.skipif(not SMOL.is_dir(), reason="TRUSTEE_TOOLLESS_MODEL names no model folder")
def test_published_model_without_tools() -> None:
    """A model whose template knows no tools is refused, and is usable with ChatML."""
    with pytest.raises(InputError, match=r'set model\.template = "chatml"'):
        Renderer.load(SMOL).self_test()
    load(SMOL, "chatml").self_test()


@pytest.mark.parametrize("content", ["", "I look.\nTwice."])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("name", FORMATS)
def test_calls_come_back(folders: dict[str, Path], name: str, count: int, content: str) -> None:
    """What the template writes, none, one or several calls with text, is read as it was."""
    if not (count or content):
        return
    renderer = load(folders[VOCABULARY[name]], name)
    said = Message(role="assistant", content=content, calls=CALLS[:count])
    assert said == renderer.parse(renderer.complete(said), call_prefix="", tools=(TOOL,))


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_an_episode_is_the_templates_text(
    folders: dict[str, Path], name: str, system: bool
) -> None:
    """With parallel calls and their results, turn by turn is the same text as at once."""
    renderer = load(folders[VOCABULARY[name]], name)
    opening = (Message(role="system", content="Be brief."), Message(role="user", content="Where?"))
    history = list(opening if system else opening[1:])
    ids = [*renderer.open(history, (TOOL,))]
    results = tuple(
        Message(role="tool", content=f"result {call.id}", call_id=call.id) for call in CALLS
    )
    for said, replies in (
        (Message(role="assistant", content="I look.", calls=CALLS), results),
        (Message(role="assistant", content="There."), (Message(role="user", content="Thanks."),)),
    ):
        completion = renderer.complete(said)
        ids += [*completion, *renderer.extend(completion, replies, calls=said.calls)]
        history += [said, *replies]
        assert renderer.decode(ids) == renderer.decode(renderer.open(history, (TOOL,)))
    text = renderer.decode(ids)
    assert "result 0" in text
    assert ("Be brief." in text) == system
    assert 1 == text.count('"description": "Finds “it”."')


@pytest.mark.parametrize("name", FORMATS)
def test_a_prompt_without_tools_mentions_none(folders: dict[str, Path], name: str) -> None:
    """A role of the simulator, which has no tools, reads nothing about them."""
    renderer = load(folders[VOCABULARY[name]], name)
    assert "tool" not in renderer.decode(renderer.open((Message(role="user", content="Hi"),), ()))


def test_a_template_without_tools_is_refused_with_the_way_out(
    folders: dict[str, Path], check_error: ErrorCheck
) -> None:
    """The refusal names the template that fits the vocabulary."""
    with pytest.raises(InputError) as caught:
        Renderer.load(folders["qwen2_5"])
    check_error(caught, 'set model.template = "chatml"', "no tools")
    with pytest.raises(InputError) as caught:
        load(folders["qwen2_5"], "llama3").self_test()
    check_error(caught, '(model.template = "llama3")', '"chatml"')


def test_a_template_that_refuses_tools_is_refused_with_the_way_out(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Also where the template itself raises, and where there is none."""
    folder = shutil.copytree(folders["qwen2_5"], tmp_path / "m")
    raising = "{% for m in messages if m.tool_calls %}{{ raise_exception('no tools') }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(raising + WITHOUT_TOOLS)
    with pytest.raises(InputError, match=r'no tools; set model\.template = "chatml"'):
        load_tried(folder, ChatStyle())


def test_a_given_format_is_judged_by_the_self_test(folders: dict[str, Path]) -> None:
    """The right one passes, the wrong one is refused."""
    template = read_template("chatml")
    folder = folders["qwen2_5"]
    right = ChatStyle(template=template, call_format=CallFormat.HERMES)
    Renderer.load(folder, right).self_test()
    wrong = ChatStyle(template=template, call_format=CallFormat.QWEN3_CODER)
    with pytest.raises(InputError, match="as qwen3_coder its call"):
        Renderer.load(folder, wrong).self_test()


def test_what_is_no_template_file(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A missing file, a folder, a pipe, other bytes and a huge file are refused by name."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(b" " * (MOST_BYTES + 1))
    for name in ("missing", ".", "pipe", "bytes", "huge"):
        with pytest.raises(InputError) as caught:
            read_template(str(tmp_path / name))
        check_error(caught, "model.template", "chatml, llama3, mistral")


def test_a_file_is_as_little_trusted_as_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb is found by the child, also where the model is the package's own."""
    monkeypatch.setattr(first_try, "SECONDS", 4.0)
    text = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    style = ChatStyle(template=ChatTemplate(name="bomb.jinja", text=text))
    with pytest.raises(InputError, match=r"bomb\.jinja"):
        load_tried(TINY, style, trusted=True)
