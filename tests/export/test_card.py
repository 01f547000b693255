"""The model card: metadata that the hub reads, and nothing that a run folder does not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustee.export.card import CardFacts, Measured, plain, read_licence, write_card

FACTS = CardFacts(
    title="Qwen3-8B trained to call tools",
    base="Qwen/Qwen3-8B",
    licence="apache-2.0",
    world="tools that are really run",
    settings=(("learn.rank", "16"),),
    measured=(Measured(what="success", before="10 %", after="40 %"),),
    notes=("It forgot | nothing.",),
    files=(("model", "read back"),),
    uses=(("With transformers", "model = load()"),),
)


def test_card_of_a_merged_model() -> None:
    """Metadata stands first; tables hold the figures; code is quoted."""
    text = write_card(FACTS)
    front, _, rest = text.removeprefix("---\n").partition("\n---\n")
    assert [
        "base_model: Qwen/Qwen3-8B",
        "license: apache-2.0",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *("tags:", "- trustee", "- tool-calling", "- lora"),
    ] == front.splitlines()
    for line in (
        "# Qwen3-8B trained to call tools",
        "| learn.rank | 16 |",
        "| success | 10 % | 40 % |",
        "It forgot \\| nothing.",
        "| model | read back |",
        "model = load()",
    ):
        assert line in rest.splitlines()
    assert "merged into its base" in rest


def test_card_of_an_adapter_on_a_local_base() -> None:
    """A folder is no hub id, a licence is not guessed, and what was not measured is said."""
    text = write_card(CardFacts(title="a", base="my-model", is_adapter=True))
    assert "base_model" not in text
    assert "license:" not in text
    assert "library_name: peft" in text
    assert "Not measured." in text
    assert "look there before you pass this on" in text


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Base", "apache-2.0"),
        ("---\ntags:\n- a\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: [a, b]\n---\n", ""),
        ("# Base\n\nlicense: mit\n", ""),
        ("---\ntags: []\n---\nlicense: mit\n", ""),
        ("---\nlicense: a b\nc: d\n---\n", ""),
        (None, ""),
    ],
)
def test_licence_of_the_base(tmp_path: Path, card: str | None, licence: str) -> None:
    """It is what the base's own card says in its metadata, or unknown."""
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence == read_licence(tmp_path)


def test_a_card_that_is_no_text(tmp_path: Path) -> None:
    """Then the licence is unknown."""
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---")
    assert "" == read_licence(tmp_path)


def test_texts_are_no_markup() -> None:
    """A text of a run folder ends no cell and begins no line or tag."""
    assert "a \\| b # c &lt;script>" == plain("a | b\n# c\n<script>")
