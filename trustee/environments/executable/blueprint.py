"""A tool environment as stored on disk: a question, tools with their source, and the answers.

One JSON file is one environment. `sources` holds the tools' code, which runs in the sandbox;
`unsolved`, `answer` and `gold`, which decide the reward, never enter the sandbox.
Source: FTRL, arXiv 2508.08791, section 3.
"""

from __future__ import annotations

from typing import Any, Literal

from trustee.types import Message, Record, Tool

Scenario = Literal["single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop"]
"""How the parts of a question depend on each other: one part; several independent ones; a chain;
several chains that meet."""


class GoldCall(Record, frozen=True):
    """A call that yields one sub-answer."""

    name: str
    arguments: dict[str, Any]
    answer: str
    """Sub-answer that its result must contain."""


class Blueprint(Record, frozen=True):
    """One environment."""

    id: str
    question: str
    scenario: Scenario
    tools: tuple[Tool, ...]
    sources: dict[str, str]
    """Python source by tool; each defines a function with the tool's name."""
    unsolved: dict[str, tuple[str, ...]]
    """Sub-answers by the tool that must return them; a tool may have several."""
    answer: str
    gold: tuple[GoldCall, ...] = ()
    """Calls that solve everything, in order; empty if the environment comes without any."""
    provenance: dict[str, Any] = {}
    """Origin of the environment: model, seed, stages, original row."""


class TurnState(Record, frozen=True):
    """A point in an episode of an environment, from which a single turn can be learned."""

    blueprint: str
    """Id of the environment."""
    messages: tuple[Message, ...]
    """Conversation from the question on; a system prompt is prepended when it is played."""
    unsolved: dict[str, tuple[str, ...]]
    """Sub-answers not yet returned, by tool."""
    solve_rate: float
    """Share of the environment's sub-answers already returned."""
