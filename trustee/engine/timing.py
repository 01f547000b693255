"""How long a request was queued, prefilled and decoded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trustee.types import Completion, Record, Role

SPEAKERS = (Role.POLICY, Role.WRITER, Role.USER, Role.TOOL, Role.JUDGE)


class RequestTiming(Record, frozen=True):
    """Times and token counts of one finished request; times are in seconds."""

    request_id: str
    version: int
    """Version of the policy; 0: the base."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the prefix cache already held."""
    completion_tokens: int
    arrived: float
    """Time at which the caller sent the request."""
    queued: float
    """Time at which the engine's child process received the request."""
    queue_s: float
    """Duration from `queued` until its first step began."""
    prefill_s: float
    """Duration from then until its first token."""
    decode_s: float
    """Duration from then until its last token; a preemption counts in the phase it interrupted."""
    finished: float
    """Time at which the caller received the completion."""
    preemptions: int = 0

    @property
    def role(self) -> Role:
        """The role that sent the request: `<role>-<n>` in its id; any other id is the policy's."""
        name, _, _ = self.request_id.rpartition("-")
        return Role(name) if name in SPEAKERS else Role.POLICY

    @property
    def hand_over_s(self) -> float:
        """Seconds spent on the way between the processes, in both directions."""
        inside = self.queue_s + self.prefill_s + self.decode_s
        return max(0.0, self.finished - self.arrived - inside)


def count_arrived(processor: Any, request_id: str) -> int:
    """Return the tokens that vLLM's output processor has for a pending request."""
    inner = processor.external_req_ids.get(request_id, ())
    states = (processor.request_states.get(name) for name in inner)
    return sum(state.detokenizer.num_output_tokens() for state in states if state is not None)


Observer = Callable[[RequestTiming], None]
"""Is told of every finished request."""


def read_timing(
    output: Any, completion: Completion, *, request_id: str, arrived: float
) -> RequestTiming:
    """Return vLLM's times of a finished request; its child process also uses `time.monotonic`."""
    measured = output.metrics
    return RequestTiming(
        request_id=request_id,
        version=completion.version,
        prompt_tokens=len(output.prompt_token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        completion_tokens=len(completion.ids),
        arrived=arrived,
        queued=measured.queued_ts,
        queue_s=measured.scheduled_ts - measured.queued_ts,
        prefill_s=measured.first_token_ts - measured.scheduled_ts,
        decode_s=measured.last_token_ts - measured.first_token_ts,
        finished=time.monotonic(),
        preemptions=measured.num_preemptions,
    )
