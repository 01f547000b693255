"""JSON as models write it, said to the engine as a grammar."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def json_grammar(schema: str) -> str:
    """Turn a JSON Schema into a grammar with the separators that models write, `, ` and `: `.

    vLLM's own choice is between any blanks, on which a weak model spends its whole budget, and none
    at all, which no model was trained on.
    """
    from xgrammar import Grammar

    return str(Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": ")))
