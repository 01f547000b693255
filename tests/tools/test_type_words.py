"""Types in other languages' words, as JSON Schema."""

from __future__ import annotations

from typing import Any

import pytest

from trustee.tools.type_words import is_known, read_type


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("str", {"type": "string"}),
        ("Float, optional", {"type": "number"}),
        ("List", {"type": "array"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("typing.List[List[str]]", read_type("list[list[str]]")),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}),
        ("Tuple[float, str]", {"type": "array"}),
        ("Dict[str, int]", {"type": "object"}),
        ("Optional[int]", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Any", {}),
        ("STRING", {"type": "string"}),
        ("HashMap<String, Object>", {"type": "object"}),
        ("int[]", {"type": "array", "items": {"type": "integer"}}),
        ("datetime.date", {"type": "string"}),
        ("Callable[[float], float]", {}),
        ("Union[Thing, str]", {}),
        ("[" * 500, {}),
        ("", {}),
    ],
)
def test_types(text: str, schema: dict[str, Any]) -> None:
    """What is understood becomes a schema, what is not allows everything."""
    assert schema == read_type(text)


def test_is_known() -> None:
    """A word that says nothing on purpose is known; one that says nothing here is not."""
    assert [is_known(word) for word in ("any", "str, optional", "Thing")] == [True, True, False]
