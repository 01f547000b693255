"""The parts of a candidate, and how it fails.

Every stage returns a typed answer, and anything wrong with it is a `Flaw` with a kind, which is
counted, and a text, which is read. `grammar_of` turns the types into grammars for the engine.
Source: FTRL, arXiv 2508.08791, section 3; stage names are the paper's, the calls are ours.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.errors import TrusteeError
from trustee.tools.values import render_json
from trustee.types import Record


class BuildStage(StrEnum):
    """The stages of a candidate, in order."""

    DECOMPOSITION = "decomposition"
    DOCUMENTS = "documents"
    INTEGRATION = "integration"
    CALLS = "calls"
    SCALING = "scaling"
    DEPLOYMENT = "deployment"
    VERIFICATION = "verification"


class Flaw(Record, frozen=True):
    """What is wrong with a candidate."""

    kind: str
    """One or two words in snake_case, counted in the report."""
    text: str
    """One sentence, shown to readers and, when a function is requested again, to the builder."""


class Rejected(TrusteeError):
    """A candidate was rejected; the next attempt begins."""

    def __init__(self, stage: BuildStage, flaw: Flaw) -> None:
        super().__init__(f"{stage}: {flaw.text}")
        self.stage = stage
        self.flaw = flaw


class Part(Record, frozen=True):
    """A sub-question with its answer."""

    question: Annotated[str, Meta(max_length=300)]
    """The sub-question, with `#1` in place of the answer of part 1."""
    answer: Annotated[str, Meta(max_length=80)]
    needs: Annotated[tuple[int, ...], Meta(max_length=5)]
    """Numbers of the parts whose answers the question uses, counted from 1."""


class Decomposition(Record, frozen=True):
    """The answer of the first stage."""

    question: Annotated[str, Meta(max_length=600)]
    parts: Annotated[tuple[Part, ...], Meta(max_length=6)]

    @property
    def answer(self) -> str:
        """The answers that no other part uses, in order, which is what the question asks for."""
        used = {need for part in self.parts for need in part.needs}
        return ", ".join(
            part.answer for number, part in enumerate(self.parts, 1) if number not in used
        )

    def ask(self, number: int) -> str:
        """Return a part's question with the answers that it uses; parts are counted from 1."""
        part = self.parts[number - 1]
        text = part.question
        # Highest number first, so that #1 does not match inside #12.
        for need in sorted(part.needs, reverse=True):
            text = text.replace(f"#{need}", self.parts[need - 1].answer)
        return text

    def known(self, number: int) -> str:
        """Return what is known before a part is asked: the question and the answers it needs."""
        needs = self.parts[number - 1].needs
        return " / ".join([self.question, *(self.parts[need - 1].answer for need in needs)])

    def ancestors(self, number: int) -> frozenset[int]:
        """Return the parts that a part needs, directly or indirectly."""
        needs = self.parts[number - 1].needs
        return frozenset(needs).union(*(self.ancestors(need) for need in needs))


def grammar_of(kind: Any) -> str:
    """Return the JSON Schema of a type, in the form that the engine expects."""
    return render_json(msgspec.json.schema(kind))
