"""The general prompts of the package: how many, of which kinds, in which languages."""

from __future__ import annotations

import unicodedata
from collections import Counter

from trustee.checks.general_prompts import choose_few, read_general_prompts
from trustee.engine.model_files import TINY
from trustee.rendering.renderer import Renderer
from trustee.types import Message

SCRIPTS = {
    "ru": "CYRILLIC",
    "uk": "CYRILLIC",
    "ar": "ARABIC",
    "he": "HEBREW",
    "hi": "DEVANAGARI",
    "zh": "CJK",
    "ko": "HANGUL",
    "el": "GREEK",
}
"""Languages with a script of their own."""


def test_there_are_two_hundred_of_many_kinds_and_languages() -> None:
    """200 prompts; at least 15 kinds and 20 languages, each with several prompts; no copies."""
    prompts = read_general_prompts()
    kinds, languages = (
        Counter(map(of, prompts)) for of in (lambda p: p.kind, lambda p: p.language)
    )
    assert 200 == len(prompts) == len({prompt.prompt for prompt in prompts})
    assert {"fact", "arithmetic", "code", "translation", "summary", "chat", "list", "letter"} < (
        kinds.keys()
    )
    assert 15 <= len(kinds)
    assert 3 <= min(kinds.values())
    assert 20 <= len(languages)
    assert 4 <= min(languages.values())
    assert languages["en"] < 0.5 * len(prompts)


def test_prompts_are_in_the_language_that_they_name() -> None:
    """A language with a script of its own is written in it."""
    for prompt in read_general_prompts():
        own = SCRIPTS.get(prompt.language)
        letters = [unicodedata.name(char) for char in prompt.prompt if char.isalpha()]
        if own:
            assert 2 * sum(name.startswith(own) for name in letters) > len(letters), prompt
        if prompt.language == "en":
            assert 0.9 * len(letters) < sum(name.startswith("LATIN") for name in letters), prompt


def test_texts_are_clean_and_short() -> None:
    """Nothing to strip, nothing empty, composed characters, and no mark of a chat template."""
    for prompt in read_general_prompts():
        for text in (prompt.prompt, prompt.answer):
            assert text == text.strip() == unicodedata.normalize("NFC", text)
            assert 0 < len(text) <= 250
            assert "<|" not in text


def test_the_built_in_model_can_read_and_say_them() -> None:
    """They fit the smallest context of the package's configs, with room for an answer."""
    renderer = Renderer.load(TINY)
    for prompt in read_general_prompts():
        ids = renderer.open((Message(role="user", content=prompt.prompt),), ())
        said = renderer.complete(Message(role="assistant", content=prompt.answer))
        assert len(ids) + len(said) < 400
        assert prompt.answer == renderer.decode(said[:-1])


def test_a_few_are_a_mixture() -> None:
    """Some prompts hold several kinds and languages; more than there are is all."""
    prompts = read_general_prompts()
    few = choose_few(prompts, 16)
    assert 16 == len(set(few))
    assert 5 <= len({prompt.kind for prompt in few})
    assert 8 <= len({prompt.language for prompt in few})
    assert prompts == choose_few(prompts, 1000)
