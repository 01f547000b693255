"""How long one request waited, read its prompt and sampled."""

from __future__ import annotations

from collections.abc import Callable

from trustee.types import Record, Role

SPEAKERS = (Role.POLICY, Role.WRITER, Role.USER, Role.TOOL, Role.JUDGE)


class RequestTiming(Record, frozen=True):
    """What became of one finished request, and when."""

    request_id: str
    version: int
    """0 is the base."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the prefix cache already held."""
    completion_tokens: int
    arrived: float
    """Moment at which the caller asked."""
    queued: float
    """Moment at which the engine's child had the request."""
    queue_s: float
    """From there until its first step began."""
    prefill_s: float
    """From there until its first token."""
    decode_s: float
    """From there until its last token; a preemption counts where it fell."""
    finished: float
    """Moment at which the caller had the completion."""
    preemptions: int = 0

    @property
    def role(self) -> Role:
        """Who spoke: roles number their requests as `<role>-<n>`, all others are the policy's."""
        name, _, _ = self.request_id.rpartition("-")
        return Role(name) if name in SPEAKERS else Role.POLICY

    @property
    def hand_over_s(self) -> float:
        """Seconds on the way between the processes, there and back."""
        inside = self.queue_s + self.prefill_s + self.decode_s
        return max(0.0, self.finished - self.arrived - inside)


Observer = Callable[[RequestTiming], None]
"""Is told of every finished request."""
