"""Grammars that make the engine produce JSON in the spacing that models are used to."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def json_grammar(schema: str) -> str:
    """Return a grammar for a JSON Schema with the separators that models write, `, ` and `: `.

    vLLM itself allows either any whitespace, on which a weak model spends its whole budget, or none
    at all, which no model was trained on.
    """
    from xgrammar import Grammar

    return str(Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": ")))
