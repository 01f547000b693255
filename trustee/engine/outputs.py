"""Reading what vLLM gives for a request: pieces while it samples, and the whole at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustee.engine.protocol import Piece
from trustee.errors import EngineError
from trustee.types import Completion


def read_piece(output: Any) -> Piece:
    """Return what an output of one choice holds."""
    (choice,) = output.outputs
    ids = tuple(choice.token_ids)
    return Piece(
        ids=ids,
        logprobs=tuple(
            entry[token].logprob for token, entry in zip(ids, choice.logprobs or (), strict=True)
        ),
    )


def join_pieces(
    pieces: Sequence[Piece], final: Any, *, version: int, request_id: str
) -> Completion:
    """Return the whole completion.

    Args:
        pieces: all pieces, in order.
        final: vLLM's last output, which says why it ended.
        version: version that sampled.
        request_id: named in an error.

    Raises:
        EngineError: if the request ended for another reason than a stop or its limit.
    """
    (choice,) = final.outputs
    if choice.finish_reason not in ("stop", "length"):
        raise EngineError(f"request {request_id} ended as {choice.finish_reason!r}")
    return Completion(
        ids=tuple(id for piece in pieces for id in piece.ids),
        logprobs=tuple(logprob for piece in pieces for logprob in piece.logprobs),
        stop=choice.finish_reason,
        version=version,
        cached=final.num_cached_tokens or 0,
    )
