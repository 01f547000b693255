"""Untrusted templates and tokenizers: whatever they do, there is one sentence, in time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.rendering import first_try
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.first_try import load_tried, try_first
from trustee.rendering.renderer import Renderer

MIB = 1 << 20


def fill_memory() -> None:
    """Take more than any limit."""
    held = [bytes(16 * MIB) for _ in range(1000)]
    assert held


def refuse() -> None:
    """Refuse as a reader does."""
    raise InputError("the file is odd\nin two lines")


def recurse() -> None:
    """Run out of stack."""
    recurse()


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (fill_memory, "it needs too much memory: 5 s and 0.25 GiB are allowed"),
        (refuse, "the file is odd\nin two lines"),
        (recurse, "it cannot be used: maximum recursion depth exceeded (RecursionError)"),
        (lambda: 1 / 0, "it cannot be used: division by zero (ZeroDivisionError)"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "it cannot be used: trying it ended with S"),
        (lambda: os.abort(), "trying it ended with SIGABRT; 5 s and 0.25 GiB are allowed"),
        (lambda: exec("raise SystemExit('no')"), "it cannot be used: no (SystemExit)"),
    ],
)
def test_whatever_happens_is_one_sentence(use: Callable[[], object], words: str) -> None:
    """The process that tries it goes on."""
    with pytest.raises(InputError) as caught:
        try_first(use, what="it", seconds=5, memory=256 * MIB)
    assert words in str(caught.value)


class Unspeakable(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        """Fail, as where no memory is left."""
        raise MemoryError


def cry() -> None:
    """Fail with it."""
    raise Unspeakable


def test_a_failure_without_words_is_one() -> None:
    """The child ends where it is, and nothing that went wrong counts as well."""
    with pytest.raises(InputError, match="it cannot be used: trying it ended without a reason; 5"):
        try_first(cry, what="it", seconds=5)


def test_what_goes_well_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is returned, and nothing that a library says is shown."""
    for stream in (1, 2):
        try_first(lambda fd=stream: os.write(fd, b"warning"), what="it")  # type: ignore[misc]
    assert ("", "") == capfd.readouterr()


def list_children() -> set[str]:
    """List this process's children; other tests may have left some."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


def test_what_takes_too_long_is_ended() -> None:
    """Sleeping and working alike, and no process is left."""
    before = list_children()
    for use in (lambda: time.sleep(600), lambda: any(iter(int, 1))):
        started_at = time.monotonic()
        with pytest.raises(InputError, match=r"it takes too long to use: 0\.5 s and"):
            try_first(use, what="it", seconds=0.5)
        assert time.monotonic() - started_at < 10
    assert list_children() <= before


def copy_model(folder: Path, template: str) -> Path:
    """Copy the built-in model's small files with another template."""
    folder.mkdir()
    for path in TINY.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


OWN = (TINY / "chat_template.jinja").read_text()
BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": (
        "{% set ns = namespace(s='xxxxxxxx') %}"
        "{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
    ),
    "power": "{{ (10 ** (10 ** 10)) | string | length }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "division": "{{ 1 / 0 }}",
    "index": "{{ [][3].x }}",
    "value": "{{ 'x'.index('y') }}",
    "overflow": "{{ 2.0 ** 100000 }}",
    "refusal": "{{ raise_exception('not for you') }}",
    "syntax": "{% for %}",
    "long words": "{{ raise_exception('x' * 100000) }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_templates_that_are_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No template hangs the program, fills the memory or ends it with a traceback."""
    monkeypatch.setattr(first_try, "SECONDS", 4.0)
    monkeypatch.setattr(first_try, "MEMORY", 512 * MIB)
    folder = copy_model(tmp_path / "m", BOMBS[name] + OWN)
    with pytest.raises(InputError) as caught:
        load_tried(folder, ChatStyle())
    told = str(caught.value)
    assert "template" in told
    assert len(told) < 1000 + len(str(folder))


def test_template_that_only_fails_later(tmp_path: Path) -> None:
    """What any template raises while an episode is rendered is a refusal too."""
    bomb = "{% if messages | length > 1 and messages[1].content == 'boom' %}{{ 1 / 0 }}{% endif %}"
    renderer = load_tried(copy_model(tmp_path / "m", bomb + OWN), ChatStyle())
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "boom"}]
    with pytest.raises(InputError, match=r"refuses messages of roles .*: division by zero"):
        renderer._tokenizer.apply(messages, (), add_generation_prompt=True)


def test_huge_list_of_added_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer with more tokens than can be read in time is refused."""
    monkeypatch.setattr(first_try, "SECONDS", 3.0)
    folder = copy_model(tmp_path / "m", OWN)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokens["added_tokens"] += [
        {"id": 10_000 + number, "content": f"<|{number}|>", "special": True, **flags}
        for number in range(300_000)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(InputError, match="takes too long to use: 3 s and"):
        load_tried(folder, ChatStyle())


def test_a_folder_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that went well is not tried again, until one of its files changes."""
    tried: list[str] = []
    monkeypatch.setattr(first_try, "try_first", lambda use, what, **limits: tried.append(what))
    folder = copy_model(tmp_path / "m", OWN)
    assert isinstance(load_tried(folder, ChatStyle()), Renderer)
    load_tried(folder, ChatStyle())
    assert 1 == len(tried)
    load_tried(folder, ChatStyle(thinking=True))
    (folder / "chat_template.jinja").write_text(OWN + " ")
    load_tried(folder, ChatStyle())
    assert 3 == len(tried)
