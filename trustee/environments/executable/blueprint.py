"""A tool environment as it lies on disk: a question, tools with their source, and the answers.

One JSON file is one environment. What the tools compute is in `sources` and runs in the sandbox;
what pays a reward, `unsolved`, `answer` and `gold`, never enters it.
Source: FTRL, arXiv 2508.08791, section 3.
"""

from __future__ import annotations

from typing import Any, Literal

from trustee.types import Message, Record, Tool

Scenario = Literal["single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop"]
"""How the parts of a question hang together: one; several that need nothing of each other; a chain;
several chains that meet."""


class GoldCall(Record, frozen=True):
    """A call that brings one sub-answer."""

    name: str
    arguments: dict[str, Any]
    answer: str
    """What its result must hold."""


class Blueprint(Record, frozen=True):
    """One environment."""

    id: str
    question: str
    scenario: Scenario
    tools: tuple[Tool, ...]
    sources: dict[str, str]
    """Python source by tool; each defines a function of the tool's name."""
    unsolved: dict[str, tuple[str, ...]]
    """Sub-answers by the tool that must return them; a tool may owe several."""
    answer: str
    gold: tuple[GoldCall, ...] = ()
    """Calls that solve all, in order; empty where the maker of the environment gave none."""
    provenance: dict[str, Any] = {}
    """Where it comes from: model, seed, stages, original row."""


class TurnState(Record, frozen=True):
    """A point of an episode in an environment, from which one turn can be learnt."""

    blueprint: str
    """Id of the environment."""
    messages: tuple[Message, ...]
    """What was said, from the question on; a system prompt is put before it when it is played."""
    unsolved: dict[str, tuple[str, ...]]
    """Sub-answers that are still owed."""
    solve_rate: float
    """Share of the environment's sub-answers that is no longer owed."""
