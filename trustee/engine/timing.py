"""How long a request was queued, prefilled and decoded."""

from __future__ import annotations

from collections.abc import Callable

from trustee.types import Record, Role

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


Observer = Callable[[RequestTiming], None]
"""Is told of every finished request."""
