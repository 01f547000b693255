"""Dialects against the chat templates themselves, and their Go against Go's own templates."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from golden_errors import ErrorCheck
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.export.ollama import quote, write_go, write_modelfile
from trustee.export.ollama_dialects import DIALECTS, PROBES, Apply, Dialect, recognise, speak
from trustee.rendering.chat_templates import FOLDER, ChatStyle, ChatTemplate
from trustee.rendering.tokenizer import FolderTokenizer

DATA = Path(__file__).parents[1] / "data"
PUBLISHED = DATA / "chat_templates"
by_name = {dialect.name: dialect for dialect in DIALECTS}


def apply_with(text: str, *, thinking: bool = False) -> Apply:
    """Return what renders with a template, as the training does."""
    style = ChatStyle(thinking=thinking, template=ChatTemplate(name="under test", text=text))
    tokenizer = FolderTokenizer(TINY, style)
    return partial(tokenizer.apply, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("file", "thinking", "name"),
    [
        (FOLDER / "chatml.jinja", False, "chatml"),
        (FOLDER / "llama3.jinja", False, "llama3"),
        (PUBLISHED / "qwen2_5.jinja", False, "qwen2.5"),
        (PUBLISHED / "qwen3.jinja", True, "qwen3"),
        (PUBLISHED / "qwen3.jinja", False, "qwen3 without thoughts"),
        (PUBLISHED / "qwen3_instruct_2507.jinja", False, "qwen3"),
        (TINY / "chat_template.jinja", False, "the built-in model's"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_template_is_recognised(file: Path, thinking: bool, name: str) -> None:
    """By what it says, in every probe."""
    found = recognise(apply_with(file.read_text(), thinking=thinking))
    assert name == found.name


def test_what_begins_every_text_is_kept() -> None:
    """A mark at the beginning is no other dialect."""
    text = "{{- '<|begin_of_text|>' }}" + (FOLDER / "chatml.jinja").read_text()
    assert "<|begin_of_text|>" == recognise(apply_with(text)).bos


@pytest.mark.parametrize(
    "change",
    [
        ("<tool_response>", "<result>"),
        ("one JSON schema a line", "one schema a line"),
        ("'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\nhm' }}"),
        ('"arguments": \'', '"parameters": \''),
    ],
    ids=["results", "tools", "answers", "calls"],
)
def test_template_that_only_looks_alike(change: tuple[str, str], check_error: ErrorCheck) -> None:
    """One difference, in results, tools, answers or calls, and it is refused with a way out."""
    text = (FOLDER / "chatml.jinja").read_text()
    assert change[0] in text
    with pytest.raises(InputError) as caught:
        recognise(apply_with(text.replace(*change)))
    check_error(caught, "chatml, qwen2.5", "--gguf", "model.template")


@pytest.mark.parametrize(
    "file", [PUBLISHED / "llama3_1.jinja", FOLDER / "mistral.jinja"], ids=lambda file: file.name
)
def test_templates_without_a_dialect(file: Path) -> None:
    """Llama 3.1's own template has a date in it, Mistral's no turns: they are refused."""
    with pytest.raises(InputError, match="none is known"):
        recognise(apply_with(file.read_text()))


def write_as_go(value: Any) -> str:
    """Write JSON as Go does."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda mark: f"\\u{ord(mark[0]):04x}", text)


def order_as_go(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Put the keys of a schema in Go's order."""
    function = tool["function"]
    given = function["parameters"]
    parameters = {
        "type": given["type"],
        "required": given["required"],
        "properties": dict(sorted(given["properties"].items())),
    }
    named = {"name": function["name"], "description": function["description"]}
    return {"type": "function", "function": {**named, "parameters": parameters}}


@pytest.fixture(scope="session")
def run_go(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return what renders all probes with a Go template, in Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed; it renders Ollama's templates")
    program = tmp_path_factory.mktemp("go") / "render"
    source = DATA / "ollama" / "render.go"
    cache = {"GOCACHE": str(program.parent / "cache"), "GOFLAGS": "-mod=mod", "HOME": "/tmp"}
    path = str(Path(go).parent)
    subprocess.run(
        [go, "build", "-o", str(program), str(source)],
        check=True,
        env={**cache, "PATH": path},
        timeout=300,
    )
    probes = [{"messages": messages, "tools": tools} for messages, tools in PROBES]

    def render(template: str) -> list[str]:
        asked = json.dumps({"Template": template, "Conversations": probes})
        ended = subprocess.run(
            [program], input=asked, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
        texts: list[str] = json.loads(ended.stdout)
        return texts

    return render


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_go_says_what_the_training_said(
    dialect: Dialect, run_go: Callable[[str], list[str]]
) -> None:
    """To the character, up to how JSON is written."""
    said = run_go(write_go(dialect))
    for (messages, tools), text in zip(PROBES, said, strict=True):
        ordered = [order_as_go(tool) for tool in tools]
        assert speak(dialect, messages, ordered, write=write_as_go) == text


def test_modelfile() -> None:
    """It names the file beside it, the template, each stop mark and the context."""
    text = write_modelfile(by_name["chatml"], "a.gguf", context=640, notes=["made by a test"])
    assert text.startswith('# made by a test\nFROM ./a.gguf\nTEMPLATE """{{ $told := .System }}')
    assert text.endswith(
        '<|im_start|>assistant\n"""\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 640\n'
    )
    (template,) = re.findall(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL)
    assert write_go(by_name["chatml"]) == template


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_ollama_finds_the_mark_of_calls(dialect: Dialect) -> None:
    """It is the text behind the first condition on .ToolCalls, without an action between."""
    _, _, rest = write_go(dialect).partition("{{ if .ToolCalls }}")
    mark = re.match(r"\{\{ with index \.ToolCalls 0 \}\}([^{]*)", rest)
    assert mark is not None
    assert mark[1].strip() == dialect.call_before.partition("{")[0].strip()
    assert "{{ if .ToolCalls" not in write_go(dialect).partition("{{ if .ToolCalls }}")[0]


@pytest.mark.parametrize("text", ['"', "\\", "\n"])
def test_what_cannot_be_quoted(text: str) -> None:
    """Go and a Modelfile read escapes otherwise, so nothing that needs one is written."""
    with pytest.raises(ValueError, match="cannot be quoted"):
        quote(text)
