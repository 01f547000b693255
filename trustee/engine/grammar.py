"""Grammars that make the engine produce JSON in the spacing that models are used to."""

from __future__ import annotations

from functools import lru_cache

from trustee.errors import RequestError


@lru_cache(maxsize=4096)
def json_grammar(schema: str) -> str:
    """Return a grammar for a JSON Schema with the separators that models write, `, ` and `: `.

    vLLM itself allows either any whitespace, on which a weak model spends its whole budget, or none
    at all, which no model was trained on.

    Raises:
        RequestError: if the schema asks for what no grammar can say, such as a look-behind.
    """
    from xgrammar import Grammar

    try:
        return str(Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": ")))
    except RuntimeError as error:
        # Its messages begin with the place in its own source.
        why = str(error).strip().rpartition(".cc:")[2].partition(": ")[2] or str(error).strip()
        raise RequestError(f"the schema cannot be made into a grammar: {why}") from error
