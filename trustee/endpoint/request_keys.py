"""Which keys of a request have an effect here: one that would have none is refused.

A client that sets a key expects something of it. Keys are honoured, or may be given with the value
that changes nothing, or concern the client's own books and are passed over. All others are refused
by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from trustee.endpoint.refusals import Refused

BOOKS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "verbosity", "cache_salt", "spaces_between_special_tokens"),
        *("skip_special_tokens", "detokenize", "output_kind", "routed_experts_prompt_start"),
    }
)
"""Keys that change no answer."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "best_of": (1,),
    "logit_bias": ({},),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "prompt_logprobs": (),
    "bad_words": ([],),
    "modalities": (["text"],),
    "top_logprobs": (0,),
    "reasoning_effort": (),
    "features": (),
    "content_parts": ([],),
    "structured_outputs": (),
    "functions": ([],),
    "output_mode": ("tokens",),
    "kv_transfer_params": (),
    "ec_transfer_params": (),
    "reasoning_ended": (),
    "reasoning_parser_kwargs": (),
    "token_offsets": (),
    "allowed_token_ids": (),
}
"""Values, besides null, with which a key that has no effect here may be given."""


def check_keys(table: Mapping[str, Any], honoured: Collection[str], *, where: str = "") -> None:
    """Refuse keys that would have no effect.

    Args:
        table: the request, or a part of it.
        honoured: keys that have an effect.
        where: what stands before a key's name in an error.

    Raises:
        Refused: naming the key and what may be given.
    """
    for key, value in table.items():
        if key in honoured or key in BOOKS:
            continue
        name = f"{where}{key}"
        if key not in NEUTRAL:
            known = ", ".join(sorted(honoured))
            raise Refused(400, f"{name} is not known here; known are: {known}", param=name)
        allowed = NEUTRAL[key]
        if value is not None and value not in allowed:
            may = " or ".join(["null", *(msgspec.json.encode(one).decode() for one in allowed)])
            raise Refused(
                400, f"{name} has no effect here, so it must be {may} or left out", param=name
            )
